"""Refusals of the registry."""

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef


class RegistryError(EdgefleetError):
    """Base of all refusals of the registry."""

    code = "registry.error"


class BlobDigestError(RegistryError):
    """The bytes received are not the bytes that the digest names."""

    code = "blob.digest_mismatch"


class BlobTooLargeError(RegistryError):
    """The upload is larger than this server accepts."""

    code = "blob.too_large"


class BlobUnknownError(RegistryError):
    """No blob with this digest is stored."""

    code = "blob.unknown"


class BlobLengthError(RegistryError):
    """The declared length of a file is not the length of its blob."""

    code = "blob.length_mismatch"


class BadRangeError(RegistryError):
    """The requested range is outside the blob."""

    code = "blob.bad_range"


class BlobStoreError(RegistryError):
    """The blob store cannot be read or written."""

    code = "blob.store_failed"


class ReleaseUnknownError(RegistryError):
    """No release with this name and version."""

    code = "release.unknown"


class ModelUnknownError(RegistryError):
    """No model with this name."""

    code = "model.unknown"


class AliasUnknownError(RegistryError):
    """The model has no alias of this name."""

    code = "alias.unknown"


class BadAliasError(RegistryError):
    """This cannot be the name of an alias."""

    code = "alias.bad"


class AliasIsVersionError(RegistryError):
    """A version of the model has the name that was meant for an alias."""

    code = "alias.version_conflict"


class VersionIsAliasError(RegistryError):
    """An alias of the model has the name that was meant for a version."""

    code = "release.alias_conflict"


class ReleaseDiffersError(RegistryError):
    """The version exists with different content."""

    code = "release.exists_different"


class ReleaseBusyError(RegistryError):
    """The version is being converted from something else."""

    code = "release.converting"


class ReleaseRemovedError(RegistryError):
    """The version had a signed bundle and was deleted: it is never used again."""

    code = "release.removed"


class ReleaseInUseError(RegistryError):
    """The release was deployed, or something names it: it cannot be deleted."""

    code = "release.in_use"


class ReleaseUnsignedError(RegistryError):
    """Nothing of the release was signed, so there is nothing to withdraw."""

    code = "release.unsigned"


class ReleaseWithdrawnError(RegistryError):
    """The release was withdrawn."""

    code = "release.withdrawn"


class BadSourceError(RegistryError):
    """The list of source files cannot be a model."""

    code = "release.bad_source"


class BadParentError(RegistryError):
    """What is named as the parent of a release is no other release of its model."""

    code = "release.bad_parent"
    default_next_step = "name a release of the same model that is there: `edgectl release list`"


class BadMetricError(RegistryError):
    """The metric names code that this server may not run for a publisher."""

    code = "release.bad_metric"


class PickleNotAllowedError(RegistryError):
    """A pickle runs code when it is read, and this server does not do that for a publisher."""

    code = "release.pickle_not_allowed"


class ProfileUnknownError(RegistryError):
    """No hardware profile has this name."""

    code = "profile.unknown"


class ProfileDiffersError(RegistryError):
    """A profile of this name exists with other facts."""

    code = "profile.exists_different"


def damaged_blob(sha256: Sha256) -> BlobUnknownError:
    """Return the refusal of a blob whose stored bytes are not those of its digest."""
    return BlobUnknownError(
        f"the stored bytes of blob {sha256} are damaged", next_step="upload the file again after removing it"
    )


def unknown_blob(sha256: Sha256) -> BlobUnknownError:
    """Return the refusal of a blob that somebody asks for and that is not stored."""
    return BlobUnknownError(f"no blob {sha256} is stored", next_step="upload it with PUT /api/v1/blobs")


class BundleUnknownError(RegistryError):
    """No signed bundle has this digest."""

    code = "bundle.unknown"
    default_next_step = "`edgectl bundle list` shows all"


def withdrawn_error(ref: ReleaseRef, reason: str) -> ReleaseWithdrawnError:
    """Return the refusal of a release that was withdrawn."""
    return ReleaseWithdrawnError(
        f"{ref} was withdrawn: {reason}",
        next_step=f"choose another version: `edgectl release list --model {ref.model}`",
    )
