"""Opening the keys of a backup, and proving that its manifest was written by somebody who had the passphrase or the recipient."""

import hashlib

from edgefleet_server.process.backup import backup_manifest as naming
from edgefleet_server.process.backup.backup_catalog import check_mac
from edgefleet_server.process.backup.backup_manifest import Manifest
from edgefleet_server.process.backup.backup_places import BackupPlace, read_small
from edgefleet_server.process.backup.errors import DamagedBackupError, KeysLockedError
from edgefleet_server.process.backup.row_files import damaged
from edgefleet_server.process.backup_keys import passphrase_key
from edgefleet_server.process.backup_keys.recipient_key import Identity, Recipient

Opener = bytes | Identity | Recipient | None
"""What a person has for a backup: passphrase, identity, recipient (which proves the origin and opens nothing), or nothing."""
_FLAGS = {"sealed": "--keys-passphrase-file", "recipient": "--identity"}


def archive_in(place: BackupPlace, manifest: Manifest, opener: Opener) -> bytes:
    """Return the archive of keys and settings, everything about it checked. Raises KeysLockedError, DamagedBackupError."""
    stored, part = _stored(place, manifest), manifest.keys
    if part.form not in _FLAGS:
        _refuse_unsealed(manifest, opener)
        return stored
    if part.form == "sealed" and isinstance(opener, bytes):
        keys = passphrase_key.keys_of(opener, passphrase_key.salt_in(stored))
        archive = passphrase_key.opened(stored, keys)
        check_mac(place, manifest.name, keys)
        return archive
    if part.form == "recipient" and isinstance(opener, Identity):
        _check_recipient(manifest, opener.recipient)
        archive = opener.opened(stored, manifest.name)
        check_mac(place, manifest.name, opener.recipient)
        return archive
    raise KeysLockedError(
        "the keys of this backup are sealed"
        + (f" to the key {part.recipient}" if part.recipient else " by a passphrase"),
        next_step=f"give {_FLAGS[part.form]} FILE",
    )


def check_origin(place: BackupPlace, manifest: Manifest, opener: Opener) -> tuple[bool, bool]:
    """Check as much of the keys as can be without more; return whether they were opened, and whether the origin is proved.

    Raises KeysLockedError, DamagedBackupError.
    """
    form = manifest.keys.form
    if isinstance(opener, Recipient) and form in _FLAGS:
        _stored(place, manifest)
        _check_recipient(manifest, opener)
        check_mac(place, manifest.name, opener)
        return False, True
    if opener is None and form in _FLAGS:
        _stored(place, manifest)
        return False, False
    archive_in(place, manifest, opener)
    return form != "none", form in _FLAGS


def _stored(place: BackupPlace, manifest: Manifest) -> bytes:
    stored = read_small(place, f"{naming.folder_of(manifest.name)}/keys")
    if hashlib.sha256(stored).hexdigest() != manifest.keys.sha256:
        raise damaged("the archive of keys", "its sha256 is not the one in the manifest")
    return stored


def _refuse_unsealed(manifest: Manifest, opener: Opener) -> None:
    """Raise where sealed keys were expected: somebody without the passphrase or the recipient may have put this backup there."""
    form = manifest.keys.form
    if form not in {"plain", "none"}:
        raise DamagedBackupError(
            f"the keys of this backup are sealed in the form {form!r}, which this program does not know",
            next_step="use the edgefleet that made it, or a newer one",
        )
    if opener is not None:
        what = "lie in plain in this backup" if form == "plain" else "are not in this backup"
        raise KeysLockedError(
            f"the keys {what}, so nothing proves that it is yours",
            next_step="if you made it so, leave out the passphrase or key; else use another backup",
        )


def _check_recipient(manifest: Manifest, recipient: Recipient) -> None:
    part = manifest.keys
    if part.form != "recipient":
        raise KeysLockedError(
            "the keys of this backup are sealed by a passphrase", next_step="give --keys-passphrase-file FILE"
        )
    if part.recipient != recipient.key_id:
        raise KeysLockedError(
            f"the keys of this backup are sealed to the key {part.recipient}, and this is {recipient.key_id}",
            next_step="give the identity or recipient that it was made with",
        )
