"""`edgectl data export`: records of devices or of a retraining, opened here, with ground truth, to a folder."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import platform
import stat
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgefleet_cli.device.captures.capture_files import make_key, read_key
from edgefleet_protocol.hpke import about_record, key_id, public_of, seal
from tests.cli.conftest import Edgectl
from tests.cli.datasets.planted import bundle, captured, facts
from tests.cli.fleet_stub import Stub, page, problem

POLICY: dict[str, Any] = {"fields": {"image": [{"do": "keep"}]}}
BUNDLE = bundle(POLICY)
SHA256 = hashlib.sha256(BUNDLE).hexdigest()


DVC = """#!/bin/sh
[ -f "$3/dataset.json" ] || exit 3
[ -e .dvc ] || { echo "you are not inside of a DVC repository" >&2; exit 1; }
echo "$@" > "$3.dvc"
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return the file of a private key."""
    make_key(tmp_path / "capture.key")
    return tmp_path / "capture.key"


def sealed(file: Path, number: int, **changed: Any) -> dict[str, Any]:
    """Return a record as the server gives it."""
    public = public_of(read_key(file))
    record, device, trace = f"{number:016x}", "line-1", f"t{number}"
    image = np.full((1, 1, 8, 8), number / 255, np.float32)
    plain = {
        "v": 1, "device": device, "trace_id": trace, "reason": "drift", "label": 1, "seen": 2, "note": "NOTED",
        "fields": {**captured(facts(POLICY), POLICY, {"image": image}), "extra": "PLANTED"}, "outputs": {},
    }  # fmt: skip
    body = seal(public, zlib.compress(msgspec.msgpack.encode(plain)), about_record(device, record, SHA256))
    return {
        "id": record, "device": device, "sha256": SHA256, "model": "digits", "key": key_id(public), "trace_id": trace, "reason": "drift",
        "taken_at": "2026-12-01T12:00:00Z", "sealed": base64.b64encode(body).decode(), **changed,
    }  # fmt: skip


def holds(fleet: Stub, records: list[dict[str, Any]], base: str = "/devices/line-1/captures") -> None:
    """Let the server have these records."""
    fleet.says("GET /devices", page([{"id": "line-1"}]))
    fleet.says(f"GET {base}", page([{name: one[name] for name in one if name != "sealed"} for one in records]))
    for one in records:
        fleet.says(f"GET {base}/{one['id']}", one)
    fleet.says(f"GET /blobs/{SHA256}", BUNDLE)
    fleet.says("POST /data-sets", (201, {"id": "ds-1"}))


def test_records_of_a_model_become_a_data_set(edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path) -> None:
    holds(fleet, [sealed(key, 1, ground_truth="two"), sealed(key, 2), sealed(key, 3, model="other")])
    (tmp_path / "labels.csv").write_text("trace_id,label\nt2,0\n")
    ran = edgectl(
        "data", "export", "digits", "--key", key, "--out", tmp_path / "set", "--labels-file", tmp_path / "labels.csv", "-o", "json"
    )  # fmt: skip
    assert ran.code == 0, ran.err
    manifest = ran.json
    assert manifest == json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert [(one["id"], one["label"]) for one in manifest["records"]] == [(f"{1:016x}", "two"), (f"{2:016x}", "zero")]
    assert manifest["left_out"] == {"(not of the model)": 2}
    policy = hashlib.sha256(json.dumps(POLICY).encode()).hexdigest()
    assert manifest["releases"] == [{"release": "digits@1.0.0", "bundle": SHA256, "policy": policy}]
    assert "left out" in ran.err
    assert fleet.queries("GET /devices")[0]["selector"] == "model.digits"
    rows = list(csv.DictReader((tmp_path / "set" / "labels.csv").open()))
    assert [row["label"] for row in rows] == ["two", "zero"]
    assert not any(
        b"PLANTED" in path.read_bytes() or b"NOTED" in path.read_bytes() for path in (tmp_path / "set").rglob("*.*")
    )


def test_records_of_a_retraining_are_read_where_its_runner_may_read_them(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path
) -> None:
    whole = sealed(key, 1, ground_truth="two")
    fleet.says("GET /retrainings/rt-1/captures", page([whole]))
    fleet.says(f"GET /blobs/{SHA256}", BUNDLE)
    fleet.says("POST /data-sets", (201, {"id": "ds-1"}))
    ran = edgectl(
        "data", "export", "digits", "--run", "rt-1", "--key", key, "--out", tmp_path / "set", "--format", "npz", "--no-labels"
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "1 record, 0 with a label" in ran.out
    assert {asked.what for asked in fleet.asked} == {
        "GET /retrainings/rt-1/captures", f"GET /blobs/{SHA256}", "POST /data-sets",
    }  # fmt: skip
    assert fleet.bodies("POST /data-sets")[0]["retraining"] == "rt-1"


def test_the_server_knows_of_a_data_set_before_it_is_there(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path
) -> None:
    holds(fleet, [sealed(key, 1), sealed(key, 2)])
    fleet.says("POST /data-sets", problem(403, "access.forbidden", "not yours"))
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "set")
    assert (ran.code, (tmp_path / "set").exists()) == (4, False), "no erasure would find it"
    fleet.says("POST /data-sets", (201, {"id": "ds-1"}))
    assert edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "set").code == 0
    body = fleet.bodies("POST /data-sets")[-1]
    assert body["digest"] == hashlib.sha256((tmp_path / "set" / "dataset.json").read_bytes()).hexdigest()
    assert body["place"] == f"{platform.node()}:{tmp_path / 'set'}"
    assert body["records"][0] == {"device": "line-1", "record": f"{1:016x}", "trace_id": "t1"}
    assert (body["model"], body["format"], body["retraining"], len(body["records"])) == ("digits", "folder", "", 2)


def test_purge_removes_what_a_receipt_asks_for_and_says_so(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path
) -> None:
    holds(fleet, [sealed(key, 1), sealed(key, 2)])
    place = tmp_path / "set"
    assert edgectl("data", "export", "digits", "--key", key, "--out", place, "--format", "npz").code == 0
    mine = {"id": "ds-1", "model": "digits", "place": f"{platform.node()}:{place}"}
    fleet.says("GET /data-sets", page([{"id": "ds-0", "model": "digits", "place": "elsewhere"}, mine]))
    fleet.says("GET /data-sets/ds-1/records", page([{"device": "line-1", "record": f"{1:016x}"}]))
    fleet.says("POST /data-sets/ds-1:purge", mine)
    ran = edgectl("data", "purge", place, "--receipt", "e-1")
    assert ran.code == 0, ran.err
    assert "1 record removed, 1 left" in ran.out
    assert fleet.queries("GET /data-sets/ds-1/records")[0]["erasure"] == "e-1"
    digest = hashlib.sha256((place / "dataset.json").read_bytes()).hexdigest()
    assert fleet.bodies("POST /data-sets/ds-1:purge") == [{"erasure": "e-1", "digest": digest, "records": 1}]
    ran = edgectl("data", "purge", place, "--receipt", "e-1", "-o", "json")
    assert [one["id"] for one in ran.json["records"]] == [f"{2:016x}"]
    assert len(fleet.bodies("POST /data-sets/ds-1:purge")) == 2, "broken off before it said so, it says it now"
    fleet.says("GET /data-sets/ds-1/records", page([]))
    assert edgectl("data", "purge", place, "--receipt", "e-1").code == 0
    assert len(fleet.bodies("POST /data-sets/ds-1:purge")) == 2
    fleet.says("GET /data-sets", page([]))
    assert "knows of no data set" in edgectl("data", "purge", place, "--receipt", "e-1").told()[0]
    assert edgectl("data", "purge", tmp_path, "--receipt", "e-1").code == 1


def test_data_sets_are_listed(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /data-sets", page([{"id": "ds-1", "model": "digits", "place": "ann:/data/fog", "records": 7}]))
    ran = edgectl("data", "sets", "--model", "digits")
    assert "ann:/data/fog" in ran.out
    assert fleet.queries("GET /data-sets")[0]["model"] == "digits"


def test_since_device_and_reason_choose(edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path) -> None:
    holds(
        fleet,
        [
            sealed(key, 1),
            sealed(key, 2, taken_at="2026-12-02T12:00:00Z"),
            sealed(key, 3, taken_at="2026-12-02T12:00:00Z", reason="flag"),
        ],
    )
    flags = ("--device", "line-1", "--since", "2026-12-02", "--reason", "drift")
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "set", *flags, "-o", "json")
    assert [one["id"] for one in ran.json["records"]] == [f"{2:016x}"], ran.err
    assert fleet.queries("GET /devices") == []


def test_records_for_another_key_are_said(edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path) -> None:
    holds(fleet, [sealed(key, 1), sealed(key, 2, key="00ff00ff")])
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "set")
    assert ran.code == 0, ran.err
    assert "left sealed: 1 record" in ran.err
    make_key(tmp_path / "other.key")
    ran = edgectl("data", "export", "digits", "--key", tmp_path / "other.key", "--out", tmp_path / "none")
    assert ran.code == 1
    assert "none of 2 records opens" in ran.told()[0]
    assert not (tmp_path / "none").exists()


def test_of_a_bundle_that_the_server_has_no_more_nothing_is_kept(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path
) -> None:
    holds(fleet, [sealed(key, 1)])
    del fleet.answers[f"GET /blobs/{SHA256}"]
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "set")
    assert ran.code == 1
    assert "keeps nothing" in ran.told()[0]


def test_a_bundle_that_was_exchanged_is_refused(edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path) -> None:
    holds(fleet, [sealed(key, 1)])
    fleet.says(f"GET /blobs/{SHA256}", bundle({"fields": {"extra": [{"do": "keep"}]}}))
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "set")
    assert (ran.code, (tmp_path / "set").exists()) == (1, False)


def test_dvc_adds_the_folder_and_is_said_to_be_missing(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds(fleet, [sealed(key, 1)])
    program = tmp_path / "dvc"
    program.write_text(DVC)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("EDGECTL_DVC", str(program))
    (tmp_path / "repo" / ".dvc").mkdir(parents=True)
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "repo" / "set", "--dvc")
    assert ran.code == 0, ran.err
    assert (tmp_path / "repo" / "set.dvc").read_text() == "add -- set\n"
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "plain", "--dvc")
    assert ran.code == 1
    assert "not inside of a DVC repository" in ran.told()[1]
    assert edgectl("data", "export", "digits", "--key", key, "--out", "s3://bucket/set", "--dvc").code == 2
    monkeypatch.delenv("EDGECTL_DVC")
    monkeypatch.setenv("PATH", str(tmp_path))
    program.unlink()
    ran = edgectl("data", "export", "digits", "--key", key, "--out", tmp_path / "more", "--dvc")
    assert ran.error_code == "cli.missing_part"
    assert not (tmp_path / "more").exists()


def test_a_line_of_labels_that_cannot_be_read_stops_it(
    edgectl: Edgectl, fleet: Stub, key: Path, tmp_path: Path
) -> None:
    holds(fleet, [sealed(key, 1)])
    (tmp_path / "labels.csv").write_text("trace_id,label\nt2\n")
    ran = edgectl(
        "data", "export", "digits", "--key", key, "--out", tmp_path / "set", "--labels-file", tmp_path / "labels.csv"
    )
    assert "line 2" in ran.told()[0]
    assert not (tmp_path / "set").exists()
