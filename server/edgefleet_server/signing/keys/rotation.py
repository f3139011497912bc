"""What a new key for a role means: which roles get one, and which metadata names it. Pure.

- Root names the keys of `targets`, `snapshot` and `timestamp`: a new one is a new version of root, signed by the root keys.
- `targets` names those of `releases`, `director` and `audit`, and `releases` those of the models.
- Models that share the key of `releases` each get one of their own when that is replaced.
- Where the database is older than a revocation, the roles that a revoked key may sign get new keys with whichever role is rotated.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.signing.trust import MODEL_PREFIX

HELD_BY_ROOT: Final = frozenset({"targets", "snapshot", "timestamp"})


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """How the new key is to be: made here with an algorithm, or one that lies elsewhere. public_key: PEM, of the key at `uri`."""

    algorithm: str = "ed25519"
    uri: str = ""
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class RoleRotation:
    """A role with its keys before, and the one from now on."""

    role: str
    before: Sequence[str]
    keyid: str


@dataclass(frozen=True, slots=True)
class KeysRotated:
    """What was done. root_version: of the root made for it, None when root did not change. revoked: keys that sign nothing more."""

    roles: Sequence[RoleRotation]
    root_version: int | None
    revoked: Sequence[str]
    at: datetime


def roles_to_rotate(role: str, keys: Mapping[str, Collection[str]], revoked: Collection[str]) -> list[str]:
    """Return the roles that get a new key, the asked one first. keys: ids by role, as metadata has them; revoked: ids."""
    old = set(keys[role])
    found = [role]
    for name, named in sorted(keys.items()):
        is_shared = role == "releases" and name.startswith(MODEL_PREFIX) and old & set(named)
        is_revoked = set(revoked) & set(named) and name != "root"
        if name != role and (is_shared or is_revoked):
            found.append(name)
    return found


def parent_of(role: str) -> str:
    """Return the role whose metadata names the keys of another."""
    if role in HELD_BY_ROOT:
        return "root"
    return "releases" if role.startswith(MODEL_PREFIX) else "targets"
