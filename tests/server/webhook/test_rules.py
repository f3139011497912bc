"""Back-off, Retry-After and what a try came to: tables and properties."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.events.model import EventView
from edgefleet_server.webhook import rules
from edgefleet_server.webhook.model import DeliveryState

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=24)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_wait_grows_to_an_hour_and_is_shortened_by_at_most_half(failures: int, chance: float) -> None:
    full = rules.wait_of(failures, 0.0)
    assert full == min(timedelta(seconds=5) * 2 ** min(failures - 1, 20), timedelta(hours=1))
    assert full / 2 <= rules.wait_of(failures, chance) <= full


@given(
    st.none() | st.integers(100, 599),
    st.text(max_size=20),
    st.integers(1, 40),
    st.integers(-10, 90_000),
    st.floats(0, 1),
)
def test_a_try_ends_in_exactly_one_way(
    status: int | None, retry: str, attempts: int, left_s: int, chance: float
) -> None:
    give_up_at = NOW + timedelta(seconds=left_s)
    outcome = rules.outcome_of(status, retry, "" if status else "away", attempts, give_up_at, NOW, chance)
    is_taken = status is not None and 200 <= status < 300
    assert (outcome.state is DeliveryState.DELIVERED) == is_taken
    assert (outcome.next_at is not None) == (outcome.state is DeliveryState.PENDING)
    if outcome.state is DeliveryState.PENDING:
        assert outcome.next_at is not None
        assert NOW < outcome.next_at <= give_up_at
        assert outcome.error
    elif not is_taken:
        assert left_s <= 0 or status == 410
    assert outcome.gone == (status == 410)


@pytest.mark.parametrize(
    ("status", "retry", "wait_s"),
    [
        (429, "120", 120), (503, "Wed, 25 Nov 2026 12:10:00 GMT", 600), (503, "", 5), (503, "soon", 5), (429, "1", 5),
        (500, "120", 5), (429, "Wed, 25 Nov 2026 11:00:00 GMT", 5), (429, "9999999", 86_400),
    ],
)  # fmt: skip
def test_retry_after_is_honoured_of_a_busy_receiver(status: int, retry: str, wait_s: int) -> None:
    outcome = rules.outcome_of(status, retry, "", 1, LATER, NOW, 0.0)
    assert outcome.next_at == NOW + timedelta(seconds=wait_s)
    assert outcome.holds == (status in (429, 503))


def event(**changes: object) -> EventView:
    plain = {
        "id": 7, "device": "", "at": NOW, "received_at": NOW, "kind": "rollout", "type": "edgefleet.rollout.paused", "model": "m",
        "rollout": "r-1", "detail": {"to": "paused"},
    }  # fmt: skip
    return EventView(**{**plain, **changes})  # type: ignore[arg-type]


def test_a_message_is_the_same_bytes_each_time_and_a_huge_detail_is_left_out() -> None:
    assert rules.message_of(event(), "urn:edgefleet:t") == rules.message_of(event(), "urn:edgefleet:t")
    body = rules.message_of(event(detail={"x": "y" * 300_000}), "urn:edgefleet:t")
    assert len(body) < 1000
    assert b'"detail_left_out_bytes":300' in body


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "r:r-1"),
        ({"device": "d-1"}, "r:r-1"),
        ({"rollout": None, "device": "d-1"}, "d:d-1"),
        ({"rollout": None}, ""),
    ],
)
def test_order_is_kept_within_the_rollout_else_the_device(changes: dict[str, object], key: str) -> None:
    assert rules.order_key(event(**changes)) == key
