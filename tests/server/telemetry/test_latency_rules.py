"""Why latency rose: a cause that was planted comes first; where none was, none is named."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_server.telemetry.latency.cause_text import explained, value_text
from edgefleet_server.telemetry.latency.latency_rise import find_rise
from edgefleet_server.telemetry.latency.model import (
    Case,
    CauseKind,
    CauseVerdict,
    DriftFact,
    Finding,
    Moment,
    Spread,
)
from edgefleet_server.telemetry.latency.rules import judge
from edgefleet_server.telemetry.latency.views import LatencyCause
from tests.server.telemetry.latency_cases import PLANTED, STEP_S, USUAL, Plant, of_device, of_fleet, strand

KINDS = sorted(PLANTED)
NAMED = {CauseVerdict.LIKELY, CauseVerdict.POSSIBLE}


def named(case: Case) -> list[Finding]:
    """Return the causes that are named, the first one first."""
    return [one for one in judge(case).findings if one.verdict in NAMED]


def of(case: Case, kind: CauseKind) -> Finding:
    return next(one for one in judge(case).findings if one.kind is kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_cause_on_one_device_comes_first(kind: CauseKind) -> None:
    answer = judge(of_device(Plant(kind), 1))
    assert answer.rise is not None
    assert answer.rise.at == 1_000_000 + 60 * STEP_S
    assert answer.rise.ratio == pytest.approx(1.8, rel=0.1)
    assert (answer.findings[0].kind, answer.findings[0].verdict) == (kind, CauseVerdict.LIKELY)
    assert (answer.spread, answer.place, answer.hit, answer.of) == (Spread.DEVICE, "d-0", 1, 9)


@settings(max_examples=25)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(24, 84), st.floats(1.4, 4), st.floats(0.005, 0.08))
def test_whatever_was_planted_comes_first(kind: CauseKind, seed: int, begin: int, ratio: float, noise: float) -> None:
    case = of_device(Plant(kind, begin, ratio), seed, others=3, noise=noise)
    first = judge(case).findings[0]
    assert (first.kind, first.verdict) == (kind, CauseVerdict.LIKELY)


@pytest.mark.parametrize("is_over", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_cause_comes_first_in_spite_of_gaps_and_an_older_change(kind: CauseKind, is_over: bool) -> None:
    """Every fifth report is missing, and those at the rise too; disk or memory had run low seven hours before, and stayed so."""
    case, calm = of_device(Plant(kind), 29, others=3), of_device(Plant(), 29).subject.moments
    older = PLANTED[CauseKind.MEMORY if kind is CauseKind.DISK else CauseKind.DISK]
    moments = []
    for n, one in enumerate(case.subject.moments):
        shown = calm[n] if is_over and n >= 75 else one
        if n % 5 and n not in {57, 58, 59, 61}:
            moments.append(replace(shown, figures={**shown.figures, **(older if n >= 30 else {})}))
    mine = replace(case.subject, moments=moments)
    answer = judge(replace(case, subject=mine, parts=[mine, *case.parts[1:]]))
    assert answer.rise is not None
    assert answer.rise.is_over == is_over
    assert (answer.findings[0].kind, answer.findings[0].verdict) == (kind, CauseVerdict.LIKELY)
    assert sum(one.verdict is CauseVerdict.LIKELY for one in answer.findings) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_cause_in_two_of_six_cohorts_comes_first(kind: CauseKind) -> None:
    rng = random.Random(31)
    hit = [strand(f"hit-{n}", Plant(kind, ratio=3.0), rng, site="kyoto") for n in range(2)]
    answer = judge(of_fleet([*hit, *(strand(f"calm-{n}", Plant(), rng, site="lyon") for n in range(4))]))
    assert (answer.spread, answer.place, answer.hit, answer.of) == (Spread.SITE, "kyoto", 2, 6)
    assert (answer.findings[0].kind, answer.findings[0].verdict) == (kind, CauseVerdict.LIKELY)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.005, 0.1), st.integers(12, 192))
def test_where_nothing_rises_nothing_is_found(seed: int, noise: float, steps: int) -> None:
    answer = judge(of_device(Plant(), seed, others=1, noise=noise, steps=steps))
    assert answer.rise is None
    assert answer.findings == ()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(24, 84), st.floats(1.4, 4))
def test_a_rise_without_a_cause_names_none(seed: int, begin: int, ratio: float) -> None:
    rng = random.Random(seed)
    mine = strand("d-0", Plant(None, begin, ratio), rng)
    case = Case("digits", mine, [mine, strand("d-1", Plant(), rng)], STEP_S, is_device=True)
    answer = judge(case)
    assert answer.rise is not None
    assert [one for one in answer.findings if one.verdict in NAMED] == []


def test_what_others_have_without_getting_slower_is_contradicted() -> None:
    """All run the new release; only one got slower, and it throttles too."""
    other = lambda n: Plant(CauseKind.RELEASE, 60, is_slow=False)  # noqa: E731
    release = of(of_device(Plant(CauseKind.RELEASE), 3, other=other), CauseKind.RELEASE)
    assert (release.verdict, release.same, release.unharmed) == (CauseVerdict.UNLIKELY, 8, 8)
    alone = of(of_device(Plant(CauseKind.RELEASE), 3), CauseKind.RELEASE)
    assert (alone.verdict, alone.same) == (CauseVerdict.LIKELY, 0)


def test_a_release_that_was_fast_for_hours_is_not_the_cause() -> None:
    case = of_device(Plant(CauseKind.THROTTLING, 70), 5)
    early = [
        Moment(
            one.at, one.n, one.p95_ms, one.figures, {"2.0.0" if n >= 30 else "1.0.0": next(iter(one.versions.values()))}
        )
        for n, one in enumerate(case.subject.moments)
    ]
    mine = type(case.subject)("d-0", early, "pi", "hall")
    found = named(Case("digits", mine, [mine, *case.parts[1:]], STEP_S, is_device=True))
    assert [one.kind for one in found][:1] == [CauseKind.THROTTLING]
    release = of(Case("digits", mine, [mine, *case.parts[1:]], STEP_S, is_device=True), CauseKind.RELEASE)
    assert release.lead_s == 40 * STEP_S
    assert release.score < found[0].score / 2


def test_versions_side_by_side_clear_or_convict_a_release() -> None:
    rng = random.Random(7)
    new = [strand(f"new-{n}", Plant(CauseKind.RELEASE), rng) for n in range(3)]
    old = [strand(f"old-{n}", Plant(), rng) for n in range(3)]
    convicted = of(of_fleet([*new, *old]), CauseKind.RELEASE)
    assert convicted.verdict is CauseVerdict.LIKELY
    assert convicted.others == pytest.approx((20, 20), rel=0.1)
    slow_old = [strand(f"old-{n}", Plant(None, 60, 1.8), rng) for n in range(3)]
    cleared = of(of_fleet([*new, *slow_old]), CauseKind.RELEASE)
    assert cleared.verdict is CauseVerdict.UNLIKELY


def test_a_busy_processor_is_no_cause_where_requests_explain_it() -> None:
    case = of_device(Plant(CauseKind.LOAD), 11)
    assert of(case, CauseKind.PROCESSOR).verdict is CauseVerdict.UNLIKELY
    assert of(of_device(Plant(CauseKind.PROCESSOR), 11), CauseKind.PROCESSOR).verdict is CauseVerdict.LIKELY


def test_heat_stands_in_where_no_device_says_whether_it_throttles() -> None:
    case = of_device(Plant(CauseKind.THROTTLING), 13)

    def without(one: Moment) -> Moment:
        figures = {name: value for name, value in one.figures.items() if name != "throttled_ratio"}
        return Moment(one.at, one.n, one.p95_ms, figures, one.versions, one.classes)

    parts = [type(one)(one.name, [without(each) for each in one.moments], one.profile) for one in case.parts]
    found = of(Case("digits", parts[0], parts, STEP_S, is_device=True), CauseKind.THROTTLING)
    assert found.verdict is CauseVerdict.LIKELY
    assert (found.unit, found.before, found.after) == ("celsius", *[pytest.approx(one, rel=0.05) for one in (52, 84)])


def test_a_fleet_whose_parts_stay_fast_still_says_what_its_devices_report() -> None:
    """Traffic moves to the slow ones: no part gets slower, and the fleet itself has no figures of devices."""
    rng = random.Random(17)
    fast, slow = strand("fast", Plant(), rng), strand("slow", Plant(), rng)
    moved = [
        replace(
            one,
            n=one.n * (9 if n >= 60 else 1),
            p95_ms=60.0 * math.exp(rng.gauss(0, 0.02)),
            figures={**one.figures, **({"requests_per_s": 9.0} if n >= 60 else {})},
        )
        for n, one in enumerate(slow.moments)
    ]
    less = [replace(one, n=one.n // (9 if n >= 60 else 1)) for n, one in enumerate(fast.moments)]
    case = of_fleet([replace(fast, moments=less), replace(slow, moments=moved)])
    answer = judge(case)
    assert answer.rise is not None
    assert answer.hit == 0
    assert of(case, CauseKind.DEVICE_MIX).verdict is CauseVerdict.LIKELY
    assert of(case, CauseKind.MEMORY).verdict is CauseVerdict.UNCHANGED
    said = told(case)
    assert said["load"].evidence[0] == "it changed in 1 of the 2 cohorts"
    assert not [one.kind for one in said.values() if "got slower" in " ".join(one.evidence)]


def told(case: Case) -> dict[str, LatencyCause]:
    begin = datetime(2026, 11, 30, tzinfo=UTC)
    return {one.kind: one for one in explained(case, judge(case), begin, begin).causes}


def test_inputs_that_only_drift_say_so_and_name_no_cohort() -> None:
    rng = random.Random(19)
    parts = [strand(f"part-{n}", Plant(None, 60, 1.8), rng) for n in range(3)]
    bare = [replace(one, moments=[replace(each, classes=()) for each in one.moments]) for one in parts]
    fact = DriftFact("blur", 0.9, 1_000_000 + 60 * STEP_S)
    case = replace(of_fleet(parts), parts=bare, drift=(fact,))
    inputs = told(case)["inputs"]
    assert inputs.verdict == "possible"
    assert inputs.said == "signals drift since about then"
    assert inputs.evidence == ["drifting since about then: blur"]


def test_a_throttled_share_is_never_taken_for_a_temperature() -> None:
    case = of_device(Plant(CauseKind.THROTTLING), 23)
    assert (told(case)["throttling"].title, told(case)["throttling"].unit) == ("Throttled clock", "share")


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.0, "1234 a second"), (999.7, "1000 a second"), (2.345, "2.35 a second")]
)
def test_figures_are_no_powers_of_ten(value: float, shown: str) -> None:
    assert value_text(value, "per_s") == shown


@pytest.mark.parametrize(
    ("slow", "spread", "place"),
    [
        (lambda profile, site: True, Spread.ALL, ""),
        (lambda profile, site: profile == "pi", Spread.PROFILE, "pi"),
        (lambda profile, site: site == "kyoto", Spread.SITE, "kyoto"),
        (lambda profile, site: profile == "pi" or site == "kyoto", Spread.PART, ""),
    ],
)
def test_where_it_got_slower(slow: object, spread: Spread, place: str) -> None:
    rng = random.Random(17)
    parts = [
        strand(
            f"{profile} {site}",
            Plant(CauseKind.LOAD if slow(profile, site) else None, 60, 2.5 if slow(profile, site) else 1.0),  # type: ignore[operator]
            rng, profile=profile, site=site,
        )
        for profile in ("pi", "x86") for site in ("hall", "kyoto", "wien")
    ]  # fmt: skip
    answer = judge(of_fleet(parts))
    assert (answer.spread, answer.place) == (spread, place)
    assert answer.findings[0].kind is CauseKind.LOAD


def test_slower_devices_that_answer_more_are_a_cause_of_their_own() -> None:
    rng = random.Random(19)

    def moved(name: str, factor: float, slow: float) -> object:
        made = strand(name, Plant(), rng)
        moments = [
            Moment(one.at, int(one.n * (factor if n >= 60 else 1)), (one.p95_ms or 0) * slow, USUAL, {}, one.classes)
            for n, one in enumerate(made.moments)
        ]
        return type(made)(name, moments)

    case = of_fleet([moved("fast", 0.2, 1.0), moved("slow", 4.0, 3.0)])  # type: ignore[list-item]
    answer = judge(case)
    assert answer.spread is Spread.NOWHERE
    assert (answer.findings[0].kind, answer.findings[0].verdict) == (CauseKind.DEVICE_MIX, CauseVerdict.LIKELY)


def test_the_network_is_ruled_out_and_drift_is_evidence() -> None:
    case = of_device(Plant(CauseKind.LOAD), 23)
    at = 1_000_000 + 61 * STEP_S
    drifting = Case(**{name: getattr(case, name) for name in ("model", "subject", "parts", "step_s", "is_device")},
                    drift=[DriftFact("brightness", 0.8, at), DriftFact("old", 0.8, at - 10**6)])  # fmt: skip
    assert of(case, CauseKind.NETWORK).verdict is CauseVerdict.RULED_OUT
    inputs = of(drifting, CauseKind.INPUTS)
    assert (inputs.verdict, inputs.signals) == (CauseVerdict.POSSIBLE, ("brightness",))
    assert of(case, CauseKind.INPUTS).verdict is CauseVerdict.UNCHANGED


def test_a_rise_that_is_over_says_so() -> None:
    logs = [*[20.0] * 30, *[50.0] * 10, *[20.0] * 30]
    found = find_rise([Moment(n * 60, 100, value) for n, value in enumerate(logs)], 60)
    assert found is not None
    assert (found.at, found.until, found.is_over) == (1800, 2400, True)
    assert math.isclose(found.ratio, 2.5)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [20.0] * 5,
        [20.0] * 40,
        [20.0 * 1.02 ** (n % 3) for n in range(40)],
        [50.0, *[20.0] * 40],
        [*[50.0] * 20, *[20.0] * 20],
    ],
)
def test_what_is_no_rise(values: list[float]) -> None:
    assert find_rise([Moment(n * 60, 100, value) for n, value in enumerate(values)], 60) is None


def test_steps_without_answers_are_left_out() -> None:
    moments = [Moment(n * 60, n % 2 * 100, 20.0 if n < 40 else 40.0) for n in range(80)]
    found = find_rise(moments, 60)
    assert found is not None
    assert found.at == 41 * 60
