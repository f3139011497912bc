"""Reads and writes objectives in OpenSLO form, `apiVersion: openslo/v1`, `kind: SLO`: a documented subset. Pure.

Every mistake is listed at once, each with its place (`$.spec.objectives[0].target`) and what was expected there. A field of OpenSLO that is
not taken is refused with the reason, since an objective that is not what its file says would be worse than none.
Reference: docs/reference/slo.md; OpenSLO: https://github.com/OpenSLO/OpenSLO (v1).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from edgefleet_server.objectives.errors import BadSloError
from edgefleet_server.objectives.model import Indicator, Slo

API_VERSION: Final = "openslo/v1"
KIND: Final = "SLO"
SOURCE: Final = "edgefleet"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MODEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
PLACE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+/-]{0,125}[A-Za-z0-9])?")
"""A value in a selector of devices."""
UNSTORED: Final = re.compile(r"[\x00\ud800-\udfff]")
"""What no database keeps: NUL, and halves of characters."""
DURATION: Final = re.compile(r"([1-9][0-9]{0,3})([hdw])")
UNITS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
LEAST_WINDOW_S: Final = 86_400
MOST_WINDOW_S: Final = 90 * 86_400
MOST_TARGET: Final = 0.999999
MAX_TEXT: Final = 2000
PLACES: Final = ("site", "profile", "group")
THRESHOLDS: Final[Mapping[Indicator, tuple[str, float, float]]] = {
    Indicator.LATENCY: ("milliseconds", 0.001, 600_000),
    Indicator.ANSWER_AGE: ("seconds", 60, 90 * 86_400),
    Indicator.RELEASE_AGE: ("days", 0.01, 3650),
}
"""Indicators with a threshold: its unit, the least and the most that it may be. All others are shares."""
_NOT_TAKEN: Final = {
    "indicatorRef": "an indicator stands in the file of its objective; write `indicator`",
    "alertPolicies": "alerts are built in: the rules slo_burn and slo_burn_slow; remove it",
    "calendar": "windows are rolling; write isRolling: true and no calendar",
    "bad": "the good share is read as a whole; write rawType: success and raw",
    "good": "the good share is read as a whole; write rawType: success and raw",
    "total": "the good share is read as a whole; write rawType: success and raw",
    "timeSliceTarget": "budgetingMethod is Occurrences; remove it",
    "timeSliceWindow": "budgetingMethod is Occurrences; remove it",
    "compositeWeight": "an objective is about one indicator; remove it",
    "metricSourceRef": "the source is edgefleet itself; write type: edgefleet",
}
"""Fields of OpenSLO that this subset has no meaning for, and what to write instead."""
_UNSET: Final[Any] = object()


@dataclass
class _Notes:
    errors: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str, message: str) -> None:
        if len(self.errors) < 50:
            self.errors.append({"path": path, "message": message})


class _Part:
    """An object of the file that is being read: each field is taken once, and what nobody took is refused at the end."""

    def __init__(self, value: Any, path: str, notes: _Notes) -> None:
        self.path, self._notes = path, notes
        self._left: dict[str, Any] = {}
        self.is_there = isinstance(value, dict)
        if isinstance(value, dict):
            self._left = {str(key): one for key, one in value.items()}
        elif value is not _UNSET:
            notes.add(path, f"expected an object, got {_shown(value)}")
        self._known: list[str] = []

    def take(self, name: str, *, needs: str = "") -> Any:
        """Return a field, _UNSET without it. needs: what to write where it has to be there."""
        self._known.append(name)
        found = self._left.pop(name, _UNSET)
        if found is _UNSET and needs and self.is_there:
            self._notes.add(f"{self.path}.{name}", f"is missing; {needs}")
        return found

    def part(self, name: str, *, needs: str = "") -> "_Part":
        """Return a field that is an object."""
        return _Part(self.take(name, needs=needs), f"{self.path}.{name}", self._notes)

    def only(self, name: str, what: str, *, needs: str) -> "_Part":
        """Return the one object in a field that is a list."""
        found, path = self.take(name, needs=needs), f"{self.path}.{name}"
        if found is _UNSET:
            return _Part(_UNSET, path, self._notes)
        if not isinstance(found, list) or len(found) != 1:
            self._notes.add(path, f"expected a list of one {what}, got {_shown(found)}; {needs}")
            return _Part(_UNSET, path, self._notes)
        return _Part(found[0], f"{path}[0]", self._notes)

    def text(self, name: str, pattern: re.Pattern[str] | None = None, *, needs: str = "", usual: str = "") -> str:
        """Return a field that is text."""
        found = self.take(name, needs=needs)
        if found is _UNSET:
            return usual
        is_text = isinstance(found, str) and len(found) <= MAX_TEXT and not UNSTORED.search(found)
        if not is_text or (pattern and not pattern.fullmatch(found)):
            what = "text" if pattern is None else f"text that matches {pattern.pattern}"
            self._notes.add(f"{self.path}.{name}", f"expected {what}, got {_shown(found)}")
            return usual
        return str(found)

    def fixed(self, name: str, value: Any, *, needs: str = "") -> None:
        """Check a field that takes one value."""
        found = self.take(name, needs=needs)
        if found is not _UNSET and (found != value or type(found) is not type(value)):
            self._notes.add(f"{self.path}.{name}", f"expected {_shown(value)}, got {_shown(found)}")

    def number(self, name: str, least: float, most: float, *, needs: str = "") -> float | None:
        """Return a field that is a number from `least` to `most`, None where it is not there or wrong."""
        found = self.take(name, needs=needs)
        if found is _UNSET:
            return None
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if not is_number or not least <= found <= most:
            self._notes.add(f"{self.path}.{name}", f"expected a number from {least:g} to {most:g}, got {_shown(found)}")
            return None
        return float(found)

    def end(self) -> None:
        """Refuse what nobody took."""
        for name in sorted(self._left):
            self._notes.add(f"{self.path}.{name.encode('unicode_escape').decode()[:60]}", _unknown(name, self._known))


def parsed(document: Any) -> Slo:
    """Return the objective that a parsed file writes. Raises BadSloError with every mistake that was found."""
    notes = _Notes()
    whole = _Part(document, "$", notes)
    whole.fixed("apiVersion", API_VERSION, needs=f"write apiVersion: {API_VERSION}")
    whole.fixed("kind", KIND, needs=f"write kind: {KIND}")
    name, title = _metadata(whole.part("metadata", needs="write metadata: {name: NAME}"))
    spec = whole.part("spec", needs="put the fields of the objective there")
    whole.end()
    model = spec.text("service", MODEL, needs="write the name of the model")
    description = spec.text("description")
    indicator, where = _indicator(spec.part("indicator", needs="write what is measured"), notes)
    window_s = _window(
        spec.only("timeWindow", "window", needs="write timeWindow: [{duration: 28d, isRolling: true}]"), notes
    )
    spec.fixed("budgetingMethod", "Occurrences", needs="write budgetingMethod: Occurrences")
    needs = "write objectives: [{target: 0.99}]; another target is another objective, in a file of its own"
    goal = spec.only("objectives", "objective", needs=needs)
    spec.end()
    title = goal.text("displayName") or title
    target = _target(goal, notes)
    threshold = _threshold(goal, indicator, notes)
    goal.end()
    if notes.errors or indicator is None or target is None:
        raise BadSloError(notes.errors or [{"path": "$", "message": "expected an objective"}])
    return Slo(name, model, indicator, target, window_s, threshold, title, description, where)


def document_of(slo: Slo) -> dict[str, Any]:
    """Return the file of an objective, in normal form."""
    source = {"type": SOURCE, "spec": {"metric": slo.indicator.value, **dict(slo.where)}}
    if slo.threshold is None:
        metric: dict[str, Any] = {
            "ratioMetric": {"counter": True, "rawType": "success", "raw": {"metricSource": source}}
        }
        goal: dict[str, Any] = {}
    else:
        metric, goal = {"thresholdMetric": {"metricSource": source}}, {"op": "lte", "value": slo.threshold}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": slo.name} | ({"displayName": slo.title} if slo.title else {}),
        "spec": {
            **({"description": slo.description} if slo.description else {}),
            "service": slo.model,
            "indicator": {"metadata": {"name": f"{slo.name}-indicator"[:63]}, "spec": metric},
            "timeWindow": [{"duration": _duration(slo.window_s), "isRolling": True}],
            "budgetingMethod": "Occurrences",
            "objectives": [goal | {"target": slo.target}],
        },
    }


def _metadata(part: _Part) -> tuple[str, str]:
    name = part.text("name", NAME, needs="write the name of the objective")
    title = part.text("displayName")
    for extra in ("labels", "annotations"):
        part.take(extra)
    part.end()
    return name, title


def _indicator(part: _Part, notes: _Notes) -> tuple[Indicator | None, tuple[tuple[str, str], ...]]:
    """Return what is measured, and of which devices."""
    part.take("metadata")
    spec = part.part("spec", needs="write thresholdMetric or ratioMetric")
    part.end()
    threshold, ratio = spec.take("thresholdMetric"), spec.take("ratioMetric")
    spec.end()
    if (threshold is _UNSET) == (ratio is _UNSET):
        if spec.is_there:
            notes.add(spec.path, "expected one of thresholdMetric and ratioMetric")
        return None, ()
    is_ratio = threshold is _UNSET
    metric = _Part(
        ratio if is_ratio else threshold, f"{spec.path}.{'ratioMetric' if is_ratio else 'thresholdMetric'}", notes
    )
    holder = metric
    if is_ratio:
        metric.fixed("counter", True)
        metric.fixed("rawType", "success", needs="write rawType: success")
        holder = metric.part("raw", needs="write raw: {metricSource: {…}}")
    source = holder.part("metricSource", needs="write metricSource: {type: edgefleet, spec: {metric: latency_ms}}")
    source.fixed("type", SOURCE, needs=f"write type: {SOURCE}")
    inner = source.part("spec", needs="write spec: {metric: latency_ms}")
    found = _known(inner, notes)
    where = tuple((place, text) for place in PLACES if (text := inner.text(place, PLACE)))
    if len(where) > 1:
        notes.add(inner.path, f"expected at most one of {', '.join(PLACES)}")
    if where and found is Indicator.ACCURACY:
        notes.add(inner.path, f"accuracy is of all devices; remove {where[0][0]}")
    for one in (inner, source, holder, metric):
        one.end()
    if found is not None and (found in THRESHOLDS) == is_ratio:
        right = "thresholdMetric" if is_ratio else "ratioMetric"
        notes.add(metric.path, f"{found.value} is {'a value' if is_ratio else 'a share'}; write {right}")
    return found, where


def _known(part: _Part, notes: _Notes) -> Indicator | None:
    names = [one.value for one in Indicator]
    found = part.text("metric", needs=f"write one of {', '.join(names)}")
    if not found:
        return None
    if found not in [*Indicator]:
        near = get_close_matches(found, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        notes.add(f"{part.path}.metric", f"{_shown(found)} is not a metric; {hint}")
        return None
    return Indicator(found)


def _window(part: _Part, notes: _Notes) -> int:
    found = part.text("duration", DURATION, needs="write duration: 28d")
    part.fixed("isRolling", True, needs="write isRolling: true")
    part.end()
    match = DURATION.fullmatch(found)
    if match is None:
        return MOST_WINDOW_S
    seconds = int(match[1]) * UNITS[match[2]]
    if not LEAST_WINDOW_S <= seconds <= MOST_WINDOW_S:
        notes.add(f"{part.path}.duration", f"expected 1d to {MOST_WINDOW_S // 86_400}d, got {found}")
    return seconds


def _target(part: _Part, notes: _Notes) -> float | None:
    share = part.number("target", 0.01, MOST_TARGET)
    percent = part.number("targetPercent", 1, 100 * MOST_TARGET)
    if (
        (share is None) == (percent is None)
        and part.is_there
        and not any(one["path"].startswith(f"{part.path}.target") for one in notes.errors)
    ):
        notes.add(part.path, "expected one of target (0.99) and targetPercent (99)")
    return share if percent is None else percent / 100


def _threshold(part: _Part, indicator: Indicator | None, notes: _Notes) -> float | None:
    if indicator is None or indicator not in THRESHOLDS:
        for name in ("op", "value"):
            if part.take(name) is not _UNSET and indicator is not None:
                notes.add(f"{part.path}.{name}", f"{indicator.value} is a share; remove it, the target says all")
        return None
    unit, least, most = THRESHOLDS[indicator]
    op = part.take("op", needs="write op: lte")
    if op is not _UNSET and op != "lte":
        notes.add(f"{part.path}.op", f"expected lte: {indicator.value} is good up to a value; got {_shown(op)}")
    return part.number("value", least, most, needs=f"write the value up to which it is good, in {unit}")


def _duration(seconds: int) -> str:
    unit = "d" if seconds % UNITS["d"] == 0 else "h"
    return f"{seconds // UNITS[unit]}{unit}"


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in _NOT_TAKEN:
        return f"is not taken here: {_NOT_TAKEN[name]}"
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"is not a field here; {f'did you mean {near[0]}?' if near else 'expected ' + ', '.join(known)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    written = repr(value) if isinstance(value, str | float) else str(value)[:60]
    return written if len(written) <= 60 else f"{written[:60]}…"
