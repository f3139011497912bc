"""Labels counted by model, lane and version, until a window takes them along. Pure.

1. A pair of label and answer counts for the version that answered, in the hour in which it did.
2. An answer counts once: the last MAX_PAIRED that had their label are known by a hash, also after a restart.
3. At most MAX_SEGMENTS segments of a model are told apart, later ones are `other`; of MAX_FIGURES figures, later ones are left out.
4. A window takes what fits into MAX_TOLD_BYTES; what does not waits for the next one.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from edgefleet_agent.worker.control.protocol import Label
from edgefleet_protocol import ground_truth
from edgefleet_protocol.ground_truth import MAX_FIGURES, OTHER, Truth, TruthPart
from edgefleet_protocol.messages import Window

MAX_PAIRED: Final = 8_192
MAX_SEGMENTS: Final = 16
MAX_BUNDLES: Final = 64
FOLD_AT: Final = 256
MAX_TOLD_BYTES: Final = 8 * 1024


class Answer(NamedTuple):
    """An answer that was given. top: class index, -1 = a number, `score`."""

    version: str
    sha256: str
    lane: str
    top: int
    score: float
    at_ms: int


class Lane(NamedTuple):
    """What labels are counted for."""

    model: str
    lane: str
    sha256: str
    version: str


class Tally(msgspec.Struct):
    """How feedback fared since agentd began; or that of one task."""

    matched: int = 0
    unmatched: int = 0
    late: int = 0
    repeated: int = 0
    misfit: int = 0

    def add(self, outcome: str) -> None:
        """Count one more; what is late is unmatched, too."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "late":
            self.unmatched += 1


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The record in `feedback.ok`: hashes of answers that had their label, oldest first. units: of errors of numbers, by bundle."""

    v: int = 1
    hashes: list[int] = []
    units: dict[str, float] = {}


class LabelCounts:
    """The counts of one device."""

    def __init__(self, known: Paired | None = None) -> None:
        """Begin with nothing counted."""
        known = known or Paired()
        self._paired: OrderedDict[int, None] = OrderedDict.fromkeys(known.hashes)
        self._truths: dict[Lane, Truth] = {}
        self._units = dict(known.units)
        self._fresh: dict[Lane, list[TruthPart]] = {}
        self._names: dict[tuple[str, str], set[str]] = {}
        self.tallies: dict[str, Tally] = {}

    @property
    def paired(self) -> Paired:
        """Return what is kept over a restart."""
        return Paired(hashes=list(self._paired), units=dict(list(self._units.items())[-MAX_BUNDLES:]))

    def figures(self, lane: Lane, label: Label, now_s: int) -> None:
        """Count business figures that belong to no answer; those of the future now."""
        at_s = label.at_s if 0 < label.at_s <= now_s else now_s
        self._figures(lane, at_s // 3_600, self._segment(lane.model, label), label.figures)

    def pair(self, model: str, label: Label, answer: Answer, unit: float) -> str:
        """Count a label of a remembered answer; return how it fared: a field of `Tally`."""
        lane = Lane(model, answer.lane, answer.sha256, answer.version)
        hour, segment = answer.at_ms // 3_600_000, self._segment(model, label)
        if label.value is None and label.label < 0:
            self._figures(lane, hour, segment, label.figures)
            return self._fared(lane, "matched")
        is_class = label.value is None
        if is_class is not (answer.top >= 0) or not math.isfinite(answer.score):
            return self._fared(lane, "misfit")
        name = f"{model}\0{label.key}\0{answer.sha256}\0{answer.at_ms}".encode()
        digest = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        if digest in self._paired:
            self._extra(lane, repeated=1)
            return self._fared(lane, "repeated")
        self._paired[digest] = None
        if len(self._paired) > MAX_PAIRED:
            self._paired.popitem(last=False)
        if label.value is None:
            self._add(lane, ground_truth.class_part(hour, segment, label.label, answer.top))
        else:
            unit = self._units.setdefault(lane.sha256, unit)
            self._add(lane, ground_truth.number_part(hour, segment, label.value, answer.score, unit))
        self._figures(lane, hour, segment, label.figures)
        return self._fared(lane, "matched")

    def unmatched(self, lane: Lane, label: Label, oldest_s: int, *, is_told: bool = True) -> str:
        """Count a label without a remembered answer, for what serves now. oldest_s: the first answer that is remembered, 0 = none.

        is_told: windows say so, too.
        """
        is_late = 0 < label.at_s < oldest_s
        if is_told:
            self._extra(lane, unmatched=1, late=int(is_late))
        return self._fared(lane, "late" if is_late else "unmatched")

    def told(self, windows: list[Window], t0: int, length_s: int) -> list[Window]:
        """Return windows with what was counted; what no window is of has one of its own, before the others."""
        more: list[Window] = []
        done: dict[Lane, bytes] = {}
        for lane in list(self._fresh):
            self._fold(lane)
        for lane in list(self._truths):
            now, later = _parted(self._truths.pop(lane), self._units.get(lane.sha256, 1.0))
            if later is not None:
                self._truths[lane] = later
            done[lane] = ground_truth.pack(now)
        found = []
        for window in windows:
            truth = done.pop(Lane(window.model, window.lane, window.sha256, window.version), b"")
            found.append(msgspec.structs.replace(window, truth=truth) if truth else window)
        for lane, truth in done.items():
            more.append(
                Window(
                    t0=t0, length_s=length_s, model=lane.model, lane=lane.lane, sha256=lane.sha256, version=lane.version, truth=truth
                )
            )  # fmt: skip
        return [*more, *found]

    def _segment(self, model: str, label: Label) -> str:
        if not label.segment or self._may_name(model, "segment", label.segment, MAX_SEGMENTS):
            return label.segment
        return OTHER

    def _figures(self, lane: Lane, hour: int, segment: str, figures: Mapping[str, float]) -> None:
        """Count business figures by name; those that are too many are left out."""
        chosen = {name: one for name, one in figures.items() if self._may_name(lane.model, "kpi", name, MAX_FIGURES)}
        if chosen:
            self._add(lane, ground_truth.figure_part(hour, segment, chosen))

    def _may_name(self, model: str, what: str, name: str, most: int) -> bool:
        known = self._names.setdefault((model, what), set())
        if len(known) < most:
            known.add(name)
        return name in known

    def _add(self, lane: Lane, part: TruthPart) -> None:
        fresh = self._fresh.setdefault(lane, [])
        fresh.append(part)
        if len(fresh) >= FOLD_AT:
            self._fold(lane)

    def _fold(self, lane: Lane) -> None:
        known = self._truths.get(lane, Truth())
        parts = ground_truth.added([*known.parts, *self._fresh.pop(lane)])
        self._truths[lane] = msgspec.structs.replace(known, parts=parts)

    def _extra(self, lane: Lane, *, unmatched: int = 0, late: int = 0, repeated: int = 0) -> None:
        known = self._truths.get(lane, Truth())
        self._truths[lane] = msgspec.structs.replace(
            known,
            unmatched=known.unmatched + unmatched,
            late=known.late + late,
            repeated=known.repeated + repeated,
        )

    def _fared(self, lane: Lane, outcome: str) -> str:
        self.tallies.setdefault(lane.model, Tally()).add(outcome)
        return outcome


def _parted(truth: Truth, unit: float) -> tuple[Truth, Truth | None]:
    """Return what fits into one window, and what waits for the next one; at least one part is told."""
    truth, parts = msgspec.structs.replace(truth, unit=unit), list(truth.parts)
    told = parts
    while len(told) > 1 and len(ground_truth.pack(msgspec.structs.replace(truth, parts=tuple(told)))) > MAX_TOLD_BYTES:
        told = told[: max(1, len(told) * 3 // 4)]
    left = parts[len(told) :]
    return msgspec.structs.replace(truth, parts=tuple(told)), Truth(
        unit=truth.unit, parts=tuple(left)
    ) if left else None
