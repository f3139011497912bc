"""Many words of presence at once leave what the same words leave one after another."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Presence
from edgefleet_server.fleet.presence.model import MOST_A_DAY, Absence, Place
from edgefleet_server.fleet.reported.presence_fold import Standing, folded, together

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TODAY = int(NOW.timestamp()) // 86_400
ONE, TWO = DeviceId("d-1"), DeviceId("d-2")


def ago(seconds: float) -> datetime:
    """Return a moment before now."""
    return NOW - timedelta(seconds=seconds)


NEW = Standing(enrolled_at=ago(600), absences=[])
HERE = replace(NEW, is_online=True, conn_id="c1", last_seen=ago(60))
GONE = replace(HERE, is_online=False, offline_since=ago(90))
UNHEARD = replace(HERE, is_online=None, offline_since=ago(30))


def on(conn: str = "c2") -> Presence:
    """Return a word of a device that is there."""
    return Presence(on=True, conn_id=conn, boot_id="b", ts=0)


def off(conn: str = "c2") -> Presence:
    """Return the last will of a connection."""
    return Presence(on=False, conn_id=conn, boot_id="b", ts=0)


@pytest.mark.parametrize(
    ("before", "words", "online", "since", "absence", "has_news"),
    [
        (NEW, [on()], True, None, (ago(600), False), True),
        (HERE, [on()], True, None, None, False),
        (GONE, [on()], True, None, (ago(90), True), True),
        (UNHEARD, [on()], True, None, (ago(30), False), True),
        (HERE, [off("c1")], False, NOW, None, True),
        (HERE, [off("old")], True, None, None, False),
        (HERE, [on("c2"), off("c1")], True, None, None, False),
        (HERE, [on("c2"), off("c2")], False, NOW, None, True),
        (GONE, [off("c1")], False, ago(90), None, False),
        (UNHEARD, [off("c1")], False, ago(30), None, True),
        (HERE, [off("c1"), on("c2")], True, None, (NOW, True), True),
    ],
)
def test_what_words_change(
    before: Standing,
    words: list[Presence],
    online: bool,
    since: datetime | None,
    absence: tuple[datetime, bool] | None,
    has_news: bool,
) -> None:
    found = folded({ONE: before}, [(ONE, word) for word in words], NOW)
    after = found.standings.get(ONE, before)
    assert (after.is_online, after.offline_since, found.has_news) == (online, since, has_news)
    kept = {} if absence is None else {Place(ONE, TODAY, 1): Absence(absence[0], NOW, is_heard=absence[1])}
    assert found.absences == kept


def test_an_unknown_device_costs_the_others_nothing() -> None:
    found = folded({ONE: GONE}, [(TWO, on()), (ONE, on()), (TWO, off())], NOW)
    assert set(found.standings) == {ONE}


def test_what_flaps_within_one_transaction_has_the_last_place_of_its_day_once() -> None:
    often = [word for n in range(MOST_A_DAY + 5) for word in ((ONE, on(f"c{n}")), (ONE, off(f"c{n}")))]
    found = folded({ONE: GONE}, often, NOW)
    assert [place.place for place in found.absences] == list(range(1, MOST_A_DAY + 1))
    assert found.absences[Place(ONE, TODAY, MOST_A_DAY)].times == 6


_WORD = st.builds(Presence, on=st.booleans(), conn_id=st.sampled_from(["a", "b"]), boot_id=st.just("b"), ts=st.just(0))
_WORDS = st.lists(st.tuples(st.sampled_from([ONE, TWO, DeviceId("d-3")]), _WORD), max_size=30)
_KEPT = st.fixed_dictionaries(
    {ONE: st.sampled_from([NEW, HERE, GONE, UNHEARD]), TWO: st.sampled_from([NEW, HERE, GONE, UNHEARD])}
)


@given(_KEPT, _WORDS)
def test_together_is_as_one_after_another(
    kept: dict[DeviceId, Standing], words: list[tuple[DeviceId, Presence]]
) -> None:
    standings, absences = dict(kept), dict[Place, Absence]()
    for word in words:
        one = folded(standings, [word], NOW)
        standings |= one.standings
        for place, away in one.absences.items():
            absences[place] = together(absences[place], away) if place in absences else away
    at_once = folded(kept, words, NOW)
    assert (kept | at_once.standings, at_once.absences) == (standings, absences)
