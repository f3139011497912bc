"""The pure rules of triggers and retrainings: tables, and properties over anything."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.retraining.model import OPEN, RunState, TriggerOn
from edgefleet_server.retraining.run_steps import (
    GIVEN_BACK_MOST,
    LOST_MOST,
    STEPS,
    IllegalStepError,
    RunEvent,
    is_open,
    pause_after,
    step,
)
from edgefleet_server.retraining.trigger_rules import CauseSeen, TriggerHistory, TriggerTerms, decide, may_start, used

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TERMS = TriggerTerms(TriggerOn.DRIFT, True, HOUR, 24 * HOUR, 2, timedelta(days=30))
OLD = CauseSeen(NOW - 2 * HOUR, "the mean moved")


@pytest.mark.parametrize(
    ("terms", "cause", "history", "words"),
    [
        (TriggerTerms(TriggerOn.DRIFT, False, HOUR, HOUR, 2, HOUR), OLD, TriggerHistory(), "switched off"),
        (TriggerTerms(TriggerOn.HAND, True, HOUR, HOUR, 2, HOUR), OLD, TriggerHistory(), "by hand only"),
        (TERMS, OLD, TriggerHistory("rt-1"), "rt-1 of its model is under way"),
        (TERMS, None, TriggerHistory(), "waits for drift"),
        (TERMS, CauseSeen(NOW - HOUR / 2, "x"), TriggerHistory(), "has to last until 2026-12-01 12:30 UTC"),
        (TERMS, OLD, TriggerHistory("", NOW - 23 * HOUR, [NOW - 23 * HOUR]), "cools down until 2026-12-01 13:00 UTC"),
        (TERMS, OLD, TriggerHistory("", None, [NOW - 2 * HOUR, NOW - HOUR]), "its budget is used: 2 of 2"),
        (TriggerTerms(TriggerOn.DRIFT, True, HOUR, HOUR, 0, HOUR), OLD, TriggerHistory(), "its budget is 0"),
    ],
)
def test_the_first_rule_that_holds_a_trigger_says_so(
    terms: TriggerTerms, cause: CauseSeen | None, history: TriggerHistory, words: str
) -> None:
    found = decide(terms, cause, history, NOW)
    assert (found.fires, words in found.words) == (False, True), found.words


def test_what_nothing_holds_fires_with_its_cause() -> None:
    assert decide(TERMS, OLD, TriggerHistory("", NOW - 24 * HOUR, [NOW - 24 * HOUR]), NOW).words == "the mean moved"
    assert decide(TERMS, OLD, TriggerHistory("", None, [NOW - timedelta(days=30), NOW - HOUR]), NOW).fires


def test_by_hand_waits_for_no_cool_down_and_for_its_budget() -> None:
    just = TriggerHistory("", NOW - HOUR, [NOW - HOUR])
    assert may_start(TERMS, just, NOW).fires
    assert not may_start(TERMS, TriggerHistory("", NOW, [NOW - HOUR, NOW]), NOW).fires
    assert not may_start(TERMS, TriggerHistory("rt-1"), NOW).fires


SECONDS = st.integers(0, 40 * 86_400)


@st.composite
def stories(draw: st.DrawFn) -> tuple[TriggerTerms, list[tuple[datetime, bool, CauseSeen | None]]]:
    """Draw a trigger, and moments at which it is looked at or started by hand."""
    terms = TriggerTerms(
        draw(st.sampled_from(list(TriggerOn))),
        draw(st.booleans()) or draw(st.booleans()),
        timedelta(seconds=draw(st.integers(0, 7200))),
        timedelta(seconds=draw(st.integers(0, 5 * 86_400))),
        draw(st.integers(0, 4)),
        timedelta(seconds=draw(st.integers(60, 20 * 86_400))),
    )
    looks = []
    for at in sorted(draw(st.lists(SECONDS, max_size=40))):
        since = draw(st.none() | st.integers(0, at))
        cause = None if since is None else CauseSeen(NOW + timedelta(seconds=since), "it moved")
        looks.append((NOW + timedelta(seconds=at), draw(st.booleans()), cause))
    return terms, looks


@given(stories())
def test_no_story_fires_more_than_cool_down_and_budget_allow(
    story: tuple[TriggerTerms, list[tuple[datetime, bool, CauseSeen | None]]],
) -> None:
    terms, looks = story
    made: list[datetime] = []
    own: list[datetime] = []
    for at, is_own, cause in looks:
        history = TriggerHistory("", own[-1] if own else None, made)
        found = decide(terms, cause, history, at) if is_own else may_start(terms, history, at)
        assert found.words
        if found.until is not None:
            assert not found.fires
            assert found.until > at
        if not found.fires:
            continue
        assert terms.enabled
        assert not is_own or (cause is not None and terms.on is not TriggerOn.HAND)
        made.append(at)
        own += [at] if is_own else []
    assert all(later - earlier >= terms.cool_down for earlier, later in itertools.pairwise(own))
    for one in made:
        assert used(terms, TriggerHistory("", None, [at for at in made if at <= one]), one) <= terms.budget


@given(st.sampled_from(list(RunState)), st.lists(st.sampled_from(list(RunEvent)), max_size=30))
def test_a_retraining_that_has_ended_stays_as_it_is(state: RunState, events: list[RunEvent]) -> None:
    for event in events:
        try:
            after = step(state, event)
        except IllegalStepError:
            continue
        assert is_open(state)
        state = after


def test_nothing_is_trained_before_an_approval_and_every_open_state_has_an_end() -> None:
    assert {after for (before, _), after in STEPS.items() if before is RunState.AWAITING_APPROVAL} == {
        RunState.COLLECTING, RunState.REJECTED, RunState.EXPIRED, RunState.CANCELLED,
    }  # fmt: skip
    for state in OPEN:
        assert any(before is state and not is_open(after) for (before, _), after in STEPS.items())


@pytest.mark.parametrize(
    ("lost", "given_back", "minutes"),
    [(1, 0, 0), (4, 0, 0), (5, 0, None), (0, 1, 0), (0, 2, 1), (0, 3, 2), (0, 7, 32), (0, 8, 60), (0, 19, 60), (0, 20, None), (4, 19, 60)],
)  # fmt: skip
def test_what_is_given_back_waits_longer_each_time_and_ends(lost: int, given_back: int, minutes: int | None) -> None:
    assert pause_after(lost, given_back) == (None if minutes is None else timedelta(minutes=minutes))


@given(st.lists(st.booleans(), min_size=LOST_MOST + GIVEN_BACK_MOST, max_size=60))
def test_no_runners_take_and_leave_a_retraining_for_ever(are_given_back: list[bool]) -> None:
    lost = given_back = 0
    for is_given_back in are_given_back:
        lost, given_back = (lost, given_back + 1) if is_given_back else (lost + 1, given_back)
        if pause_after(lost, given_back) is None:
            break
    assert pause_after(lost, given_back) is None
    assert lost <= LOST_MOST
    assert given_back <= GIVEN_BACK_MOST
