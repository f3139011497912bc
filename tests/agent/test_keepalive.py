"""How long a connection may be silent: longer than a ping a minute where the way allows it, shorter where it does not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.composition.agent_parts import link_options
from edgefleet_agent.connection.keepalive import FLOOR_S, RAISE_AFTER_S, URGENT_FROM_S, URGENT_S, Keepalive, is_urgent
from edgefleet_agent.connection.mqtt import Silence
from edgefleet_agent.settings import AgentSettings

LIMIT_S = 1_200


def lost(known: Keepalive, quiet_s: float, survived_s: float = 0.0, lasted_s: float = 3_600.0) -> Keepalive:
    """Return what is known after a connection that was lost so."""
    return known.ended(lasted_s=lasted_s, quiet_s=quiet_s, survived_s=survived_s)


@pytest.mark.parametrize("forgets_s", [90, 300, 350, 600, 1_000])
def test_a_way_that_forgets_is_found_out_in_few_connections(forgets_s: int) -> None:
    known, lives = Keepalive(LIMIT_S, LIMIT_S), 0
    while known.calm_s >= forgets_s:
        known = lost(known, min(known.calm_s, 900.0) if known.calm_s > 900 else known.calm_s)
        lives += 1
        assert lives < 20
    assert forgets_s / 4 <= max(known.calm_s, FLOOR_S) < max(forgets_s, FLOOR_S + 1)
    assert lives <= 8


def test_losses_that_silence_does_not_explain_change_nothing() -> None:
    known = Keepalive(LIMIT_S, LIMIT_S)
    for _ in range(20):
        known = lost(known, quiet_s=5.0)
    assert known.calm_s == LIMIT_S, "a way that is bad all the time"
    for _ in range(20):
        known = lost(known, quiet_s=800.0, survived_s=900.0)
    assert known.calm_s == LIMIT_S, "it survived such a silence before"
    known = lost(lost(lost(known, 900.0), 10.0, survived_s=900.0), 900.0)
    assert known.calm_s == LIMIT_S, "a server that restarts once a day"


def test_what_was_learnt_is_tried_anew_after_a_week() -> None:
    known = Keepalive(LIMIT_S, 150)
    assert lost(known, 10.0, survived_s=140.0).calm_s == 150
    for expected in (300, 600, 1_200, 1_200):
        known = lost(known, 10.0, survived_s=140.0, lasted_s=RAISE_AFTER_S)
        assert known.calm_s == expected


losses = st.tuples(st.floats(0, 1e7), st.floats(0, 1e5), st.floats(0, 1e5))


@given(st.integers(FLOOR_S, 65_535), st.lists(losses, max_size=50))
def test_it_stays_between_the_floor_and_the_setting(limit_s: int, lives: list[tuple[float, float, float]]) -> None:
    known = Keepalive(limit_s, limit_s)
    for lasted_s, quiet_s, survived_s in lives:
        known = known.ended(lasted_s=lasted_s, quiet_s=quiet_s, survived_s=survived_s)
        assert FLOOR_S <= known.calm_s <= limit_s
        assert known.asks_s(is_urgent=True) <= URGENT_S


def test_a_setting_below_the_floor_is_obeyed() -> None:
    known = lost(lost(Keepalive(20, 20), 100.0), 100.0)
    assert (known.calm_s, known.asks_s(is_urgent=True)) == (20, 20)


@pytest.mark.parametrize(
    ("until_s", "is_now", "expected"),
    [
        (0.0, False, False),
        (1_000.0 + URGENT_FROM_S, False, False),
        (1_001.0 + URGENT_FROM_S, False, True),
        (1_001.0, True, True),
        (1_000.0, True, False),
        (math.inf, False, True),
    ],
)
def test_a_short_wish_is_not_worth_a_connection(until_s: float, is_now: bool, expected: bool) -> None:
    assert is_urgent(until_s, 1_000.0, is_now=is_now) is expected


def test_silence_is_measured_between_what_comes() -> None:
    silence = Silence(100.0)
    for at in (101.0, 800.0, 810.0):
        silence.broken(at)
    assert silence.limits(1_000.0) == {"lasted_s": 900.0, "quiet_s": 190.0, "survived_s": 699.0}


@pytest.mark.parametrize(
    ("settings", "expected_s"),
    [
        (AgentSettings(), 1_200),
        (AgentSettings(metered="yes"), 3_900),
        (AgentSettings(keepalive_s=300), 300),
        (AgentSettings(keepalive_s=300, metered="yes"), 300),
        (AgentSettings(keepalive_s=10_000, metered="no"), 10_000),
    ],
)
def test_the_device_s_own_setting_wins_on_any_link(settings: AgentSettings, expected_s: int) -> None:
    assert link_options(settings).keepalive_s == expected_s
