"""What an experiment says so far: no verdict where nothing was judged, one failure decides."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from edgefleet_server.dashboard.rollouts.trial_words import arms, difference, says, verdict
from edgefleet_server.rollout.status.experiment_results import ArmView, StratumResult
from edgefleet_server.rollout.status.experiments import ExperimentResult, TrialView
from edgefleet_server.rollout.status.metric_views import MetricView

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def metric(name: str, said: str) -> MetricView:
    return MetricView(name, "max", said, "", f"{name} is {said}", 3, 0, 1.0, 0.9, 1.1, 1.0, "", 0.99, 0.99)


def stratum(*metrics: MetricView, asked: tuple[str, ...] = ("latency_p95_ms",)) -> StratumResult:
    active = ArmView("active", 3, 300, 3, 0, 0.01, 20.0, 25.0)
    return StratumResult(
        "orin", 3, active, replace(active, lane="candidate", latency_p95_ms=50.0, error_rate=None), None, metrics, asked
    )


def experiment(*results: StratumResult, devices: int = 3, began: bool = True) -> ExperimentResult:
    trial = TrialView("shadow", ["beside"], NOW if began else None, None, devices, False, results)
    return ExperimentResult(
        "r-1", "", "digits@2.0.0", "digits", "running", "", True, ["shadow"], 0, "", NOW, "ann", [trial]
    )


LATENCY = "latency_p95_ms"


@pytest.mark.parametrize(
    ("of", "kind", "title"),
    [
        (experiment(began=False), "off", "digits@2.0.0 is not being tried yet"),
        (experiment(devices=0), "off", "Nothing is known of digits@2.0.0 yet"),
        (experiment(stratum(metric(LATENCY, "pass"), asked=())), "off", "digits@2.0.0 is measured, not judged"),
        (experiment(stratum(metric(LATENCY, "pass"))), "ok", "digits@2.0.0 is as good as what runs"),
        (experiment(stratum(metric(LATENCY, "hold"))), "run", "Not sure yet whether digits@2.0.0 is as good as what runs"),
        (experiment(stratum(metric(LATENCY, "pass")), stratum(metric(LATENCY, "fail"))), "bad",
         "digits@2.0.0 is worse than what runs: latency p95 ms"),
    ],
)  # fmt: skip
def test_the_page_begins_with_what_is_known(of: ExperimentResult, kind: str, title: str) -> None:
    assert verdict(of)[:2] == (kind, title)


@pytest.mark.parametrize(
    ("bound", "unit", "ends", "said"),
    [
        ("non_inferior_rel", "%", (52.0, -52.0, 121.0), "52 % more than what runs, somewhere from 52 % less to 121 % more"),
        ("non_inferior_abs", "", (-0.06, -0.1, 0.0), "0.06 less than what runs, somewhere from 0.1 less to the same"),
        ("non_inferior_rel", "%", (0.0, None, None), "the same as what runs"),
        ("min", "", (0.9675, 0.68, 0.996), "0.968, somewhere from 0.68 to 0.996"),
        ("max", "ms", (None, None, None), "no device has enough answers yet"),
    ],
)  # fmt: skip
def test_a_metric_is_said_with_what_it_lies_between(
    bound: str, unit: str, ends: tuple[float | None, float | None, float | None], said: str
) -> None:
    value, low, high = ends
    assert says(replace(metric(LATENCY, "hold"), bound=bound, unit=unit, value=value, low=low, high=high)) == said


def test_figures_stand_side_by_side() -> None:
    assert arms(stratum()) == [
        ("Latency p50", "ms", "20", "20", "the same"),
        ("Latency p95", "ms", "25", "50", "100 % more"),
        ("Errors", "%", "1", "–", ""),
    ]
    assert difference(4.0, 3.0) == "25 % less"
    assert difference(0.0, 1.0) == ""


def test_devices_of_a_shadow_test_that_are_split_afterwards_count_once() -> None:
    first = experiment(devices=4)
    both = replace(first, trials=[*first.trials, replace(first.trials[0], mode="split", devices=3)])
    assert verdict(both)[2].startswith("4 devices compared it")
