"""Remembers sums of steps of many cohorts, so that a month is not added up again for each chart of it.

1. A step is kept with a *witness*: a digest of the rows of all cohorts together that stood next to it. Each window that counts in a cohort
   counts there too, in the same transaction, and a count of windows only grows: the same witness says that nothing was added, in any
   server process. Old steps change when devices send late, and are then read again.
2. A question names how many series it adds up. Series are only ever added, so the same question with as many has the same ones.
3. The witness is read before the rows: what is added between both makes a sum that its witness does not fit, never an old sum that fits.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final

import msgspec

MOST_BYTES: Final = 16_000_000
"""Some 10,000 sums: a month of 10 sites by days has 310."""
BYTES_EACH: Final = 500
"""Of a step, whatever is in it."""
Packed = tuple[tuple[str, ...], list[Any]]
"""A key and what is stored of its sum."""
_decode = msgspec.msgpack.Decoder(list[Packed]).decode


def witnesses(rows: Iterable[tuple[int, int, bytes]], step_s: int) -> dict[int, bytes]:
    """Return the witness of each step. rows: (series, beginning, sums) of all cohorts together."""
    found: dict[int, Any] = {}
    for number, at, sums in sorted(rows):
        place = at // step_s * step_s
        digest = found.get(place)
        if digest is None:
            digest = found[place] = hashlib.sha256()
        digest.update(b"%d %d %d " % (number, at, len(sums)))
        digest.update(sums)
    return {place: digest.digest() for place, digest in found.items()}


class KeptSteps:
    """Keeps the sums that were asked for last. Thread-safe."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Keep nothing yet. most_bytes: how much is kept."""
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._steps: OrderedDict[tuple[Hashable, int], tuple[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def known(self, question: Hashable, now: Mapping[int, bytes]) -> dict[int, list[Packed]]:
        """Return the sums of those steps that have not changed. now: the witnesses of steps."""
        found = {}
        with self._lock:
            for at, witness in now.items():
                kept = self._steps.get((question, at))
                if kept is not None and kept[0] == witness:
                    self._steps.move_to_end((question, at))
                    found[at] = kept[1]
        return {at: _decode(sums) for at, sums in found.items()}

    def keep(self, question: Hashable, at: int, witness: bytes, sums: list[Packed]) -> None:
        """Keep the sums of a step."""
        try:
            packed = msgspec.msgpack.encode(sums)
        except OverflowError:  # MessagePack ends at 64 bits; only devices that lie count so far
            return
        with self._lock:
            before = self._steps.pop((question, at), None)
            self._steps[question, at] = witness, packed
            self._bytes += len(packed) - len(before[1]) if before else len(packed) + BYTES_EACH
            while self._bytes > self._most_bytes:
                _, (_, gone) = self._steps.popitem(last=False)
                self._bytes -= len(gone) + BYTES_EACH
