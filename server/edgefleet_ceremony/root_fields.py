"""The field of our own in root: which roles are signed off the server, and whose keys are whose. It is signed like the rest of root."""

from collections.abc import Mapping
from typing import Any, Final

CEREMONY_FIELD: Final = "x-edgefleet-ceremony"
"""`offline`: roles that are signed off the server. `holders`: their names by key id."""
OFFLINE_ROLES: Final = ("root", "targets")
"""Roles whose keys leave the server, one key of each for every holder."""


def offline_roles(root: Mapping[str, Any]) -> frozenset[str]:
    """Return the roles that a root (its `signed`) says are signed off the server; none for the root of a trial."""
    said = root.get(CEREMONY_FIELD)
    named = said.get("offline") if isinstance(said, dict) else None
    return frozenset(str(one) for one in named) if isinstance(named, list) else frozenset()


def holder_names(root: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of holders by key id, as a root (its `signed`) says."""
    said = root.get(CEREMONY_FIELD)
    named = said.get("holders") if isinstance(said, dict) else None
    return {str(keyid): str(name) for keyid, name in named.items()} if isinstance(named, dict) else {}
