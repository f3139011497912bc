"""Devices whose words come late: found by the explorer, kept as cases of their own."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.effects import AssignmentTransitioned, AssignmentUpdated
from edgefleet_server.rollout.model import (
    FULL_CUT,
    NO_CANDIDATE,
    Assignment,
    CandidateReport,
    Report,
    RolloutState,
    StageRun,
    StageState,
)
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.observe import OVERWRITTEN
from edgefleet_server.rollout.planner.tick import plan_tick
from tests.server.rollout import planner_gaps
from tests.server.rollout.explored import HOUR, START, Document, Fleet, Node
from tests.server.rollout.explored_fleets import BY_NAME, FLEETS
from tests.server.rollout.explorer import Explorer

RPI = ProfileName("rpi")
SPLIT = BY_NAME["two-versions-then-the-winner-at-a-word"]
S = AssignmentState


def standing(explorer: Explorer, one: Assignment, said: Report, document: Document, state: RolloutState) -> Node:
    """Return a rollout of one device, whose stage failed if it is rolling back."""
    is_back = state is RolloutState.ROLLING_BACK
    cell = StageRun(
        0, RPI, StageState.FAILED if is_back else StageState.SOAKING, 2**64, 1, opened_at=START, soak_until=START
    )
    node = explorer.first()
    return replace(
        node,
        state=state,
        cells=(cell,),
        assignments=(one,),
        reports=(said,),
        documents=(document,),
        now=START + 2 * HOUR,
    )


def running_beside(explorer: Explorer) -> Report:
    """Return what the first device says while it runs the release beside what it ran before."""
    beside = CandidateReport(explorer.new[0].sha256, "running")
    old = explorer.old[0].sha256
    return Report(reported_gen=1, phase=Phase.COMMITTED, active_sha256=old, is_online=True, candidate=beside)


def after_tick(explorer: Explorer, node: Node) -> Node:
    """Return what one tick makes of it; every promise is checked on the way."""
    return explorer.carry(node, "tick", plan_tick(explorer.snapshot(node), node.now))


def test_who_had_switched_when_its_offer_was_withdrawn_is_waited_for() -> None:
    explorer = Explorer(FLEETS[0])
    new, old = explorer.new[0], explorer.old[0]
    waiting = Assignment(DeviceId("d0"), 0, RPI, S.ELIGIBLE, attempt=1, gen=1, previous=old)
    said = Report(reported_gen=1, gen=1, phase=Phase.PROBATION, active_sha256=new.sha256, is_online=True)
    node = after_tick(explorer, standing(explorer, waiting, said, Document(2, old), RolloutState.ROLLING_BACK))
    (one,) = node.assignments
    assert (one.state, one.back_gen, node.state) == (S.ACKED, 2, RolloutState.ROLLING_BACK)
    home = replace(said, reported_gen=2, gen=2, phase=Phase.COMMITTED, active_sha256=old.sha256)
    node = after_tick(explorer, replace(node, reports=(home,)))
    assert (node.assignments[0].state, node.state) == (S.ROLLED_BACK, RolloutState.ROLLED_BACK)


def test_who_never_says_that_it_is_back_is_named() -> None:
    explorer = Explorer(FLEETS[0])
    new, old = explorer.new[0], explorer.old[0]
    offered = Assignment(
        DeviceId("d0"), 0, RPI, S.OFFERED, attempt=2, gen=3, previous=old, deadline=START + 9 * HOUR, offered_at=START
    )
    said = Report(reported_gen=1, gen=1, phase=Phase.PROBATION, active_sha256=new.sha256, is_online=False)
    document = Document(3, new, 2)
    node = after_tick(explorer, standing(explorer, offered, said, document, RolloutState.ROLLING_BACK))
    assert node.state is RolloutState.ROLLING_BACK, "it runs the release of its first offer"
    for _ in range(3):
        node = after_tick(explorer, replace(node, now=node.now + HOUR))
    assert node.state is RolloutState.ROLLBACK_INCOMPLETE
    assert node.assignments[0].reason.startswith(NOT_BACK)


def test_a_device_that_went_back_proves_nothing_once_something_else_is_deployed_there() -> None:
    """Neither a failure nor a healthy device: its late word is about a document that is not the rollout's any more."""
    explorer = Explorer(FLEETS[0])
    new, old = explorer.new[0], explorer.old[0]
    healthy = Assignment(
        DeviceId("d0"), 0, RPI, S.HEALTHY, attempt=1, gen=1, previous=old, switched_at=START, exposed_at=START
    )
    said = Report(
        reported_gen=1,
        gen=1,
        phase=Phase.ROLLED_BACK,
        active_sha256=old.sha256,
        wanted_sha256=new.sha256,
        attempt=1,
        error_class=ErrorClass.CRASH,
        error_code="x",
        reason="it crashed",
        is_online=True,
    )
    document = Document(2, explorer.other[0])
    node = after_tick(explorer, standing(explorer, healthy, said, document, RolloutState.RUNNING))
    assert (node.assignments[0].state, node.assignments[0].reason) == (S.SUPERSEDED, OVERWRITTEN)
    assert node.cells[0].state is not StageState.PASSED


def test_who_runs_it_beside_what_serves_when_its_offer_was_withdrawn_is_waited_for() -> None:
    """Found by the explorer as soon as it knew of modes: a split went on to answer after the rollout said that all was back."""
    explorer = Explorer(SPLIT)
    old = explorer.old[0]
    waiting = Assignment(DeviceId("d0"), 0, RPI, S.ELIGIBLE, attempt=1, gen=1, previous=old, exposed_at=START)
    said = running_beside(explorer)
    node = after_tick(explorer, standing(explorer, waiting, said, Document(2, old), RolloutState.ROLLING_BACK))
    assert (node.assignments[0].state, node.state) == (S.ACKED, RolloutState.ROLLING_BACK)
    knows = replace(said, reported_gen=2, candidate=NO_CANDIDATE)
    ended = after_tick(explorer, replace(node, reports=(knows,)))
    assert (ended.assignments[0].state, ended.state) == (S.ROLLED_BACK, RolloutState.ROLLED_BACK)
    for _ in range(3):
        node = after_tick(explorer, replace(node, now=node.now + HOUR))
    assert node.state is RolloutState.ROLLBACK_INCOMPLETE
    assert node.assignments[0].reason.startswith(NOT_BACK)


@pytest.mark.parametrize("fleet", [FLEETS[0], SPLIT], ids=lambda fleet: fleet.name)
def test_who_is_heard_in_the_look_that_withdraws_its_offer_is_waited_for(fleet: Fleet) -> None:
    explorer = Explorer(fleet)
    new, old = explorer.new[0], explorer.old[0]
    away = Assignment(DeviceId("d0"), 0, RPI, S.UNREACHABLE, attempt=1, gen=1, previous=old, offered_at=START)
    said = Report(reported_gen=1, gen=1, phase=Phase.COMMITTED, active_sha256=old.sha256, is_online=True)
    if fleet is SPLIT:
        said = replace(said, candidate=CandidateReport(sha256=new.sha256, state="downloading"))
        document = Document(1, old, candidate=new, share=50)
    else:
        said = replace(said, phase=Phase.DOWNLOADING, wanted_sha256=new.sha256)
        document = Document(1, new)
    node = standing(explorer, away, said, document, RolloutState.ROLLING_BACK)
    node = after_tick(explorer, replace(node, state=RolloutState.PAUSED))
    (one,) = node.assignments
    assert (one.state, one.back_gen) == (S.ACKED, 2)
    assert node.documents[0] == Document(2, old), "it was told to stay with what it had"


def test_a_device_whose_shadow_failed_is_no_proof_once_something_else_was_deployed_there() -> None:
    """Found by the explorer: the stage passed on a device whose shadow had failed."""
    explorer = Explorer(BY_NAME["a-shadow-then-all"])
    new, old = explorer.new[0], explorer.old[0]
    healthy = Assignment(
        DeviceId("d0"), 0, RPI, S.HEALTHY, attempt=1, gen=1, previous=old, exposed_at=START, switched_at=START
    )
    failed = CandidateReport(new.sha256, "failed", "candidate.crash", "it failed")
    said = Report(
        reported_gen=1, gen=1, phase=Phase.COMMITTED, active_sha256=old.sha256, is_online=True, candidate=failed
    )
    document = Document(2, explorer.other[0])
    (one,) = after_tick(explorer, standing(explorer, healthy, said, document, RolloutState.RUNNING)).assignments
    assert (one.state, one.error_class, one.reason) == (S.SUPERSEDED, "", OVERWRITTEN)


@pytest.mark.parametrize(
    ("state", "candidate"), [(S.HEALTHY, "running"), (S.FAILED, "running"), (S.LOST, "downloading")]
)
def test_who_was_told_to_end_its_candidate_is_waited_for_when_the_rollout_is_taken_back(
    state: AssignmentState, candidate: str
) -> None:
    """Found by the explorer: a rollout that had ended was undone before its shadow, which refused its document, had heard of the end.

    And one that was still bringing its candidate, and ran it after all was said to be back.
    """
    explorer = Explorer(BY_NAME["a-shadow-then-all"])
    old = explorer.old[0]
    ended = Assignment(
        DeviceId("d0"),
        0,
        RPI,
        state,
        attempt=1,
        gen=1,
        previous=old,
        exposed_at=START,
        switched_at=START,
        ended_at=START,
    )
    said = replace(running_beside(explorer), candidate=CandidateReport(explorer.new[0].sha256, candidate))
    node = after_tick(explorer, standing(explorer, ended, said, Document(2, old), RolloutState.ROLLING_BACK))
    (one,) = node.assignments
    assert (one.back_gen, one.back_done_at, node.state) == (2, None, RolloutState.ROLLING_BACK)
    knows = replace(said, reported_gen=2, candidate=NO_CANDIDATE)
    assert after_tick(explorer, replace(node, reports=(knows,))).state is RolloutState.ROLLED_BACK
    for _ in range(3):
        node = after_tick(explorer, replace(node, now=node.now + HOUR))
    assert node.state is RolloutState.ROLLBACK_INCOMPLETE
    assert node.assignments[0].reason.startswith(NOT_BACK)


def test_who_went_on_to_the_next_mode_and_waits_for_its_offer_is_waited_for() -> None:
    explorer = Explorer(BY_NAME["a-shadow-then-all"])
    new, old = explorer.new[0], explorer.old[0]
    waiting = Assignment(DeviceId("d0"), 1, RPI, S.ELIGIBLE, attempt=1, gen=1, previous=old)
    said = running_beside(explorer)
    node = standing(explorer, waiting, said, Document(1, old, candidate=new), RolloutState.ROLLING_BACK)
    (shadow,) = node.cells
    cells = (replace(shadow, state=StageState.PASSED), replace(shadow, stage=1))
    node = after_tick(explorer, replace(node, cells=cells))
    assert (node.assignments[0].state, node.state) == (S.ACKED, RolloutState.ROLLING_BACK)
    assert node.documents[0] == Document(2, old), "it is told to end what runs beside"
    knows = replace(said, reported_gen=2, candidate=NO_CANDIDATE)
    ended = after_tick(explorer, replace(node, reports=(knows,)))
    assert (ended.assignments[0].state, ended.state) == (S.ROLLED_BACK, RolloutState.ROLLED_BACK)


AWAY = [
    pytest.param(S.OFFERED, Document(3, None, 2), id="offered anew"),
    pytest.param(S.UNREACHABLE, Document(3, None, 2), id="given up on"),
    pytest.param(S.ELIGIBLE, Document(4, None), id="withdrawn again"),
]


@pytest.mark.parametrize(("state", "document"), AWAY)
@pytest.mark.parametrize("fleet", [FLEETS[0], SPLIT], ids=lambda fleet: fleet.name)
def test_who_carries_out_an_offer_before_its_newest_is_waited_for(
    fleet: Fleet, state: AssignmentState, document: Document
) -> None:
    """Found by the explorer: it heard neither of the pause nor of the second offer, and switched after all was said to be back."""
    explorer = Explorer(fleet)
    new, old = explorer.new[0], explorer.old[0]
    one = Assignment(DeviceId("d0"), 0, RPI, state, attempt=2, gen=3, previous=old, exposed_at=START, offered_at=START)
    said = Report(reported_gen=1, gen=1, phase=Phase.COMMITTED, active_sha256=old.sha256, attempt=1, is_online=True)
    is_out = state is not S.ELIGIBLE
    if fleet is SPLIT:
        said = replace(said, candidate=CandidateReport(new.sha256, "downloading"))
        document = replace(document, bundle=old, candidate=new if is_out else None, share=50 if is_out else 0)
    else:
        said = replace(said, phase=Phase.DOWNLOADING, wanted_sha256=new.sha256)
        document = replace(document, bundle=new if is_out else old)
    node = after_tick(explorer, standing(explorer, one, said, document, RolloutState.ROLLING_BACK))
    (late,) = node.assignments
    assert late.back_gen > 0
    assert (late.back_done_at, node.state) == (None, RolloutState.ROLLING_BACK)
    knows = replace(said, reported_gen=9, phase=Phase.COMMITTED, wanted_sha256=old.sha256, candidate=NO_CANDIDATE)
    assert after_tick(explorer, replace(node, reports=(knows,))).state is RolloutState.ROLLED_BACK
    for _ in range(3):
        node = after_tick(explorer, replace(node, now=node.now + HOUR))
    assert node.state is RolloutState.ROLLBACK_INCOMPLETE
    assert node.assignments[0].reason.startswith(NOT_BACK)


@pytest.mark.parametrize(
    ("phase", "error_class"), [(Phase.FAILED, ErrorClass.GOLDEN), (Phase.ROLLED_BACK, ErrorClass.CRASH)]
)
def test_nobody_waits_for_who_failed_before_it_was_offered_anew(phase: Phase, error_class: ErrorClass) -> None:
    explorer = Explorer(FLEETS[0])
    new, old = explorer.new[0], explorer.old[0]
    offered = Assignment(
        DeviceId("d0"), 0, RPI, S.OFFERED, attempt=2, gen=3, previous=old, exposed_at=START, offered_at=START
    )
    said = Report(
        reported_gen=1, gen=1, phase=phase, active_sha256=old.sha256, wanted_sha256=new.sha256, error_class=error_class
    )
    node = after_tick(explorer, standing(explorer, offered, said, Document(3, new, 2), RolloutState.ROLLING_BACK))
    assert (node.assignments[0].state, node.state) == (S.CANCELLED, RolloutState.ROLLED_BACK)


def test_who_is_not_heard_to_be_back_says_nothing_against_the_release_in_other_strata() -> None:
    """It keeps the state that it was last heard in: as `lost` six would have stopped twenty healthy devices of another stratum.

    Their way there was cut short by the server, and their late word is still to be heard.
    """
    jet = ProfileName("jet")
    whole = planner_gaps.whole(random.Random(1))
    new, old, now = planner_gaps.NEW, planner_gaps.OLD, planner_gaps.NOW
    told_at = now - whole.spec.device.ack
    going = [
        Assignment(DeviceId(f"r-{i}"), 0, RPI, S.DOWNLOADING, attempt=1, gen=4, previous=old, exposed_at=told_at,
                   offered_at=told_at, back_gen=5, back_at=told_at)
        for i in range(6)
    ]  # fmt: skip
    fine = [
        Assignment(
            DeviceId(f"j-{i}"), 0, jet, S.HEALTHY, attempt=1, gen=4, previous=old, exposed_at=now, switched_at=now
        )
        for i in range(20)
    ]
    silent = Report(reported_gen=4, gen=4, wanted_by_server=old.sha256, wanted_sha256=new.sha256, attempt=1)
    runs_it = replace(silent, wanted_by_server=new.sha256, set_by="r-1", active_sha256=new.sha256, is_online=True)
    cells = (
        StageRun(
            0, RPI, StageState.FAILED, FULL_CUT, 6, new.sha256, opened_at=told_at, ended_at=told_at, reason="it crashed"
        ),
        StageRun(0, jet, StageState.SOAKING, FULL_CUT, 20, new.sha256, opened_at=now, soak_until=now + HOUR),
    )
    snapshot = replace(
        whole,
        spec=replace(whole.spec, stages=whole.spec.stages[:1]),
        members=(),
        bundles={RPI: new, jet: new},
        cells=cells,
        assignments=(*going, *fine),
        reports={a.device: silent for a in going} | {a.device: runs_it for a in fine},
    )
    noted = {
        one.assignment.device: one.assignment
        for one in plan_tick(snapshot, now).effects
        if isinstance(one, AssignmentUpdated)
    }
    assert {(one.state, one.reason) for one in noted.values()} == {(S.DOWNLOADING, NOT_BACK)}
    later = replace(snapshot, assignments=(*noted.values(), *fine))
    facts = facts_of(later, cells[1], later.assignments, now)
    assert (facts.pooled_exposed, facts.pooled_failed) == (26, 0)
    home = replace(silent, reported_gen=5, gen=5, phase=Phase.COMMITTED, active_sha256=old.sha256, is_online=True)
    heard = plan_tick(replace(later, reports={**later.reports, going[0].device: home}), now).effects
    back = [one.assignment for one in heard if isinstance(one, AssignmentTransitioned)]
    assert [(one.device, one.state) for one in back] == [(going[0].device, S.ROLLED_BACK)]
