"""The task `check`: whether what serves here is still what was signed, and still answers as it was proved.

1. The file is hashed again; the metadata that names its digest is fetched now and verified from the root of the enrolment. Then the
   serving worker answers the file's golden vectors, as in `edge-agent self-test`.
2. A check fails only for what speaks against the bundle. What does not (no network, old or expired metadata, a worker that is starting)
   is tried again until the task's time is over.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from edgefleet_agent.diagnostics.device import Device, look
from edgefleet_agent.diagnostics.model_checks import golden_answers
from edgefleet_agent.enrolment.renew import ask_as_device
from edgefleet_agent.errors import CheckLaterError
from edgefleet_agent.identity.store import ROOT_FILE
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.verifier.errors import FloorError, TransportError, class_of, code_of
from edgefleet_agent.verifier.floor import FloorFile, trusted_now, with_versions
from edgefleet_agent.verifier.repository import ROLES_MISSING, ROLLBACK, Repository
from edgefleet_protocol.bundle import BundleError
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import Ref
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import ManifestError
from edgefleet_protocol.messages import ErrorClass
from edgefleet_runtime.golden import GoldenError

_OF_THE_MOMENT = {FloorError.code, "tuf.expired", ROLLBACK, ROLES_MISSING}
"""Refusals of metadata that concern the server's repository or this device's clock, not the bundle."""


class NotHereError(EdgefleetError):
    """What serves is another bundle than the one asked about."""

    code = "check.not_here"


class SignatureCheckError(EdgefleetError):
    """The file is not what was signed, or nothing that is signed names it."""

    code = "check.signature"


class GoldenCheckError(EdgefleetError):
    """The serving worker answers other than the golden vectors say."""

    code = "check.golden"


def check(model: str, sha256: str, state: Path, clock: Clock) -> None:
    """Check the bundle that serves as `model`. Blocks on disk, network and worker.

    Raises NotHereError, SignatureCheckError, GoldenCheckError; CheckLaterError, StateFileError, OSError when it cannot be made.
    """
    device = look(state)
    if device.status is None:
        raise CheckLaterError("the agent does not say yet what serves")
    served = next((m for m in device.status["models"] if m["model"] == model and m["active_sha256"] == sha256), None)
    if served is None:
        raise NotHereError(f"the bundle {sha256[:12]}… does not serve as {model} here")
    if not served["serving"]:
        raise CheckLaterError(f"{model} does not serve at the moment")
    info = Slots(device.paths.models).info(model, served["slot"])
    if info is None:
        raise SignatureCheckError(f"slot {served['slot']} of {model} does not hold the whole bundle")
    with device.bundle_path(served).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SignatureCheckError(f"the bundle on the disk has sha256 {found[:12]}…, not {sha256[:12]}…")
    _check_metadata(Ref(target=info.target, sha256=sha256, length=info.length), state, clock)
    _check_answers(device, served)


def _check_metadata(ref: Ref, state: Path, clock: Clock) -> None:
    identity = state / "identity"
    floor = FloorFile(state).floor

    def fetch(name: str, max_bytes: int) -> bytes | None:
        try:
            status, data = ask_as_device(identity, clock, "GET", f"/device/v1/tuf/{name}")
        except EdgefleetError as error:
            raise TransportError(error.message) from error
        if status not in (200, 404) or len(data) > max_bytes:
            raise TransportError(f"the server gave no {name}: status {status}, {len(data)} bytes")
        return data if status == 200 else None

    with tempfile.TemporaryDirectory(prefix="ef-check-") as folder:
        root, now = (identity / ROOT_FILE).read_bytes(), trusted_now(floor, clock.now())
        try:
            repository = Repository(Path(folder), root, fetch, None, now)
            repository.refresh()
            with_versions(floor, repository.versions(), repository.top_keys())
            repository.target(ref)
        except EdgefleetError as error:
            is_against = class_of(error) is ErrorClass.SIGNATURE and code_of(error) not in _OF_THE_MOMENT
            kind = SignatureCheckError if is_against else CheckLaterError
            raise kind(f"{code_of(error)}: {error.message}") from error


def _check_answers(device: Device, served: dict[str, Any]) -> None:
    try:
        result, digest = golden_answers(device, served)
    except (GoldenError, BundleError, ManifestError) as error:
        raise GoldenCheckError(f"{error.code}: {error.message}") from error
    except EdgefleetError as error:  # the worker does not answer: it may be starting, or busy
        raise CheckLaterError(f"{error.code}: {error.message}") from error
    if digest != served["active_sha256"]:
        raise NotHereError(f"{served['model']} was switched to the bundle {digest[:12]}… meanwhile")
    if result.ok:
        return
    if all(failure.what == "error" for failure in result.failures):
        raise CheckLaterError(f"the worker answers no golden vector: {result.reason}")
    raise GoldenCheckError(result.reason)
