"""Cost models: right where the truth is known, within the stated error at the stated rate, silent where nothing is known."""

import dataclasses
import math
import random
from statistics import median
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgefleet_profiles
from edgefleet_profiles.cost.model import (
    CostModel,
    Example,
    Subject,
    distinct,
    fit_profile,
    predict,
    usable,
)
from edgefleet_profiles.cost.observed import DeviceWindow, Observation, is_loaded, observe
from edgefleet_profiles.cost.regression import FULL_FIT, LEAST_ERROR, LEVEL, REACH, fit
from edgefleet_profiles.profile import HardwareProfile, Thermal
from tests.profiles.intervals import PI, trials
from tests.profiles.simulated import example, model_work, subject

NOTHING = CostModel(PI.name, 0, 0)
POSITIVE = st.floats(1e-3, 1e6)


@pytest.mark.parametrize(
    ("models", "quantity"),
    [(3, "latency_p50_ms"), (6, "latency_p50_ms"), (12, "latency_p50_ms"), (24, "latency_p50_ms"), (3, "latency_p95_ms"),
     (12, "latency_p95_ms"), (3, "memory_bytes"), (12, "memory_bytes")],
)  # fmt: skip
def test_the_truth_lies_within_the_stated_error_at_the_stated_rate(models: int, quantity: str) -> None:
    told = trials(models, 40, quantity=quantity)
    assert len(told) > 30
    share = sum(figure.low <= true <= figure.high for figure, true in told) / len(told)
    # Three standard errors of 40 coins below the level; with more models the interval may be wider than it needs to be.
    assert share >= LEVEL - 3 * math.sqrt(LEVEL * (1 - LEVEL) / len(told))


def test_more_reports_make_the_error_smaller() -> None:
    errors = {models: median(figure.error for figure, _ in trials(models, 12)) for models in (4, 24)}
    assert errors[24] < 0.6 * errors[4]
    missed = median(abs(math.log(figure.value / true)) for figure, true in trials(24, 12))
    assert missed < math.log(1.25)


def test_a_minority_of_hostile_devices_moves_nothing() -> None:
    liars = [(1e5, 1e5, 2**39), (1e-3, 1e-3, 2_000_000)]
    honest = fit_profile(PI.name, [example(random.Random(seed)) for seed in range(12)])
    beset = fit_profile(PI.name, [example(random.Random(seed), devices=5, hostile=liars) for seed in range(12)])
    asked = subject(model_work(random.Random(99)), random.Random(99))
    one, other = (predict(PI, asked, model, []) for model in (honest, beset))
    assert one.latency_p50_ms is not None
    assert other.latency_p50_ms is not None
    assert other.latency_p50_ms.value == pytest.approx(one.latency_p50_ms.value, rel=0.1)


def test_a_model_of_which_all_reports_are_wrong_does_not_move_the_others() -> None:
    sound = [example(random.Random(seed)) for seed in range(14)]
    spoilt = [
        dataclasses.replace(one, observation=dataclasses.replace(one.observation, latency_p50_ms=5e5, latency_p95_ms=6e5))
        if index == 3 else one for index, one in enumerate(sound)
    ]  # fmt: skip
    asked = subject(model_work(random.Random(77)), random.Random(77))
    one, other = (predict(PI, asked, fit_profile(PI.name, told), []).latency_p50_ms for told in (sound, spoilt))
    assert one is not None
    assert other is not None
    assert other.value == pytest.approx(one.value, rel=0.25)


def test_without_reports_there_is_no_estimate() -> None:
    asked = subject(model_work(random.Random(1)), random.Random(1))
    for count in (0, 1):
        estimate = predict(PI, asked, fit_profile(PI.name, [example(random.Random(i)) for i in range(count)]), [])
        assert (estimate.basis, estimate.latency_p50_ms, estimate.models) == ("none", None, count)
        assert str(count) in estimate.reason
    assert predict(PI, None, NOTHING, []).basis == "none"


def test_the_basis_says_how_much_there_is() -> None:
    asked = subject(model_work(random.Random(5)), random.Random(5))
    for count, basis in ((2, "ratio"), (FULL_FIT - 1, "ratio"), (FULL_FIT, "fitted")):
        model = fit_profile(PI.name, [example(random.Random(seed)) for seed in range(count)])
        assert (model.basis, model.models) == (basis, count)
        assert predict(PI, asked, model, []).basis in (basis, "none")


def test_another_profile_of_the_same_processor_helps_out_with_its_heat() -> None:
    hot = msgspec.structs.replace(PI, name="pi-in-a-box", thermal=Thermal(sustained_factor=0.35))
    strange = edgefleet_profiles.load("raspberry-pi-5-ort")
    model = fit_profile(PI.name, [example(random.Random(seed)) for seed in range(12)])
    asked = subject(model_work(random.Random(7)), random.Random(7))
    own, boxed = predict(PI, asked, model, []), predict(hot, asked, NOTHING, [(strange, model), (PI, model)])
    assert (boxed.basis, own.basis) == ("relative", "fitted")
    assert PI.name in boxed.reason
    assert own.latency_p50_ms is not None
    assert boxed.latency_p50_ms is not None
    assert boxed.latency_p50_ms.value == pytest.approx(own.latency_p50_ms.value * 0.7 / 0.35)
    assert boxed.memory_bytes == own.memory_bytes
    assert predict(strange, asked, NOTHING, [(PI, model)]).basis == "none"


@pytest.mark.parametrize("name", ["generic-x86_64-ort", "generic-aarch64-litert"])
def test_a_generic_profile_has_no_kin(name: str) -> None:
    any_board: HardwareProfile = edgefleet_profiles.load(name)
    twin = msgspec.structs.replace(any_board, name="twin")
    model = fit_profile(twin.name, [example(random.Random(seed)) for seed in range(12)])
    asked = subject(model_work(random.Random(7)), random.Random(7))
    assert predict(any_board, asked, NOTHING, [(twin, model)]).basis == "none"


def test_a_model_out_of_reach_is_not_predicted() -> None:
    examples = [example(random.Random(seed)) for seed in range(10)]
    slowest = max(one.subject.host_ms for one in examples)
    far = dataclasses.replace(examples[0].subject, host_ms=slowest * REACH * 1.01)
    near = dataclasses.replace(far, host_ms=slowest * REACH * 0.99)
    model = fit_profile(PI.name, examples)
    assert "slower" in predict(PI, far, model, []).reason
    assert predict(PI, near, model, []).basis == "fitted"


def test_a_model_trained_anew_is_one_example() -> None:
    one = example(random.Random(3))
    again = dataclasses.replace(one, observation=dataclasses.replace(one.observation, latency_p50_ms=1.0))
    assert distinct([one, again]) == [one]


@pytest.mark.parametrize(
    "work",
    [
        {}, {"nodes": 1}, {"nodes": "many", "macs": {}, "weight_bytes": 1, "activation_bytes": 1, "largest_bytes": 1},
        {"nodes": 10**400, "macs": {}, "weight_bytes": 1, "activation_bytes": 1, "largest_bytes": 1},
        {"nodes": 1, "macs": {"conv.float": -5}, "weight_bytes": 1, "activation_bytes": 1, "largest_bytes": 1},
        {"nodes": float("nan"), "macs": {}, "weight_bytes": 1, "activation_bytes": 1, "largest_bytes": 1},
        {"nodes": True, "macs": [], "weight_bytes": 1, "activation_bytes": 1, "largest_bytes": 1},
    ],
)  # fmt: skip
def test_counts_that_cannot_be_true_are_not_used(work: dict[str, object]) -> None:
    assert not usable(Subject(work, 1.0, 1))
    assert predict(PI, Subject(work, 1.0, 1), NOTHING, []).basis == "none"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=12), st.floats(0.01, 100))
def test_a_host_that_is_slower_by_a_factor_changes_no_prediction(
    pairs: list[tuple[float, float]], factor: float
) -> None:
    rows, y = [(x,) for x, _ in pairs], [value for _, value in pairs]
    one, other = fit(rows, y), fit([(x * factor,) for (x,) in rows], y)
    assert one is not None
    assert other is not None
    for (x,) in rows:
        assert other.value((x * factor,)) == pytest.approx(one.value((x,)), rel=1e-6)
    assert other.error == pytest.approx(one.error, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE, POSITIVE), min_size=2, max_size=14))
def test_a_fit_is_finite_positive_and_the_same_twice(data: list[tuple[float, float, float, float]]) -> None:
    rows, y = [row[:3] for row in data], [row[3] for row in data]
    made = fit(rows, y)
    assert made == fit(rows, y)
    assert made is not None
    assert all(b >= 0 and math.isfinite(b) for b in made.beta)
    assert math.isfinite(made.error)
    assert made.error >= LEAST_ERROR
    assert all(made.value(row) > 0 for row in rows)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(0.9, 1.1), min_size=3, max_size=9),
    st.lists(
        st.tuples(st.integers(-5, 2**63), st.floats(allow_nan=True), st.floats(), st.integers(-5, 2**63)), max_size=8
    ),
)
def test_a_minority_of_devices_cannot_move_an_observation_out_of_what_the_others_say(
    honest: list[float], lies: list[tuple[int, float, float, int]]
) -> None:
    told = {f"d-{i}": [DeviceWindow(100, 0, v, v * 2, 50_000_000)] * 3 for i, v in enumerate(honest)}
    for index, (n, p50, p95, memory) in enumerate(lies[: (len(honest) - 1) // 2]):
        told[f"x-{index}"] = [DeviceWindow(n, 0, p50, p95, memory)] * 3
    seen = observe(told)
    assert seen is not None
    assert min(honest) * 0.999 <= seen.latency_p50_ms <= max(honest) * 1.001
    assert seen.memory_bytes == pytest.approx(50_000_000, rel=0.01)


def test_two_devices_that_contradict_each_other_are_no_observation() -> None:
    told = {f"d-{i}": [DeviceWindow(100, 0, v, v, 50_000_000)] * 3 for i, v in enumerate((1.0, 9.0))}
    assert observe(told) is None
    assert observe({"d-0": told["d-0"]}) == Observation(1, 3, 300, 1.0, 1.0, 50_000_000)
    assert observe({}) is None


@pytest.mark.parametrize(
    ("window", "counts"),
    [
        (DeviceWindow(100, 0, 1.0, 2.0, -1), True), (DeviceWindow(9, 0, 1.0, 2.0, -1), False),
        (DeviceWindow(100, 11, 1.0, 2.0, -1), False), (DeviceWindow(100, 0, None, None, -1), False),
        (DeviceWindow(100, 0, 2.0, 1.0, -1), False), (DeviceWindow(100, 0, 1e-9, 1.0, -1), False),
        (DeviceWindow(100, 0, 1.0, math.inf, -1), False), (DeviceWindow(100, 0, math.nan, 1.0, -1), False),
    ],
)  # fmt: skip
def test_only_windows_under_load_with_possible_figures_count(window: DeviceWindow, counts: bool) -> None:
    assert is_loaded(window) is counts
    assert (observe({"d": [window] * 2}) is not None) is counts
    assert observe({"d": [window]}) is None


def test_an_example_without_memory_still_tells_latency() -> None:
    told = [example(random.Random(seed)) for seed in range(4)]
    bare = [Example(one.subject, dataclasses.replace(one.observation, memory_bytes=None)) for one in told]
    model = fit_profile(PI.name, bare)
    assert set(model.fits) == {"latency_p50_ms", "latency_p95_ms"}


@pytest.mark.parametrize(
    "changes", [{"host_ms": 1e-310}, {"host_ms": 1e-200}, {"host_ms": math.inf}, {"host_memory_bytes": 10**400}]
)
def test_a_bundle_with_impossible_figures_is_left_out_and_breaks_no_fit(changes: dict[str, Any]) -> None:
    told = [example(random.Random(seed)) for seed in range(6)]
    known = subject(model_work(random.Random(9)), random.Random(9))
    odd = dataclasses.replace(told[0], subject=dataclasses.replace(known, **changes))
    assert not usable(odd.subject)
    assert fit_profile(PI.name, [odd, *told]) == fit_profile(PI.name, told)
    assert predict(PI, odd.subject, fit_profile(PI.name, told), []).basis == "none"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([1e-6, 1.0, 9e17])] * 3, *[st.sampled_from([0.0, 1e-150, 1.0, 9e17])] * 2),
        min_size=2, max_size=7, unique=True,
    )
)  # fmt: skip
def test_figures_at_their_bounds_give_finite_estimates(rows: list[tuple[float, ...]]) -> None:
    told = []
    for host, memory, observed, nodes, weights in rows:
        counts = {"nodes": nodes, "weight_bytes": weights, "activation_bytes": host, "largest_bytes": memory}
        work = {**counts, "macs": {"conv.float": nodes}}
        seen = Observation(1, 2, 20, min(6e5, max(1e-3, observed)), 6e5, round(min(2**40, max(1e6, observed))))
        told.append(Example(Subject(work, host, max(1, int(memory))), seen))
    made = predict(PI, told[0].subject, fit_profile(PI.name, told), [])
    for figure in (made.latency_p50_ms, made.latency_p95_ms, made.memory_bytes):
        assert figure is None or all(map(math.isfinite, dataclasses.astuple(figure)))


@pytest.mark.parametrize("factor", [0.0, 5e-324, 1e-9])
def test_a_profile_that_keeps_no_speed_lends_and_borrows_no_estimate(factor: float) -> None:
    board = msgspec.structs.replace(PI, name="own-board", thermal=Thermal(sustained_factor=factor))
    fitted = fit_profile(PI.name, [example(random.Random(seed)) for seed in range(6)])
    asked = subject(model_work(random.Random(9)), random.Random(9))
    for one, other in ((PI, board), (board, PI)):
        assert predict(one, asked, NOTHING, [(other, fitted)]).basis == "none"
