"""Offers rest while the first outcomes are bad, go on when they turn good, and never rest for ever."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.doubt import DOUBT, LEAST_FAILED, doubt
from edgefleet_server.rollout.analysis.model import Counts, Facts, RollBack, Rule
from edgefleet_server.rollout.effects import Offer, RolloutTransitioned
from edgefleet_server.rollout.model import Assignment, Member, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner.tick import explain, plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_sim.world import bundle_of
from tests.server.rollout.explored import START

RPI = ProfileName("rpi")
S = AssignmentState


def snapshot_of(failed: int, healthy: int, under_way: int, waiting: int = 100) -> Snapshot:
    """Return a rollout in its one stage: so many devices have failed, are in their soak, are on probation, wait for an offer."""
    stages = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]
    spec = parse_spec({"release": "digits@1.2.0", "selector": "", "stages": stages})
    states = [S.FAILED] * failed + [S.HEALTHY] * healthy + [S.VERIFYING] * under_way + [S.ELIGIBLE] * waiting
    at = START - timedelta(minutes=5)
    ones = tuple(
        Assignment(
            DeviceId(f"d-{number:04}"), 0, RPI, state, attempt=1, gen=1, entered_at=at, offered_at=at, due_at=at,
            exposed_at=None if state is S.ELIGIBLE else at, switched_at=at, deadline=START + timedelta(hours=1),
            error_class="crash" if state is S.FAILED else "",
        )
        for number, state in enumerate(states)
    )  # fmt: skip
    ones = tuple(one.but(gen=0, attempt=0) if one.state is S.ELIGIBLE else one for one in ones)
    cell = StageRun(0, RPI, StageState.EXPOSING, 2**64, len(ones), "d", opened_at=at)
    members = tuple(Member(one.device, RPI) for one in ones)
    bundles = {RPI: bundle_of("new", "rpi")}
    return Snapshot(RolloutId("r"), RolloutState.RUNNING, spec, "salt", bundles, members, (cell,), ones)


def offers(snapshot: Snapshot) -> int:
    """Return how many devices are offered the release now."""
    return sum(isinstance(effect, Offer) for effect in plan_tick(snapshot, START).effects)


def test_two_failures_before_anybody_is_well_let_offers_rest_and_stop_nothing() -> None:
    snapshot = snapshot_of(failed=2, healthy=0, under_way=48)
    effects = plan_tick(snapshot, START).effects
    assert not [effect for effect in effects if isinstance(effect, Offer | RolloutTransitioned)]
    waits = explain(snapshot, START, [(a, 1) for a in snapshot.assignments]).waits
    told = {waits[one.device].code for one in snapshot.assignments if one.state is S.ELIGIBLE}
    assert told == {DOUBT}
    assert "2 of the first 2 devices" in next(wait.reason for wait in waits.values() if wait.code == DOUBT)


def test_one_failure_or_two_among_many_that_are_well_are_no_doubt() -> None:
    assert offers(snapshot_of(failed=1, healthy=0, under_way=48)) == 100
    assert offers(snapshot_of(failed=2, healthy=30, under_way=18)) == 100
    snapshot = snapshot_of(failed=2, healthy=30, under_way=18)
    waits = explain(snapshot, START, [(a, 1) for a in snapshot.assignments]).waits
    assert DOUBT not in {wait.code for wait in waits.values()}


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
def test_when_nobody_is_under_way_any_more_a_doubt_is_a_verdict(failed: int, healthy: int, soaking: int) -> None:
    exposed = failed + healthy + soaking
    counts = Counts(members=exposed, exposed=exposed, pending=soaking, healthy=healthy, failed=failed)
    facts = Facts(
        stage=0, stratum="rpi", population=max(1, exposed), counts=counts, failures={"crash": failed} if failed else {},
        soaking=soaking, pooled_exposed=exposed, pooled_failed=failed, rule=Rule.EVIDENCE,
    )  # fmt: skip
    if doubt(facts):
        assert failed >= LEAST_FAILED
        assert isinstance(decide(facts), RollBack)
