"""How long a document rests over which the install child died again and again, before it is tried once more. Pure.

1. A few quick tries, then slow ones for ever: what killed the child (no memory, mostly) ends, and a device that gave up is deaf.
2. Each rest is twice as long as the one before, up to `most_s`; of its second half each device takes its own part.
3. Nothing here takes a document: only a child that lived can say that one is good.
"""

from dataclasses import dataclass

from edgefleet_protocol.digest import part_of, sha256_hex

CHILD_DIED_LIMIT = 3
"""Quick tries of one document before its first rest."""


@dataclass(frozen=True, slots=True)
class RetryDelay:
    """A document that rests. deaths: of the child over it, all tries together. lasts_s: from its beginning."""

    raw: bytes
    deaths: int
    lasts_s: float


def rest_after(raw: bytes, deaths: int, device: str, *, first_s: float, most_s: float) -> RetryDelay:
    """Return the rest of a document over which the child died `deaths` times, at least CHILD_DIED_LIMIT.

    It lasts more than half of, and at most, min(most_s, first_s doubled with each rest before), seconds.
    """
    doublings = min(max(0, deaths - CHILD_DIED_LIMIT), 64)
    whole_s = min(most_s, first_s * 2.0**doublings)
    part = part_of(device, f"{sha256_hex(raw)} {deaths}")
    return RetryDelay(raw, deaths, whole_s * (1.0 - part / 2.0))
