"""Which models run in the event loop: quick ones, also on a board that was busy for a moment, and none that holds it up."""

import pytest

from edgefleet_agent.worker.runtime.engine import (
    INLINE_BODY_BYTES,
    INLINE_FORGET,
    INLINE_P50_MS,
    INLINE_STRIKES,
    InlinePolicy,
)


def test_only_quick_models_and_small_bodies() -> None:
    assert InlinePolicy(INLINE_P50_MS).allows(INLINE_BODY_BYTES)
    assert not InlinePolicy(INLINE_P50_MS).allows(INLINE_BODY_BYTES + 1)
    assert not InlinePolicy(INLINE_P50_MS + 0.1).allows(1)


@pytest.mark.parametrize(("elapsed_s", "cpu_s"), [(0.03, 0.03), (0.3, 0.0001)])
def test_a_model_that_is_slow_again_and_again_leaves_the_loop_for_good(elapsed_s: float, cpu_s: float) -> None:
    policy = InlinePolicy(0.1)
    for _ in range(INLINE_STRIKES - 1):
        policy.took(elapsed_s, cpu_s)
        assert policy.allows(1), "a moment in which the board was busy"
    policy.took(elapsed_s, cpu_s)
    assert not policy.allows(1)
    for _ in range(2 * INLINE_FORGET):
        policy.took(0.0001, 0.0001)
    assert not policy.allows(1)


def test_one_run_that_holds_up_everything_is_enough() -> None:
    policy = InlinePolicy(0.1)
    policy.took(0.5, 0.5)
    assert not policy.allows(1)


def test_moments_far_apart_are_forgotten() -> None:
    policy = InlinePolicy(0.1)
    for _ in range(10):
        policy.took(0.3, 0.0001)
        for _ in range(INLINE_FORGET):
            policy.took(0.0001, 0.0001)
    assert policy.allows(1)
