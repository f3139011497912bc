"""What the parts of a log prove: that no number is missing without a reason, and that nothing was changed. Pure.

A log is checked part by part, oldest first. It begins with its first part, or behind the floor: the newest part that has gone after its
days. A log that ends early looks whole: only what the device says of its newest part shows that more was written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from edgefleet_protocol.prediction_parts import Head, decode_head, left_open, unexplained
from edgefleet_server.telemetry.predictions.model import MAX_RANGES, CheckedPredictionLog, MissingNumbers

SAMPLED, ERASED, EXPIRED = "sampled", "erased", "expired"
MOST_STRAYS: Final = 1_000
"""So many numbers of a part that nothing accounts for are counted: it is then clear what the part is worth."""


@dataclass(frozen=True)
class HeldPart:
    """A part as the server has it. hash: as it was when it came; found: of what is there now.

    seqs: numbers of its rows and of erased ones, in order; None: gone. problem: why its content could not be read, "" if it could.
    """

    part: int
    head: bytes
    hash: str
    found: str = ""
    seqs: Sequence[int] | None = None
    erased: frozenset[int] = frozenset()
    problem: str = ""


@dataclass
class _Sums:
    rows: int = 0
    ratio: float = 1.0
    sampled: int = 0
    missing: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, reason: str, ranges: Iterable[tuple[int, int]]) -> None:
        known = self.missing.setdefault(reason, [])
        for first, last in ranges:
            if known and known[-1][1] == first - 1:
                known[-1] = (known[-1][0], last)
            else:
                known.append((first, last))


@dataclass(frozen=True)
class SaidHead:
    """What a device says of its log: how many parts it has closed, and the hash of the newest."""

    parts: int
    head: str


def check_log(device: str, log: str, parts: Sequence[HeldPart], said: SaidHead | None = None) -> CheckedPredictionLog:
    """Return what these parts prove. parts: of one log, in order of their number."""
    sums = _Sums()
    before: tuple[int, str, int] | None = None  # part, hash, last number
    first = 0
    for held in parts:
        head = decode_head(held.head)
        if before is None and held.part != 1 and held.seqs is not None:
            sums.problems.append(f"parts 1 to {held.part - 1} are missing")
        elif before is not None and held.part != before[0] + 1:
            sums.problems.append(
                f"parts {before[0] + 1} to {held.part - 1} are missing, numbers {before[2] + 1} to {head.first - 1}"
            )
        elif before is not None:
            _check_link(held, head, before, sums)
        if held.seqs is None and not held.problem:
            sums.add(EXPIRED, [(1 if before is None else head.first, head.last)])
        before = (held.part, held.hash, head.last)
        if held.seqs is not None or held.problem:
            first = first or head.first
            _check_content(device, log, held, head, sums)
    if said is not None and before is not None and before[0] == said.parts and before[1] != said.head:
        sums.problems.append(f"the device says that part {before[0]} is another one")
    return CheckedPredictionLog(
        device=device,
        log=log,
        parts=sum(held.seqs is not None for held in parts),
        first=first,
        last=before[2] if before is not None else 0,
        rows=sums.rows,
        head=before[1] if before is not None else "",
        newest=before[0] if before is not None else 0,
        written=said.parts if said is not None else 0,
        ratio=sums.ratio,
        missing=sorted(_missing(sums), key=lambda one: one.reason),
        problems=sums.problems,
    )


def _check_link(held: HeldPart, head: Head, before: tuple[int, str, int], sums: _Sums) -> None:
    if head.before.hex() != before[1]:
        sums.problems.append(f"part {held.part} does not follow the part {before[0]} that is here")
    if head.first != before[2] + 1:
        sums.problems.append(f"part {held.part} begins with number {head.first} instead of {before[2] + 1}")


def _check_content(device: str, log: str, held: HeldPart, head: Head, sums: _Sums) -> None:
    if held.problem or held.seqs is None:
        sums.problems.append(f"part {held.part}: {held.problem}")
        return
    if (head.device, head.log, head.part) != (device, log, held.part):
        sums.problems.append(f"part {held.part} has the head of another part")
    if held.found != held.hash:
        sums.problems.append(f"part {held.part} was changed: its hash is not the one that the device sent")
    _check_open(held.part, head, held.seqs, sums)
    sums.ratio = min(sums.ratio, head.ratio)
    sums.rows += len(held.seqs) - len(held.erased)
    for gap in head.gaps:
        sums.add(gap.reason, [(gap.first, gap.last)])
    sums.add(ERASED, ((seq, seq) for seq in sorted(held.erased)))


def _check_open(part: int, head: Head, seqs: Sequence[int], sums: _Sums) -> None:
    """Tell numbers that sampling leaves out from those that nothing accounts for."""
    n = sum(len(numbers) for numbers in left_open(head, seqs))
    kept = unexplained(head, seqs)
    first = next(kept, None)
    if first is None:
        sums.sampled += n
        return
    strays = n if head.ratio >= 1.0 else 1 + sum(1 for _ in islice(kept, MOST_STRAYS - 1))
    is_more = head.ratio < 1.0 and strays == MOST_STRAYS
    sums.sampled += 0 if is_more else n - strays
    count = f"at least {strays}" if is_more else str(strays)
    sums.problems.append(f"part {part} has no row and no reason for {count} numbers, the first is {first}")


def _missing(sums: _Sums) -> Iterable[MissingNumbers]:
    for reason, ranges in sums.missing.items():
        if ranges:
            shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:MAX_RANGES]]
            yield MissingNumbers(reason, sum(last - first + 1 for first, last in ranges), shown)
    if sums.sampled:
        yield MissingNumbers(SAMPLED, sums.sampled)
