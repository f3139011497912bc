"""F19: random inputs to every parser that reads what a device, a broker, a caller or a file says: `./dev soak fuzz`.

- Inputs are honest ones (`parsers.py`), changed at random a few times each (`tests.converters.fuzz.broken`), some of them spliced with
  those of another parser. The same seed makes the same changes; keys and times of signed inputs are new each time.
- Counted as wrong: any exception but the parser's own refusals; more than `SLOWEST_S` of processor time, when the input is stopped;
  and an input that was taken though the parser's own check says it may not be.
"""

import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from tests.converters.fuzz import broken
from tests.hostile.device.parsers import PARSERS, Parser

SLOWEST_S: Final = 1.0
SPLICED: Final = 0.1
SHOWN: Final = 5
"""Inputs of each kind of failure that are shown."""


class Hang(Exception):
    """An input took more than `SLOWEST_S` of processor time."""


@dataclass
class Counts:
    """What came of the inputs of one parser. shown: the first inputs that went wrong."""

    inputs: int = 0
    taken: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    wrongly_taken: int = 0
    slowest_ms: float = 0.0
    shown: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return self.crashes == self.hangs == self.wrongly_taken == 0 < self.inputs

    def note(self, what: str, data: bytes) -> None:
        """Keep an input that went wrong, to repeat it with."""
        if len(self.shown) < SHOWN:
            self.shown.append(f"{what}: {data[:400].hex()}")


def fuzz(parser: Parser, n: int, seed: int) -> Counts:
    """Give a parser n random inputs, after the honest ones, which must be taken. Main thread only: it uses SIGPROF."""
    counts = Counts()
    with _limited():
        for honest in parser.seeds:
            _try(parser, honest, counts)
        if counts.taken != len(parser.seeds):
            counts.crashes += 1
            counts.note("an honest input was refused", parser.seeds[0])
        for data in inputs(parser, n, random.Random(f"{seed} {parser.name}")):
            _try(parser, data, counts)
    return counts


def inputs(parser: Parser, n: int, draw: random.Random) -> Iterator[bytes]:
    """Yield n changed inputs."""
    foreign = [seed for other in PARSERS if other is not parser for seed in other.seeds if len(seed) < 4_000]
    for _ in range(n):
        data = broken(draw.choice(parser.seeds), draw)
        if draw.random() < SPLICED:
            other = draw.choice(foreign)
            data = data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other)) :]
        yield data


def _try(parser: Parser, data: bytes, counts: Counts) -> None:
    counts.inputs += 1
    signal.setitimer(signal.ITIMER_PROF, SLOWEST_S)
    began = time.thread_time()
    try:
        value = parser.read(data)
        counts.taken += 1
        if parser.is_wrong is not None and parser.is_wrong(data, value):
            counts.wrongly_taken += 1
            counts.note("wrongly taken", data)
    except parser.refusals:
        counts.refused += 1
    except Hang:
        counts.hangs += 1
        counts.note("hang", data)
    except Exception as error:  # noqa: BLE001 - a crash is what is looked for
        counts.crashes += 1
        counts.note(f"{type(error).__name__}: {error}"[:200], data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    counts.slowest_ms = max(counts.slowest_ms, round((time.thread_time() - began) * 1000, 2))


@contextmanager
def _limited() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Give each parser n inputs."""
    found: dict[str, Counts] = {}
    for parser in PARSERS:
        found[parser.name] = fuzz(parser, n, seed)
        print(f"{parser.name}: {found[parser.name]}", file=sys.stderr, flush=True)
    return {
        "ok": all(counts.is_good for counts in found.values()),
        **totals(list(found.values())),
        "parsers": {name: vars(counts) for name, counts in found.items()},
    }


def totals(counts: Sequence[Counts]) -> dict[str, int]:
    """Return the sums over all parsers."""
    names = ("inputs", "taken", "refused", "crashes", "hangs", "wrongly_taken")
    return {name: sum(getattr(one, name) for one in counts) for name in names}
