"""A sealed model, opened for the runtime. Only workers that need it import this: `cryptography` takes memory."""

import ctypes
import resource
from pathlib import Path

from edgefleet_agent.enrolment.wrapped_key import opened
from edgefleet_agent.worker.control.protocol import Start
from edgefleet_protocol.bundle import Bundle
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.hpke import SealedError
from edgefleet_protocol.sealed_model import open_model, opened_key

_SET_DUMPABLE = 4


class ModelKeyError(EdgefleetError):
    """This device has no key that opens the model."""

    code = "worker.model_key"
    default_next_step = "run `edge-agent renew` on the device, then deploy the release to it again"


def unsealed(bundle: Bundle, start: Start) -> bytes:
    """Return the model of a sealed bundle. Blocks. Raises ModelKeyError, MemberDigestError, OSError when the bundle cannot be read."""
    _leave_no_core()
    manifest = bundle.manifest
    entry = bundle.entries[manifest.model_member]
    try:
        own = opened(Path(start.key_path).read_bytes(), start.key_secret)
        key = opened_key(own, start.model_key, start.digest, manifest)
    except (OSError, SealedError) as error:
        raise ModelKeyError(f"the model is sealed, and this device has no key that opens it: {error}") from error
    bundle.file.seek(entry.offset)
    return open_model(key, bundle.file.read, manifest)


def _leave_no_core() -> None:
    """Have the kernel write no core of this process, and let no other one without privileges look into its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
