"""One job through sandbox, checks and signing, with a real child process that behaves in every bad way."""

import errno
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.blocks import leaf_index
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.conversion.sandbox import active_layers
from edgefleet_server.process.conversion_worker import Worker
from tests.support.servers import PROFILE, ApiHouse, release_body

REF = ReleaseRef.parse("digits@1.0.0")
FAKE = (sys.executable, str(Path(__file__).with_name("fake_converter.py")))


def converting(tmp_path: Path, url: str | None = None, **settings: Any) -> ApiHouse:
    """Return a house whose conversion child is the test's own."""
    return ApiHouse(tmp_path / "server", url, SystemClock(), converter_command=FAKE, **settings)


def convert(house: ApiHouse, source: bytes) -> dict[str, Any]:
    """Publish a source, work on its job and return the release as REST shows it."""
    house.put(source)
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(source)).status_code == 201
    worker = Worker(house.parts, "w")
    assert worker.run_once()
    assert not worker.run_once()
    body: dict[str, Any] = house.client(Role.VIEWER).get(f"/api/v1/releases/{REF}").json()
    assert not list((house.settings.run_dir / "jobs").rglob("*.bundle"))
    return body


def test_a_bundle_is_stored_signed_and_shown(tmp_path: Path, database_url: str) -> None:
    house = converting(tmp_path, database_url)
    source = b"good " * 20_000
    body = convert(house, source)
    assert body["state"] == "ready"
    assert [job["state"] for job in body["jobs"]] == ["done"]
    (bundle,) = body["bundles"]
    assert bundle["bytes"] == len(source)
    view = house.parts.registry.bundle_for(REF, PROFILE)
    assert view is not None
    data = b"".join(house.parts.registry.blob_chunks(view.sha256, 0, view.length))
    assert sha256_hex(data) == view.sha256 == bundle["sha256"]
    size = house.parts.registry.blob_size(view.leaves)
    assert size is not None
    assert house.parts.registry.open_blob_range(view.leaves, 0, size) == leaf_index(data)
    assert house.parts.registry.bundles_by_digest([view.sha256]) == {view.sha256: view}
    house.close()


def test_the_signed_target_names_the_bundle(tmp_path: Path) -> None:
    house = converting(tmp_path)
    convert(house, b"good model")
    view = house.parts.registry.bundle_for(REF, PROFILE)
    assert view is not None
    timestamp = json.loads(house.parts.signing.metadata_file("timestamp.json") or b"{}")
    snapshot_version = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    snapshot = json.loads(house.parts.signing.metadata_file(f"{snapshot_version}.snapshot.json") or b"{}")
    role_version = snapshot["signed"]["meta"]["m.digits.json"]["version"]
    role = json.loads(house.parts.signing.metadata_file(f"{role_version}.m.digits.json") or b"{}")
    target = role["signed"]["targets"][view.target]
    assert target["hashes"]["sha256"] == view.sha256
    assert target["length"] == view.length
    assert target["custom"]["leaves"] == view.leaves
    house.close()


@pytest.mark.parametrize(
    ("word", "state", "code"),
    [
        (b"refuse", "refused", "convert.gate"),
        (b"error", "refused", "convert.not_a_model"),
        (b"tool", "failed", "convert.tool_missing"),
        (b"crash", "failed", "conversion.child_crashed"),
        (b"hang", "failed", "conversion.timeout"),
        (b"fill", "failed", "conversion.output_too_large"),
        (b"memory", "failed", "conversion.child_crashed"),
        (b"chatter", "failed", "conversion.bad_answer"),
        (b"silent", "failed", "conversion.bad_answer"),
        (b"liar", "failed", "conversion.bad_answer"),
        (b"digest", "failed", "conversion.bad_answer"),
        (b"link", "failed", "conversion.bad_answer"),
        (b"tampered", "failed", "conversion.bad_answer"),
        (b"late", "failed", "conversion.bad_answer"),
    ],
)
def test_whatever_the_child_does_nothing_wrong_is_stored(tmp_path: Path, word: bytes, state: str, code: str) -> None:
    limits = {"job_timeout_s": 3.0} if word == b"hang" else {"job_output_bytes": 8 << 20} if word == b"fill" else {}
    house = converting(tmp_path, **limits)
    body = convert(house, word + b" model")
    assert body["state"] == "failed"
    assert body["jobs"][0]["state"] == state
    (refused,) = body["refused"]
    assert refused["code"] == code, refused
    assert refused["reason"]
    assert body["bundles"] == []
    house.close()


def test_a_missing_tool_is_named_with_the_folder_beside_the_data_and_tried_again_when_asked(tmp_path: Path) -> None:
    house = converting(tmp_path)
    body = convert(house, b"tool model")
    folder = house.parts.settings.data_dir
    assert (
        body["refused"][0]["next"] == f"edgectl tool install torch --tools {folder.with_name(folder.name + '-tools')}"
    )
    again = house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"tool model"))
    assert [job["state"] for job in again.json()["jobs"]] == ["queued"]
    house.close()


@pytest.mark.parametrize(("word", "code"), [(b"killed", "conversion.child_killed"), (b"step", "convert.killed")])
def test_what_the_system_kills_is_tried_again_before_it_fails(tmp_path: Path, word: bytes, code: str) -> None:
    house = converting(tmp_path, job_attempts=2)
    source = word + b" model"
    house.put(source)
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(source)).status_code == 201
    worker = Worker(house.parts, "w")
    viewer = house.client(Role.VIEWER)
    states = []
    for _ in range(2):
        assert worker.run_once()
        shown = viewer.get(f"/api/v1/releases/{REF}").json()
        states.append((shown["state"], shown["jobs"][0]["state"]))
    assert not worker.run_once()
    assert states == [("converting", "queued"), ("failed", "failed")]
    (refused,) = shown["refused"]
    assert (refused["code"], "2 attempts" in refused["reason"]) == (code, True)
    house.close()


def test_a_failed_job_is_tried_again_by_publishing_a_refused_one_is_not(tmp_path: Path) -> None:
    house = converting(tmp_path)
    convert(house, b"crash model")
    again = house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"crash model"))
    assert again.json()["state"] == "converting"
    assert [job["state"] for job in again.json()["jobs"]] == ["queued"]
    house.close()
    refused = converting(tmp_path / "other")
    convert(refused, b"refuse model")
    again = refused.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"refuse model"))
    assert again.json()["state"] == "failed"
    refused.close()


def test_the_child_sees_an_empty_folder_and_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_SECRET", "x")
    house = converting(tmp_path)
    facts = json.loads(convert(house, b"facts model")["refused"][0]["reason"])
    assert facts["cwd"] == []
    assert not [name for name in facts["env"] if "SECRET" in name or name.startswith("EDGEFLEET")]
    assert facts["out"].endswith("700")
    house.close()


def test_the_child_has_no_network_where_the_kernel_allows(tmp_path: Path) -> None:
    if "no_network" not in active_layers():
        pytest.skip("no network namespace on this machine")
    house = converting(tmp_path)
    assert convert(house, b"network model")["refused"][0]["reason"] == os.strerror(errno.EAFNOSUPPORT)
    house.close()


def test_a_stopped_worker_gives_its_job_back(tmp_path: Path) -> None:
    house = converting(tmp_path)
    house.put(b"hang model")
    house.client(Role.PUBLISHER).post("/api/v1/releases", json=release_body(b"hang model"))
    worker = Worker(house.parts, "w")
    thread = threading.Thread(target=worker.run)
    thread.start()
    while house.parts.conversion.counts()["running"] == 0:
        pass
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert house.parts.conversion.counts()["queued"] == 1
    house.close()
