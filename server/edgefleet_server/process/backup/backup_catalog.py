"""Which backups a place has, reading their manifests, and removing old ones."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Protocol

import msgspec

from edgefleet_server.process.backup import backup_manifest as naming
from edgefleet_server.process.backup.backup_manifest import Manifest
from edgefleet_server.process.backup.backup_places import BackupPlace, read_small
from edgefleet_server.process.backup.errors import DamagedBackupError, NoBackupError
from edgefleet_server.process.backup.row_files import damaged

_MANIFEST = "backup.json"


class ManifestProof(Protocol):
    """What authenticates manifests."""

    def mac_of(self, manifest: bytes, /) -> bytes:
        """Return the code of one."""
        ...


def names_of(place: BackupPlace) -> tuple[list[str], list[str]]:
    """Return the names of the whole backups and of the unfinished ones, the oldest first."""
    files = place.sizes(naming.SNAPSHOTS)
    found = sorted({file.split("/")[1] for file in files})
    whole = [name for name in found if f"{naming.folder_of(name)}/{_MANIFEST}" in files]
    return whole, [name for name in found if name not in whole]


def manifest_bytes(place: BackupPlace, name: str) -> bytes:
    """Return a manifest as it was written."""
    return read_small(place, f"{naming.folder_of(name)}/{_MANIFEST}")


def manifest_of(place: BackupPlace, name: str) -> tuple[Manifest, str]:
    """Return a manifest and its SHA-256. Raises DamagedBackupError."""
    document = manifest_bytes(place, name)
    try:
        manifest = msgspec.json.decode(document, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise damaged(f"the manifest of {name}", str(error)) from error
    if manifest.format != naming.FORMAT:
        raise DamagedBackupError(
            f"the backup {name} has format {manifest.format}, and this program reads {naming.FORMAT}",
            next_step="use the edgefleet that made it, or a newer one",
        )
    if manifest.name != name:
        raise damaged(f"the manifest of {name}", f"it is that of {manifest.name}")
    return manifest, hashlib.sha256(document).hexdigest()


def check_mac(place: BackupPlace, name: str, proof: ManifestProof) -> None:
    """Raise DamagedBackupError unless the manifest was written by somebody who had the passphrase or the recipient."""
    stored = read_small(place, f"{naming.folder_of(name)}/manifest.mac")
    if not hmac.compare_digest(stored, proof.mac_of(manifest_bytes(place, name)).hex().encode()):
        raise damaged(f"the manifest of {name}", "it was not written with this passphrase or recipient")


def chosen(place: BackupPlace, name: str | None) -> str:
    """Return the name of the backup that a person means, the newest without a name. Raises NoBackupError."""
    whole, begun = names_of(place)
    if name is None and whole:
        return whole[-1]
    if name in whole:
        return str(name)
    if not whole:
        more = f"; {len(begun)} were begun and not finished" if begun else ""
        raise NoBackupError(
            f"there is no whole backup there{more}", next_step="make one: `edgectl server backup WHERE`"
        )
    raise NoBackupError(f"there is no whole backup {name} there", next_step=f"choose one of {', '.join(whole[-5:])}")


def prune(place: BackupPlace, keep: int) -> tuple[int, int]:
    """Remove all but the newest backups, then the blobs that none names any more; return how many of each.

    Blobs of a run that was killed are named by none yet, and go as well: the next run copies them again.
    """
    whole, _ = names_of(place)
    old = whole[: max(0, len(whole) - keep)]
    for name in old:
        remove(place, sorted(place.sizes(naming.folder_of(name)), key=lambda file: not file.endswith(_MANIFEST)))
    named: set[str] = set()
    for name in whole[len(old) :]:
        named.update(naming.blob_name(one.sha256) for one in manifest_of(place, name)[0].blobs)
    spare = [file for file in place.sizes(naming.BLOBS) if file not in named]
    remove(place, spare)
    return len(old), len(spare)


def remove(place: BackupPlace, files: Sequence[str]) -> None:
    """Remove files in this order."""
    for file in files:
        place.remove(file)
