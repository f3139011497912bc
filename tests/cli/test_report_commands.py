"""`edgectl report`: an archive of evidence is written whole, verified without a server, and one changed byte of it is found."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_cli.compliance.errors import EvidenceNotProvenError
from edgefleet_cli.compliance.evidence_archive import Unpacked, unpacked, writing
from edgefleet_cli.compliance.evidence_check import check_evidence
from edgefleet_protocol.envelope import pae
from edgefleet_server.access.model import Role
from edgefleet_terms.evidence.evidence_manifest import (
    MANIFEST,
    PAYLOAD_TYPE,
    SIGNATURE,
    EvidenceSignature,
    signature_bytes,
    signature_of,
)
from tests.cli.conftest import Edgectl
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served

ASKED = {"name": "asked", "size": {"percent": 50}, "approval": {"role": "admin", "timeout": "1h"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """A fleet with a signed release and a rollout that somebody approved, served."""
    fleet = Fleet(tmp_path_factory.mktemp("report") / "server")
    fleet.release("digits@1.0.0", ORT)
    fleet.release("leaves@1.0.0", ORT)
    for name in ("cam-a", "cam-b", "cam-c", "cam-d"):
        fleet.device(name).connect()
    rollout = fleet.rollout(
        release="digits@1.0.0", selector="", stages=[ASKED, {"name": "rest", "size": {"percent": 100}}]
    )
    fleet.tick()
    answered = fleet.house.client(Role.ADMIN).post(f"/api/v1/rollouts/{rollout}:approve", json={"reason": "seen"})
    assert answered.status_code == 200, answered.text
    with served(fleet.house.own_app()) as url:
        yield fleet, url
    fleet.close()


@pytest.fixture
def fleet(site: tuple[Fleet, str], monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("EDGECTL_SERVER", site[1])
    monkeypatch.setenv("EDGECTL_TOKEN", site[0].house.token(Role.AUDITOR))
    monkeypatch.setenv("COLUMNS", "80")
    return site[0]


def test_an_archive_is_written_and_verified_without_a_server(
    edgectl: Edgectl, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = [tmp_path / f"digits.{ending}" for ending in ("tar.gz", "zip", "tar")]
    for archive in archives:
        made = edgectl("report", "compliance", "digits", "--out", archive)
        assert made.code == 0, made.err
    assert "not in it: releases/1.0.0/report.json" in made.err
    root = made.out.split()[-1]
    public = edgectl("key", "export-public", "audit", "--out", tmp_path / "audit.pub")
    assert public.code == 0, public.err
    monkeypatch.delenv("EDGECTL_TOKEN")
    monkeypatch.setenv("EDGECTL_SERVER", "http://127.0.0.1:9")
    for archive in archives:
        checked = edgectl("report", "verify", archive, "--root-sha256", root, "-o", "json")
        assert checked.code == 0, checked.err
    said = "\n".join(checked.json["proved"])
    assert "the bundle digits@1.0.0 for generic-x86_64-ort" in said
    assert "is signed by the server as m.digits" in said
    assert "test approved the rollout" in said
    assert "this head was published and signed" in said
    assert checked.json["wrong"] == []
    by_key = edgectl("report", "verify", archive, "--public-key", tmp_path / "audit.pub", "-o", "json")
    assert (by_key.code, by_key.json["root_sha256"]) == (0, "")
    assert any("who signed the bundles" in one for one in by_key.json["not_proved"])
    other = edgectl("report", "verify", archive, "--root-sha256", "0" * 64)
    assert (other.code, other.error_code) == (1, "cli.evidence_not_proven")


def test_only_auditors_get_it_and_making_it_is_audited(
    edgectl: Edgectl, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "digits.tar.gz"
    assert edgectl("report", "compliance", "digits", "--out", tmp_path / "digits.rar").code == 2
    assert edgectl("report", "compliance", "none", "--out", out).code == 5
    assert edgectl("audit", "list", "--action", "get_model_evidence", "-o", "json").json["items"]
    monkeypatch.setenv("EDGECTL_TOKEN", fleet.house.token(Role.OPERATOR))
    refused = edgectl("report", "compliance", "digits", "--out", out)
    assert refused.code != 0
    assert not out.exists()


@pytest.fixture(scope="module")
def archive(site: tuple[Fleet, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Unpacked], str]:
    """The files of an archive, and the root that its signature leads to."""
    folder = tmp_path_factory.mktemp("evidence")
    made = site[0].house.client(Role.AUDITOR).get("/api/v1/models/digits/evidence")
    assert made.status_code == 200, made.text
    (folder / "e.tar").write_bytes(made.content)
    files = unpacked(folder / "e.tar", folder)
    return files, site[0].parts.signing.trust().first_root_sha256


def packed(files: list[tuple[str, bytes]], ending: str) -> bytes:
    """Return an archive as it is written."""
    sink = io.BytesIO()
    with writing(sink, f"a.{ending}") as put:
        for path, data in files:
            put(path, len(data), [data])
    return sink.getvalue()


def refused(data: bytes, root: str, folder: Path) -> bool:
    """Tell whether an archive is refused."""
    (folder / "changed").write_bytes(data)
    try:
        check_evidence(unpacked(folder / "changed", folder), trusted={root})
    except EvidenceNotProvenError:
        return True
    return False


FLIPS = 80


def test_one_changed_byte_is_found_wherever_it_is(archive: tuple[list[Unpacked], str], tmp_path: Path) -> None:
    files, root = archive
    whole = packed([(one.path, one.data()) for one in files], "tar")
    assert not refused(whole, root, tmp_path)
    signature = len(whole) - 1024 - 512
    places = [*random.Random(25).sample(range(len(whole)), FLIPS), *range(signature, signature + 512, 16)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        assert refused(bytes(changed), root, tmp_path), place


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
def test_a_dropped_added_renamed_or_moved_file_is_found(
    archive: tuple[list[Unpacked], str], tmp_path: Path, ending: str
) -> None:
    files, root = archive
    plain = [(one.path, one.data()) for one in files]
    assert not refused(packed(plain, ending), root, tmp_path)
    for place in range(0, len(plain), 5):
        path, data = plain[place]
        before, after = plain[:place], plain[place + 1 :]
        other = (place + 1) % len(plain)
        swapped = list(plain)
        swapped[place], swapped[other] = swapped[other], swapped[place]
        for changed in (
            [*before, *after],
            [*plain, ("more.json", b"{}")],
            [*before, (path, data), *plain[place:]],
            [*before, (f"{path}x", data), *after],
            [*before, (path, data + b"\n"), *after],
            swapped,
        ):
            assert refused(packed(changed, ending), root, tmp_path), (path, [one for one, _ in changed])
    whole = packed(plain, ending)
    assert refused(whole[:-1], root, tmp_path)
    assert refused(whole + b"x", root, tmp_path)


def test_a_manifest_signed_by_another_key_is_refused(archive: tuple[list[Unpacked], str], tmp_path: Path) -> None:
    """Who holds the keys of bundles signs no evidence: the key has to be the audit trail's."""
    files, root = archive
    plain = {one.path: one.data() for one in files}
    private = Ed25519PrivateKey.generate()
    key = SSlibKey.from_crypto(private.public_key())
    signed = EvidenceSignature(keyid=key.keyid, sig=private.sign(pae(PAYLOAD_TYPE, plain[MANIFEST])).hex())
    plain[SIGNATURE] = signature_bytes(signed)
    assert refused(packed(list(plain.items()), "tar"), root, tmp_path)
    own = EvidenceSignature(
        keyid=signature_of({one.path: one.data() for one in files}[SIGNATURE]).keyid, sig=signed.sig
    )
    plain[SIGNATURE] = signature_bytes(own)
    assert refused(packed(list(plain.items()), "tar"), root, tmp_path)
