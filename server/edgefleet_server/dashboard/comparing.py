"""Two versions of a model side by side, profile by profile: what got better, what got worse, in words. Pure.

A difference is judged only between figures of the same kind: the same metric, the same source (host, prediction, devices). Less than
a percent of a size or time is no difference: medians of devices move by more from day to day.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from edgefleet_server.dashboard import words
from edgefleet_server.dashboard.bundle_lines import BundleLine

T = TypeVar("T")
SAME_SHARE: Final = 0.01
SAME_METRIC: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both versions as text. said: the difference in words; tone: good, bad or plain, as the words say too."""

    name: str
    before: str
    after: str
    said: str
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class ProfilePair:
    """One profile in both versions. better, worse: how many figures got so; missing: why there is nothing to compare, else empty."""

    profile: str
    before: BundleLine | None
    after: BundleLine | None
    changes: Sequence[Change]
    better: int
    worse: int
    missing: str = ""


def compared(before: Sequence[BundleLine], after: Sequence[BundleLine], labels: tuple[str, str]) -> list[ProfilePair]:
    """Return a pair for each profile that either version has, in order of name. labels: what the versions are called."""
    old, new = ({str(one.view.profile): one for one in lines} for lines in (before, after))
    return [_pair(name, old.get(name), new.get(name), labels) for name in sorted(old.keys() | new.keys())]


def _pair(profile: str, before: BundleLine | None, after: BundleLine | None, labels: tuple[str, str]) -> ProfilePair:
    if before is None or after is None:
        lacking = labels[0] if before is None else labels[1]
        return ProfilePair(profile, before, after, (), 0, 0, f"{lacking} has no bundle for this profile")
    changes = [one for one in _changes(before, after) if one is not None]
    tones = [one.tone for one in changes]
    return ProfilePair(profile, before, after, changes, tones.count("good"), tones.count("bad"))


def _changes(a: BundleLine, b: BundleLine) -> list[Change | None]:
    return [
        _plain("Precision", a.view.precision, b.view.precision),
        _less("Model size", a.bytes, b.bytes, words.size, ("smaller", "larger")),
        _less("Download size", float(a.view.length), float(b.view.length), words.size, ("smaller", "larger")),
        _metric(a, b),
        _less("Host latency p50", a.host_p50_ms, b.host_p50_ms, _ms, ("faster", "slower")),
        _less("Predicted p50", _value(a, "latency_p50_ms"), _value(b, "latency_p50_ms"), _ms, ("faster", "slower")),
        _less("Predicted p95", _value(a, "latency_p95_ms"), _value(b, "latency_p95_ms"), _ms, ("faster", "slower")),
        _less("On devices p50", _seen(a, "latency_p50_ms"), _seen(b, "latency_p50_ms"), _ms, ("faster", "slower")),
        _less("On devices p95", _seen(a, "latency_p95_ms"), _seen(b, "latency_p95_ms"), _ms, ("faster", "slower")),
        _less("Host memory", a.host_memory, b.host_memory, words.size, ("less", "more")),
        _less("Memory on devices", _seen(a, "memory_bytes"), _seen(b, "memory_bytes"), words.size, ("less", "more")),
        _errors(a, b),
        _less("Crashes", _crashes(a), _crashes(b), words.number, ("fewer", "more")),
    ]


def _value(line: BundleLine, name: str) -> float | None:
    found = line.predicted.get(name)
    return None if found is None else found.value


def _seen(line: BundleLine, name: str) -> float | None:
    value = None if line.observed is None else getattr(line.observed, name)
    return None if value is None else float(value)


def _crashes(line: BundleLine) -> float | None:
    return None if line.recent is None else float(line.recent.crashes)


def _plain(name: str, before: str, after: str) -> Change:
    return Change(name, before or words.NOTHING, after or words.NOTHING, "same" if before == after else "differs")


def _less(
    name: str, before: float | None, after: float | None, show: Callable[[float], str], said: tuple[str, str]
) -> Change | None:
    """Return the change of a figure of which less is better. said: words for less and for more."""
    if before is None and after is None:
        return None
    texts = _texts(before, after, show)
    if before is None or after is None:
        return Change(name, *texts, "one of them is not known")
    if abs(after - before) <= SAME_SHARE * max(abs(before), abs(after)):
        return Change(name, *texts, "same")
    is_better = after < before
    by = f"{abs(after - before) / before:.0%} " if before else ""
    return Change(name, *texts, f"{by}{said[0] if is_better else said[1]}", "good" if is_better else "bad")


def _metric(a: BundleLine, b: BundleLine) -> Change | None:
    if a.metric is None and b.metric is None:
        return None
    texts = _texts(a.metric, b.metric, lambda one: f"{one.name} {one.value:.4f}")
    if a.metric is None or b.metric is None:
        return Change("Accuracy", *texts, "one of them is not known")
    if a.metric.name != b.metric.name:
        return Change("Accuracy", *texts, "measured by another metric")
    difference = b.metric.value - a.metric.value
    if abs(difference) <= SAME_METRIC:
        return Change("Accuracy", *texts, "same")
    is_better = (difference < 0) == (a.metric.is_lower_better or b.metric.is_lower_better)
    on_other = "" if a.metric.n == b.metric.n else f", on {a.metric.n} and {b.metric.n} samples"
    word = "better" if is_better else "worse"
    return Change("Accuracy", *texts, f"{abs(difference):.4f} {word}{on_other}", "good" if is_better else "bad")


def _errors(a: BundleLine, b: BundleLine) -> Change | None:
    """Return the change of failed and non-finite answers; below 0.1 % of the answers there is nothing to judge."""
    rates = [None if one.recent is None or not one.recent.n else _rate(one) for one in (a, b)]
    if rates == [None, None]:
        return None
    texts = _texts(rates[0], rates[1], lambda one: f"{one:.2%}")
    if rates[0] is None or rates[1] is None:
        return Change("Errors on devices", *texts, "one of them is not known")
    difference = rates[1] - rates[0]
    if abs(difference) < 0.001:
        return Change("Errors on devices", *texts, "same")
    said = f"{abs(difference) * 100:.2f} points {'fewer' if difference < 0 else 'more'}"
    return Change("Errors on devices", *texts, said, "good" if difference < 0 else "bad")


def _rate(line: BundleLine) -> float:
    assert line.recent is not None
    return (line.recent.errors + line.recent.nonfinite) / line.recent.n


def _texts(before: T | None, after: T | None, show: Callable[[T], str]) -> tuple[str, str]:
    return words.NOTHING if before is None else show(before), words.NOTHING if after is None else show(after)


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"
