"""The explorer walks the shipped tables and planner, meets the states that there are, and notices when one must never be."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState, Phase
from edgefleet_server.rollout.effects import (
    AssignmentTransitioned,
    ConfirmationUpdated,
    Offer,
    Plan,
    Revert,
    RolloutTransitioned,
    StageRunTransitioned,
)
from edgefleet_server.rollout.model import (
    Assignment,
    Confirmation,
    Draw,
    How,
    RolloutState,
    StageRun,
    StageState,
    Verdict,
    VerdictKind,
)
from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.server.rollout import explored_keys
from tests.server.rollout.explored import Document, Fleet, Node
from tests.server.rollout.explored_fleets import BY_NAME, FLEETS, WITH_NOBODY_BETWEEN
from tests.server.rollout.explored_steps import BrokenInvariantError, Carrying
from tests.server.rollout.explorer import Explorer, main

CI_STATES = 90_000
"""The full count is `./dev soak rollout-explorer`."""


def test_no_reachable_state_breaks_an_invariant() -> None:
    found = main(CI_STATES, 6)
    assert found["ok"], found["broken"]
    assert found["states"] >= CI_STATES
    steps = {name for one in found["fleets"].values() for name in one["steps"]}
    assert steps >= {
        "tick",
        "an hour",
        "pause",
        "resume",
        "abort",
        "abort_rollback",
        "promote",
        "retry",
        "undo",
        "join",
        "approve",
        "deny",
    }
    assert steps >= {"is brought beside", "runs beside", "fails beside", "is suspended beside", "silent beside"}
    assert steps >= {"cries golden", "cries crash", "takes its word back", "is heard of"}
    assert steps >= {
        "the bundle is good",
        "the bundle is bad",
        "a check passes",
        "a check fails",
        "a check says nothing",
    }
    assert steps >= {"takes it up", "refuses", "further", "fails", "has trouble", "goes back", "commits", "silent"}


ALIKE = tuple(fleet for fleet in FLEETS if fleet.name not in {"a-liar-alone", "a-liar-of-two", "a-liar-of-three"})
"""Of the liars one fleet: what they add to the states is in it."""


@pytest.mark.parametrize("fleet", ALIKE, ids=lambda fleet: fleet.name)
def test_of_states_that_are_taken_for_one_the_same_follows(fleet: Fleet) -> None:
    explorer = Explorer(fleet, kept=1)
    explorer.explore(2_500, random.Random(4))
    assert explorer.compared > 20


def test_states_of_which_something_else_follows_and_that_are_taken_for_one_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explored_keys, "WAIT", 0)
    with pytest.raises(BrokenInvariantError, match="these differ"):
        Explorer(FLEETS[0], kept=1).explore(20_000, random.Random(4))


def test_a_small_fleet_is_explored_whole() -> None:
    """Of one device that is left to itself: a few thousand states, and none is left open."""
    quiet = replace(FLEETS[0], without=WITH_NOBODY_BETWEEN)
    first, second = Explorer(quiet), Explorer(quiet)
    assert first.explore(20_000, random.Random(1))
    assert second.explore(20_000, random.Random(2))
    assert first.seen == second.seen, "in whatever order"
    assert set(first.combinations) == set(second.combinations)


def test_every_end_of_a_rollout_is_met() -> None:
    explorer = Explorer(FLEETS[0])
    explorer.explore(20_000, random.Random(1))
    met = {name.partition("/")[0] for name in explorer.combinations}
    assert met >= {state.value for state in ROLLOUT_FINAL - {RolloutState.SUPERSEDED, RolloutState.REGRESSED}}


def node_of(explorer: Explorer, state: RolloutState, cell: StageState, one: AssignmentState) -> Node:
    """Return a state in which the first device stands so, and its stage so."""
    made = StageRun(0, ProfileName("rpi"), cell, cut=2**64, population=1)
    assignment = Assignment(DeviceId("d0"), 0, ProfileName("rpi"), one, gen=1, attempt=1)
    return replace(explorer.first(), state=state, cells=(made,), assignments=(assignment,))


def broken_by(state: RolloutState, cell: StageState, one: AssignmentState, *effects: object, step: str = "tick") -> str:
    """Return what the explorer says about a plan that a planner must never make."""
    explorer = Explorer(FLEETS[0])
    node = node_of(explorer, state, cell, one)
    with pytest.raises(BrokenInvariantError) as caught:
        explorer.carry(node, step, Plan(tuple(effects), None))  # type: ignore[arg-type]
    return str(caught.value).splitlines()[0]


RUNNING, PAUSED = RolloutState.RUNNING, RolloutState.PAUSED
OPEN, DONE = StageState.EXPOSING, StageState.PASSED


def failing_of_two(liar: int | None = None, **changes: object) -> tuple[Explorer, Node]:
    """Return a state of two devices in one stage: the first one failed, the other one is healthy."""
    explorer = Explorer(replace(BY_NAME["a-liar-of-two"], liar=liar))
    node = node_of(explorer, RUNNING, OPEN, AssignmentState.FAILED)
    (one,) = node.assignments
    (cell,) = node.cells
    liar_, other = (one.but(device=device, error_class="crash") for device in explorer.devices)
    other = other.but(state=AssignmentState.HEALTHY, error_class="", switched_at=node.now)
    documents = tuple(Document(1, new) for new in explorer.new)
    node = replace(node, cells=(replace(cell, population=2),), assignments=(liar_, other), documents=documents)
    return explorer, replace(node, **changes)  # type: ignore[arg-type]


def asked_of(explorer: Explorer, node: Node, **fields: object) -> Confirmation:
    """Return the question about the first device's failure."""
    first, second = explorer.devices
    made = Confirmation(
        number=0, stratum=ProfileName("rpi"), stage=0, how=How.SOAK, code="small_class", error_class="crash", sha256="x",
        words=[first], seed="a", most=1, opened_at=node.now, deadline=node.now, draws=[Draw(device=second, at=node.now)],
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def test_one_device_that_takes_the_release_back_from_another_is_noticed() -> None:
    explorer, node = failing_of_two()
    (cell,) = node.cells
    failed = StageRunTransitioned(OPEN, replace(cell, state=StageState.FAILED, code="small_class"))
    with pytest.raises(BrokenInvariantError, match=r"on the word of \['d\d'\] alone"):
        explorer.carry(node, "tick", Plan((failed,), None))
    proved = replace(node, confirmations=(asked_of(explorer, node, verdict=Verdict.PROVED),))
    assert explorer.carry(proved, "tick", Plan((failed,), None)).cells[0].state is StageState.FAILED
    explorer, node = failing_of_two(liar=0)
    with pytest.raises(BrokenInvariantError, match="another device than the one that lies"):
        explorer.carry(node, "tick", Plan((Revert(explorer.devices[1], is_rollback=True),), None))


def test_a_question_that_is_answered_twice_or_too_late_or_draws_too_many_is_noticed() -> None:
    explorer, node = failing_of_two()
    one = asked_of(explorer, node)
    late = replace(node, confirmations=(one,))
    with pytest.raises(BrokenInvariantError, match="not answered in time"):
        explorer.carry(late, "tick", Plan((), None))
    closed = replace(node, confirmations=(msgspec.structs.replace(one, verdict=Verdict.REFUTED),))
    with pytest.raises(BrokenInvariantError, match="answered twice"):
        explorer.carry(closed, "tick", Plan((ConfirmationUpdated(one),), None))
    draws = [Draw(device=device, at=node.now, is_new=True) for device in explorer.devices]
    many = msgspec.structs.replace(one, draws=draws, deadline=node.now + timedelta(hours=1))
    with pytest.raises(BrokenInvariantError, match="2 new devices were drawn"):
        explorer.carry(node, "tick", Plan((ConfirmationUpdated(many),), None))


def test_what_must_never_be_is_noticed() -> None:
    device = DeviceId("d0")
    offered, healthy = AssignmentState.OFFERED, AssignmentState.HEALTHY
    assert "offered while paused" in broken_by(PAUSED, OPEN, offered, Offer(device))
    assert "beyond its cut" in broken_by(RUNNING, StageState.PENDING, offered, Offer(device))
    passed = StageRun(0, ProfileName("rpi"), DONE, cut=2**64, population=1, verdict=VerdictKind.ADVANCE)
    assert "without its rule" in broken_by(
        RUNNING, StageState.JUDGING, healthy, StageRunTransitioned(StageState.JUDGING, passed)
    )
    ended = RolloutTransitioned(RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, "x", "y")
    assert "moves from a state that it is not in" in broken_by(RUNNING, OPEN, healthy, ended)
    again = RolloutTransitioned(RolloutState.FINISHED, RolloutState.REGRESSED, "x", "y")
    assert "moved by itself" in broken_by(RolloutState.FINISHED, DONE, healthy, again)
    assert "wrote over" in broken_by(RUNNING, OPEN, healthy, Revert(device, is_rollback=True))


def test_a_device_that_runs_it_and_is_not_named_is_noticed() -> None:
    explorer = Explorer(FLEETS[0])
    node = node_of(explorer, RolloutState.ROLLING_BACK, StageState.FAILED, AssignmentState.HEALTHY)
    (one,) = node.assignments
    said = replace(node.reports[0], active_sha256=explorer.new[0].sha256, phase=Phase.COMMITTED)
    node = replace(node, reports=(said,), assignments=(one.but(exposed_at=node.now),))
    ended = RolloutTransitioned(RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, "x", "it was bad")
    with pytest.raises(BrokenInvariantError, match="is not named"):
        explorer.carry(node, "tick", Plan((ended,), None))


def split_of_two(one: AssignmentState, stage: int = 0) -> tuple[Explorer, Node]:
    """Return a state in which a device stands so in a stage of a rollout that lets its version answer half of the requests first."""
    explorer = Explorer(BY_NAME["two-versions-then-the-winner-at-a-word"])
    node = node_of(explorer, RUNNING, OPEN, one)
    later = replace(node.cells[0], stage=1, state=StageState.PENDING, cut=0)
    assignments = (node.assignments[0].but(stage=stage),)
    return explorer, replace(node, cells=(node.cells[0], later), assignments=assignments)


def test_an_offer_lets_the_release_answer_what_its_stage_says_and_nothing_in_a_shadow() -> None:
    explorer, node = split_of_two(AssignmentState.OFFERED)
    document = explorer.carry(node, "tick", Plan((Offer(DeviceId("d0")),), None)).documents[0]
    assert (document.bundle, document.candidate, document.share) == (explorer.old[0], explorer.new[0], 50)
    shadow = Explorer(BY_NAME["a-shadow-then-all"])
    document = shadow.carry(node, "tick", Plan((Offer(DeviceId("d0")),), None)).documents[0]
    assert (document.bundle, document.candidate, document.share) == (shadow.old[0], shadow.new[0], 0)


@pytest.mark.parametrize(("share", "serves"), [(51, False), (0, True)], ids=["a-larger-share", "serves"])
def test_a_release_that_answers_more_than_its_stage_lets_it_is_noticed(share: int, serves: bool) -> None:
    explorer, node = split_of_two(AssignmentState.OFFERED)
    carrying = Carrying(explorer, node, "tick")
    active = explorer.new[0] if serves else explorer.old[0]
    carrying.documents[0] = Document(1, active, candidate=explorer.new[0], share=share)
    with pytest.raises(BrokenInvariantError, match="at most 50 % may be"):
        carrying._check_share(0, node.assignments[0])


def test_what_must_never_be_in_another_mode_is_noticed() -> None:
    explorer, node = split_of_two(AssignmentState.OFFERED, stage=1)
    with pytest.raises(BrokenInvariantError, match="another mode"):
        explorer.carry(node, "tick", Plan((Offer(DeviceId("d0")),), None))
    explorer, node = split_of_two(AssignmentState.HEALTHY)
    (one,) = node.assignments
    moved = AssignmentTransitioned(AssignmentState.HEALTHY, one.but(state=AssignmentState.ELIGIBLE))
    with pytest.raises(BrokenInvariantError, match="that ended moved"):
        explorer.carry(node, "tick", Plan((moved,), None))
    told = replace(node, documents=(replace(node.documents[0], candidate=explorer.new[0], share=50),))
    ended = RolloutTransitioned(RUNNING, RolloutState.CANCELLED, "x", "enough")
    with pytest.raises(BrokenInvariantError, match="still told to run it beside"):
        explorer.carry(told, "abort", Plan((ended,), None))
    with pytest.raises(BrokenInvariantError, match="ended beside what it did not begin"):
        explorer.carry(node, "tick", Plan((Revert(one.device, is_rollback=True, is_candidate=True),), None))


def test_who_was_out_of_reach_and_turns_out_to_run_it_is_waited_for() -> None:
    """Found after a million states: its second offer was not taken up, and its first one went on all the while."""
    explorer = Explorer(FLEETS[0])
    node = node_of(explorer, RolloutState.ROLLING_BACK, StageState.FAILED, AssignmentState.UNREACHABLE)
    (one,) = node.assignments
    away = one.but(
        attempt=2,
        gen=4,
        back_gen=5,
        previous=explorer.old[0],
        exposed_at=node.now,
        back_at=node.now,
        back_done_at=node.now,
    )
    said = replace(node.reports[0], phase=Phase.PROBATION, active_sha256=explorer.new[0].sha256, reported_gen=1)
    document = replace(node.documents[0], gen=5)
    node = replace(node, reports=(said,), assignments=(away,), documents=(document,))
    after = dict(explorer.next(node))["tick"]
    assert after.state is RolloutState.ROLLING_BACK
    late = replace(after, now=after.now + timedelta(hours=1))
    ended = dict(explorer.next(late))["tick"]
    assert ended.state is RolloutState.ROLLBACK_INCOMPLETE
    assert "d0" in ended.reason
    back = replace(said, phase=Phase.COMMITTED, active_sha256=explorer.old[0].sha256, reported_gen=5)
    assert dict(explorer.next(replace(after, reports=(back,))))["tick"].state is RolloutState.ROLLED_BACK


def test_who_took_an_offer_up_and_was_not_heard_to_know_of_its_withdrawal_is_waited_for() -> None:
    """Found after a million states: it went on with what was withdrawn, and had switched when the rollout was over."""
    explorer = Explorer(FLEETS[0])
    node = node_of(explorer, RolloutState.ROLLING_BACK, StageState.FAILED, AssignmentState.ELIGIBLE)
    (one,) = node.assignments
    withdrawn = one.but(gen=1, previous=explorer.old[0], exposed_at=node.now)
    said = replace(node.reports[0], phase=Phase.DOWNLOADING, reported_gen=1, wanted_sha256=explorer.new[0].sha256)
    document = replace(node.documents[0], gen=2)
    node = replace(node, reports=(said,), assignments=(withdrawn,), documents=(document,))
    after = dict(explorer.next(node))["tick"]
    assert after.state is RolloutState.ROLLING_BACK
    back = replace(said, phase=Phase.COMMITTED, reported_gen=2)
    assert dict(explorer.next(replace(after, reports=(back,))))["tick"].state is RolloutState.ROLLED_BACK
    knows = replace(node, reports=(replace(back, wanted_sha256=""),))
    assert dict(explorer.next(knows))["tick"].state is RolloutState.ROLLED_BACK, "who knows of it needs no waiting for"


def test_states_that_differ_in_counters_and_old_times_only_are_one() -> None:
    explorer = Explorer(FLEETS[0])
    node = node_of(explorer, RUNNING, OPEN, AssignmentState.OFFERED)
    (one,) = node.assignments
    higher = replace(node, assignments=(one.but(gen=7, attempt=3),))
    higher = replace(higher, documents=(replace(node.documents[0], gen=6),))
    lower = replace(node, documents=(replace(node.documents[0], gen=0),))
    assert explorer.key(node) == explorer.key(replace(node, assignments=(one.but(gen=5),)))
    assert explorer.key(higher) != explorer.key(lower), "a document that is newer than the report is another state"


def test_an_illegal_command_is_no_step() -> None:
    explorer = Explorer(FLEETS[0])
    names = [name for name, _ in explorer.next(explorer.first())]
    assert "pause" in names
    assert "resume" not in names
