"""Which keys may sign which role: what root and the delegations say, and nothing else. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from edgefleet_server.signing.errors import RoleUnknownError

if TYPE_CHECKING:  # the signing process reads this module and starts without the library
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__
    from tuf.api.metadata import Root, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """The newest metadata that names keys. parents: signed content of `targets` and `releases`, those that there are."""

    root: "Root"
    parents: Sequence["Targets"]

    def of(self, role: str) -> tuple[list[str], int]:
        """Return the ids of the keys of a role, and how many must sign. Raises RoleUnknownError."""
        for name, found in self._roles():
            if name == role:
                return list(found.keyids), int(found.threshold)
        raise RoleUnknownError(f"neither root nor a delegation names keys for {role[:80]!r}")

    def keys(self) -> "dict[str, SSlibKey]":
        """Return the public keys that root and the delegations carry, by id."""
        found = dict(self.root.keys)
        for parent in self.parents:
            if parent.delegations is not None:
                found |= parent.delegations.keys
        return cast("dict[str, SSlibKey]", found)

    def names(self) -> list[str]:
        """Return the roles whose keys are named, in the order of trust."""
        return [name for name, _ in self._roles()]

    def named(self) -> set[str]:
        """Return the ids of all keys that may sign something."""
        return {keyid for _, found in self._roles() for keyid in found.keyids}

    def roles_of(self, keyids: set[str]) -> list[str]:
        """Return the roles that one of these keys may sign, sorted."""
        return sorted({name for name, found in self._roles() if keyids & set(found.keyids)})

    def _roles(self) -> Iterator[tuple[str, Any]]:
        yield from self.root.roles.items()
        for parent in self.parents:
            if parent.delegations is not None and parent.delegations.roles is not None:
                yield from parent.delegations.roles.items()
