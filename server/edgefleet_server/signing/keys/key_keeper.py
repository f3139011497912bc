"""What the rest of signing asks of the keys, whether they are in this process or in the signing process."""

from collections.abc import Collection, Sequence
from typing import Protocol

from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_server.signing.errors import (
    KeyRevokedError,
    KeysMissingError,
    KeysUnreadableError,
    RootOfflineError,
    RootOutdatedError,
    SignerUnavailableError,
)
from edgefleet_server.signing.keys.inventory import Inventory, KeyAlgorithm, KeyRecord
from edgefleet_server.signing.keys.role_keys import RoleKeys
from edgefleet_server.signing.keys.signer_uris import KeySigner


class KeyKeeper(Protocol):
    """The TUF and director keys of one server. Thread-safe. Every method may raise a SigningError."""

    def create(self) -> None:
        """Make the first keys. Raises KeysExistError."""

    def exists(self) -> bool:
        """Return whether there are keys."""

    def has_root(self) -> bool:
        """Return whether the root key and its passphrase are with the others."""

    def inventory(self) -> Inventory:
        """Return which keys there are."""

    def settle(self, named: Collection[str], root_version: int) -> None:
        """Note what metadata says. named: ids of all keys that may sign today."""

    def prepare(
        self,
        role: str,
        *,
        besides: Collection[str] | None = None,
        algorithm: KeyAlgorithm = KeyAlgorithm.ED25519,
    ) -> SSlibKey:
        """Return the public part of a key for a role whose private part is safe: one that is there, else a new one."""

    def take_in(self, record: KeyRecord) -> SSlibKey:
        """Add a key that lies elsewhere, once it has signed; return its public part."""

    def discard(self, keyids: Collection[str]) -> None:
        """Revoke keys and delete their files."""

    def discard_unused(self, roles: Collection[str], named: Collection[str]) -> None:
        """Revoke keys that were made here for these roles and that no metadata ever named."""

    def destroy(self, role: str, named: Collection[str]) -> list[str]:
        """Revoke a role's keys that no metadata names any more, and destroy their files; return those that were there."""

    def signer(self, keyid: str, role: str = "") -> KeySigner:
        """Return what signs with a key. role: whose metadata it is to sign; "" where only the public part is wanted."""

    def root_signer(self) -> KeySigner:
        """Return what signs root, where its key is with the others. Raises KeysMissingError."""

    def sign_documents(
        self, keyids: Sequence[str], threshold: int, payload_type: str, payloads: Sequence[bytes]
    ) -> list[list[tuple[str, bytes]]]:
        """Return the signatures of each payload of the director: key ids, and raw signatures of its DSSE form."""

    def sign_evidence(self, keyid: str, manifest: bytes) -> bytes:
        """Return the signature of a manifest of evidence by a key of the role `audit`, over its DSSE form."""


def signers(keys: KeyKeeper, role: str, keyids: Collection[str], threshold: int) -> list[KeySigner]:
    """Return the signers of a role's keys that can be used, at least `threshold`. Raises KeysMissingError, and what `signer` does."""
    found: list[KeySigner] = []
    failure: Exception | None = None
    for keyid in keyids:
        try:
            found.append(keys.signer(keyid, role))
        except (KeysMissingError, KeysUnreadableError, SignerUnavailableError) as error:
            failure = error
    if len(found) >= threshold:
        return found
    if failure is not None and len(keyids) == 1:
        raise failure
    raise KeysMissingError(
        f"{role} is signed by {threshold} of {len(keyids)} keys, and {len(found)} of them can be used here",
        next_step="bring the missing key files back into the key folder, or sign it where they are kept",
    ) from failure


def root_signers(keys: KeyKeeper, roles: str, keyids: Collection[str], threshold: int) -> list[KeySigner]:
    """Return what signs a new root for a change of these roles. keyids, threshold: of root. Raises RootOfflineError."""
    why = "the root key is not on this server"
    if keys.has_root():
        signer = keys.root_signer()
        if signer.public_key.keyid in keyids and threshold == 1:
            return [signer]
        why = f"root is signed by {threshold} of {len(keyids)} keys, which are not on this server"
    raise RootOfflineError(f"a new key of {roles} needs a new root, and {why}")


def check_keys(inventory: Inventory, keys: RoleKeys) -> None:
    """Refuse to sign for a database that is older than what these keys have published. Raises RootOutdatedError, KeyRevokedError."""
    if keys.root.version < inventory.root_version:
        raise RootOutdatedError(
            f"the database has version {keys.root.version} of root, and version {inventory.root_version} was published:"
            " it is older than a change of keys, so devices would refuse all of it"
        )
    for record in inventory.revoked_of(keys.named()):
        roles = keys.roles_of({record.keyid})
        raise KeyRevokedError(
            f"the database lets the key {record.keyid[:12]} sign {', '.join(roles)}, and it was revoked: the database is older",
            next_step=f"`edgectl key rotate {roles[0]}` gives the role a new key",
        )
