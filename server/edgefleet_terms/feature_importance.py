"""Which inputs of a model matter, as a conversion's report has it, and how that is said (docs/how-to/explain-a-model.md). Pure.

A report was written by a child process that read a stranger's model: what is of another kind than it should be is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

MOST_FEATURES: Final = 200
MOST_MAPS: Final = 20
_MOST_SIDE: Final = 64
_MOST_MEAN: Final = 8192
_TOP1: Final = "top1"


@dataclass(frozen=True, slots=True)
class Feature:
    """One input or column. value: how much worse the metric is with it shuffled, in the metric's unit; low, high: at 95 %."""

    name: str
    kind: str
    value: float
    low: float
    high: float
    repeats: int

    @property
    def is_seen(self) -> bool:
        """Whether it matters more than chance would make it look."""
        return self.low > 0


@dataclass(frozen=True, slots=True)
class PartMap:
    """How much the score of the right class sinks when a part of a picture is hidden. group: "" = all, else the class number.

    drop: rows from the top. mean: grey bytes of the mean picture, base64 of height × width, "" where it is not shown.
    """

    input: str
    group: str
    n: int
    drop: Sequence[Sequence[float]]
    mean: str
    height: int
    width: int

    @property
    def most(self) -> float:
        """Return the largest drop."""
        return max((value for row in self.drop for value in row), default=0.0)


@dataclass(frozen=True, slots=True)
class ShapImportance:
    """Mean of the absolute SHAP value of columns over n samples against others. why: why nothing was measured; exact: by all sets."""

    why: str = ""
    n: int = 0
    others: int = 0
    exact: bool = False
    features: Sequence[Feature] = ()


@dataclass(frozen=True, slots=True)
class Importance:
    """What was measured. why: why nothing was, "" where something was; n of given labelled samples were used.

    base: the metric undisturbed. not_measured: inputs for which the time did not suffice; cut: how it ended early, in words.
    shap: None where nobody asked.
    """

    why: str = ""
    metric: str = ""
    output: str = ""
    base: float = 0.0
    n: int = 0
    given: int = 0
    runtime: str = ""
    features: Sequence[Feature] = ()
    maps: Sequence[PartMap] = ()
    not_measured: Sequence[str] = ()
    cut: str = ""
    by_name: Mapping[str, Feature] = field(default_factory=dict)
    shap: ShapImportance | None = None

    @property
    def is_measured(self) -> bool:
        """Whether anything was measured."""
        return bool(self.features or self.maps)


NOT_ASKED: Final = Importance(why="it was published before this was measured, or its conversion ended early")


def read_importance(document: object) -> Importance:
    """Return what a report's `importance` says; `NOT_ASKED` for an empty or broken one."""
    if not isinstance(document, Mapping) or not document:
        return NOT_ASKED
    features = [made for one in _items(document.get("features"), MOST_FEATURES) if (made := _feature(one)) is not None]
    maps = [
        found_map
        for row in _items(document.get("occlusion"), 4)
        if isinstance(row, Mapping)
        for one in _items(row.get("maps"), MOST_MAPS)
        if (found_map := _map(_text(row.get("input")), one)) is not None
    ]
    found = Importance(
        why=_text(document.get("why")),
        metric=_text(document.get("metric")),
        output=_text(document.get("output")),
        base=_real(document.get("base")) or 0.0,
        n=_count(document.get("n")),
        given=_count(document.get("given")),
        runtime=_text(document.get("runtime")),
        features=sorted(features, key=lambda one: -one.value),
        maps=maps,
        not_measured=[_text(one) for one in _items(document.get("not_measured"), MOST_FEATURES)],
        cut=_text(document.get("cut")),
        by_name={one.name: one for one in features},
        shap=_shap(document.get("shap")),
    )
    return found if found.is_measured or found.why else NOT_ASKED


def measured_text(found: Importance) -> str:
    """Return on what and how it was measured, one sentence."""
    if not found.is_measured:
        return f"Not measured: {found.why}."
    of = f" of {found.given}" if found.given > found.n else ""
    how = "shuffled" if found.features else "hidden part by part"
    said = f"Each input {how} on {found.n}{of} labelled evaluation samples; undisturbed: {base_text(found)}."
    if found.cut:
        rest = f"; not measured: {', '.join(found.not_measured[:8])}" if found.not_measured else ""
        said = f"{said[:-1]}; {found.cut}{rest}."
    return said


def shap_text(found: ShapImportance) -> str:
    """Return on what and how SHAP values were measured, one sentence."""
    if not found.features:
        return f"Not measured: {found.why}."
    how = "all sets of inputs" if found.exact else "permutations of the inputs that were drawn"
    return f"Mean of the absolute SHAP value over {found.n} samples, against {found.others} others, by {how}."


def base_text(found: Importance) -> str:
    """Return how well the source does undisturbed."""
    return f"accuracy {percent(found.base)}" if found.metric == _TOP1 else f"mean error {found.base:.4g}"


def worth_text(one: Feature, found: Importance) -> str:
    """Return what an input is worth, in words that need no table: `31 % of accuracy (94 % → 63 %)`."""
    if not one.is_seen:
        return "no effect beyond chance"
    after = found.base - one.value if found.metric == _TOP1 else found.base + one.value
    if found.metric == _TOP1:
        return f"{percent(one.value)} of accuracy ({percent(found.base)} → {percent(after)})"
    return f"{one.value:.3g} of the mean error ({found.base:.3g} → {after:.3g})"


def interval_text(one: Feature, found: Importance) -> str:
    """Return the interval at 95 %."""
    if found.metric == _TOP1:
        return f"{percent(one.low)} to {percent(one.high)}"
    return f"{one.low:.3g} to {one.high:.3g}"


def percent(share: float) -> str:
    """Return a share in percent: whole ones from 10 to 99, else one place."""
    value = 100 * share
    return f"{value:.0f} %" if 9.95 <= abs(value) < 99 or value in (0, 100) else f"{value:.1f} %"


def length_of(one: Feature, found: Importance) -> float:
    """Return how long its bar is, 0 … 100 % of that of the most important input."""
    most = max((other.value for other in found.features), default=0.0)
    return round(max(0.0, 100 * one.value / most), 1) if most > 0 else 0.0


def _shap(document: object) -> ShapImportance | None:
    if not isinstance(document, Mapping) or not document:
        return None
    features = [made for one in _items(document.get("features"), MOST_FEATURES) if (made := _feature(one)) is not None]
    counts = _count(document.get("n")), _count(document.get("others"))
    return ShapImportance(_text(document.get("why")), *counts, document.get("exact") is True, features)


def _feature(one: object) -> Feature | None:
    if not isinstance(one, Mapping):
        return None
    figures = [_real(one.get(name)) for name in ("value", "low", "high")]
    name = _text(one.get("name"))
    value, low, high = figures
    if not name or value is None or low is None or high is None:
        return None
    return Feature(name, _text(one.get("kind")), value, low, high, _count(one.get("repeats")))


def _map(name: str, one: object) -> PartMap | None:
    if not isinstance(one, Mapping):
        return None
    rows = [
        [value for cell in _items(row, _MOST_SIDE) if (value := _real(cell)) is not None]
        for row in _items(one.get("drop"), _MOST_SIDE)
    ]
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        return None
    mean = one.get("mean")
    shown = mean if isinstance(mean, str) and len(mean) <= _MOST_MEAN else ""
    height, width = _count(one.get("height")), _count(one.get("width"))
    return PartMap(name, _text(one.get("group")), _count(one.get("n")), rows, shown, height, width)


def _items(value: object, most: int) -> list[Any]:
    return value[:most] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value[:300] if isinstance(value, str) else ""


def _real(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
