"""When the engine's thread ticks: whole ticks in time whatever the news, and rounds for news with as long between them."""

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.process.tick_schedule import GATHER_S, TickSchedule

EVERY_S = 2.0


def test_without_news_a_whole_tick_comes_when_it_is_due() -> None:
    assert TickSchedule(due_s=12.0).next(10.0) == (2.0, False)
    assert TickSchedule(due_s=12.0).next(13.0) == (0.0, False)


def test_news_are_gathered_and_taken_before_the_whole_tick() -> None:
    pace = TickSchedule(due_s=12.0).heard(10.0)
    assert pace.heard(10.05).next(10.05) == (10.0 + GATHER_S - 10.05, True)
    assert pace.next(11.0) == (0.0, True)
    assert TickSchedule(due_s=12.0).heard(11.95).next(11.95)[1] is False, "what is due comes first"


def test_after_long_news_whole_ticks_come_before_the_next() -> None:
    pace = TickSchedule(due_s=12.0).heard(10.0).began(10.1, is_woken=True)
    pace = pace.ended(11.1, EVERY_S, is_woken=True, is_behind=True)
    assert pace.next(11.1) == (0.0, False), "what is due waits for nothing"
    pace = pace.began(11.1, is_woken=False).ended(20.1, EVERY_S, is_woken=False, is_behind=False)
    pace = pace.heard(20.2)
    assert pace.next(20.2)[1] is False
    assert (pace.due_s, pace.news_from_s) == (22.1, 30.1)


@given(
    ticks=st.lists(
        st.tuples(st.floats(0.01, 5.0), st.booleans(), st.sampled_from([None, 0.0, 0.05, 1.0])), min_size=1, max_size=40
    )
)
def test_no_whole_tick_is_late_and_a_round_for_news_is_followed_by_as_long_without(
    ticks: list[tuple[float, bool, float | None]],
) -> None:
    now_s, pace, was_behind = 0.0, TickSchedule(due_s=EVERY_S), False
    round_s: float | None = None
    ended_s = took_s = 0.0
    for lasts_s, is_behind, news_after_s in ticks:
        if news_after_s is not None:
            pace = pace.heard(now_s - news_after_s)
        wait_s, is_woken = pace.next(now_s)
        assert wait_s <= max(0.0, pace.due_s - now_s)
        assert not was_behind or wait_s == 0.0
        assert not is_woken or pace.heard_s is not None
        now_s += wait_s
        if is_woken:
            assert now_s >= ended_s + took_s - 1e-6
            round_s = now_s if round_s is None else round_s
        pace = pace.began(now_s, is_woken=is_woken)
        assert not is_woken or pace.heard_s is None
        now_s += lasts_s
        pace = pace.ended(now_s, EVERY_S, is_woken=is_woken, is_behind=is_behind)
        if not is_behind and round_s is not None:
            ended_s, took_s, round_s = now_s, now_s - round_s, None
        was_behind = is_behind
        assert pace.due_s <= now_s + EVERY_S
