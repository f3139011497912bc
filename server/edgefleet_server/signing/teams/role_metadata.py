"""Ends of roles and delegations between them. Pure: it changes the metadata that it is given, and reads nothing.

Who signs the bundles of a model: the keys that `targets` delegates `m.<model>` to, its team's, where it does; else those that `releases`
delegates it to, this server's (ADR 0127).
"""

from datetime import datetime
from typing import Any, Final

from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    DelegatedRole,
    Delegations,
    Metadata,
    Targets,
)

from edgefleet_ceremony.team_request import TeamKeys, role_of
from edgefleet_server.signing.role_lives import life_of
from edgefleet_server.signing.trust import MODEL_PREFIX

EVERY_MODEL: Final = "*/*/*"


def expiry(name: str, now: datetime) -> datetime:
    """Return until when what is signed now is valid."""
    return (now + life_of(name)).replace(microsecond=0)


def is_signed(parent: Targets, role: str, file: Metadata[Any]) -> bool:
    """Return whether a role's file is signed by the keys that its parent names."""
    try:
        parent.verify_delegate(role, file.signed_bytes, file.signatures)
    except UnsignedMetadataError:
        return False
    return True


def delegate(parent: Targets, role: str, key: SSlibKey, paths: list[str]) -> None:
    """Add a terminating delegation of `paths` to a key."""
    assert parent.delegations is not None
    assert parent.delegations.roles is not None
    parent.delegations.roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=paths)
    parent.add_key(key, role)


def team_roles(targets: Targets) -> frozenset[str]:
    """Return the roles of models that are signed by their teams."""
    roles = targets.delegations.roles if targets.delegations is not None else None
    return frozenset(name for name in roles or () if name.startswith(MODEL_PREFIX))


def give_to_team(targets: Targets, model: str, team: TeamKeys) -> None:
    """Let targets delegate the bundles of a model to a team, before all others: the first delegation of a path is the one that holds."""
    assert targets.delegations is not None
    role = role_of(model)
    before = dict(targets.delegations.roles or {})
    before.pop(role, None)
    roles = {role: team.delegation(model), **before}
    named = {keyid for one in roles.values() for keyid in one.keyids}
    keys = {keyid: key for keyid, key in targets.delegations.keys.items() if keyid in named} | dict(team.keys)
    targets.delegations = Delegations(keys, roles, unrecognized_fields=targets.delegations.unrecognized_fields)


def take_from_server(releases: Targets, roles: frozenset[str]) -> bool:
    """Let `releases` delegate these roles no more; return whether it did."""
    found = releases.delegations.roles if releases.delegations is not None else None
    gone = sorted(roles & set(found or ()))
    for role in gone:
        assert found is not None
        for keyid in list(found[role].keyids):
            releases.revoke_key(keyid, role)
        del found[role]
    return bool(gone)


def close(targets: Targets, releases: Targets) -> None:
    """Let the server sign no bundle of a model that it does not sign today, nor of one with a team."""
    found = releases.delegations.roles if releases.delegations is not None else None
    models = sorted(name.removeprefix(MODEL_PREFIX) for name in set(found or ()) - team_roles(targets))
    _releases_of(targets).paths = [f"{model}/*/*" for model in models]


def reopen(targets: Targets) -> None:
    """Let the server sign bundles of new models again."""
    _releases_of(targets).paths = [EVERY_MODEL]


def may_sign_as_server(targets: Targets, model: str) -> bool:
    """Return whether targets let the server sign bundles of a model that has no team."""
    return _releases_of(targets).is_delegated_path(f"{model}/-/-.bundle")


def _releases_of(targets: Targets) -> DelegatedRole:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    found = targets.delegations.roles["releases"]
    assert isinstance(found, DelegatedRole)
    return found
