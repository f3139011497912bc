"""Which leaves are asked for, and when again: rules by table, and pulls over lines of every kind in virtual time."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgefleet_agent.verifier.block_scheduler import (
    LONGEST_S,
    PATIENT_WAITS,
    SHORTEST_S,
    UNKNOWN_S,
    Ask,
    BlockScheduler,
    RoundTrip,
)
from edgefleet_protocol.blocks import MAX_CREDIT, MAX_REPEATS
from tests.agent.pull_line import Line


def puller(count: int = 40, credit: int = 8, **options: object) -> BlockScheduler:
    """Return a puller that has measured its line: 20 ms."""
    return BlockScheduler(count, credit, line=RoundTrip().seen(0.02), is_measured=True, **options)  # type: ignore[arg-type]


def asked(one: BlockScheduler, now_s: float) -> Ask:
    """Return the next request, which there must be."""
    ask = one.next_ask(now_s)
    assert ask is not None
    return ask


# ---- the round trip


@pytest.mark.parametrize(
    ("samples", "timeout_s"),
    [
        ([], UNKNOWN_S),
        ([2.0], 6.0),  # R + 4 × R / 2
        ([2.0, 2.0], 5.0),  # the deviation: 3/4 × 1
        ([2.0, 4.0], 2.25 + 4 * 1.25),
        ([0.001], 0.5),
        ([30.0], LONGEST_S),
    ],
)
def test_the_timeout_is_that_of_rfc_6298(samples: list[float], timeout_s: float) -> None:
    line = RoundTrip()
    for sample in samples:
        line = line.seen(sample)
    assert line.timeout_s(0.5) == pytest.approx(timeout_s)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=40))
def test_the_estimate_lies_within_what_was_seen(samples: list[float]) -> None:
    line = RoundTrip()
    for sample in samples:
        line = line.seen(sample)
    assert line.smoothed_s is not None
    assert min(samples) - 1e-9 <= line.smoothed_s <= max(samples) + 1e-9
    assert 0 <= line.spread_s <= max(samples)


# ---- the rules


def test_an_unanswered_request_is_repeated_under_new_ids_before_leaves_are_asked_for_anew() -> None:
    one = puller()
    first = asked(one, 0.0)
    assert one.next_ask(0.05) is None
    now_s, repeats = 0.0, []
    while (now_s := now_s + one.wait_s(now_s)) < SHORTEST_S:
        one.expire(now_s)
        repeats.append(asked(one, now_s))
    assert [again.repeats for again in repeats] == list(range(1, MAX_REPEATS + 1))
    assert all(again.wanted == first.wanted and again.req_id == first.req_id + again.repeats for again in repeats)
    one.expire(SHORTEST_S)
    anew = asked(one, SHORTEST_S)
    assert (anew.repeats, anew.wanted[0]) == (0, 0)
    assert anew.credit < first.credit


def test_what_flows_is_not_asked_for_again_however_slowly() -> None:
    one = puller(count=20, credit=2)
    ask = asked(one, 0.0)
    for i, leaf in enumerate(ask.wanted[:3]):
        now_s = 0.05 + 0.9 * i
        one.expire(now_s)
        assert one.next_ask(now_s) is None
        one.heard(ask.req_id, now_s)
        one.got(leaf)
    assert one.in_flight


def test_an_answer_to_a_repeat_counts_for_the_request_and_is_measured_from_its_own_sending() -> None:
    one = puller(count=4)
    asked(one, 0.0)
    again = asked(one, 0.5)
    one.heard(again.req_id, 0.52)
    assert one.line.smoothed_s == pytest.approx(0.02)
    assert one.next_ask(0.7) is None  # it is heard: nothing to repeat, the rest is on its way


def test_data_of_a_newer_request_says_that_older_ones_will_not_come() -> None:
    one = puller(count=40, credit=2)
    first = asked(one, 0.0)
    one.heard(first.req_id, 0.02)
    for leaf in first.wanted[:4]:
        one.got(leaf)
    second = asked(one, 0.02)
    assert set(first.wanted[4:]) <= set(one.in_flight)
    one.heard(second.req_id, 0.05)
    assert not set(first.wanted[4:]) & set(one.in_flight)


def test_what_is_late_is_measured_and_what_comes_with_it_is_waited_for() -> None:
    one = puller(count=40)
    first = asked(one, 0.0)
    one.expire(1.0)
    anew = asked(one, 1.0)
    assert len(anew.wanted) < len(first.wanted)
    one.heard(first.req_id, 3.0)
    one.got(first.wanted[0])
    assert set(first.wanted[1:]) <= set(one.in_flight)
    assert one.line.timeout_s(SHORTEST_S) > 3.0


def test_the_first_request_is_for_one_leaf_and_a_slow_line_gets_small_messages() -> None:
    one = BlockScheduler(40, 8, line=RoundTrip().seen(0.1))
    ask = asked(one, 0.0)
    assert ask.wanted == [0]
    one.heard(ask.req_id, 4.0)
    one.got(0)
    assert one.leaves_per_message == 2  # 4.0 + 3.9 s, where four would take 15.7 s
    assert len(asked(one, 4.0).wanted) == 16


def test_many_waits_in_a_row_make_it_patient_and_one_answer_does_not_need_that_any_more() -> None:
    one = puller(count=1)
    now_s = 0.0
    for _ in range(PATIENT_WAITS):
        ask = asked(one, now_s)
        now_s += SHORTEST_S
        one.expire(now_s)
    ask = asked(one, now_s)
    one.expire(now_s + SHORTEST_S)
    assert one.in_flight
    one.heard(ask.req_id, now_s + 0.02)
    assert one.silent_waits == 0


def test_a_busy_server_is_left_alone_for_as_long_as_it_says() -> None:
    one = puller()
    asked(one, 0.0)
    one.busy(0.1, 1.0)
    assert one.next_ask(1.0) is None
    assert one.next_ask(1.2) is not None


def test_a_new_connection_makes_all_that_was_in_flight_missing() -> None:
    one = puller()
    first = asked(one, 0.0)
    one.relink()
    again = asked(one, 0.0)
    assert (again.wanted, again.repeats) == (first.wanted, 0)
    one.heard(first.req_id, 0.5)  # nobody can have sent that on the new connection
    assert one.next_ask(0.5) is not None


# ---- over lines of every kind


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.floats(0.001, 5), st.sampled_from([1e9, 1e6, 1e5]))
def test_over_a_whole_line_nothing_comes_twice(count: int, latency_s: float, bytes_per_s: float) -> None:
    line = Line(count, latency_s, bytes_per_s).run()
    assert line.extra_leaves == 0
    assert line.puller.credit <= MAX_CREDIT


@pytest.mark.parametrize(("bytes_per_s", "most"), [(1e4, 3), (2e3, 16), (800.0, 28)])
def test_over_a_line_that_takes_seconds_for_a_leaf_only_the_first_one_comes_again(
    bytes_per_s: float, most: int
) -> None:
    line = Line(60, bytes_per_s=bytes_per_s).run()
    assert line.extra_leaves == line.probes - 1 <= most


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.floats(0.001, 0.1), st.sampled_from([0.1, 0.3, 0.7]), st.integers(0, 1_000_000))
def test_what_is_lost_is_asked_for_again_and_nothing_else(count: int, latency_s: float, lose: float, seed: int) -> None:
    assert Line(count, latency_s, lose=lose, seed=seed).run().extra_leaves == 0


def test_an_update_of_ten_leaves_takes_less_than_a_minute_where_seventy_percent_is_lost() -> None:
    seconds = [Line(10, lose=0.7, seed=seed).run().now_s for seed in range(100)]
    assert max(seconds) < 60
    assert sum(seconds) / len(seconds) < 15


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0.1, 30), st.integers(0, 1000))
@example(1.0, 0.9921875, 0)
def test_a_stall_costs_no_more_than_what_is_asked_for_in_it(begins_s: float, lasts_s: float, seed: int) -> None:
    line = Line(200, bytes_per_s=5e6, stall_s=(begins_s, begins_s + lasts_s), seed=seed).run()
    heard_s = lasts_s + line.latency_s  # it ends one way later for who waits
    assert line.extra_leaves <= 16 + 4 * (heard_s + 1)  # a quarter of the window, then a message a second


def test_a_server_that_answers_repeats_too_sends_twice_what_is_late() -> None:
    """That the server leaves repeats out is what keeps them free: a round trip above their interval shows it."""
    late = {"count": 10, "bytes_per_s": 1e9, "stall_s": (0.03, 0.9)}
    assert Line(**late).run().extra_leaves == 0  # type: ignore[arg-type]
    assert Line(**late, takes_repeats=False).run().extra_leaves > 0  # type: ignore[arg-type]
