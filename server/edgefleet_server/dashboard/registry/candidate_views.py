"""What a release's page shows of the candidates that were tried for a profile: two pictures, and a table with the figures. Pure.

They come from a conversion's report, which a child process wrote: anything of another kind than it should be is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from edgefleet_profiles.accuracy_plot import accuracy_plot, drawable
from edgefleet_profiles.metric_words import figure_text
from edgefleet_server.telemetry.bundle_metrics import Metric

NOT_TRIED: Final = "not_tried"
MOST_CANDIDATES: Final = 60
MOST_LETTERS: Final = 80


@dataclass(frozen=True, slots=True)
class CandidateLine:
    """One candidate, or the source (number 0). value, drop: of the metric; reason: why it was not offered, in a few words."""

    number: int
    id: str
    precision: str
    bytes: float | None
    value: float | None
    drop: float | None
    p50_ms: float | None
    verdict: str
    reason: str
    is_front: bool
    is_taken: bool


@dataclass(frozen=True, slots=True)
class SearchView:
    """What was tried for one profile. by_time: None where fewer than two were timed. untried: how many more there were.

    named: accuracy and size with the names of candidates, for where no table is next to it.
    """

    profile: str
    metric: str
    by_size: Markup
    named: Markup
    by_time: Markup | None
    lines: Sequence[CandidateLine]
    untried: int


def searches_of(report: Mapping[str, Any]) -> Iterator[SearchView]:
    """Yield the searches of a report that can be drawn: of two candidates or more, judged by more than random input."""
    profiles, options = report.get("profiles"), report.get("options")
    max_drop = drawable(options.get("max_drop")) if isinstance(options, Mapping) else None
    for profile in profiles if isinstance(profiles, list) else []:
        if isinstance(profile, Mapping) and (found := _search(profile, max_drop)) is not None:
            yield found


def accuracy_text(metrics: Sequence[Metric | None]) -> str:
    """Return the accuracy of a release's bundles in a few words: the worst of those that were measured, and how many were not."""
    known = [one for one in metrics if one is not None]
    measured = [one for one in known if one.is_measured]
    if not measured:
        return "not measured" if known else ""
    names = {one.name for one in measured}
    if len(names) > 1:
        return "measured by several metrics"
    worst = (max if measured[0].is_lower_better else min)(one.value for one in measured)
    missing = len(metrics) - len(measured)
    return f"{figure_text(measured[0].name, worst)} {measured[0].name}" + (
        f", {missing} of {len(metrics)} not measured" if missing else ""
    )


def _search(profile: Mapping[str, Any], max_drop: float | None) -> SearchView | None:
    listed = profile.get("candidates")
    rows = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    tried = list(enumerate((one for one in rows if one.get("verdict") != NOT_TRIED), 1))[:MOST_CANDIDATES]
    source, bundle = _mapping(profile.get("fp32")), _mapping(profile.get("bundle"))
    taken = _text(bundle.get("candidate")) or None
    by_size = accuracy_plot(tried, source, taken, max_drop)
    named = accuracy_plot(tried, source, taken, max_drop, is_named=True)
    if by_size is None or named is None:
        return None
    metric = next(one for one in (_mapping(row.get("metric")) for _, row in tried) if one)
    lines = [_line(number, row, taken) for number, row in tried]
    if source:
        own = {"value": metric.get("baseline")}
        lines.insert(0, _line(0, {**source, "id": "source", "verdict": "", "metric": own, "pareto": False}, None))
    return SearchView(
        profile=_text(profile.get("profile")),
        metric=_text(metric.get("name")),
        by_size=by_size,
        named=named,
        by_time=accuracy_plot(tried, source, taken, max_drop, by_time=True),
        lines=lines,
        untried=len(rows) - len(tried),
    )


def _line(number: int, row: Mapping[str, Any], taken: str | None) -> CandidateLine:
    metric, latency = _mapping(row.get("metric")), _mapping(row.get("latency_ms"))
    name = _text(row.get("id"))
    return CandidateLine(
        number=number,
        id=name,
        precision=_text(row.get("precision")),
        bytes=drawable(row.get("bytes")),
        value=drawable(metric.get("value")),
        drop=drawable(metric.get("drop")),
        p50_ms=drawable(latency.get("p50")),
        verdict=_text(row.get("verdict")),
        reason=_text(row.get("short")) or _text(row.get("reason")),
        is_front=row.get("pareto") is True,
        is_taken=taken is not None and name == taken,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value[:MOST_LETTERS] if isinstance(value, str) else ""
