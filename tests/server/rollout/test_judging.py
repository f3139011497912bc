"""Which gates judge which stage: what a stage says, what it is asked, and that each stage passes by its own gates only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import metrics as analysis_metrics
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import Facts
from edgefleet_server.rollout.effects import DecisionMade
from edgefleet_server.rollout.lint.findings import lint
from edgefleet_server.rollout.lint.preview import plan
from edgefleet_server.rollout.lint.quality_findings import flaws
from edgefleet_server.rollout.model import Assignment, DeviceQuality, Member, Snapshot, Span, StageRun, StageState
from edgefleet_server.rollout.placement import cut_of, is_countable, rank
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.preparation.metric_collector import AT_ONCE, CANDIDATES, LOOKS, MetricCollector
from edgefleet_server.rollout.spec.model import Metric, Spec, StageGate
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec, stage_text
from edgefleet_server.telemetry.model import PeriodWindow
from tests.server.rollout.planner_gaps import NEW, NOW, OLD, STRATUM, passes, whole
from tests.server.rollout.simulated_telemetry import Shows, SimulatedTelemetry
from tests.server.rollout.test_spec import errors_of

LATENCY = {"name": "latency_p95_ms", "non_inferior_rel": 0.1}
AGREEMENT = {"name": "shadow_agreement", "min": 0.97}
FEW: dict[str, Any] = {"size": {"count": 80}, "soak": "1h"}
REST: dict[str, Any] = {"name": "rest", "size": {"percent": 100}}
NOTHING = Span()


def document(*stages: dict[str, Any], metrics: tuple[dict[str, Any], ...] = (LATENCY,)) -> dict[str, Any]:
    gates = {"gates": {"quality": {"metrics": list(metrics)}}} if metrics else {}
    return {"release": "digits@1.1.0", "selector": "", "stages": list(stages), **gates}


def judges_of(spec: Spec) -> list[list[str]]:
    return [[one.value for one in stage.judged_by] for stage in spec.stages]


# ---- what a stage says


def test_a_stage_is_judged_by_all_gates_unless_it_names_its_own() -> None:
    stages = ({**FEW, "gates": ["install"]}, {**FEW, "gates": ["quality", "install"]}, REST)
    spec = parse_spec(document(*stages))
    both = ["install", "quality"]
    assert judges_of(spec) == [["install"], both, both]
    written = dump_spec(spec)
    assert [stage.get("gates") for stage in written["stages"]] == [["install"], None, None]
    assert parse_spec(written) == spec
    assert [stage_text(stage) for stage in spec.stages] == [
        "80 per stratum, without the quality gate",
        "80 per stratum",
        "100 %",
    ]
    assert judges_of(parse_spec(document({**FEW, "gates": ["install"]}, REST, metrics=())))[0] == ["install"]


@pytest.mark.parametrize(
    ("gates", "metrics", "path", "words"),
    [
        ([], (LATENCY,), "$.stages[0].gates", "install judges every stage"),
        (["quality"], (LATENCY,), "$.stages[0].gates", "install judges every stage"),
        (["install", "install"], (LATENCY,), "$.stages[0].gates[1]", "named twice"),
        (["install", "webhook"], (LATENCY,), "$.stages[0].gates[1]", "expected install or quality"),
        ("install", (LATENCY,), "$.stages[0].gates", "expected a list"),
        ([["install"]], (LATENCY,), "$.stages[0].gates[0]", "expected install or quality"),
        (["install", "quality"], (), "$.stages[0].gates[1]", "has no gates.quality"),
    ],
)
def test_gates_that_mean_nothing_are_refused_at_their_place(
    gates: Any, metrics: tuple[dict[str, Any], ...], path: str, words: str
) -> None:
    told = errors_of(document({**FEW, "gates": gates}, REST, metrics=metrics))
    assert any(place == path and words in message for place, message in told), told


def test_a_quality_gate_that_judges_no_stage_is_refused() -> None:
    told = errors_of(document({**REST, "gates": ["install"]}))
    assert [(path, "no stage is judged by it" in words) for path, words in told] == [("$.gates.quality", True)]


# ---- what becomes of it


def standing(spec: Spec, stage: int, measured: int = 0, population: int = 200, span: Span = NOTHING) -> Snapshot:
    """A stratum (of 200) whose 80 devices of this stage serve the release, well past their soak; so many of them have values."""
    base = whole(random.Random(1))
    members = sorted(base.members, key=lambda member: rank(base.salt, member.device))
    devices = [one.device for one in members] + [DeviceId(f"more-{n}") for n in range(population - len(members))]
    devices.sort(key=lambda device: rank(base.salt, device))
    ago = NOW - timedelta(hours=30)
    cells = [StageRun(index, STRATUM, StageState.PENDING) for index in range(len(spec.stages))]
    cut = cut_of(spec.stages[stage].size, [rank(base.salt, device) for device in devices], 0, None)
    for index in range(stage + 1):
        state = StageState.JUDGING if index == stage else StageState.PASSED
        cells[index] = StageRun(index, STRATUM, state, cut, population, NEW.sha256, opened_at=ago, soak_until=NOW)
    taken = devices[: sum(rank(base.salt, device) < cut for device in devices)]
    return replace(
        base,
        spec=spec,
        members=tuple(replace(base.members[0], device=device) for device in devices),
        cells=tuple(cells),
        reports={},
        assignments=tuple(
            Assignment(
                device, stage, STRATUM, AssignmentState.HEALTHY, attempt=1, gen=7, previous=OLD,
                offered_at=ago, exposed_at=ago, entered_at=ago, switched_at=ago, ended_at=ago,
            )
            for device in taken
        ),
        measured=tuple(
            DeviceQuality(
                device, STRATUM, stage, f"c-{n}", ago, NOW,
                dict.fromkeys((Metric.LATENCY_P95_MS, Metric.SHADOW_AGREEMENT), span),
            )
            for n, device in enumerate(taken[:measured])
        ),
    )  # fmt: skip


def judged(snapshot: Snapshot) -> tuple[bool, str]:
    """Return whether the planner lets a stage pass now, and the code of what it decided about it."""
    made = plan_tick(snapshot, NOW)
    codes = [one.decision.code for one in made.effects if isinstance(one, DecisionMade)]
    return passes(made), codes[0] if codes else ""


def facts_at(snapshot: Snapshot, stage: int) -> Facts:
    return facts_of(snapshot, snapshot.cells[stage], snapshot.assignments, NOW)


def test_a_stage_without_quality_passes_without_values_and_one_with_it_holds() -> None:
    spec = parse_spec(document({**FEW, "gates": ["install"]}, {**FEW, "size": {"count": 90}}, REST))
    assert judged(standing(spec, 0)) == (True, "evidence")
    assert judged(standing(spec, 1)) == (False, analysis_metrics.QUALITY_NO_DATA)
    same = dict.fromkeys(("before", "after", "control_before", "control_after"), 9.0)
    assert judged(standing(spec, 1, 90, span=Span(**same))) == (True, "evidence")


def test_the_stages_of_one_spec_share_one_error_probability() -> None:
    """Else a stage without the metrics would stop a release sooner than the whole promises."""
    spec = parse_spec(document({**FEW, "gates": ["install"]}, REST))
    without = facts_at(standing(spec, 0), 0)
    assert (without.quality, without.beside_metrics) == (None, True)
    at = decide(without).figures["abort_at"]
    assert at == decide(facts_at(standing(spec, 1), 1)).figures["abort_at"] == pytest.approx(100 / 0.85)
    mild = parse_spec(document({**FEW, "gates": ["install"]}, REST, metrics=({**LATENCY, "on_breach": "hold"},)))
    assert decide(facts_at(standing(mild, 0), 0)).figures["abort_at"] == pytest.approx(100)


def test_devices_are_measured_where_a_later_stage_of_their_mode_is_judged_by_it() -> None:
    def due(*stages: dict[str, Any]) -> list[int]:
        spec = parse_spec(document(*stages))
        assert spec.gates.quality is not None
        found = [standing(spec, index) for index in range(len(stages))]
        return [len(list(MetricCollector(cast("Any", None))._due(one, spec.gates.quality, NOW))) for one in found]

    plain = {"gates": ["install"]}
    assert due({**FEW, **plain}, {**FEW, **plain}, REST) == [80, 80, 200]
    assert due(FEW, {**REST, **plain}) == [80, 0]
    shadow = {**FEW, **plain, "mode": "shadow"}
    assert due(shadow, REST) == [0, 200]


def test_agreement_is_asked_of_shadows_only() -> None:
    shadow = {**FEW, "mode": "shadow"}
    spec = parse_spec(document(shadow, FEW, REST, metrics=(AGREEMENT, LATENCY)))
    asked = [facts_at(standing(spec, index), index).quality for index in range(3)]
    assert [[one.name.value for one in facts.metrics] for facts in asked if facts is not None] == [
        ["shadow_agreement", "latency_p95_ms"],
        ["latency_p95_ms"],
        ["latency_p95_ms"],
    ]
    alone = parse_spec(document(shadow, FEW, REST, metrics=(AGREEMENT,)))
    assert judged(standing(alone, 0)) == (False, analysis_metrics.QUALITY_NO_DATA)
    assert judged(standing(alone, 0, 80, span=Span(after=0.995))) == (True, "evidence")
    assert judged(standing(alone, 1)) == (True, "evidence"), "no shadow, no value: nothing is asked"


def flaws_of(*stages: dict[str, Any], metrics: tuple[dict[str, Any], ...], **fields: Any) -> list[tuple[str, str]]:
    """Return the findings about the spec itself of a plan that 400 devices would take part in."""
    spec = parse_spec({**document(*stages, metrics=metrics), **fields})
    members = [Member(DeviceId(f"d-{number}"), STRATUM) for number in range(400)]
    made = plan(spec, "salt", members, {STRATUM: NEW}, with_power=False)
    assert lint(spec, {STRATUM: 400}, 0, {STRATUM: NEW}) == made.findings or not is_countable(spec)
    return [(one.level, one.code) for one in made.findings if one.stage is None]


def test_agreement_is_refused_where_no_shadow_is_judged_by_it() -> None:
    shadow, missing = {**FEW, "mode": "shadow"}, [("error", "agreement_without_shadow")]
    split = {**FEW, "mode": "split", "share_pct": 5}
    assert flaws_of(shadow, REST, metrics=(AGREEMENT,)) == []
    assert flaws_of(FEW, REST, metrics=(AGREEMENT,)) == missing
    assert flaws_of(split, REST, metrics=(AGREEMENT,)) == missing
    assert flaws_of({**shadow, "gates": ["install"]}, REST, metrics=(AGREEMENT,)) == missing


def test_energy_is_refused_as_long_as_devices_do_not_tell_it_while_they_serve() -> None:
    joules = {"name": "joules_per_inference", "non_inferior_rel": 0.15}
    assert flaws_of(FEW, REST, metrics=(LATENCY, joules)) == [("error", "energy_not_told")]
    ((_, _, told, advice),) = flaws(parse_spec(document(FEW, REST, metrics=(joules,))))
    assert "not while they serve" in told
    assert "edgectl device measure" in advice


DRIFT: dict[str, Any] = {"name": "drift"}


@pytest.mark.parametrize(
    ("metric", "before", "after", "found"),
    [
        (DRIFT, "7d", "1h", []),
        (DRIFT, "10h", "1h", []),
        (DRIFT, "9h", "1h", [("error", "drift_out_of_reach")]),
        (DRIFT, "7d", "24h", [("error", "drift_out_of_reach")]),
        (DRIFT, "60d", "5d", [("error", "drift_out_of_reach")]),
        (DRIFT, "30d", "2d", []),
        (DRIFT, "2h", "5m", [("warning", "few_windows")]),
        (LATENCY, "1h", "24h", []),
        (LATENCY, "60d", "30d", [("error", "before_not_kept")]),
        ({"name": "latency_p95_ms", "max": 20}, "60d", "30d", []),
    ],
)
def test_periods_that_can_never_hold_are_refused(
    metric: dict[str, Any], before: str, after: str, found: list[tuple[str, str]]
) -> None:
    gates = {"quality": {"metrics": [metric], "before": before, "after": after}}
    long = {"after": "60d", "do": "pause"}
    assert flaws_of(FEW, REST, metrics=(metric,), gates=gates, on_inconclusive=long) == found


def test_a_refusal_of_drift_says_what_would_do() -> None:
    gates = {"quality": {"metrics": [DRIFT], "before": "7d", "after": "24h"}}
    spec = parse_spec({**document(FEW, REST), "gates": gates})
    (_, _, told, advice), *rest = flaws(spec)
    assert "10 periods of 1d" in told
    assert advice == "write before: 10d or more, or after: 16h or less"
    assert not rest


def test_drift_takes_somebody_to_compare_with() -> None:
    spec = parse_spec(document(REST, metrics=(DRIFT,)))
    members = [Member(DeviceId(f"d-{number}"), STRATUM) for number in range(400)]
    (found,) = [one for one in plan(spec, "salt", members, {STRATUM: NEW}).findings if one.level == "error"]
    assert (found.code, "drift takes 1 at the least" in found.message) == ("quality_out_of_reach", True)


def test_a_rollout_that_gives_up_before_any_value_is_there_is_refused() -> None:
    gates = {"quality": {"metrics": [LATENCY], "after": "2d"}}
    early = [("error", "inconclusive_before_values")]
    for after, found in (("48h", early), ("3d", [])):
        assert flaws_of(FEW, REST, metrics=(LATENCY,), gates=gates, on_inconclusive={"after": after}) == found


# ---- a tick stays short


def asked_in(
    snapshot: Snapshot, measurer: MetricCollector, at: datetime, silent: set[DeviceId], many: int = 1
) -> tuple[list[str], list[str]]:
    """Return whose windows a look of the measurer read, and whose values it took; only who is silent has none."""
    shows = SimulatedTelemetry(Shows())
    read: list[str] = []

    def look(device: DeviceId, began: datetime, is_later: bool) -> Sequence[PeriodWindow]:
        read.extend([device] * is_later)
        return () if device in silent else [*shows.windows(snapshot, device, began, is_later)] * many

    return read, [one.device for one in measurer.values(snapshot, look, at)]


def test_one_look_reads_a_bounded_number_of_devices_however_many_are_due() -> None:
    spec = parse_spec({**document({**FEW, "size": {"count": 5_000}}, REST)})
    snapshot = standing(spec, 0, population=10_000)
    assert len(snapshot.assignments) == 5_000
    read, taken = asked_in(snapshot, MetricCollector(cast("Any", None)), NOW, set())
    assert (len(read), len(taken)) == (2 * AT_ONCE, AT_ONCE), "each, and one to compare it with"
    nobody = {one.device for one in snapshot.members} - {one.device for one in snapshot.assignments}
    read, taken = asked_in(snapshot, MetricCollector(cast("Any", None)), NOW, nobody)
    assert taken == []
    assert len(read) <= LOOKS + CANDIDATES
    read, taken = asked_in(snapshot, MetricCollector(cast("Any", None)), NOW, set(), many=1_000)
    assert (len(read), len(taken)) == (4, 2), "each has 13,000 windows"


def test_devices_without_values_do_not_keep_others_waiting() -> None:
    snapshot = standing(parse_spec(document(FEW, REST)), 0)
    first = sorted(one.device for one in snapshot.assignments)[: 2 * AT_ONCE]
    measurer, taken = MetricCollector(cast("Any", None)), list[str]()
    for minute in range(3):
        taken += asked_in(snapshot, measurer, NOW + timedelta(minutes=minute), set(first))[1]
    assert len(taken) == AT_ONCE, "after two looks at devices that are silent"


def test_gates_of_a_stage_are_kept_by_name() -> None:
    assert [one.value for one in StageGate] == ["install", "quality"], "stored and public: never renamed"
