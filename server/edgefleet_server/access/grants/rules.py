"""Which grants can be given, which lie inside which, and how they are stored. Pure.

Rules:
1. Only acting roles have a scope: operator and approver by models, groups and sites, publisher by models (publishing knows no device).
   A viewer sees the whole fleet; an auditor and an admin have it.
2. A grant lies inside another when that one's role includes its role and that one's scope includes its scope. To read lies inside any.
3. A person nothing is said of starts, with the first grant, from what their tokens in force hold: granting takes nothing away.
Source: ADR 0123.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.errors import BadGrantError, UnknownGrantError
from edgefleet_server.access.grants.grant_scope import scope_of
from edgefleet_server.access.model import INCLUDES, Grant, Role

MAX_GRANTS: Final = 50
MAX_NAMES: Final = 50
"""Of models, groups or sites in one grant."""
_BY_DEVICES: Final = frozenset({Role.OPERATOR, Role.APPROVER})
_BY_MODELS: Final = _BY_DEVICES | {Role.PUBLISHER}
_GROUP: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SITE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+/-]{0,125}[A-Za-z0-9])?")


def check_grant(grant: Grant) -> None:
    """Raise BadGrantError for a scope that the role cannot have, BadIdError for a bad name of a model."""
    scope = grant.scope
    if not scope.is_whole and grant.role not in _BY_MODELS:
        raise BadGrantError(
            f"the role {grant.role} is for the whole fleet: it has no scope",
            next_step="leave the scope out, or choose operator, approver or publisher",
        )
    if scope.has_devices and grant.role not in _BY_DEVICES:
        raise BadGrantError(
            f"the role {grant.role} is limited by models only: what it does knows no device",
            next_step="leave groups and sites out",
        )
    for model in scope.models:
        parse_model_name(model)
    for kind, names, allowed in (("group", scope.groups, _GROUP), ("site", scope.sites, _SITE)):
        bad = sorted(name for name in names if not allowed.fullmatch(name))
        if bad:
            raise BadGrantError(f"{bad[0][:80]!r} cannot be the name of a {kind}", next_step=f"name a {kind} that is")
    if max(map(len, (scope.models, scope.groups, scope.sites))) > MAX_NAMES:
        raise BadGrantError(
            f"a grant names at most {MAX_NAMES} models, groups or sites", next_step="make a group of the devices"
        )


def is_within(grant: Grant, limits: Iterable[Grant]) -> bool:
    """Return whether a grant lies inside one of some others."""
    if grant.role is Role.VIEWER:
        return any(True for _ in limits)
    return any(grant.role in INCLUDES[one.role] and one.scope.includes(grant.scope) for one in limits)


def excess(grants: Iterable[Grant], limits: Collection[Grant] | None) -> Grant | None:
    """Return a grant that goes beyond what limits its owner, None when none does. limits: None = nothing does."""
    return None if limits is None else next((one for one in grants if not is_within(one, limits)), None)


def with_grant(held: Sequence[Grant], grant: Grant) -> tuple[Grant, ...]:
    """Return grants with one more. Raises BadGrantError when they are too many."""
    after = held if grant in held else (*held, grant)
    if len(after) > MAX_GRANTS:
        raise BadGrantError(f"nobody has more than {MAX_GRANTS} grants", next_step="make groups, and revoke some")
    return tuple(after)


def without_grant(name: str, held: Sequence[Grant] | None, grant: Grant) -> tuple[Grant, ...]:
    """Return grants without one. Raises UnknownGrantError."""
    if grant not in (held or ()):
        have = (
            "nothing is said of them, and each token decides" if held is None else ", ".join(map(str, held)) or "none"
        )
        raise UnknownGrantError(
            f"{name} has no grant {grant}; it has: {have}", next_step=f"`edgectl person show '{name}'` shows all"
        )
    return tuple(one for one in held or () if one != grant)


def stored(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """Return grants as they are stored."""
    return [
        {
            "role": one.role.value,
            "models": sorted(one.scope.models),
            "groups": sorted(one.scope.groups),
            "sites": sorted(one.scope.sites),
        }
        for one in grants
    ]


def loaded(rows: Iterable[Mapping[str, Any]] | None) -> tuple[Grant, ...]:
    """Return what was stored."""
    return tuple(Grant(Role(row["role"]), scope_of(row)) for row in rows or ())


def loaded_limits(rows: Iterable[Mapping[str, Any]] | None) -> tuple[Grant, ...] | None:
    """Return what limits an owner, None where nothing is said."""
    return None if rows is None else loaded(rows)
