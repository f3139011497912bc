"""The detector of drift: what it learns, what it sees and how soon, and what is no drift. Streams are drawn with fixed seeds."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edgefleet_protocol.drift.design_effect import settled
from edgefleet_protocol.drift.detector import (
    ALPHA,
    DAY_OF_BLOCKS,
    FLEET_FLOOR,
    Change,
    Effect,
    SignalWatch,
    Word,
    expected_of,
    judge,
    learn,
    narrowed,
    step,
    watches_of,
)
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Confidence, Reference, Signal, SignalKind

Floats = npt.NDArray[np.float64]
IN_BLOCK = 300
EDGES = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816]
SIGNAL = Signal(name="a", std=1.0, low=-3.8, high=3.8, edges=EDGES, counts=[1000] * 10)


def stream(rng: np.random.Generator, rho: float, n: int) -> Floats:
    """Return a standard normal stream in which neighbours have the correlation rho."""
    shocks: Floats = rng.normal(size=n) * (1 - rho * rho) ** 0.5
    if not rho:
        return shocks
    values, last = np.empty(n), rng.normal()
    for i, shock in enumerate(shocks.tolist()):
        values[i] = last = rho * last + shock
    return values


def sums(values: Floats) -> SignalSums:
    real = values[~np.isnan(values)]
    bins = np.bincount(np.searchsorted(EDGES, real, side="right"), minlength=10)
    beyond = int(np.count_nonzero((real < SIGNAL.low) | (real > SIGNAL.high)))
    return SignalSums(tuple(bins.tolist()), len(values) - len(real), beyond, round(float(real.sum() * 64)))


def watched(watch: SignalWatch, values: Floats, began: int = 0) -> tuple[SignalWatch, list[tuple[int, Change]]]:
    """Return the watch after a stream, and what changed, with the number of the block."""
    found = []
    for at, block in enumerate(values.reshape(-1, IN_BLOCK), start=began):
        watch, changes = step(watch, sums(block), (at + 1) * 300.0)
        found += [(at, change) for change in changes]
    return watch, found


@pytest.fixture(scope="module")
def learned() -> dict[float, SignalWatch]:
    """Watches that learned for a day, by autocorrelation."""
    rng = np.random.default_rng(9)
    made = {}
    for rho in (0.0, 0.9):
        made[rho], changes = watched(SignalWatch(SIGNAL), stream(rng, rho, DAY_OF_BLOCKS * IN_BLOCK))
        assert not changes
    return made


def test_independent_answers_have_no_design_effect_and_dependent_ones_have(learned: dict[float, SignalWatch]) -> None:
    assert learned[0.0].scales["5m"].effect.mean == pytest.approx(1.0, abs=0.1)
    effect = learned[0.9].scales["5m"].effect
    assert 10 < effect.greatest < 30, "a sum of such a stream varies 19 times as much"
    assert effect.known == DAY_OF_BLOCKS - 1
    assert learned[0.9].scales["1h"].effect.known == DAY_OF_BLOCKS - 1, "an hour is foretold from its blocks"
    assert learned[0.9].scales["1d"].effect.weights == [], "no day has been learned"


def test_a_shift_is_seen_in_a_block_or_in_an_hour_and_is_over_after_it(learned: dict[float, SignalWatch]) -> None:
    rng = np.random.default_rng(10)
    watch, changes = watched(learned[0.0], stream(rng, 0, 12 * IN_BLOCK) + 0.5, DAY_OF_BLOCKS)
    (at, first), *_ = changes
    assert (at, first.scale, first.is_over, first.verdict.cause) == (DAY_OF_BLOCKS + 1, "5m", False, "bins")
    assert first.verdict.log10_p < np.log10(ALPHA)
    assert first.verdict.psi == pytest.approx(0.25, abs=0.15)
    assert first.shift_z == pytest.approx(0.5, abs=0.15)
    watch, changes = watched(watch, stream(rng, 0, 36 * IN_BLOCK), DAY_OF_BLOCKS + 12)
    assert [(at - DAY_OF_BLOCKS, one.scale) for at, one in changes if one.is_over] == [(14, "5m"), (35, "1h")]
    assert not watch.is_drifting
    _, changes = watched(learned[0.9], stream(rng, 0.9, 24 * IN_BLOCK) + 0.5, DAY_OF_BLOCKS)
    assert [(at - DAY_OF_BLOCKS, one.scale) for at, one in changes if not one.is_over] == [(11, "1h")]


def test_a_device_that_starts_drifted_is_seen_when_it_has_learned() -> None:
    rng = np.random.default_rng(12)
    _, changes = watched(SignalWatch(SIGNAL), stream(rng, 0, (DAY_OF_BLOCKS + 1) * IN_BLOCK) + 0.5)
    assert [(at, one.scale) for at, one in changes] == [(DAY_OF_BLOCKS, "5m")]


def test_missing_values_and_values_beyond_the_range_are_drift(learned: dict[float, SignalWatch]) -> None:
    rng = np.random.default_rng(13)
    values = stream(rng, 0, 2 * IN_BLOCK)
    values[:20] = np.nan
    values[IN_BLOCK : IN_BLOCK + 12] = 4.5
    _, changes = watched(learned[0.0], values, DAY_OF_BLOCKS)
    assert [one.verdict.cause for _, one in changes] == ["missing"], "the drift is open while the range breaks"
    _, changes = watched(learned[0.0], values[IN_BLOCK:], DAY_OF_BLOCKS)
    assert [one.verdict.cause for _, one in changes] == ["range"]
    _, changes = watched(learned[0.0], np.full(IN_BLOCK, np.nan), DAY_OF_BLOCKS)
    assert [one.verdict.cause for _, one in changes] == ["missing"], "nothing but missing values"


@pytest.mark.parametrize(("value", "cause"), [(np.nan, "missing"), (9.0, "range")])
def test_a_sensor_that_is_plainly_broken_is_seen_while_learning(value: float, cause: str) -> None:
    broken = stream(np.random.default_rng(8), 0.5, 8 * IN_BLOCK)
    broken[2 * IN_BLOCK : 4 * IN_BLOCK : 2] = value
    broken[2 * IN_BLOCK : 4 * IN_BLOCK : 3] = value
    watch, found = watched(SignalWatch(SIGNAL), broken)
    assert [(at, one.scale, one.is_over, one.verdict.cause) for at, one in found] == [
        (2, "5m", False, cause),
        (6, "5m", True, ""),
    ]
    assert not watch.is_drifting


def test_less_than_that_waits_until_something_is_learned() -> None:
    odd = stream(np.random.default_rng(8), 0.5, 8 * IN_BLOCK)
    odd[::3] = 9.0
    few = Signal(name="a", std=1.0, low=-3.8, high=3.8, edges=EDGES, counts=[9] * 10)
    assert watched(SignalWatch(SIGNAL), odd)[1] == []
    assert watched(SignalWatch(few), np.full(8 * IN_BLOCK, 9.0))[1] == [], "90 samples do not say what a range is"


def test_a_signal_that_the_privacy_policy_hides_is_never_a_drift() -> None:
    watch, hidden = SignalWatch(Signal(name="badge", counts=[0], missing=500)), SignalSums((0,), missing=300)
    for at in range(2 * DAY_OF_BLOCKS):
        watch, changes = step(watch, hidden, (at + 1) * 300.0)
        assert changes == []


def test_a_few_missing_are_none(learned: dict[float, SignalWatch]) -> None:
    values = stream(np.random.default_rng(14), 0, IN_BLOCK)
    values[:5] = np.nan
    assert watched(learned[0.0], values, DAY_OF_BLOCKS)[1] == []


def test_a_shift_too_small_to_matter_is_no_alarm_and_few_answers_say_nothing() -> None:
    rng = np.random.default_rng(15)
    effect = Effect()
    for _ in range(100):
        effect = learn(effect, SIGNAL.counts, rng.multinomial(IN_BLOCK, [0.1] * 10).tolist())
    assert effect.windows == effect.looked == 100
    large = [100_000] * 10
    moved = [0.11, 0.09, *[0.1] * 8]
    small = judge(large, rng.multinomial(80_000, moved).tolist(), effect)
    assert (small.verdict, small.cause) == (Word.SMALL, "")
    assert small.psi == pytest.approx(0.002, abs=0.001)
    assert judge(large, rng.multinomial(80_000, moved).tolist(), effect, floor=0.001).verdict == Word.DRIFT
    assert judge(large, [11] * 10, effect).verdict == Word.CHANCE
    assert judge(large, [9] * 10, effect).verdict == Word.TOO_FEW
    assert judge(large, [30] * 10, Effect()).verdict == Word.LEARNING


def test_the_reference_has_a_sampling_error_of_its_own() -> None:
    effect = Effect(windows=100, looked=100, weights=[1.0] * 9, known=99)
    bins = [1400, 600, *[1000] * 8]
    assert judge([30, 10, *[20] * 8], [b * 100 for b in bins], effect).verdict == Word.CHANCE, (
        "200 samples know no better"
    )
    assert judge([14_000, 6_000, *[10_000] * 8], bins, effect).verdict == Word.CHANCE
    assert judge([10_000] * 10, bins, effect).verdict == Word.DRIFT


def test_a_hundred_devices_together_show_a_tenth_of_a_standard_deviation() -> None:
    rng = np.random.default_rng(16)
    effect = Effect()
    for _ in range(100):
        effect = learn(effect, SIGNAL.counts, sums(rng.normal(size=30_000)).bins)
    found = judge(SIGNAL.counts, sums(rng.normal(size=30_000) + 0.1).bins, settled(effect), floor=FLEET_FLOOR)
    assert (found.verdict, found.log10_p < -6) == (Word.DRIFT, True)
    assert judge(SIGNAL.counts, sums(rng.normal(size=30_000)).bins, settled(effect)).verdict == Word.CHANCE


def test_a_watch_survives_a_restart(learned: dict[float, SignalWatch]) -> None:
    rng = np.random.default_rng(17)
    values = stream(rng, 0, 30 * IN_BLOCK) + 0.4
    watch, whole = watched(learned[0.0], values, DAY_OF_BLOCKS)
    parts, again = learned[0.0], []
    for at in range(30):
        stored = msgspec.msgpack.encode(parts)
        assert len(stored) < 8_000
        parts, changes = watched(
            msgspec.msgpack.decode(stored, type=SignalWatch),
            values[at * IN_BLOCK : (at + 1) * IN_BLOCK],
            DAY_OF_BLOCKS + at,
        )
        again += changes
    assert (again, parts) == (whole, watch)


def test_night_is_held_against_nights() -> None:
    day, night = [100, 300, 500, 100], [700, 200, 50, 50]
    hours = {str(part): night if part in (0, 5) else day for part in range(6)}
    signal = Signal(name="light", edges=[1.0, 2.0, 3.0], counts=[1800, 1600, 2100, 500], hours=hours)
    assert expected_of(signal, {"5": 300}) == pytest.approx(night)
    assert expected_of(signal, {"5": 300, "2": 300}) == pytest.approx([800, 500, 550, 150])
    assert expected_of(signal, {}) == signal.counts
    assert expected_of(msgspec.structs.replace(signal, hours={"5": [1, 1, 1, 1]}), {"5": 9}) == signal.counts
    rng, watch, alarms = np.random.default_rng(18), SignalWatch(signal), 0
    for at in range(3 * DAY_OF_BLOCKS):
        shares = np.array(hours[str(at % DAY_OF_BLOCKS // 48)]) / 1000
        watch, changes = step(watch, SignalSums(tuple(rng.multinomial(300, shares).tolist())), (at + 1) * 300.0)
        alarms += len(changes)
    assert alarms == 0
    watch, changes = step(watch, SignalSums((30, 90, 150, 30)), (at + 2) * 300.0)
    assert [one.scale for one in changes] == ["5m"], "a day at midnight"


def test_many_classes_are_judged_by_the_frequent_ones_and_a_new_one_is_beyond() -> None:
    reference = Reference(
        n=4000, features=[SIGNAL], classes=[2000, 0, *[20] * 100], confidence=Confidence([0.5], [1000, 3000])
    )
    names = [one.signal.name for one in watches_of(reference)]
    assert names == ["a", "confidence", "classes"]
    classes = watches_of(reference)[2].signal
    assert classes.kind == SignalKind.CLASSES
    seen = narrowed(classes, SignalSums((5, 3)))
    assert (len(seen.bins), seen.n, seen.bins[0], seen.beyond) == (16, 8, 5, 3)
    wide = Signal(name="w", edges=[float(i) for i in range(31)], counts=[1] * 32)
    assert narrowed(wide, SignalSums(tuple(range(32)))).bins[:2] == (1, 5)
    assert watches_of(Reference(n=1, features=[SIGNAL] * 32))[0].alpha == ALPHA / 2
