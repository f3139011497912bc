"""How long signed metadata of each role is valid, and how high numbers of documents go. No I/O."""

from collections.abc import Mapping
from datetime import datetime, timedelta
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


def highest_number(now: datetime) -> int:
    """Return the highest number of a device's document that is signed at a time: milliseconds since 1970.

    Numbers count by one, so they stay far below. Whoever has the highest of today signed is overtaken by the next document, since a
    millisecond later there is a higher one. A device that says it has a higher one was sent it by nobody.
    """
    return int(now.timestamp() * 1000)
