"""The three tables of a rollout: total, reachable, absorbing where they must be."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.messages import AssignmentState, assignment_of
from edgefleet_protocol.messages import Phase as DevicePhase
from edgefleet_server.rollout.model import RolloutState, StageState
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_FINAL,
    ASSIGNMENT_TRANSITIONS,
    CELL_DONE,
    CELL_OPEN,
    CHAIN,
    CHAIN_EVENTS,
    EXPOSED_STATES,
    FAILED_STATES,
    IN_FLIGHT,
    ROLLOUT_ACTIVE,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
    UNSWITCHED,
    AssignmentEvent,
    IllegalTransitionError,
    RolloutEvent,
    StageEvent,
    forward,
    step_assignment,
    step_rollout,
    step_stage,
)
from edgefleet_terms.rollout_states import ROLLOUT_FINAL

Table = Mapping[tuple[Any, Any], Any]
MACHINES: list[tuple[Table, Callable[..., Any], type[StrEnum], type[StrEnum], StrEnum]] = [
    (ROLLOUT_TRANSITIONS, step_rollout, RolloutState, RolloutEvent, RolloutState.DRAFT),
    (STAGE_TRANSITIONS, step_stage, StageState, StageEvent, StageState.PENDING),
    (ASSIGNMENT_TRANSITIONS, step_assignment, AssignmentState, AssignmentEvent, AssignmentState.ELIGIBLE),
]
UNHURRIED = settings(deadline=None)  # a busy machine is no failure
NAMES = ["rollout", "stage", "assignment"]
A, AE, R, RE, S, SE = AssignmentState, AssignmentEvent, RolloutState, RolloutEvent, StageState, StageEvent


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
def test_every_state_and_event_is_in_the_table_or_refused(machine: Any) -> None:
    table, step, states, events, _ = machine
    for state in states:
        for event in events:
            if (state, event) in table:
                assert step(state, event) is table[state, event]
            else:
                with pytest.raises(IllegalTransitionError, match=f"{event} cannot happen in state {state}"):
                    step(state, event)
    assert {event for _, event in table} == set(events), "an event that never happens"


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
def test_every_state_can_be_reached(machine: Any) -> None:
    table, _, states, _, first = machine
    reached = {first}
    while new := {to for (state, _), to in table.items() if state in reached} - reached:
        reached |= new
    assert reached == set(states)


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
def test_no_event_leaves_everything_as_it_was(machine: Any) -> None:
    """A stored transition has an event row: one that changes nothing would be told as if it did."""
    table = machine[0]
    assert not [(state, event) for (state, event), to in table.items() if to is state]


@pytest.mark.parametrize("machine", MACHINES, ids=NAMES)
@UNHURRIED
@given(data=st.data())
def test_a_walk_stays_inside_the_states(machine: Any, data: st.DataObject) -> None:
    table, step, states, events, state = machine
    for event in data.draw(st.lists(st.sampled_from(list(events)), max_size=40)):
        try:
            after = step(state, event)
        except IllegalTransitionError:
            assert (state, event) not in table
            continue
        assert isinstance(after, states)
        state = after


def ways_out(table: Table, states: frozenset[Any]) -> set[tuple[Any, Any, Any]]:
    return {(state, event, to) for (state, event), to in table.items() if state in states}


def test_an_ended_rollout_can_only_regress_and_be_taken_back() -> None:
    assert ways_out(ROLLOUT_TRANSITIONS, ROLLOUT_FINAL) == {
        (R.FINISHED, RE.REGRESS, R.REGRESSED),
        (R.FINISHED, RE.REOPEN, R.RUNNING),
        (R.REGRESSED, RE.ROLL_BACK, R.ROLLING_BACK),
    }
    assert ROLLOUT_ACTIVE | ROLLOUT_FINAL | {R.DRAFT} == set(R)
    assert not ROLLOUT_ACTIVE & ROLLOUT_FINAL


def test_every_rollout_that_has_not_ended_can_be_cancelled_and_superseded() -> None:
    for state in ROLLOUT_ACTIVE | {R.DRAFT}:
        assert step_rollout(state, RE.CANCEL) is R.CANCELLED
        assert step_rollout(state, RE.SUPERSEDE) is R.SUPERSEDED


def test_a_done_cell_moves_only_when_its_evidence_turns_after_the_end() -> None:
    assert ways_out(STAGE_TRANSITIONS, CELL_DONE) == {(S.PASSED, SE.REGRESS, S.FAILED)}
    assert CELL_OPEN | CELL_DONE | {S.PENDING, S.HELD} == set(S)


def test_a_stage_passes_only_after_it_opened() -> None:
    before = {state for (state, event), to in STAGE_TRANSITIONS.items() if to is S.PASSED}
    assert before == CELL_OPEN | {S.HELD}
    assert {event for (state, event), to in STAGE_TRANSITIONS.items() if state is S.PENDING} == {SE.OPEN, SE.SKIP}


def test_an_ended_assignment_leaves_only_in_the_named_ways() -> None:
    assert ways_out(ASSIGNMENT_TRANSITIONS, ASSIGNMENT_FINAL) == {
        (A.HEALTHY, AE.REGRESS, A.REGRESSED),
        (A.HEALTHY, AE.ROLL_BACK_REMOTE, A.ROLLED_BACK),
        (A.HEALTHY, AE.SUPERSEDE, A.SUPERSEDED),
        (A.HEALTHY, AE.GO_ON, A.ELIGIBLE),
        (A.REGRESSED, AE.ROLL_BACK_REMOTE, A.ROLLED_BACK),
        *((failure, AE.TRY_AGAIN, A.ELIGIBLE) for failure in FAILED_STATES),
    }
    assert ASSIGNMENT_FINAL | IN_FLIGHT | {A.ELIGIBLE, A.UNREACHABLE} == set(A)


def test_a_failure_never_becomes_healthy_unless_a_person_has_it_tried_again() -> None:
    reached = set(FAILED_STATES)
    by_itself = {key: to for key, to in ASSIGNMENT_TRANSITIONS.items() if key[1] is not AE.TRY_AGAIN}
    while new := {to for (state, _), to in by_itself.items() if state in reached} - reached:
        reached |= new
    assert A.HEALTHY not in reached


def test_any_forward_move_along_the_chain_is_legal_and_no_backward_one() -> None:
    for place, state in enumerate(CHAIN):
        for other, target in enumerate(CHAIN):
            event = forward(state, target)
            if other > place:
                assert event is not None
                assert step_assignment(state, event) is target
            else:
                assert event is None


def test_an_unreachable_device_may_come_back_with_any_report() -> None:
    for state in CHAIN[2:]:
        event = forward(A.UNREACHABLE, state)
        assert event is not None
        assert step_assignment(A.UNREACHABLE, event) is state
    assert step_assignment(A.UNREACHABLE, AE.FAIL) is A.FAILED
    assert forward(A.UNREACHABLE, A.OFFERED) is None, "the server does not offer twice without taking back"


@pytest.mark.parametrize("phase", list(DevicePhase))
def test_whatever_a_device_reports_after_an_offer_has_an_event(phase: DevicePhase) -> None:
    reported = assignment_of(phase)
    special = {A.FAILED: AE.FAIL, A.ROLLED_BACK: AE.ROLL_BACK_LOCAL}
    event = special.get(reported) or forward(A.OFFERED, reported)
    assert event is not None
    assert step_assignment(A.OFFERED, event) is reported


def test_a_pause_withdraws_just_what_has_not_begun_to_switch() -> None:
    withdrawable = {state for (state, event) in ASSIGNMENT_TRANSITIONS if event is AE.WITHDRAW}
    assert withdrawable == UNSWITCHED == {A.OFFERED, A.ACKED, A.DOWNLOADING, A.STAGED, A.PARITY_OK}
    assert {ASSIGNMENT_TRANSITIONS[state, AE.WITHDRAW] for state in UNSWITCHED} == {A.ELIGIBLE}


def test_silence_before_the_device_took_it_up_is_unreachable_and_after_it_lost() -> None:
    assert {state for (state, event) in ASSIGNMENT_TRANSITIONS if event is AE.MISS} == {A.ELIGIBLE, A.OFFERED}
    assert {state for (state, event) in ASSIGNMENT_TRANSITIONS if event is AE.LOSE} == IN_FLIGHT - {A.OFFERED}


def test_the_server_takes_back_what_it_offered_but_leaves_failures_what_they_are() -> None:
    taken_back = {state for (state, event) in ASSIGNMENT_TRANSITIONS if event is AE.ROLL_BACK_REMOTE}
    assert taken_back == IN_FLIGHT | {A.HEALTHY, A.REGRESSED, A.UNREACHABLE}


def test_the_named_sets_are_what_the_design_says() -> None:
    assert set(CHAIN[CHAIN.index(A.ACKED) :]) | FAILED_STATES == EXPOSED_STATES
    assert not EXPOSED_STATES & {A.ELIGIBLE, A.OFFERED, A.UNREACHABLE, A.INCOMPATIBLE, A.SUPERSEDED, A.CANCELLED}
    assert set(CHAIN_EVENTS) == set(CHAIN) - {A.ELIGIBLE}
    assert [CHAIN_EVENTS[state] for state in CHAIN[1:]] == list(AE)[: len(CHAIN) - 1]
    for earlier, later in pairwise(CHAIN):
        assert step_assignment(earlier, CHAIN_EVENTS[later]) is later
