"""Two versions of a model compared, profile by profile: what got better, what got worse, in words.

A difference is judged only between figures of the same kind: the same metric, the same source (host, prediction, devices).
Less than a percent of a size or time is no difference: medians of devices move by more from day to day. The comparison itself
is pure (`compared`); `Comparisons` reads the reports, predictions and telemetry that it needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef, parse_model_name
from edgefleet_server.registry.model import BundleView, ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.bundle_metrics import BundleLine, bundle_line
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.service import TelemetryService

Unit = Literal["", "bytes", "ms", "share", "count", "score"]

Tone = Literal["good", "bad", "plain"]

SAME_SHARE: Final = 0.01

SAME_METRIC: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both versions, None where it is not known. said: the difference in words; tone: whether that is good.

    figure: its stable name; name: what people call it; unit: of before and after, "" for words, share of 1, score of the metric `metric`.
    """

    figure: str
    name: str
    unit: Unit
    before: float | str | None
    after: float | str | None
    said: str
    tone: Tone = "plain"
    metric: str = ""


@dataclass(frozen=True, slots=True)
class ProfilePair:
    """One profile in both versions. better, worse: how many figures got so.

    lacking: the version that has no bundle for it, so that there is nothing to compare, else empty; missing: the same as a sentence.
    """

    profile: str
    changes: Sequence[Change]
    better: int
    worse: int
    lacking: str = ""
    missing: str = ""


def compared(before: Sequence[BundleLine], after: Sequence[BundleLine], labels: tuple[str, str]) -> list[ProfilePair]:
    """Return a pair for each profile that either version has, in order of name. labels: what the versions are called."""
    old, new = ({str(one.view.profile): one for one in lines} for lines in (before, after))
    return [_pair(name, old.get(name), new.get(name), labels) for name in sorted(old.keys() | new.keys())]


def _pair(profile: str, before: BundleLine | None, after: BundleLine | None, labels: tuple[str, str]) -> ProfilePair:
    if before is None or after is None:
        lacking = labels[0] if before is None else labels[1]
        return ProfilePair(profile, (), 0, 0, lacking, f"{lacking} has no bundle for this profile")
    changes = [one for one in _changes(before, after) if one is not None]
    tones = [one.tone for one in changes]
    return ProfilePair(profile, changes, tones.count("good"), tones.count("bad"))


_SIZE: Final = ("smaller", "larger")

_TIME: Final = ("faster", "slower")

_SPACE: Final = ("less", "more")


def _changes(a: BundleLine, b: BundleLine) -> list[Change | None]:
    return [
        _plain("precision", "Precision", a.view.precision, b.view.precision),
        _less("model_bytes", "Model size", "bytes", (a.bytes, b.bytes), _SIZE),
        _less("bundle_bytes", "Download size", "bytes", (float(a.view.length), float(b.view.length)), _SIZE),
        _metric(a, b),
        _less("host_latency_p50_ms", "Host latency p50", "ms", (a.host_p50_ms, b.host_p50_ms), _TIME),
        _less("predicted_latency_p50_ms", "Predicted p50", "ms", _values(a, b, "latency_p50_ms"), _TIME),
        _less("predicted_latency_p95_ms", "Predicted p95", "ms", _values(a, b, "latency_p95_ms"), _TIME),
        _less("observed_latency_p50_ms", "On devices p50", "ms", _seen(a, b, "latency_p50_ms"), _TIME),
        _less("observed_latency_p95_ms", "On devices p95", "ms", _seen(a, b, "latency_p95_ms"), _TIME),
        _less("host_memory_bytes", "Host memory", "bytes", (a.host_memory, b.host_memory), _SPACE),
        _less("observed_memory_bytes", "Memory on devices", "bytes", _seen(a, b, "memory_bytes"), _SPACE),
        _errors(a, b),
        _less("crashes", "Devices with crashes", "count", (_crashes(a), _crashes(b)), ("fewer", "more")),
    ]


Both = tuple[float | None, float | None]
"""A figure of both versions."""


def _values(a: BundleLine, b: BundleLine, name: str) -> Both:
    before, after = a.predicted.get(name), b.predicted.get(name)
    return None if before is None else before.value, None if after is None else after.value


def _seen(a: BundleLine, b: BundleLine, name: str) -> Both:
    before, after = (None if one.observed is None else getattr(one.observed, name) for one in (a, b))
    return None if before is None else float(before), None if after is None else float(after)


def _crashes(line: BundleLine) -> float | None:
    return None if line.recent is None else float(line.recent.crashed_devices)


def _plain(figure: str, name: str, before: str, after: str) -> Change:
    return Change(figure, name, "", before or None, after or None, "same" if before == after else "differs")


def _less(figure: str, name: str, unit: Unit, both: Both, said: tuple[str, str]) -> Change | None:
    """Return the change of a figure of which less is better. said: words for less and for more."""
    before, after = (None if one is None else float(one) for one in both)
    if before is None and after is None:
        return None
    if before is None or after is None:
        return Change(figure, name, unit, before, after, "no data for one version")
    if abs(after - before) <= SAME_SHARE * max(abs(before), abs(after)):
        return Change(figure, name, unit, before, after, "same")
    is_better = after < before
    by = f"{abs(after - before) / before:.0%} " if before else ""
    word = said[0] if is_better else said[1]
    return Change(figure, name, unit, before, after, f"{by}{word}", "good" if is_better else "bad")


def _metric(a: BundleLine, b: BundleLine) -> Change | None:
    """Return the change of the accuracy: figures of the same metric, else what each was measured by."""
    if a.metric is None and b.metric is None:
        return None
    if not all(one is None or one.is_measured for one in (a.metric, b.metric)):
        before, after = (
            None if one is None else f"{one.name} {one.value:.4f}" if one.is_measured else "not measured"
            for one in (a.metric, b.metric)
        )
        return Change("metric", "Accuracy", "", before, after, "only random input judged it")
    if a.metric is not None and b.metric is not None and a.metric.name != b.metric.name:
        before, after = (f"{one.name} {one.value:.4f}" for one in (a.metric, b.metric))
        return Change("metric", "Accuracy", "", before, after, "measured by another metric")
    old, new = (None if one.metric is None else float(one.metric.value) for one in (a, b))
    change = partial(Change, "metric", "Accuracy", "score", old, new)
    if a.metric is None or b.metric is None:
        known = a.metric.name if a.metric is not None else "" if b.metric is None else b.metric.name
        return change("no data for one version", metric=known)
    difference = b.metric.value - a.metric.value
    if abs(difference) <= SAME_METRIC:
        return change("same", metric=a.metric.name)
    is_better = (difference < 0) == (a.metric.is_lower_better or b.metric.is_lower_better)
    on_other = "" if a.metric.n == b.metric.n else f", on {a.metric.n} and {b.metric.n} samples"
    said = f"{abs(difference):.4f} {'better' if is_better else 'worse'}{on_other}"
    return change(said, "good" if is_better else "bad", metric=a.metric.name)


def _errors(a: BundleLine, b: BundleLine) -> Change | None:
    """Return the change of the share of failed and non-finite answers, a mean over devices; below 0.1 % there is nothing to judge."""
    before, after = (None if one.recent is None else one.recent.failed_share for one in (a, b))
    if before is None and after is None:
        return None
    change = partial(Change, "error_rate", "Errors on devices", "share", before, after)
    if before is None or after is None:
        return change("no data for one version")
    difference = after - before
    if abs(difference) < 0.001:
        return change("same")
    said = f"{abs(difference) * 100:.2f} points {'fewer' if difference < 0 else 'more'}"
    return change(said, "good" if difference < 0 else "bad")


RECENT: Final = timedelta(hours=24)

RECENT_WINDOWS: Final = 400


@dataclass(frozen=True)
class ComparedVersion:
    """One of the two versions."""

    ref: str
    version: str
    state: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class Comparison:
    """Two versions of a model, profile by profile; no profile when neither has a bundle."""

    model: str
    before: ComparedVersion
    after: ComparedVersion
    profiles: Sequence[ProfilePair]


class Comparisons:
    """Reads what versions are compared by. Thread-safe; calls block."""

    def __init__(
        self, registry: RegistryService, costs: CostService, telemetry: TelemetryService, clock: Clock
    ) -> None:
        """Wire the services."""
        self._registry = registry
        self._costs = costs
        self._telemetry = telemetry
        self._clock = clock

    def lines(self, bundles: Sequence[BundleView]) -> list[BundleLine]:
        """Return what is known of each of these bundles."""
        performance = {one.profile: one for one in self._costs.performance(bundles)}
        since = self._clock.now() - RECENT
        return [
            bundle_line(one, performance.get(one.profile), self._telemetry.recent(one.sha256, since, RECENT_WINDOWS))
            for one in bundles
        ]

    def compare(self, name: str, before: str, after: str) -> Comparison:
        """Return two versions side by side, each also by an alias. Raises ModelUnknownError, ReleaseUnknownError, BadIdError."""
        model = self._registry.model(parse_model_name(name)).name
        a, b = (self._registry.release(ReleaseRef.parse(f"{model}@{one}")) for one in (before, after))
        return Comparison(model, _side(a), _side(b), self.pairs(a, b))

    def pairs(self, before: ReleaseView, after: ReleaseView) -> list[ProfilePair]:
        """Return two releases profile by profile."""
        labels = (str(before.ref.version), str(after.ref.version))
        return compared(self.lines(before.bundles), self.lines(after.bundles), labels)


def _side(release: ReleaseView) -> ComparedVersion:
    return ComparedVersion(
        str(release.ref), str(release.ref.version), release.state.value, release.created_at, release.created_by
    )
