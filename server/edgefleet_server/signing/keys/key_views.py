"""What can be shown of the keys of each role: the metadata says which may sign, the inventory what else is known. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgefleet_server.signing.keys.inventory import Inventory, KeyRecord, KeyState
from edgefleet_server.signing.trust import KeyView, RoleView

_LATER = (KeyState.PREPARED, KeyState.RETIRED, KeyState.REVOKED)


def with_keys(
    roles: Sequence[RoleView], inventory: Inventory, publics: Mapping[str, tuple[str, str]]
) -> list[RoleView]:
    """Return the roles with what is known of their keys. inventory: settled; publics: (algorithm, public key in PEM) by key id."""
    known = {one.keyid: one for one in inventory.keys}
    others: dict[str, list[KeyRecord]] = {}
    for record in inventory.keys:
        if record.state in _LATER:
            others.setdefault(record.role, []).append(record)
    found = []
    for role in roles:
        active = [_view(keyid, known.get(keyid), publics) for keyid in role.keys]
        more = [_view(one.keyid, one, publics) for one in others.get(role.name, ()) if one.keyid not in role.keys]
        found.append(replace(role, key_details=[*active, *more]))
    return found


def _view(keyid: str, record: KeyRecord | None, publics: Mapping[str, tuple[str, str]]) -> KeyView:
    algorithm, public = publics[keyid]
    if record is None:
        return KeyView(keyid, algorithm, "", KeyState.ACTIVE.value, None, public)
    return KeyView(keyid, algorithm, record.uri, record.state.value, record.made, public)
