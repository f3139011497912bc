"""Why the child refuses or gives up. Each has its own code, which is what the server and people see."""

from edgefleet_agent.install.machine import RELEASE_WITHDRAWN_CODE
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import OLD_HOLD_CODE, ErrorClass, Seen


class ChildError(EdgefleetError):
    """Root of the child's own refusals. `error_class` is what it is reported as.

    seen: what this device has seen of a repository that is older now, which the server can mend by signing it again; else None.
    """

    code = "install.failed"
    error_class = ErrorClass.INTERNAL
    seen: Seen | None = None


class TransportError(ChildError):
    """The server could not be reached, or did not answer in time."""

    code = "install.network"
    error_class = ErrorClass.NETWORK


class BlobGoneError(ChildError):
    """The server no longer has the bytes, or will not give them to this device."""

    code = "install.blob_gone"
    error_class = ErrorClass.NETWORK


class MetadataError(ChildError):
    """TUF metadata was refused: `code` of the instance says how."""

    code = "tuf.repository"
    error_class = ErrorClass.SIGNATURE

    def __init__(self, message: str, *, code: str, seen: Seen | None = None) -> None:
        super().__init__(message)
        self.instance_code = code
        self.seen = seen


class FloorError(ChildError):
    """Metadata older than what this device has already seen."""

    code = "trust.rollback"
    error_class = ErrorClass.SIGNATURE
    default_next_step = "nothing: the server signs its metadata again when it hears of this; `edgectl events` tells whether it was restored"

    def __init__(self, message: str, seen: Seen | None) -> None:
        super().__init__(message)
        self.seen = seen


class TargetUnknownError(ChildError):
    """The desired document names a bundle that nobody signed into the repository."""

    code = "install.target_unknown"
    error_class = ErrorClass.SIGNATURE


class TargetMismatchError(ChildError):
    """Desired document and repository disagree about the bundle."""

    code = "install.target_mismatch"
    error_class = ErrorClass.SIGNATURE


class LeafDigestError(ChildError):
    """A leaf arrived damaged again and again."""

    code = "install.leaf_digest"
    error_class = ErrorClass.SIGNATURE


class LeafIndexError(ChildError):
    """The leaf index is not the signed one."""

    code = "install.leaf_index"
    error_class = ErrorClass.SIGNATURE


class BundleDigestError(ChildError):
    """The whole file does not have the signed digest though every leaf fits its index."""

    code = "install.bundle_digest"
    error_class = ErrorClass.SIGNATURE


class ManifestMismatchError(ChildError):
    """The bundle's manifest names another model, version or profile than its signed path."""

    code = "install.manifest_mismatch"
    error_class = ErrorClass.SIGNATURE


class SecurityFloorError(ChildError):
    """The bundle's security version is below the floor of this device."""

    code = "install.security_floor"
    error_class = ErrorClass.SIGNATURE


class ReleaseWithdrawnError(ChildError):
    """The release was withdrawn: the holder of its model's key said so, and this device remembers it."""

    code = RELEASE_WITHDRAWN_CODE
    error_class = ErrorClass.SIGNATURE
    default_next_step = (
        "deploy a release that was not withdrawn; this one never comes back, publish it under a new version"
    )


class ModelKeyError(ChildError):
    """The bundle is sealed, and the server has no key of it for this device."""

    code = "install.model_key"
    error_class = ErrorClass.INCOMPATIBLE
    default_next_step = "run `edge-agent renew` on the device, so that the server knows its key; then deploy again"


class OwnKeyError(ModelKeyError):
    """The TPM does not give back what the key of this device is wrapped with; the bundle is tried again later."""

    error_class = ErrorClass.DISK


class HoldReplayError(ChildError):
    """A hold that is not newer than the one in force."""

    code = OLD_HOLD_CODE
    error_class = ErrorClass.SIGNATURE


class SlotWriteError(ChildError):
    """The slot cannot be written: disk full, read-only or failing."""

    code = "install.disk"
    error_class = ErrorClass.DISK


class DiskFullError(SlotWriteError):
    """No space, or no quota, left for the slot: what was written of it is removed, since others need the space."""


def code_of(error: EdgefleetError) -> str:
    """Return the code to report."""
    return error.instance_code if isinstance(error, MetadataError) else error.code


def class_of(error: EdgefleetError) -> ErrorClass:
    """Return the class to report: the child's own, else `signature`, since all that is left are refusals of documents."""
    return error.error_class if isinstance(error, ChildError) else ErrorClass.SIGNATURE
