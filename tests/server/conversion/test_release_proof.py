"""The server looks itself at what a device says of a bundle: bytes, metadata, golden vectors. Only a check that failed says no."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlmodel import select

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_protocol.envelope import dump_envelope, parse_envelope
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import ErrorClass
from edgefleet_server.composition.worker_container import child_limits
from edgefleet_server.conversion.errors import ProofNotMadeError
from edgefleet_server.conversion.release_proof import Proof, ReleaseProver
from edgefleet_server.conversion.sandbox import Converter, converter_command
from edgefleet_server.signing.tables import SigningMetadata
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE, House, TurnedClock

GOOD = bundle_bytes(classifier_onnx())
DIGEST = sha256_hex(GOOD)
SHIFTED = bundle_bytes(classifier_onnx(), version="1.1.0", golden_shift=0.5)
GOLDEN, SIGNATURE = ErrorClass.GOLDEN, ErrorClass.SIGNATURE


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Services with a sound release."""
    made = House(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "data", TurnedClock())
    made.release("digits@1.0.0", bundles={PROFILE: GOOD})
    yield made
    made.db.dispose()


def prover(house: House, command: Sequence[str] = ()) -> ReleaseProver:
    """Return what proves, with the real converters or another program in their place."""
    converter = Converter(converter_command(command), None, house.folder)
    limits = child_limits(house.settings, 60.0)
    return ReleaseProver(house.registry, house.signing, house.clock, converter, limits, house.folder / "proof")


def proof(
    house: House, kind: ErrorClass = SIGNATURE, digest: Sha256 = DIGEST, version: str = "1.0.0", **more: bytes
) -> Proof:
    """Return what the server finds of one bundle, and see that nothing is left of the search."""
    found = prover(house).prove(ReleaseRef.parse(f"digits@{version}"), ProfileName(PROFILE), digest, kind, **more)
    assert not (house.folder / "proof").exists()
    return found


def stored(house: House) -> Path:
    """Return the file of the blob store that holds the bundle, which may be written."""
    path = house.settings.blobs_dir / DIGEST[:2] / DIGEST
    path.chmod(0o644)
    return path


def test_a_sound_release_is_found_sound(house: House) -> None:
    found = proof(house)
    assert (found.ok, found.checked_at) == (True, house.clock.now())
    found = proof(house, GOLDEN)
    assert found.ok, found.what
    assert "8 golden vectors in ort 1." in found.what


def test_golden_vectors_that_do_not_hold_are_a_proof(house: House) -> None:
    house.release("digits@1.1.0", bundles={PROFILE: SHIFTED})
    assert proof(house, SIGNATURE, sha256_hex(SHIFTED), "1.1.0").ok
    found = proof(house, GOLDEN, sha256_hex(SHIFTED), "1.1.0")
    assert not found.ok
    assert "vector 0, output y: value" in found.what


def test_bytes_that_were_changed_in_the_store_are_a_proof(house: House) -> None:
    data = bytearray(GOOD)
    data[len(data) // 2] ^= 1
    stored(house).write_bytes(bytes(data))
    for kind in (SIGNATURE, GOLDEN):
        found = proof(house, kind)
        assert not found.ok
        assert "sha256" in found.what
    stored(house).write_bytes(GOOD[:-1])
    assert not proof(house).ok
    stored(house).unlink()
    with pytest.raises(ProofNotMadeError, match="the blob store has no"):
        proof(house)


def test_metadata_that_does_not_verify_is_a_proof_and_old_metadata_is_none(house: House) -> None:
    house.clock.turn(days=400)
    with pytest.raises(ProofNotMadeError, match=r"signing\.repository_stale"):
        proof(house)
    house.clock.turn(days=-400)
    with house.db.session() as session:
        (role,) = session.exec(select(SigningMetadata).where(SigningMetadata.name == "m.digits")).all()
        role.data = bytes(role.data).replace(DIGEST.encode(), b"0" * 64)
        session.add(role)
    found = proof(house)
    assert not found.ok
    assert "m.digits" in found.what


def test_a_bundle_that_is_signed_no_more_is_found(house: House) -> None:
    house.signing.remove_targets([f"digits/1.0.0/{PROFILE}.bundle"])
    assert "nothing that is signed names" in proof(house).what


def test_the_document_that_the_device_was_sent_is_verified_too(house: House) -> None:
    device = house.device()
    house.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), selector="")
    signed = house.fleet.documents.of_device(device.id)
    assert signed is not None
    assert proof(house, envelope=signed.envelope).ok
    forged = replace(parse_envelope(signed.envelope), payload=b"{}")
    found = proof(house, envelope=dump_envelope(forged))
    assert (found.ok, "signatures are valid" in found.what) == (False, True)


def test_what_could_not_be_checked_is_no_proof(house: House) -> None:
    refusal = '{"type": "error", "code": "convert.runtime_unavailable", "message": "not here"}'
    for program, why in (
        ("import os; os.kill(os.getpid(), 9)", r"conversion\.child_killed"),
        (f"print({refusal!r})", r"conversion\.refused: not here"),
        ('print(\'{"type": "result"}\')', "did not answer the question"),
    ):
        made = prover(house, [sys.executable, "-S", "-c", program])
        with pytest.raises(ProofNotMadeError, match=why):
            made.prove(ReleaseRef.parse("digits@1.0.0"), ProfileName(PROFILE), DIGEST, GOLDEN)


def test_what_was_never_signed_and_what_only_devices_see_is_not_checked(house: House) -> None:
    with pytest.raises(ProofNotMadeError, match="never signed"):
        proof(house, digest=Sha256("ab" * 32))
    with pytest.raises(ProofNotMadeError, match="on devices only"):
        proof(house, ErrorClass.CRASH)
    stopped = prover(house)
    stopped.stop()
    with pytest.raises(ProofNotMadeError, match=r"conversion\.stopped"):
        stopped.prove(ReleaseRef.parse("digits@1.0.0"), ProfileName(PROFILE), DIGEST, GOLDEN)
