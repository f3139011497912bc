"""What an experiment says so far, in a sentence with its colour. Pure.

Rules:
1. Nothing is called as good as what runs that was not judged: without limits in the spec the figures are shown, and no verdict.
2. One metric that fails in any stratum decides; what holds is not yet sure.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from edgefleet_server.dashboard.core.filters import label
from edgefleet_server.rollout.status.experiment_results import StratumResult
from edgefleet_server.rollout.status.experiments import ExperimentResult, TrialView
from edgefleet_server.rollout.status.metric_views import MetricView

RELATIVE: Final = ("non_inferior_rel", "non_inferior_abs")
"""Bounds of metrics whose value is a change against what runs."""
LEAST_CHANGE: Final = 1e-9


def verdict(experiment: ExperimentResult) -> tuple[str, str, str]:
    """Return colour, sentence, and what stands below it."""
    trials = [one for one in experiment.trials if one.began_at is not None]
    release = experiment.release
    if not trials:
        return (
            "off",
            f"{release} is not being tried yet",
            "Its stage has not opened. The rollout shows what it is waiting for.",
        )
    devices = max(one.devices for one in trials)  # those of a shadow test are split afterwards: no device counts twice
    if not devices:
        return (
            "off",
            f"Nothing is known of {release} yet",
            "Devices report on a candidate once a minute while its stage is open.",
        )
    asked = list(_asked(trials))
    heard = f"{devices} device{'' if devices == 1 else 's'} compared it with what runs"
    failed = [(one, where) for one, where in asked if one.verdict == "fail"]
    if failed:
        one, where = failed[0]
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        return (
            "bad",
            f"{release} is worse than what runs: {label(one.name)}{more}",
            f"In {where}: {one.reason}. {heard}.",
        )
    passed = [one for one, _ in asked if one.verdict == "pass"]
    if asked and len(passed) == len(asked):
        return "ok", f"{release} is as good as what runs", f"{heard}; {_limits(len(asked))} held in every stratum."
    if asked:
        return (
            "run",
            f"Not sure yet whether {release} is as good as what runs",
            f"{len(passed)} of {_limits(len(asked))} hold for sure so far. {heard}.",
        )
    return (
        "off",
        f"{release} is measured, not judged",
        f"{heard}. The spec sets no limit, so a person decides by the figures.",
    )


def _limits(n: int) -> str:
    return "1 limit" if n == 1 else f"{n} limits"


def _asked(trials: Sequence[TrialView]) -> Iterator[tuple[MetricView, str]]:
    """Yield the metrics of which the spec asks something, each with its stratum."""
    for trial in trials:
        for stratum in trial.results:
            yield from ((one, stratum.stratum) for one in stratum.metrics if one.name in stratum.asked)


def difference(before: float | None, after: float | None) -> str:
    """Return how much more or less a figure is, in percent; "" where one is missing or nothing was before."""
    if before is None or after is None or before == 0:
        return ""
    change = 100 * (after - before) / before
    return "the same" if abs(change) < 0.5 else f"{abs(change):.0f} % {'more' if change > 0 else 'less'}"


def says(metric: MetricView) -> str:
    """Return what is known of a metric, as a sentence without its end: its value, and what it lies between."""
    if metric.value is None:
        return "no device has enough answers yet"
    value = _told(metric, metric.value)
    base = " what runs" if metric.bound in RELATIVE and not value.startswith("the same") else ""
    if metric.low is None or metric.high is None:
        return f"{value}{base}"
    return f"{value}{base}, somewhere from {_told(metric, metric.low, is_short=True)} to {_told(metric, metric.high, is_short=True)}"


def _told(metric: MetricView, value: float, *, is_short: bool = False) -> str:
    unit = f" {metric.unit}" if metric.unit else ""
    if metric.bound not in RELATIVE:
        return f"{value:.3g}{unit}"
    if abs(value) < LEAST_CHANGE:
        return "the same" if is_short else "the same as what runs"
    return f"{abs(value):.3g}{unit} {'more' if value > 0 else 'less'}{'' if is_short else ' than'}"


def arms(result: StratumResult) -> list[tuple[str, str, str, str, str]]:
    """Return the figures of both versions: name, unit, what runs, the candidate, and the difference in words."""
    active, candidate = result.active, result.candidate
    rows: list[tuple[str, str, float | None, float | None]] = [
        ("Latency p50", "ms", active.latency_p50_ms, candidate.latency_p50_ms),
        ("Latency p95", "ms", active.latency_p95_ms, candidate.latency_p95_ms),
        ("Errors", "%", _percent(active.error_rate), _percent(candidate.error_rate)),
    ]
    return [(name, unit, _shown(a), _shown(b), difference(a, b)) for name, unit, a, b in rows]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
