"""The quality gate as a rule: what passes, what holds, what fails, and that a decision can be made again bit for bit."""

import json
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.analysis import metrics as analysis_metrics
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.metrics import quality_facts
from edgefleet_server.rollout.analysis.model import (
    Advance,
    Counts,
    Decision,
    Facts,
    KeepWaiting,
    MetricFacts,
    Pause,
    RollBack,
    Rule,
)
from edgefleet_server.rollout.analysis.replay import outcome_of, recompute, stored
from edgefleet_server.rollout.lint.quality_findings import comparable, devices_needed, out_of_reach
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.placement import CountedStratum
from edgefleet_server.rollout.spec.model import Bound, Control, Metric, OnBreach, OnFail, QualityGate, QualityMetric
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec
from edgefleet_server.rollout.status.metric_views import metric_views
from tests.server.rollout.test_spec import errors_of

NOW = datetime(2026, 1, 5, tzinfo=UTC)
LATENCY = QualityMetric(Metric.LATENCY_P95_MS, Bound.NON_INFERIOR_REL, 0.1, OnBreach.FAIL)
ERRORS = QualityMetric(Metric.INFERENCE_ERROR_RATE, Bound.NON_INFERIOR_ABS, 0.002, OnBreach.FAIL)
AGREEMENT = QualityMetric(Metric.SHADOW_AGREEMENT, Bound.MIN, 0.97, OnBreach.FAIL)
DRIFT = QualityMetric(Metric.DRIFT, Bound.MAX, 0.02, OnBreach.HOLD)


def device(
    number: int,
    spans: dict[Metric, Span],
    *,
    drift: float | None = 0.0,
    other: float | None = 0.0,
    control: str = "c",
    serves: bool = True,
) -> DeviceQuality:
    return DeviceQuality(
        DeviceId(f"d{number}"),
        ProfileName("x86"),
        0,
        control,
        NOW,
        NOW,
        spans,
        drift,
        other if control else None,
        serves,
    )


def slower(ratio: float, world: float = 1.0) -> dict[Metric, Span]:
    """A device whose latency changed by a ratio, besides what changed for everybody."""
    return {Metric.LATENCY_P95_MS: Span(100.0, 100.0 * ratio * world, 50.0, 50.0 * world)}


def facts_of(gate: QualityGate, measured: Sequence[DeviceQuality], n: int | None = None, **values: Any) -> Facts:
    """Facts of a stratum of `n` healthy devices, of which some were measured."""
    n = len(measured) if n is None else n
    return Facts(
        stage=0,
        stratum="x86",
        population=1000,
        counts=Counts(members=n, exposed=n, healthy=n),
        pooled_exposed=n,
        stage_members=n,
        stage_tried=n,
        rule=Rule.EVIDENCE,
        quality=quality_facts(gate, 0, [(f"d{i}", 0) for i in range(n)], measured),
        **values,
    )


def gate(*metrics: QualityMetric, control: Control = Control.HOLDOUT) -> QualityGate:
    return QualityGate(metrics=metrics, control=control)


def said(decision: Decision) -> tuple[type, str]:
    return type(decision), decision.code


JOULES = QualityMetric(Metric.JOULES_PER_INFERENCE, Bound.MAX, 2.0, OnBreach.FAIL)
NONFINITE = QualityMetric(Metric.NONFINITE_RATE, Bound.MAX, 0.02, OnBreach.FAIL)
ALL_KNOWN = Span(100.0, 110.0, 50.0, 60.0)


@pytest.mark.parametrize(
    ("metric", "span", "control", "value"),
    [
        (AGREEMENT, Span(after=0.98), Control.PREVIOUS, 0.02),
        (AGREEMENT, Span(before=0.98), Control.PREVIOUS, None),
        (JOULES, Span(after=3.0), Control.PREVIOUS, math.log(1.5)),
        (JOULES, Span(after=0.0), Control.PREVIOUS, -analysis_metrics.ROOM_OF_MAX),
        (JOULES, Span(before=3.0), Control.PREVIOUS, None),
        (NONFINITE, Span(after=0.01), Control.PREVIOUS, 0.01),
        (NONFINITE, Span(before=0.01), Control.PREVIOUS, None),
        (ERRORS, Span(0.01, 0.03), Control.PREVIOUS, 0.02),
        (ERRORS, Span(0.0, 0.0), Control.PREVIOUS, 0.0),
        (LATENCY, ALL_KNOWN, Control.PREVIOUS, math.log(1.1)),
        (LATENCY, ALL_KNOWN, Control.HOLDOUT, math.log(1.1) - math.log(1.2)),
        (LATENCY, Span(100.0, 110.0, 50.0), Control.HOLDOUT, None),
        (LATENCY, Span(100.0, 110.0, None, 60.0), Control.HOLDOUT, None),
        (LATENCY, Span(100.0, 110.0), Control.PREVIOUS, math.log(1.1)),
        (LATENCY, Span(None, 110.0, 50.0, 60.0), Control.HOLDOUT, None),
        (LATENCY, Span(100.0, None, 50.0, 60.0), Control.HOLDOUT, None),
        (LATENCY, Span(0.0, 110.0), Control.PREVIOUS, None),
        (LATENCY, Span(100.0, 0.0), Control.PREVIOUS, None),
    ],
)
def test_the_value_of_a_device_is_what_changed_or_unknown(
    metric: QualityMetric, span: Span, control: Control, value: float | None
) -> None:
    found = analysis_metrics.value_of(metric, span, control)
    assert found == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("metric", "low", "high", "at"),
    [
        (AGREEMENT, 0.0, 0.12, 0.03),
        (QualityMetric(Metric.SHADOW_AGREEMENT, Bound.MIN, 0.6, OnBreach.FAIL), 0.0, 1.0, 0.4),
        (NONFINITE, 0.0, 0.08, 0.02),
        (QualityMetric(Metric.NONFINITE_RATE, Bound.MAX, 0.5, OnBreach.FAIL), 0.0, 1.0, 0.5),
        (ERRORS, -0.008, 0.008, 0.002),
        (LATENCY, -4 * math.log(1.1), 4 * math.log(1.1), math.log(1.1)),
    ],
)
def test_values_are_counted_in_twenty_bins_a_margin(metric: QualityMetric, low: float, high: float, at: float) -> None:
    scale = analysis_metrics.scale_of(metric)
    assert (scale.low, scale.high, scale.at, scale.step) == pytest.approx(
        (low, high, at, at / analysis_metrics.BINS_A_MARGIN)
    )


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        (LATENCY, math.log(1.042), "+4.2 %"),
        (LATENCY, math.log(0.9), "-10 %"),
        (ERRORS, 0.0012, "+0.0012"),
        (AGREEMENT, 0.03, "0.97"),
        (NONFINITE, 0.0012, "0.0012"),
        (JOULES, math.log(1.5), "3"),
        (JOULES, 0.0, "2"),
    ],
)
def test_a_value_is_told_in_the_unit_of_its_bound(metric: QualityMetric, value: float, words: str) -> None:
    scale = analysis_metrics.scale_of(metric)
    one = MetricFacts(
        name=metric.name,
        bound=metric.bound,
        value=metric.value,
        on_breach=metric.on_breach,
        low=scale.low,
        high=scale.high,
        at=scale.at,
        step=scale.step,
        bins=[],
    )
    assert analysis_metrics.text_of_value(one, value) == words


@pytest.mark.parametrize("value", [0.5, 2.0])
def test_a_time_or_an_energy_is_counted_from_half_its_bound_to_twice(value: float) -> None:
    metric = QualityMetric(Metric.JOULES_PER_INFERENCE, Bound.MAX, value, OnBreach.FAIL)
    scale = analysis_metrics.scale_of(metric)
    room = math.log(2)
    assert (scale.low, scale.high, scale.at, scale.step) == pytest.approx((-room, room, 0.0, room / 80))


def test_a_release_that_is_as_fast_as_before_passes_and_says_how_sure_that_is() -> None:
    chance = random.Random(1)
    facts = facts_of(gate(LATENCY), [device(i, slower(math.exp(chance.gauss(0, 0.05)))) for i in range(90)])
    decision = decide(facts)
    assert said(decision) == (Advance, "evidence")
    assert "latency_p95_ms is" in decision.reason
    figures = decision.figures
    low, value, high = (figures[f"latency_p95_ms.{what}"] for what in ("low", "value", "high"))
    assert low < value < high < figures["latency_p95_ms.threshold"]  # type: ignore[operator]
    assert figures["latency_p95_ms.threshold"] == pytest.approx(10.0)
    view = metric_views(facts)[0]
    assert (view.verdict, view.devices, view.unit) == ("pass", 90, "%")
    assert (view.confidence_low, view.confidence_high) == (0.99, 0.95)


def test_a_slower_release_fails_but_a_slower_world_does_not() -> None:
    chance = random.Random(2)
    slow = [device(i, slower(1.3 * math.exp(chance.gauss(0, 0.05)))) for i in range(90)]
    decision = decide(facts_of(gate(LATENCY), slow))
    assert said(decision) == (RollBack, analysis_metrics.QUALITY_BREACH)
    assert "latency_p95_ms is +2" in decision.reason
    hot_day = [device(i, slower(math.exp(chance.gauss(0, 0.05)), world=1.5)) for i in range(90)]
    assert said(decide(facts_of(gate(LATENCY), hot_day))) == (Advance, "evidence")
    assert (
        said(decide(facts_of(gate(LATENCY, control=Control.PREVIOUS), hot_day)))[1] == analysis_metrics.QUALITY_BREACH
    )


def test_on_breach_and_on_fail_say_what_a_breach_does() -> None:
    slow = [device(i, slower(1.5)) for i in range(90)]
    held = msgspec.structs.replace
    mild = QualityMetric(LATENCY.name, LATENCY.bound, LATENCY.value, OnBreach.HOLD)
    assert said(decide(facts_of(gate(mild), slow))) == (KeepWaiting, analysis_metrics.QUALITY_HELD)
    paused = held(facts_of(gate(LATENCY), slow), on_fail=OnFail.PAUSE)
    assert said(decide(paused)) == (Pause, analysis_metrics.QUALITY_BREACH)


@pytest.mark.parametrize(
    ("measured", "n", "code"),
    [
        ([], 90, analysis_metrics.QUALITY_NO_DATA),
        ([device(i, {}) for i in range(90)], 90, analysis_metrics.QUALITY_NO_DATA),
        ([device(i, slower(1.0)) for i in range(60)], 90, analysis_metrics.QUALITY_NO_DATA),
        ([device(i, slower(1.09)) for i in range(90)], 90, analysis_metrics.QUALITY_MORE),
        ([device(i, slower(1.0)) for i in range(86)], 90, "evidence"),
        ([device(i, slower(1.0), control="") for i in range(90)], 90, analysis_metrics.QUALITY_NO_DATA),
        ([device(i, slower(1.0 if i > 6 else 9.0)) for i in range(90)], 90, analysis_metrics.QUALITY_ROUGH),
    ],
    ids=["nobody", "no-values", "a-third-missing", "too-near", "a-few-missing", "no-control-at-all", "some-far-off"],
)
def test_what_is_missing_or_unclear_holds(measured: list[DeviceQuality], n: int, code: str) -> None:
    if code == analysis_metrics.QUALITY_NO_DATA and measured and not measured[0].control:
        measured = [device(i, {Metric.LATENCY_P95_MS: Span(100.0, 100.0)}, control="") for i in range(n)]
    assert decide(facts_of(gate(LATENCY), measured, n)).code == code


def test_every_metric_must_pass_and_one_is_enough_to_fail() -> None:
    def spans(error_rate: float) -> dict[Metric, Span]:
        return {**slower(1.0), Metric.INFERENCE_ERROR_RATE: Span(0.001, error_rate, 0.001, 0.001)}

    both = gate(LATENCY, ERRORS)
    good = [device(i, spans(0.001)) for i in range(90)]
    assert said(decide(facts_of(both, good))) == (Advance, "evidence")
    bad = [device(i, spans(0.01)) for i in range(90)]
    decision = decide(facts_of(both, bad))
    assert said(decision) == (RollBack, analysis_metrics.QUALITY_BREACH)
    assert decision.reason.startswith("inference_error_rate")
    silent = [device(i, slower(1.0)) for i in range(90)]
    assert decide(facts_of(both, silent)).code == analysis_metrics.QUALITY_NO_DATA


def test_agreement_of_a_shadow_is_asked_of_shadows_only() -> None:
    shadows = [device(i, {Metric.SHADOW_AGREEMENT: Span(after=0.995)}, serves=False) for i in range(60)]
    serving = [device(i, {**slower(1.0), Metric.SHADOW_AGREEMENT: Span()}) for i in range(60, 90)]
    one = decide(facts_of(gate(AGREEMENT), [*shadows]))
    assert said(one) == (KeepWaiting, "more_evidence"), "60 devices prove too little of installation"
    facts = facts_of(gate(AGREEMENT), [*shadows, *serving])
    view = metric_views(facts)[0]
    assert (view.verdict, view.missing, view.devices) == ("pass", 0, 60)
    both = facts_of(gate(LATENCY, AGREEMENT), [*shadows, *serving])
    views = {view.name: view for view in metric_views(both)}
    assert (views["shadow_agreement"].missing, views["shadow_agreement"].verdict) == (0, "pass")
    poor = [device(i, {Metric.SHADOW_AGREEMENT: Span(after=0.9)}, serves=False) for i in range(90)]
    assert said(decide(facts_of(gate(AGREEMENT), poor))) == (RollBack, analysis_metrics.QUALITY_BREACH)


def test_how_far_shadows_agree_is_judged_and_one_that_serves_it_meanwhile_is_excused() -> None:
    """Which stages are asked at all: `test_judging`."""
    shadows = [device(i, {Metric.SHADOW_AGREEMENT: Span(after=0.995)}, serves=False) for i in range(88)]
    deployed = [device(i, {Metric.SHADOW_AGREEMENT: Span()}) for i in (88, 89)]
    facts = facts_of(gate(AGREEMENT), [*shadows, *deployed])
    assert said(decide(facts)) == (Advance, "evidence")
    view = metric_views(facts)[0]
    assert (view.verdict, view.missing, view.devices) == ("pass", 0, 88)


DRIFTS: list[tuple[str, Callable[[int], float], Callable[[int], float], OnBreach, str]] = [
    ("nobody", lambda _: 0.0, lambda _: 0.0, OnBreach.HOLD, "evidence"),
    ("the world", lambda i: 0.3 * (i % 2), lambda i: 0.3 * (i % 2), OnBreach.HOLD, analysis_metrics.DRIFT_POPULATION),
    ("the world, strict", lambda _: 0.3, lambda _: 0.3, OnBreach.FAIL, analysis_metrics.DRIFT_POPULATION),
    ("the release", lambda i: 0.3 * (i % 2), lambda _: 0.0, OnBreach.HOLD, analysis_metrics.DRIFT_RELEASE),
    ("the release, strict", lambda _: 0.3, lambda _: 0.0, OnBreach.FAIL, analysis_metrics.QUALITY_BREACH),
    ("below the floor", lambda _: 0.01, lambda _: 0.0, OnBreach.FAIL, "evidence"),
]


@pytest.mark.parametrize(
    ("own", "other", "on_breach", "code"), [case[1:] for case in DRIFTS], ids=[c[0] for c in DRIFTS]
)
def test_drift_is_told_from_a_world_that_changed(
    own: Callable[[int], float], other: Callable[[int], float], on_breach: OnBreach, code: str
) -> None:
    asked = gate(LATENCY, QualityMetric(DRIFT.name, DRIFT.bound, DRIFT.value, on_breach))
    measured = [device(i, slower(1.0), drift=own(i), other=other(i)) for i in range(90)]
    assert decide(facts_of(asked, measured)).code == code


def test_in_a_world_that_drifts_nothing_is_blamed_on_the_release() -> None:
    measured = [device(i, slower(1.6), drift=0.4, other=0.4) for i in range(90)]
    assert said(decide(facts_of(gate(LATENCY, DRIFT), measured))) == (KeepWaiting, analysis_metrics.DRIFT_POPULATION)
    assert said(decide(facts_of(gate(LATENCY), measured)))[0] is RollBack


def test_where_drift_cannot_be_told_nothing_passes() -> None:
    measured = [device(i, slower(1.0), drift=None, other=None) for i in range(90)]
    assert said(decide(facts_of(gate(LATENCY, DRIFT), measured))) == (KeepWaiting, analysis_metrics.QUALITY_NO_DATA)
    alone = [device(i, slower(1.0), drift=0.0, other=None) for i in range(90)]
    assert said(decide(facts_of(gate(LATENCY, DRIFT), alone))) == (KeepWaiting, analysis_metrics.QUALITY_NO_DATA)


def test_failures_need_a_little_more_evidence_beside_a_quality_gate() -> None:
    """One error probability for all: the metrics have their part of it."""
    plain = facts_of(gate(LATENCY), [])
    bad = Counts(members=2, exposed=2, failed=2)
    for facts, at in (
        (msgspec.structs.replace(plain, quality=None), 100.0),
        (plain, 100 / analysis_metrics.INSTALL_WEIGHT),
    ):
        decision = decide(msgspec.structs.replace(facts, counts=bad, failures={"internal": 2}, pooled_failed=2))
        assert decision.figures["abort_at"] == pytest.approx(at)


@pytest.mark.parametrize("ratio", [1.0, 1.08, 1.4])
def test_a_stored_decision_is_made_again_bit_for_bit(ratio: float) -> None:
    chance = random.Random(3)
    measured = [device(i, slower(ratio * math.exp(chance.gauss(0, 0.06)))) for i in range(90)]
    facts = facts_of(gate(LATENCY, DRIFT), measured, 95)
    again = recompute(json.loads(json.dumps(stored(facts))))
    assert outcome_of(again) == outcome_of(decide(facts))


def test_evidence_of_before_the_gate_existed_is_still_read() -> None:
    old = stored(msgspec.structs.replace(facts_of(gate(LATENCY), [], 60), quality=None))
    del old["quality"]
    assert recompute(old).code == "more_evidence"


# ---- spec and plan


def spec(**quality_gate: Any) -> dict[str, Any]:
    return {"release": "digits@1.1.0", "selector": "", "gates": {"quality": quality_gate}}


WHOLE = {
    "control": "previous",
    "metrics": [
        {"name": "latency_p95_ms", "non_inferior_rel": 0.1, "on_breach": "hold"},
        {"name": "shadow_agreement", "min": 0.97, "on_breach": "fail"},
        {"name": "nonfinite_rate", "max": 0.001, "on_breach": "fail"},
        {"name": "drift", "max": 0.02, "on_breach": "hold"},
    ],
    "before": "2d",
    "after": "30m",
    "min_inferences": 100,
    "watch": "6h",
}


def test_a_gate_is_read_and_written_back_whole() -> None:
    parsed = parse_spec(spec(**WHOLE))
    assert dump_spec(parsed)["gates"]["quality"] == WHOLE
    assert parse_spec(dump_spec(parsed)) == parsed
    short = parse_spec(spec(metrics=[{"name": "latency_p95_ms", "non_inferior_rel": 0.1}, {"name": "drift"}]))
    assert short.gates.quality is not None
    assert [one.on_breach for one in short.gates.quality.metrics] == [OnBreach.FAIL, OnBreach.HOLD]
    assert parse_spec(dump_spec(short)) == short
    assert "quality" not in dump_spec(parse_spec({"release": "digits@1.1.0", "selector": ""}))["gates"]


@pytest.mark.parametrize(
    ("written", "path", "words"),
    [
        ({}, "$.gates.quality.metrics", "is missing"),
        ({"metrics": []}, "$.gates.quality.metrics", "at least one"),
        ({"metrics": [{"non_inferior_rel": 0.1}]}, "$.gates.quality.metrics[0].name", "is missing"),
        ({"metrics": [{"name": "speed", "max": 1}]}, "$.gates.quality.metrics[0].name", "expected"),
        ({"metrics": [{"name": "latency_p95_ms"}]}, "$.gates.quality.metrics[0]", "exactly one bound"),
        ({"metrics": [{"name": "latency_p95_ms", "max": 9, "min": 0.1}]}, "$.gates.quality.metrics[0]", "exactly one"),
        (
            {"metrics": [{"name": "nonfinite_rate", "non_inferior_rel": 0.1}]},
            "$.gates.quality.metrics[0]",
            "exactly one",
        ),
        ({"metrics": [{"name": "shadow_agreement", "min": 1}]}, "$.gates.quality.metrics[0].min", "less than 1"),
        ({"metrics": [{"name": "drift"}] * 2}, "$.gates.quality.metrics[1].name", "once"),
        ({"metrics": [{"name": "drift"}], "control": "none"}, "$.gates.quality.metrics[0]", "control is none"),
        ({"metrics": [{"name": "drift"}], "after": "0s"}, "$.gates.quality.after", "at least 1s"),
        ({"metrics": [{"name": "drift"}], "power": 1}, "$.gates.quality.power", "not a field"),
    ],
)
def test_mistakes_are_told_with_their_place(written: dict[str, Any], path: str, words: str) -> None:
    told = errors_of(spec(**written))
    assert any(place == path and words in message for place, message in told), told


def counted(population: int, *upto: int) -> tuple[CountedStratum, range, range]:
    """Return a stratum with the stages that it has, all of one mode, each of which lasts until its devices have values."""
    return CountedStratum(ProfileName("x86"), population, upto), range(len(upto)), range(len(upto))


def test_the_plan_knows_how_many_devices_can_be_compared() -> None:
    assert comparable(gate(LATENCY), *counted(100, 10, 50, 100)) == [10, 50, 50]
    assert comparable(gate(LATENCY), *counted(100, 80, 100)) == [20, 20]
    assert comparable(gate(LATENCY, control=Control.PREVIOUS), *counted(100, 10, 100)) == [10, 100]
    assert devices_needed(LATENCY, 0.05) == 19
    stage, told, _ = next(out_of_reach(gate(LATENCY), 0.05, *counted(100, 10, 50, 100)))
    assert (stage, "takes 19" in told) == (0, True)
    assert not list(out_of_reach(gate(LATENCY), 0.05, *counted(100, 20, 50, 100)))
    assert list(out_of_reach(gate(LATENCY), 0.05, *counted(100, 100))), (
        "one stage for all leaves nobody to compare with"
    )


# ---- accuracy

RIGHT = QualityMetric(Metric.ACCURACY, Bound.NON_INFERIOR_ABS, 0.05, OnBreach.FAIL)
AT_LEAST = QualityMetric(Metric.ACCURACY, Bound.MIN, 0.9, OnBreach.FAIL)


def labelled(after: float | None, before: float | None = 0.95) -> dict[Metric, Span]:
    """A device whose answers were right so often before and after, like its control device before."""
    return {Metric.ACCURACY: Span(before, after, before, before)}


@pytest.mark.parametrize("metric", [RIGHT, AT_LEAST])
def test_worse_answers_fail_as_good_ones_pass_and_devices_without_labels_are_excused(metric: QualityMetric) -> None:
    poor = facts_of(gate(metric), [device(i, labelled(0.6)) for i in range(40)])
    decision = decide(poor)
    assert decision.code == "quality_breach"
    assert "accuracy is" in decision.reason
    (view,) = metric_views(poor)
    assert view.value is not None
    assert view.value < (0 if metric is RIGHT else 0.9)
    fine = [device(i, labelled(0.95 if i % 2 else None)) for i in range(120)]
    (good,) = metric_views(facts_of(gate(metric), fine))
    assert (good.verdict, good.devices, good.missing) == ("pass", 60, 0)


@pytest.mark.parametrize("metric", [RIGHT, AT_LEAST])
def test_one_liar_neither_fails_nor_passes_a_stage_by_its_labels(metric: QualityMetric) -> None:
    crying = [device(0, labelled(0.0)), *(device(i, labelled(0.95)) for i in range(1, 60))]
    (view,) = metric_views(facts_of(gate(metric), crying))
    assert view.verdict != "fail"
    alone = [device(0, labelled(1.0)), *(device(i, labelled(None)) for i in range(1, 60))]
    (view,) = metric_views(facts_of(gate(metric), alone))
    assert view.verdict == "hold", "one device that says all is well is no evidence"
    nobody = [device(i, labelled(None)) for i in range(60)]
    (view,) = metric_views(facts_of(gate(metric), nobody))
    assert view.verdict == "no_data"
