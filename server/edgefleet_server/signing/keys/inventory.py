"""The inventory of signing keys, `keys.json` of the key folder: which keys there are, where each lies, and what became of it. Pure.

The inventory never says which key may sign: root and the delegations do. So a rotation takes effect with its commit of metadata, in
all processes at once, and a state here is only what was last seen there.
Rules:
- A key is *prepared* when its private part is safely stored, before any metadata names it. A crash leaves it prepared, and it is used next.
- It is *active* while metadata names it, *retired* when it did and no longer does.
- *Revoked* is final: nothing is signed with it, and no metadata that names it is published.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from edgefleet_server.signing.errors import KeysUnreadableError

FORMAT: Final = 1


class KeyState(StrEnum):
    """What became of a key."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


class KeyAlgorithm(StrEnum):
    """What a key signs with: the schemes that devices know."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-sha2-nistp256"


KEY_TYPES: Final = {KeyAlgorithm.ED25519: "ed25519", KeyAlgorithm.ECDSA_P256: "ecdsa"}


class KeySource(StrEnum):
    """Where a key came from."""

    MADE = "made"
    FOUND = "found"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. uri: where its private part is, a securesystemslib URI, files relative to the key folder; public: as TUF has it.

    made: aware UTC. source: made by this server, found in the folder, or given by an operator (in an HSM or a KMS).
    """

    keyid: str
    role: str
    uri: str
    algorithm: KeyAlgorithm
    public: str
    state: KeyState
    made: datetime
    source: KeySource


@dataclass(frozen=True, slots=True)
class Inventory:
    """All keys, oldest first. root_version: the newest root that was ever published from this folder, 0 when none was noted."""

    keys: tuple[KeyRecord, ...] = ()
    root_version: int = 0

    def key(self, keyid: str) -> KeyRecord | None:
        """Return a key by its id."""
        return next((one for one in self.keys if one.keyid == keyid), None)

    def of_role(self, role: str) -> list[KeyRecord]:
        """Return the keys that were made for a role, oldest first."""
        return [one for one in self.keys if one.role == role]

    def usable(self, role: str, *, unused: bool) -> KeyRecord | None:
        """Return the newest key of a role that is not revoked. unused: only one that no metadata has named yet."""
        states = {KeyState.PREPARED} if unused else set(KeyState) - {KeyState.REVOKED}
        return next((one for one in reversed(self.of_role(role)) if one.state in states), None)

    def with_key(self, record: KeyRecord) -> "Inventory":
        """Return the inventory with a key added, or in place of the one with its id."""
        if self.key(record.keyid) is None:
            return replace(self, keys=(*self.keys, record))
        return replace(self, keys=tuple(record if one.keyid == record.keyid else one for one in self.keys))

    def revoked(self, keyids: Collection[str]) -> "Inventory":
        """Return the inventory with these keys revoked."""
        return replace(
            self,
            keys=tuple(replace(one, state=KeyState.REVOKED) if one.keyid in keyids else one for one in self.keys),
        )

    def settled(self, named: Collection[str], root_version: int) -> "Inventory":
        """Return the inventory as metadata has it. named: the ids that root and delegations name today."""
        keys = tuple(replace(one, state=_state(one, named)) for one in self.keys)
        return Inventory(keys, max(self.root_version, root_version))

    def revoked_of(self, named: Collection[str]) -> list[KeyRecord]:
        """Return those of the named keys that were revoked."""
        return [one for one in self.keys if one.keyid in named and one.state is KeyState.REVOKED]


def _state(record: KeyRecord, named: Collection[str]) -> KeyState:
    if record.state is KeyState.REVOKED:
        return KeyState.REVOKED
    if record.keyid in named:
        return KeyState.ACTIVE
    return KeyState.RETIRED if record.state is KeyState.ACTIVE else record.state


def dump_inventory(inventory: Inventory) -> bytes:
    """Return the file. No private part is in it."""
    keys = [
        {
            "keyid": one.keyid,
            "role": one.role,
            "uri": one.uri,
            "algorithm": one.algorithm.value,
            "public": one.public,
            "state": one.state.value,
            "made": one.made.isoformat(),
            "source": one.source.value,
        }
        for one in inventory.keys
    ]
    document = {"v": FORMAT, "root_version": inventory.root_version, "keys": keys}
    return (json.dumps(document, indent=1) + "\n").encode()


def parse_inventory(data: bytes) -> Inventory:
    """Return the inventory in a file. Raises KeysUnreadableError."""
    try:
        found: dict[str, Any] = json.loads(data)
        if int(found["v"]) > FORMAT:
            raise KeysUnreadableError(
                f"keys.json has form {found['v']}, which this version of the server does not know",
                next_step="start the newer version of the server again",
            )
        keys = tuple(_record(one) for one in found["keys"])
        return Inventory(keys, int(found["root_version"]))
    except (ValueError, KeyError, TypeError) as error:
        raise KeysUnreadableError(
            f"keys.json in the key folder cannot be read: {error}",
            next_step="restore it from the backup of the key folder; without it the keys in the folder are found again",
        ) from error


def _record(one: dict[str, Any]) -> KeyRecord:
    return KeyRecord(
        str(one["keyid"]),
        str(one["role"]),
        str(one["uri"]),
        KeyAlgorithm(one["algorithm"]),
        str(one["public"]),
        KeyState(one["state"]),
        datetime.fromisoformat(one["made"]),
        KeySource(one["source"]),
    )
