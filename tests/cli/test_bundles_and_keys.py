"""What pages show of bundles, keys, versions, experiments and figures, on the command line; and bundles as files here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.bundle import write_bundle
from edgefleet_server.access.model import Role
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, problem
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served
from tests.server.dashboard.shelf import stocked
from tests.server.dashboard.test_experiment_pages import FIGURES, SHADOW, tell, trying
from tests.support.samples import MANIFEST

MEMBERS = {"model.onnx": b"m" * 900, "labels.txt": b"zero\none\n", "golden.npz": b"golden"}
DATA = write_bundle(MEMBERS, MANIFEST)
DIGEST = hashlib.sha256(DATA).hexdigest()
TARGET = f"{MANIFEST.model}-{MANIFEST.version}-{MANIFEST.profile}.bundle"
REF = f"{MANIFEST.model}@{MANIFEST.version}"
SIGNED = {
    "state": "signed", "role": "m.digits", "version": 3, "expires": "2999-01-01T00:00:00Z", "sha256": DIGEST,
    "length": len(DATA), "path": "x",
}  # fmt: skip


def bundle(**changes: Any) -> dict[str, Any]:
    plain = {
        "model": MANIFEST.model, "version": MANIFEST.version, "profile": MANIFEST.profile, "runtime": "ort",
        "precision": "int8", "bundle_bytes": len(DATA), "sha256": DIGEST, "target": "t", "signed_at": NOON.isoformat(),
    }  # fmt: skip
    return {**plain, **changes}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A bundle file as `edgectl convert` writes it."""
    made = tmp_path / "b.bundle"
    made.write_bytes(DATA)
    return made


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """A server with two versions, one of them refused for a profile, and devices that report."""
    made = Fleet(tmp_path_factory.mktemp("shop") / "server")
    stocked(made)
    with served(made.house.own_app()) as url:
        yield made, url
    made.close()


@pytest.fixture
def there(shop: tuple[Fleet, str], monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The shop's server, named in the environment; 80 columns wide."""
    monkeypatch.setenv("EDGECTL_SERVER", shop[1])
    monkeypatch.setenv("EDGECTL_TOKEN", shop[0].house.token(Role.VIEWER))
    monkeypatch.setenv("COLUMNS", "80")
    return shop[0]


# ---- bundles of the server


def test_bundles_are_listed_and_shown_with_their_signature(edgectl: Edgectl, there: Fleet) -> None:
    listed = edgectl("bundle", "list", "--model", "digits", "--profile", ORT, "-o", "json").json
    assert [one["version"] for one in listed["items"]] == ["1.1.0", "1.0.0"]
    digest = listed["items"][0]["sha256"]
    assert edgectl("bundle", "list", "--limit", "1", "-o", "name").out == f"{digest}\n"
    told = edgectl("bundle", "show", digest).out
    assert "signed by role m.digits, version " in told
    assert "model.onnx" in told
    shown = edgectl("bundle", "show", digest, "-o", "json").json
    assert shown == there.house.client(Role.VIEWER).get(f"/api/v1/bundles/{digest}").json()
    assert edgectl("bundle", "show", "0" * 64).code == 5


def test_a_signature_that_is_missing_over_or_of_other_bytes_is_said(edgectl: Edgectl, fleet: Stub) -> None:
    for signature, words in (
        ({"state": "missing"}, "not signed"),
        ({**SIGNED, "state": "differs"}, "names other bytes"),
        ({**SIGNED, "expires": "2001-01-01T00:00:00Z"}, "which ended 2001-01-01"),
    ):
        told = bundle(leaves="a", signature=signature, manifest=None, trouble="it is cut (bundle.bad_zip)")
        fleet.says(f"GET /bundles/{DIGEST}", told)
        ran = edgectl("bundle", "show", DIGEST)
        assert words in " ".join(ran.out.split())
        assert "it is cut" in ran.err


# ---- bundle files


def test_a_file_is_inspected_without_a_server(edgectl: Edgectl, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = edgectl("bundle", "inspect", file)
    assert REF in told.out
    assert "every member is as the manifest says" in told.out
    assert [line for line in told.out.splitlines() if len(line) > 80] == []
    document = edgectl("bundle", "inspect", file, "-o", "json").json
    assert (document["sha256"], document["manifest"]["model"]) == (DIGEST, MANIFEST.model)
    assert {one["name"] for one in document["members"]} >= set(MEMBERS)
    assert edgectl("bundle", "inspect", file, "-o", "name").out == f"{DIGEST}\n"


def test_a_damaged_file_and_none_are_told_in_three_lines(edgectl: Edgectl, file: Path, tmp_path: Path) -> None:
    data = bytearray(DATA)
    data[DATA.index(b"mmm") + 1] ^= 1
    file.write_bytes(data)
    for command in ("inspect", "verify"):
        ran = edgectl("bundle", command, file)
        assert (ran.code, ran.out) == (1, "")
        assert "model.onnx" in ran.told()[0]
        gone = edgectl("bundle", command, tmp_path / "none")
        assert gone.code == 2
        gone.told()


def test_a_file_is_verified_against_the_trust_repository(edgectl: Edgectl, fleet: Stub, file: Path) -> None:
    fleet.says(f"GET /bundles/{DIGEST}", {"signature": SIGNED})
    ran = edgectl("bundle", "verify", file)
    assert ran.code == 0
    assert "signed by role m.digits, version 3" in ran.out
    row = edgectl("bundle", "verify", file, "-o", "json").json
    assert (row["signature"], row["role"], row["sha256"]) == ("signed", "m.digits", DIGEST)
    for answer in (
        {"signature": {**SIGNED, "state": "differs"}},
        {"signature": {**SIGNED, "expires": "2001-01-01T00:00:00Z"}},
        problem(404, "bundle.unknown", "no signed bundle has the digest"),
    ):
        fleet.says(f"GET /bundles/{DIGEST}", answer)
        ran = edgectl("bundle", "verify", file, "-o", "json")
        assert (ran.code, ran.out) == (1, "")
        ran.told()
    fleet.says(f"GET /bundles/{DIGEST}", problem(401, "access.bad_token", "who are you"))
    assert edgectl("bundle", "verify", file).code == 4


# ---- model pull


def release(*bundles: dict[str, Any]) -> dict[str, Any]:
    return {"ref": REF, "model": MANIFEST.model, "version": MANIFEST.version, "bundles": list(bundles)}


def test_a_bundle_is_pulled_whole_checked_and_not_twice(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    fleet.says(f"GET /releases/{REF}", release(bundle()))
    fleet.says(f"GET /blobs/{DIGEST}", DATA)
    file = tmp_path / TARGET
    ran = edgectl("model", "pull", REF, "-d", tmp_path)
    assert (ran.code, ran.out) == (0, f"{file}\n")
    assert file.read_bytes() == DATA
    assert [one.name for one in tmp_path.glob("*.part")] == []
    again = edgectl("model", "pull", REF, "-d", tmp_path, "-o", "json")
    assert (again.json["is_new"], again.json["sha256"]) == (False, DIGEST)
    assert len(fleet.queries(f"GET /blobs/{DIGEST}")) == 1
    file.write_bytes(b"mine")
    refused = edgectl("model", "pull", REF, "-d", tmp_path)
    assert refused.code == 6
    assert "--force" in refused.told()[2]
    assert file.read_bytes() == b"mine"
    assert edgectl("model", "pull", REF, "-d", tmp_path, "--force", "-o", "name").out == f"{file}\n"
    assert file.read_bytes() == DATA


def test_what_comes_cut_or_wrong_is_never_a_file(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    fleet.says(f"GET /releases/{REF}", release(bundle()))
    for answer, code in ((DATA[:-1], 1), (b"x" + DATA[1:], 1), (None, 1), (problem(404, "blob.unknown", "gone"), 5)):
        fleet.says(f"GET /blobs/{DIGEST}", answer)
        ran = edgectl("model", "pull", REF, "-d", tmp_path)
        assert (ran.code, ran.out) == (code, "")
        ran.told()
        assert [one for one in tmp_path.iterdir() if "bundle" in one.name] == []


def test_of_several_bundles_one_is_named(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    fleet.says(f"GET /releases/{REF}", release(bundle(), bundle(profile="other")))
    ran = edgectl("model", "pull", REF, "-d", tmp_path)
    assert ran.code == 2
    assert "other" in ran.told()[1]
    fleet.says(f"GET /blobs/{DIGEST}", DATA)
    assert edgectl("model", "pull", REF, "--profile", "other", "-d", tmp_path).code == 0
    assert edgectl("model", "pull", REF, "--profile", "none", "-d", tmp_path).code == 2
    fleet.says(f"GET /releases/{REF}", release())
    assert edgectl("model", "pull", REF, "-d", tmp_path).code == 2


# ---- keys, versions


def test_keys_and_trust_are_those_of_the_server(edgectl: Edgectl, there: Fleet, tmp_path: Path) -> None:
    names = edgectl("key", "list", "-o", "name").out.split()
    assert names == ["director", "m.digits", "releases", "root", "snapshot", "targets", "timestamp"]
    key = there.parts.signing.director_key().keyid
    assert key in " ".join(edgectl("key", "show", "director").out.split())
    assert edgectl("key", "show", "root", "-o", "json").json["resign_at"] is None
    assert edgectl("key", "show", "none").code == 5
    shown = edgectl("key", "show", "director").out
    assert re.search(r"active +ed25519 +(file2:)?director\.pem", shown), shown
    assert "director.pem" in edgectl("key", "list").out
    public = edgectl("key", "export-public", "director").out
    assert public.startswith("-----BEGIN PUBLIC KEY-----")
    assert edgectl("key", "export-public", "director", "--out", tmp_path / "director.pub").out == ""
    assert (tmp_path / "director.pub").read_text() == public
    assert "PRIVATE" not in shown + public + edgectl("key", "list", "-o", "json").out
    told = edgectl("key", "trust")
    assert there.parts.signing.ca_sha256() in told.out
    assert "offline media" in told.err


def test_a_key_is_rotated_and_revoked(edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path / "server")
    monkeypatch.setenv("EDGECTL_TOKEN", fleet.house.token(Role.ADMIN))
    with served(fleet.house.own_app()) as url:
        monkeypatch.setenv("EDGECTL_SERVER", url)
        rotated_and_revoked(edgectl, fleet)
    fleet.close()


def rotated_and_revoked(edgectl: Edgectl, fleet: Fleet) -> None:
    """Rotate and revoke keys as an admin."""
    fleet.release("digits@1.0.0", ORT)
    before = fleet.parts.signing.director_key().keyid
    told = edgectl("key", "rotate", "director")
    after = fleet.parts.signing.director_key().keyid
    assert f"director: {after[:12]} signs from now on, {before[:12]} no longer" in told.out
    assert re.search(r"\d+ of \d+ documents are signed with", edgectl("key", "progress").out)
    assert "retired" in edgectl("key", "show", "director").out
    assert edgectl("key", "revoke", "director", "--key", before, "--yes").code == 0
    assert "revoked" in edgectl("key", "show", "director").out
    made = edgectl("key", "revoke", "m.digits", "--algorithm", "ecdsa-p256", "--yes", "-o", "json").json
    assert made["revoked"] == made["roles"][0]["before"]
    assert "ecdsa-sha2-nistp256" in edgectl("key", "show", "m.digits").out
    for words, code in (
        (("rotate", "director", "--algorithm", "rsa"), 2),
        (("rotate", "director", "--uri", "hv:x/1"), 2),
        (("rotate", "none"), 5),
        (("rotate", "root"), 6),
    ):
        ran = edgectl("key", *words)
        assert ran.code == code, ran.err
        ran.told()


def test_two_versions_are_compared_by_signs_and_words(edgectl: Edgectl, there: Fleet) -> None:
    told = edgectl("model", "compare", "digits@1.0.0", "digits@1.1.0").out
    assert "▼ 50% larger" in told
    assert "top1 0.9750" in told
    assert "0.0100 better, could be chance" in " ".join(told.split())
    document = edgectl("model", "compare", "digits@1.0.0", "1.1.0", "-o", "json").json
    client = there.house.client(Role.VIEWER)
    asked = client.get("/api/v1/models/digits/compare", params={"a": "1.0.0", "b": "1.1.0"})
    assert document == asked.json()
    assert f"{ORT}/model_bytes" in edgectl("model", "compare", "digits@1.0.0", "1.1.0", "-o", "name").out
    for words in (("digits", "1.1.0"), ("digits@1.0.0", "seeds@1.1.0")):
        ran = edgectl("model", "compare", *words)
        assert ran.code == 2
        ran.told()
    assert edgectl("model", "compare", "digits@1.0.0", "9.9.9").code == 5


# ---- experiments and figures


def test_an_experiment_is_shown_by_mode_and_stratum(
    edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path / "server")
    rollout, devices = trying(fleet, SHADOW)
    monkeypatch.setenv("COLUMNS", "80")
    with served(fleet.house.own_app()) as url:
        there = ("--server", url, "--token", fleet.house.token(Role.VIEWER))
        assert "0 devices have reported" in edgectl("experiment", "show", rollout, *there).out
        tell(fleet, devices, shadow=FIGURES)
        assert edgectl("experiment", "list", "--model", "digits", "-o", "name", *there).out == f"{rollout}\n"
        told = edgectl("experiment", "show", rollout, *there).out
        assert "291 of 300 the same" in told
        assert "97.00 %" in told
        assert "not asked" in told
        assert [line for line in told.splitlines() if len(line) > 80] == []
        document = edgectl("experiment", "show", rollout, "-o", "json", *there).json
        assert document == fleet.house.client(Role.VIEWER).get(f"/api/v1/experiments/{rollout}").json()
    fleet.close()


RECOVERY = {
    "version": 300,
    "roles": [{"name": "releases", "version": 200, "becomes": 301}],
    "models": [{"model": "late", "devices": 2, "named_by": ["d-1", "d-2"]}],
    "words": [{"device": "d-1", "version": 300, "roles": 1, "said_at": NOON.isoformat(), "asked_at": None}],
    "lost_models": [],
}


def test_what_a_restored_server_would_sign_is_shown_and_nothing_is_done(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /recovery", RECOVERY)
    said = edgectl("server", "restored")
    assert said.code == 0, said.err
    for word in (
        "d-1",
        "by itself",
        "Roles to sign above version 300",
        "releases",
        "200",
        "301",
        "late",
        "d-1, d-2",
        "--model",
    ):
        assert word in said.out
    assert "nothing was signed" in said.err
    assert [one.what for one in fleet.asked] == ["GET /recovery"]


def test_yes_signs_what_was_shown_and_makes_only_the_models_that_are_named(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /recovery", RECOVERY)
    fleet.says("POST /recovery:sign", {"version": 300, "everything": True, "models": ["late"]})
    said = edgectl("server", "restored", "--yes", "--model", "late")
    assert said.code == 0, said.err
    assert "Roles to sign above version 300" in said.out
    assert "signed all roles above version 300" in said.out
    assert "made the roles of late again: publish these models" in said.out
    assert fleet.bodies("POST /recovery:sign") == [{"version": 300, "models": ["late"]}]
