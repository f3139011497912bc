"""Two versions of a model compared, profile by profile: what got better, what got worse, in words.

A difference is judged only between figures of the same kind: the same metric, the same source (host, prediction, devices). It counts as
better or worse only where chance does not explain it:

1. Bytes are exact. Less than a percent is no difference.
2. A share of samples or answers, and devices with crashes: the 95 % interval of the difference (Newcombe's, of Wilson's intervals)
   excludes 0. The spread of other metrics is not recorded, so they are shown and not judged.
3. What devices measure: the devices of a profile are the samples. The difference is more than they differ (Student's t over the devices'
   logarithms, 95 %), which one device alone never shows. Latencies that are both below a millisecond are shown and not judged.
4. A prediction: the intervals of the two do not overlap.
5. One run on the converting server is shown and not judged.

The comparison itself is pure (`compared`); `Comparisons` reads the reports, predictions and telemetry that it needs.
Source of rule 2: Newcombe, Statistics in Medicine 17 (1998), 873, method 10.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Literal

from edgefleet_profiles.metric_words import COUNTED
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef, parse_model_name
from edgefleet_server.registry.model import BundleView, ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.bundle_metrics import BundleLine, bundle_line
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.ground_truth.intervals import t_quantile, wilson
from edgefleet_server.telemetry.service import TelemetryService

Unit = Literal["", "bytes", "ms", "share", "count", "score"]

Tone = Literal["good", "bad", "plain"]

SAME_SHARE: Final = 0.01

SAME_METRIC: Final = 0.0005

CONFIDENCE: Final = 0.95

SMALL_MS: Final = 1.0
"""Latencies below it are mostly the request around the model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both versions, None where it is not known. said: the difference in words; tone: whether that is good.

    figure: its stable name; name: what people call it; unit: of before and after, "" for words, share of 1, score of the metric `metric`.
    basis: how many samples, answers or devices it rests on, "" where it is exact.
    """

    figure: str
    name: str
    unit: Unit
    before: float | str | None
    after: float | str | None
    said: str
    tone: Tone = "plain"
    metric: str = ""
    basis: str = ""


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


_RUN: Final = "one run on the converting server"


def _changes(a: BundleLine, b: BundleLine) -> list[Change | None]:
    host_p50, host_memory = (a.host_p50_ms, b.host_p50_ms), (a.host_memory, b.host_memory)
    return [
        _plain("precision", "Precision", a.view.precision, b.view.precision),
        _less("model_bytes", "Model size", "bytes", (a.bytes, b.bytes), _SIZE),
        _less("bundle_bytes", "Download size", "bytes", (float(a.view.length), float(b.view.length)), _SIZE),
        _metric(a, b),
        _less("host_latency_p50_ms", "Host latency p50", "ms", host_p50, _TIME, _not_judged),
        _predicted("predicted_latency_p50_ms", "Predicted p50", "latency_p50_ms", a, b),
        _predicted("predicted_latency_p95_ms", "Predicted p95", "latency_p95_ms", a, b),
        _seen("observed_latency_p50_ms", "On devices p50", "ms", "latency_p50_ms", a, b),
        _seen("observed_latency_p95_ms", "On devices p95", "ms", "latency_p95_ms", a, b),
        _less("host_memory_bytes", "Host memory", "bytes", host_memory, _SPACE, _not_judged),
        _seen("observed_memory_bytes", "Memory on devices", "bytes", "memory_bytes", a, b),
        _errors(a, b),
        _crashes(a, b),
    ]


Both = tuple[float | None, float | None]
"""A figure of both versions."""

Share = tuple[float, int]
"""A share, and of how many samples, answers or devices it is."""


@dataclass(frozen=True, slots=True)
class _Sureness:
    """Whether a difference is more than chance, why not in words, and what it rests on."""

    is_sure: bool = True
    why_not: str = ""
    basis: str = ""


_EXACT: Final = _Sureness()
_not_judged: Final = _Sureness(is_sure=False, why_not="not judged", basis=_RUN)


def _plain(figure: str, name: str, before: str, after: str) -> Change:
    return Change(figure, name, "", before or None, after or None, "same" if before == after else "differs")


def _less(
    figure: str, name: str, unit: Unit, both: Both, said: tuple[str, str], sureness: _Sureness = _EXACT
) -> Change | None:
    """Return the change of a figure of which less is better. said: words for less and for more."""
    before, after = (None if one is None else float(one) for one in both)
    if before is None and after is None:
        return None
    change = partial(Change, figure, name, unit, before, after, basis=sureness.basis)
    if before is None or after is None:
        return change("no data for one version")
    if abs(after - before) <= SAME_SHARE * max(abs(before), abs(after)):
        return change("same")
    is_better = after < before
    word = said[0] if is_better else said[1]
    why_not = sureness.why_not if not sureness.is_sure else ""
    if not why_not and unit == "ms" and max(before, after) < SMALL_MS:
        why_not = "both below 1 ms"
    by = f"{abs(after - before) / before:.0%} " if before else ""
    if not why_not:
        return change(f"{by}{word}", "good" if is_better else "bad")
    by = f"{abs(after - before):.2g} ms " if unit == "ms" else by
    return change(f"{by}{word}, {why_not}")


def _predicted(figure: str, name: str, part: str, a: BundleLine, b: BundleLine) -> Change | None:
    before, after = a.predicted.get(part), b.predicted.get(part)
    values = None if before is None else before.value, None if after is None else after.value
    is_sure = before is None or after is None or before.high < after.low or after.high < before.low
    return _less(figure, name, "ms", values, _TIME, _Sureness(is_sure, "within what the prediction is sure of"))


def _seen(figure: str, name: str, unit: Unit, part: str, a: BundleLine, b: BundleLine) -> Change | None:
    """Return the change of a median over devices."""
    said = _TIME if unit == "ms" else _SPACE
    sides = [None if one is None else getattr(one, part) for one in (a.observed, b.observed)]
    both = (None if sides[0] is None else float(sides[0]), None if sides[1] is None else float(sides[1]))
    if a.observed is None or b.observed is None:
        return _less(figure, name, unit, both, said)
    counts = a.observed.devices, b.observed.devices
    basis = _counted(counts, "device")
    spreads = [one.spread.get(part) for one in (a.observed, b.observed)]
    if min(counts) < 2 or None in spreads:
        return _less(
            figure, name, unit, both, said, _Sureness(is_sure=False, why_not="too few devices to be sure", basis=basis)
        )
    errors = [spread**2 / n for spread, n in zip(spreads, counts, strict=True) if spread is not None]
    is_sure = None not in both and _stands_out(both, errors, counts)
    return _less(figure, name, unit, both, said, _Sureness(is_sure, "devices differ by as much", basis))


def _stands_out(both: Both, errors: Sequence[float], counts: tuple[int, int]) -> bool:
    """Return whether two medians over devices differ by more than chance: Welch's test on logarithms, with the error of a median."""
    before, after = both
    if not before or not after:
        return False
    total = sum(errors)
    if (
        total <= 0
    ):  # all devices report the very same; what the buckets of latencies hide is less than a percent, which is "same"
        return True
    freedom = total**2 / sum(error**2 / (n - 1) for error, n in zip(errors, counts, strict=True))
    error = math.sqrt(math.pi / 2 * total)
    return abs(math.log(after / before)) > t_quantile(0.5 + CONFIDENCE / 2, freedom) * error


def _counted(counts: tuple[int, int], what: str) -> str:
    """Return `12 devices each`, or `12 and 9 devices`."""
    first, second = counts
    if first != second:
        return f"{first} and {second} {what}s"
    return f"1 {what} each" if first == 1 else f"{first} {what}s each"


def shares_differ(before: Share, after: Share) -> bool:
    """Return whether two shares differ by more than chance: the interval of their difference excludes 0."""
    low, high = share_difference(before, after)
    return low > 0 or high < 0


def share_difference(before: Share, after: Share) -> tuple[float, float]:
    """Return Newcombe's interval of how much larger the first of two shares is; without samples it is anything."""
    (p, n), (q, m) = before, after
    if n <= 0 or m <= 0:
        return -1.0, 1.0
    z = t_quantile(0.5 + CONFIDENCE / 2, math.inf)
    (p_low, p_high), (q_low, q_high) = wilson(p, n, z), wilson(q, m, z)
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


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
    counts = (a.metric.n or 0, b.metric.n or 0)
    change = partial(change, metric=a.metric.name, basis=_counted(counts, "sample") if all(counts) else "")
    difference = b.metric.value - a.metric.value
    if abs(difference) <= SAME_METRIC:
        return change("same")
    is_better = (difference < 0) == (a.metric.is_lower_better or b.metric.is_lower_better)
    said = f"{abs(difference):.4f} {'better' if is_better else 'worse'}"
    is_share = (
        a.metric.name in COUNTED
        and 0 <= min(a.metric.value, b.metric.value) <= max(a.metric.value, b.metric.value) <= 1
    )
    if not is_share:
        return change(f"{said}, its spread is not recorded")
    if not shares_differ((a.metric.value, counts[0]), (b.metric.value, counts[1])):
        return change(f"{said}, could be chance")
    return change(said, "good" if is_better else "bad")


def _errors(a: BundleLine, b: BundleLine) -> Change | None:
    """Return the change of the share of failed and non-finite answers, a mean over devices; below 0.1 % there is nothing to judge."""
    before, after = (None if one.recent is None else one.recent.failed_share for one in (a, b))
    if before is None and after is None:
        return None
    change = partial(Change, "error_rate", "Errors on devices", "share", before, after)
    if before is None or after is None or a.recent is None or b.recent is None:
        return change("no data for one version")
    counts = (a.recent.n, b.recent.n)
    change = partial(change, basis=_counted(counts, "answer"))
    difference = after - before
    if abs(difference) < 0.001:
        return change("same")
    said = f"{abs(difference) * 100:.2f} points {'fewer' if difference < 0 else 'more'}"
    if not shares_differ((before, counts[0]), (after, counts[1])):
        return change(f"{said}, could be chance")
    return change(said, "good" if difference < 0 else "bad")


def _crashes(a: BundleLine, b: BundleLine) -> Change | None:
    """Return the change of the number of devices with crashes, judged as a share of the devices that reported."""
    before, after = (None if one.recent is None else float(one.recent.crashed_devices) for one in (a, b))
    judged = partial(_less, "crashes", "Devices with crashes", "count", said=("fewer", "more"))
    if a.recent is None or b.recent is None:
        return judged(both=(before, after))
    counts = (a.recent.devices, b.recent.devices)
    old, new = (one.crashed_devices / one.devices if one.devices else 0.0 for one in (a.recent, b.recent))
    is_sure = shares_differ((old, counts[0]), (new, counts[1]))
    found = judged(both=(old, new), sureness=_Sureness(is_sure, "could be chance", _counted(counts, "device")))
    return None if found is None else replace(found, before=before, after=after)


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
