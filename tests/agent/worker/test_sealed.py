"""A sealed bundle in a real worker: opened in its memory, with the device's key, or refused with the device to blame."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_agent.worker.control.protocol import Failed
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.hpke import new_key, seal
from edgefleet_protocol.sealed_model import KEY_BYTES, about_key
from edgefleet_server.encryption.model_sealer import plain_bundle, sealed_bundle
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx

KEY = b"k" * KEY_BYTES
GET_DUMPABLE = 3
PLAIN = bundle_bytes(classifier_onnx())
SEALED = sealed_bundle(open_bundle(io.BytesIO(PLAIN)), KEY)
DIGEST = sha256_hex(SEALED)


@pytest.fixture
def device(tmp_path: Path) -> tuple[str, bytes]:
    """Return the file of a device's key, and its public part."""
    secret, public = new_key()
    file = tmp_path / "model-key"
    file.write_bytes(secret)
    return str(file), public


def test_a_sealed_bundle_has_nothing_of_the_model_and_can_be_undone() -> None:
    assert classifier_onnx() in PLAIN
    assert not any(classifier_onnx()[at : at + 24] in SEALED for at in range(0, len(classifier_onnx()) - 24, 8))
    assert plain_bundle(io.BytesIO(SEALED), KEY) == PLAIN


def test_a_sealed_model_is_proved_and_served_by_a_process_that_leaves_no_core(
    rig: Rig, device: tuple[str, bytes]
) -> None:
    file, public = device
    worker = rig.start(SEALED, key_path=file, model_key=seal(public, KEY, about_key(DIGEST)))
    worker.serve()
    status, answer, _ = rig.infer([[9, 0, 0, 0]])
    assert (status, answer["parameters"]["digest"]) == (200, DIGEST)
    limits = Path(f"/proc/{worker.link.pid}/limits").read_text().splitlines()
    (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]
    worker.drain()


def test_neither_a_core_nor_another_process_of_the_user_gets_its_memory() -> None:
    said = "import ctypes; from edgefleet_agent.worker.runtime import sealed; sealed._leave_no_core()"
    asked = f"{said}; print(ctypes.CDLL(None).prctl({GET_DUMPABLE}, 0, 0, 0, 0))"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True).stdout == "0\n"


@pytest.mark.parametrize("wrong", ["no file", "other device", "other bundle", "other key", "nothing"])
def test_a_device_without_the_key_is_to_blame_and_not_the_bundle(
    rig: Rig, device: tuple[str, bytes], wrong: str
) -> None:
    file, public = device
    to = new_key()[1] if wrong == "other device" else public
    about = about_key("0" * 64 if wrong == "other bundle" else DIGEST)
    given = seal(to, bytes(KEY_BYTES) if wrong == "other key" else KEY, about)
    if wrong == "no file":
        Path(file).unlink()
    worker = rig.start(SEALED, public=False, key_path=file, model_key=b"" if wrong == "nothing" else given)
    failed = worker.next()
    assert isinstance(failed, Failed)
    assert failed.error_class == "incompatible"
    assert "sealed" in failed.reason
    assert worker.exit_status() == 1
