"""What is said of a signal: moved or not, how much, and where; and what one busy or lying device can do to that."""

import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Reference, SignalKind
from edgefleet_server.telemetry.drift.cluster_test import Sampled, against_expected, f_survival_log10
from edgefleet_server.telemetry.drift.location import Where, crowds_of, locate
from edgefleet_server.telemetry.drift.model import Heard, Member, SignalSpec
from edgefleet_server.telemetry.drift.rules import SignalFinding, SignalState, crowd_effects, judge_signal
from edgefleet_server.telemetry.signals.model import Scale
from tests.server.telemetry.drifting import counted, reference

MADE = Reference(n=20_000, features=reference(20_000).features[:1])
SPEC = SignalSpec("temperature", SignalKind.NUMERIC, (*MADE.features[0].counts, 0), edges=MADE.features[0].edges)
SITES = ("berlin", "lyon", "osaka")
PROFILES = ("pi-5", "orin")


def member(k: int) -> Member:
    """Return the k-th of twelve devices: four at each site, of alternating profiles."""
    return Member(f"d-{k:02}", PROFILES[k % 2], SITES[k // 4], ("night",) if k % 3 == 0 else ())


def heard(
    shift: Callable[[int], float] = lambda _: 0.0,
    *,
    n: Callable[[int], int] = lambda _: 300,
    devices: int = 12,
    seed: int = 1,
    spread: float = 0.0,
) -> list[Heard]:
    """Return what devices counted of the temperature. shift: of each, in sigma."""
    found = []
    for k in range(devices):
        own = random.Random(f"{seed} {k}").gauss(0, spread) if spread else 0.0
        sums = counted(MADE, n(k), seed * 1000 + k, shift={"temperature": shift(k) + own})[0]
        found.append(Heard(member(k), sums))
    return found


def judged(given: Sequence[Heard], scale: Scale = Scale.HOUR) -> SignalFinding:
    """Return what is said of it among five signals."""
    return judge_signal(SPEC, given, scale, 5)


CASES: Mapping[str, tuple[Callable[[int], float], Where, str, int]] = {
    "all": (lambda _: 1.0, Where.ALL, "", 12),
    "a little everywhere": (lambda _: 0.3, Where.ALL, "", 12),
    "one site": (lambda k: 1.0 if 4 <= k < 8 else 0.0, Where.SITE, "lyon", 4),
    "one profile": (lambda k: 1.0 if k % 2 else 0.0, Where.PROFILE, "orin", 6),
    "one group": (lambda k: 1.0 if k % 3 == 0 else 0.0, Where.GROUP, "night", 4),
    "one sensor": (lambda k: 1.0 if k == 5 else 0.0, Where.DEVICE, "d-05", 1),
}


@pytest.mark.parametrize("case", CASES, ids=lambda one: one.replace(" ", "-"))
def test_where_it_moved_is_told_apart(case: str) -> None:
    shift, where, name, moved = CASES[case]
    for seed in (1, 2, 3):
        found = judged(heard(shift, seed=seed))
        assert (found.state, found.location.where, found.location.name) == (SignalState.DRIFT, where, name)
        assert len(found.moved) == moved
        assert found.shift_z == pytest.approx(max(shift(k) for k in range(12)), abs=0.12)


def test_a_little_everywhere_is_not_blamed_on_those_that_look_worst() -> None:
    found = [judged(heard(lambda _: 0.25, seed=seed)) for seed in range(8)]
    assert {(one.state, one.location.where) for one in found} == {(SignalState.DRIFT, Where.ALL)}


def test_two_bad_sensors_in_two_places_are_two_devices() -> None:
    found = judged(heard(lambda k: 2.0 if k in {1, 10} else 0.0))
    assert (found.state, found.location.where) == (SignalState.DRIFT, Where.DEVICES)
    assert {one.member.device for one in found.moved} == {"d-01", "d-10"}


def test_nothing_is_said_of_what_did_not_move() -> None:
    states = [judged(heard(seed=seed), scale).state for seed in range(20) for scale in Scale]
    assert set(states) == {SignalState.SAME}


def test_devices_that_differ_by_nature_are_no_drift_of_any_of_them() -> None:
    states = [judged(heard(seed=seed, spread=0.3)).state for seed in range(40)]
    assert states.count(SignalState.DRIFT) == 0


def test_a_busy_device_decides_nothing() -> None:
    busy = judged(heard(lambda k: 0.8 if k == 0 else 0.0, n=lambda k: 20_000 if k == 0 else 300))
    assert (busy.location.where, busy.location.name) == (Where.DEVICE, "d-00")
    whole = crowd_effects(SPEC, heard(lambda k: 0.8 if k == 0 else 0.0, n=lambda k: 20_000 if k == 0 else 300))[0]
    assert whole.psi < 0.02, "the mean over devices, not over answers"
    assert whole.shift_z == pytest.approx(0.0, abs=0.1)


def test_a_liar_moves_a_figure_of_the_fleet_by_its_part_and_is_named() -> None:
    honest = heard()
    lie = Heard(member(0), SignalSums((0,) * 9 + (10**9,), total=64 * 1000 * 10**9, squares=64 * 10**15))
    found = judged([lie, *honest[1:]])
    assert (found.location.where, found.location.name) == (Where.DEVICE, "d-00")
    truth, lied = crowd_effects(SPEC, honest)[0], crowd_effects(SPEC, [lie, *honest[1:]])[0]
    assert max(abs(a - b) for a, b in zip(truth.shares, lied.shares, strict=True)) <= 1 / 12
    assert lied.shift_z == pytest.approx(0.0, abs=0.1)


def test_a_sensor_that_falls_silent_has_moved_too() -> None:
    given = heard()
    gone = counted(MADE, 300, 7, missing={"temperature": 90})[0]
    found = judged([Heard(member(0), gone), *given[1:]])
    assert (found.location.where, found.location.name) == (Where.DEVICE, "d-00")
    assert found.missing == pytest.approx(0.3)
    assert found.missing_before == 0.0


def test_a_sure_but_tiny_difference_is_small() -> None:
    expected = [0.1] * 10 + [0.0]
    tilted = [0.1 + 0.004 * (1 if k < 5 else -1) for k in range(10)]
    spec = SignalSpec("x", SignalKind.NUMERIC, [10**8] * 10 + [0])
    given = [Heard(member(k), SignalSums(tuple(round(share * 10**6) for share in tilted))) for k in range(12)]
    found = judge_signal(spec, given, Scale.DAY, 5)
    assert (found.state, found.location.where) == (SignalState.SMALL, Where.NOWHERE)
    assert sum(expected) == pytest.approx(1)


def test_of_few_answers_nothing_is_said() -> None:
    assert judged(heard(lambda _: 3.0, n=lambda _: 50)).state is SignalState.FEW
    assert judged([]).state is SignalState.FEW


def test_of_one_or_two_devices_their_own_word_counts_and_only_for_them() -> None:
    for devices in (1, 2):
        given = heard(lambda k: 1.0 if k == 0 else 0.0, devices=devices)
        assert judged(given).state is SignalState.SAME
        found = judge_signal(SPEC, given, Scale.HOUR, 5, words={"d-00", "d-01"})
        assert (found.state, found.location.where, found.location.name) == (SignalState.DRIFT, Where.DEVICE, "d-00")


def test_figures_of_those_that_moved_are_shown_before_and_after() -> None:
    found = judged(heard(lambda k: 1.0 if 4 <= k < 8 else 0.0))
    assert sum(found.before) == pytest.approx(1)
    assert sum(found.after) == pytest.approx(1)
    assert found.after[9] > 3 * found.before[9]
    assert found.spread == pytest.approx(1.0, abs=0.1)
    assert [one.has_moved for one in found.effects] == [True] * 4 + [False] * 8


def test_equal_crowds_are_both_named() -> None:
    members = [Member(f"d-{k}", PROFILES[k // 3], SITES[k // 3]) for k in range(6)]
    found = locate(members, {"d-3", "d-4", "d-5"}, crowds_of(members))
    assert (found.where, found.name, list(found.also)) == (Where.SITE, "lyon", ["profile orin"])
    assert locate(members, {"d-3"}, crowds_of(members)).where is Where.DEVICE
    assert locate(members, set(), crowds_of(members)).where is Where.NOWHERE


def test_the_distribution_of_the_test_is_f() -> None:
    # 5 % and 0.1 % points of printed tables
    for value, d1, d2, p in ((4.96, 1, 10, 0.05), (2.71, 5, 20, 0.05), (10.48, 5, 10, 0.001), (161.4, 1, 1, 0.05)):
        assert 10 ** f_survival_log10(value, d1, d2) == pytest.approx(p, rel=0.03)
    assert f_survival_log10(0.0, 3, 9) == 0.0
    assert f_survival_log10(1e9, 9, 900) == -300.0
    assert f_survival_log10(0.01, 5, 50) == pytest.approx(0.0, abs=0.001)


def test_the_test_is_as_often_wrong_as_it_says() -> None:
    expected = [0.1] * 10
    wrong = 0
    for trial in range(1500):
        draw = random.Random(trial)
        shares = []
        for _ in range(8):
            own = [max(0.01, 0.1 + draw.gauss(0, 0.02)) for _ in range(10)]
            whole = sum(own)
            shares.append([one / whole for one in own])
        wrong += 10 ** against_expected(Sampled(shares, [1e5] * 8), Sampled([], []), expected, 1e7).log10_p < 0.01
    assert wrong / 1500 < 0.02
    assert not math.isnan(wrong)
