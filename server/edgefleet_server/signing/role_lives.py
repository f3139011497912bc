"""How long signed metadata of each role is valid. No I/O."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from edgefleet_server.signing.trust import MODEL_PREFIX

LIFE: Final[Mapping[str, timedelta]] = {
    "root": timedelta(days=365),
    "targets": timedelta(days=180),
    "releases": timedelta(days=90),
    "director": timedelta(days=90),
    "audit": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(hours=24),
}


def life_of(role: str) -> timedelta:
    """Return how long metadata of a role is valid; the roles of models live as long as that of `releases`."""
    return LIFE["releases" if role.startswith(MODEL_PREFIX) else role]
