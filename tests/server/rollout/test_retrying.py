"""Tries after a failure: only of the moment, only so often, after a wait that doubles and is spread; a device's quarantine is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import HELD_CODE, TRANSIENT, AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.model import Assignment, Report
from edgefleet_server.rollout.planner.recall import RetryOutcome, backoff, may_retry, sequel
from edgefleet_server.rollout.spec.model import Retries
from edgefleet_server.rollout.state_machines import UNSWITCHED

NOW = datetime(2026, 11, 25, tzinfo=UTC)
DIGEST = "d" * 64
TERMS = Retries(3, (timedelta(minutes=2), timedelta(hours=1)))
PERMANENT = [one for one in ErrorClass if one not in TRANSIENT]


def assigned(state: AssignmentState = AssignmentState.DOWNLOADING, **fields: Any) -> Assignment:
    return Assignment(DeviceId("d-1"), 0, ProfileName("p"), state, **{"attempt": 2, "gen": 7} | fields)


def failed(error_class: ErrorClass, code: str = "x", **fields: Any) -> Report:
    told: dict[str, Any] = {"reported_gen": 7, "phase": Phase.FAILED, "wanted_sha256": DIGEST, "attempt": 2}
    return Report(**told | {"error_class": error_class, "error_code": code} | fields)


@pytest.mark.parametrize("error_class", [ErrorClass.NETWORK, ErrorClass.DISK])
def test_a_failure_of_the_moment_is_tried_again_until_the_last_try(error_class: ErrorClass) -> None:
    told = [sequel(assigned(retries=n), failed(error_class), DIGEST, TERMS) for n in range(5)]
    assert told == [RetryOutcome.AGAIN] * 3 + [RetryOutcome.FAIL] * 2


@pytest.mark.parametrize("error_class", [ErrorClass.MEMORY, ErrorClass.DEADLINE])
def test_a_class_that_is_not_listed_ends_it(error_class: ErrorClass) -> None:
    assert sequel(assigned(), failed(error_class), DIGEST, TERMS) is RetryOutcome.FAIL


@pytest.mark.parametrize("error_class", PERMANENT)
def test_permanent_classes_are_never_tried_again_whatever_the_spec_says(error_class: ErrorClass) -> None:
    everything = Retries(20, TERMS.backoff, tuple(ErrorClass))
    assert not may_retry(0, error_class, "", everything)
    assert sequel(assigned(), failed(error_class), DIGEST, everything) is None, "`observe` ends these"


def test_what_the_device_put_into_quarantine_is_not_tried_again() -> None:
    anything = Retries(20, TERMS.backoff, tuple(TRANSIENT))
    assert sequel(assigned(), failed(ErrorClass.MEMORY), DIGEST, anything) is RetryOutcome.AGAIN
    assert sequel(assigned(), failed(ErrorClass.MEMORY, "trial.over_declared"), DIGEST, anything) is RetryOutcome.FAIL


@pytest.mark.parametrize(
    "report",
    [
        None,
        failed(ErrorClass.NETWORK, attempt=1),
        failed(ErrorClass.NETWORK, wanted_sha256="e" * 64),
        failed(ErrorClass.NETWORK, reported_gen=6),
        failed(ErrorClass.NETWORK, HELD_CODE),
        failed(ErrorClass.NETWORK, phase=Phase.DOWNLOADING),
    ],
    ids=["silent", "an earlier try", "another bundle", "an older document", "our own brake", "at it again"],
)
def test_what_is_no_failure_of_this_try_is_left_alone(report: Report | None) -> None:
    assert sequel(assigned(), report, DIGEST, TERMS) is None


def test_without_the_policy_and_after_the_switch_the_device_is_left_to_itself() -> None:
    network = failed(ErrorClass.NETWORK)
    assert sequel(assigned(), network, DIGEST, None) is None
    for state in set(AssignmentState) - UNSWITCHED:
        assert sequel(assigned(state), network, DIGEST, TERMS) is None
    assert sequel(assigned(back_gen=9), network, DIGEST, TERMS) is None


@given(st.integers(1, 3600), st.integers(0, 86_400), st.integers(0, 60), st.text("ab12", min_size=1, max_size=8))
def test_a_wait_is_between_half_and_all_of_what_doubles(least_s: int, more_s: int, done: int, device: str) -> None:
    terms = Retries(5, (timedelta(seconds=least_s), timedelta(seconds=least_s + more_s)))
    whole = min(least_s * 2.0**done, least_s + more_s)
    wait_s = backoff(terms, done, "salt", device).total_seconds()
    assert whole / 2 - 1e-3 <= wait_s <= whole + 1e-3
    assert backoff(terms, done, "salt", device).total_seconds() == wait_s


def test_waits_of_a_fleet_are_spread_evenly() -> None:
    waits = [backoff(TERMS, 0, "salt", f"d-{n}").total_seconds() for n in range(2000)]
    quarters = [sum(60 + 15 * q <= wait < 75 + 15 * q for wait in waits) for q in range(4)]
    assert min(quarters) > 400, quarters
