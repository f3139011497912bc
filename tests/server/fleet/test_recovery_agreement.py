"""When devices agree that a server was restored, and whom it asks: a table, and what holds for any words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.fleet.reported.recovery_agreement import (
    A_DAY,
    AGREEING,
    ANSWER_WITHIN,
    ASK_AGAIN,
    MAX_ASKED,
    SAMPLE,
    Agreement,
    Question,
    Word,
    next_step,
)

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
LOWEST = 100
SECOND = timedelta(seconds=1)


def said(name: str, version: int = 200, *, ago: float = 60, asked: float | None = None) -> Word:
    """Return a word said so many seconds ago, by a device that was asked so many seconds ago."""
    at = NOW - timedelta(seconds=ago)
    return Word(DeviceId(name), version, at, at, None if asked is None else NOW - timedelta(seconds=asked))


def silent(name: str, asked: float) -> Word:
    """Return a device that was asked and has not answered."""
    return Word(DeviceId(name), asked_at=NOW - timedelta(seconds=asked))


FIRST = said("first", ago=100)
YES = [said(f"yes-{number}", 300 + number, ago=30, asked=40) for number in range(3)]


def question(count: int, *without: str) -> Question:
    """Return a question."""
    return Question(count, frozenset(map(DeviceId, without)))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        ([silent("a", 5)], None),
        ([said("a", 99)], None),
        ([said("a", 0)], None),
        ([FIRST], question(SAMPLE, "first")),
        ([FIRST, said("loud"), said("louder")], question(SAMPLE, "first")),
        ([FIRST, silent("a", 5)], question(SAMPLE - 1, "first", "a")),
        ([FIRST, YES[0]], question(SAMPLE - 1, "first", "yes-0")),
        ([FIRST, *YES[:2]], Agreement(300, DeviceId("first"), (DeviceId("yes-0"), DeviceId("yes-1")))),
        ([FIRST, *YES], Agreement(301, DeviceId("first"), tuple(DeviceId(f"yes-{i}") for i in range(3)))),
        ([replace(FIRST, version=2**50), *YES[:2]], Agreement(301, DeviceId("first"), (DeviceId("yes-0"), DeviceId("yes-1")))),
        ([FIRST, YES[0], said("early", ago=50, asked=40)], question(SAMPLE - 2, "first", "yes-0", "early")),
        ([FIRST, YES[0], said("late", ago=1, asked=3602)], question(SAMPLE - 1, "first", "yes-0", "late")),
        ([FIRST, YES[0], said("low", 99, ago=30, asked=40)], question(SAMPLE - 2, "first", "yes-0", "low")),
        ([replace(FIRST, asked_at=NOW - 90 * SECOND, said_at=NOW), YES[0]], question(SAMPLE - 2, "first", "yes-0")),
        ([FIRST, *(silent(f"s{i}", 5) for i in range(SAMPLE))], None),
        ([FIRST, *(silent(f"s{i}", 601) for i in range(SAMPLE))], question(SAMPLE, "first", *(f"s{i}" for i in range(SAMPLE)))),
        ([FIRST, *(silent(f"s{i}", 86_000) for i in range(MAX_ASKED))], None),
        ([FIRST, *(silent(f"s{i}", 86_401) for i in range(MAX_ASKED))], question(SAMPLE, "first")),
    ],
)  # fmt: skip
def test_what_follows_from_words(words: list[Word], expected: Agreement | Question | None) -> None:
    assert next_step(words, LOWEST, NOW) == expected


MOMENTS = st.none() | st.integers(0, 100_000).map(lambda ago: NOW - timedelta(seconds=ago))
WORDS = st.lists(
    st.builds(
        Word,
        st.sampled_from([DeviceId(f"d-{number}") for number in range(30)]),
        st.integers(0, 300),
        MOMENTS,
        MOMENTS,
        MOMENTS,
    ),
    max_size=30,
    unique_by=lambda word: word.device,
)


@given(WORDS)
def test_whatever_is_said_two_drawn_devices_besides_the_first_must_say_it(words: list[Word]) -> None:
    step = next_step(words, LOWEST, NOW)
    by_device = {word.device: word for word in words}
    if isinstance(step, Agreement):
        assert len(step.confirmed_by) >= AGREEING
        assert step.first not in step.confirmed_by
        for device in step.confirmed_by:
            word = by_device[device]
            assert word.asked_at is not None
            assert word.said_at is not None
            assert word.asked_at <= word.said_at <= word.asked_at + ANSWER_WITHIN
            assert word.version >= LOWEST
        agreeing = [by_device[one].version for one in (step.first, *step.confirmed_by)]
        assert sum(version >= step.version for version in agreeing) >= 2
        assert step.version >= LOWEST
    elif isinstance(step, Question):
        asked = [word for word in words if word.asked_at and NOW - word.asked_at < A_DAY]
        assert 1 <= step.count <= SAMPLE
        assert len(asked) + step.count <= MAX_ASKED
        assert {word.device for word in asked} <= step.without


@given(WORDS, st.integers(0, 2**62))
def test_one_device_alone_never_makes_devices_agree(words: list[Word], version: int) -> None:
    silent_ones = [replace(word, version=0, first_at=None, said_at=None) for word in words]
    liar = Word(DeviceId("liar"), version, NOW - SECOND, NOW, NOW - SECOND)
    assert not isinstance(next_step([*silent_ones, liar], LOWEST, NOW), Agreement)


def test_a_lie_repeated_all_day_asks_no_more_than_so_many() -> None:
    fleet = [DeviceId(f"d-{number:03}") for number in range(100)]
    words = {DeviceId("liar"): Word(DeviceId("liar"), 2**50, NOW, NOW)}
    asked = 0
    for minute in range(24 * 60):
        now = NOW + timedelta(minutes=minute)
        step = next_step(list(words.values()), LOWEST, now)
        assert not isinstance(step, Agreement)
        if step is not None:
            drawn = [one for one in fleet if one not in step.without][: step.count]
            words |= {one: Word(one, asked_at=now) for one in drawn}
            asked += len(drawn)
            assert minute % (ASK_AGAIN.total_seconds() / 60) == 0
    assert asked == MAX_ASKED
