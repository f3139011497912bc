"""Effects of the inputs of one sample: exact on models that can be worked out by hand, in signs, and on a picture."""

from __future__ import annotations

import numpy as np
import pytest

from edgefleet_converters.importance.local_effects import (
    CLASS,
    DISTANCE,
    VALUE,
    effect_of,
    hidden_parts,
    missing_units,
    reading_of,
    repeated,
    replaced,
    shares_of,
)
from edgefleet_converters.importance.occlusion import grid_of
from edgefleet_converters.importance.permutation import Unit, units_of

RANDOM = np.random.default_rng(7)
OTHERS = {"x": RANDOM.normal(0, [1, 2, 3], (200, 3))}
SAMPLE = {"x": np.array([[1.0, -2.0, 4.0]])}
WEIGHTS = np.array([2.0, -1.0, 0.0])
UNITS = units_of({"x": (1, 3)}, {"x": ["heat", "load", "age"]})


def test_effects_of_a_linear_model_are_weight_times_distance_from_the_mean() -> None:
    own = repeated(SAMPLE, 200)["x"] @ WEIGHTS[:, None]
    reading = reading_of(own[:1], -1, is_class=False)
    assert reading.kind == VALUE
    wanted = WEIGHTS * (SAMPLE["x"][0] - OTHERS["x"].mean(axis=0))
    for unit, value, weight, spread in zip(UNITS, wanted, WEIGHTS, OTHERS["x"].std(axis=0, ddof=1), strict=True):
        found = effect_of(reading, own, replaced(repeated(SAMPLE, 200), OTHERS, unit)["x"] @ WEIGHTS[:, None])
        assert found.value == pytest.approx(value)
        assert found.high - found.value == pytest.approx(1.96 * abs(weight) * spread / np.sqrt(200))
    assert [unit.name for unit in UNITS] == ["x.heat", "x.load", "x.age"]


def test_the_interval_holds_the_effect_over_all_samples_in_95_of_100() -> None:
    inside = 0
    for seed in range(200):
        others = np.random.default_rng(seed).exponential(2.0, (100, 1))
        own = np.full((100, 1), 5.0)
        found = effect_of(reading_of(own[:1], -1, is_class=False), own, others)
        inside += found.low <= 5.0 - 2.0 <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_a_class_is_read_as_its_share_and_counts_when_it_changes() -> None:
    own = np.array([[3.0, 1.0, 0.0]] * 4)
    other = np.array([[0.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 9.0], [3.0, 1.0, 0.0]])
    reading = reading_of(own[:1], 0, is_class=True)
    assert (reading.kind, reading.index) == (CLASS, 0)
    assert reading_of(own[:1], -1, is_class=True).index == 0
    assert reading_of(own[:1], 7, is_class=True).index == 0, "a class that the output does not have"
    found = effect_of(reading, own, other)
    assert found.changed == 0.5
    assert found.value == pytest.approx(float((shares_of(own) - shares_of(other))[:, 0].mean()))
    shares = np.array([[0.2, 0.8]])
    assert shares_of(shares) is shares


def test_any_other_answer_is_read_as_how_far_it_moves() -> None:
    own = np.zeros((1, 2, 3))
    reading = reading_of(own, -1, is_class=True)
    assert reading.kind == DISTANCE
    found = effect_of(reading, np.repeat(own, 5, axis=0), np.full((5, 2, 3), -0.5))
    assert (found.value, found.low, found.changed) == (0.5, 0.5, 0.0)


def test_a_part_of_a_picture_is_hidden_behind_what_is_usual_there() -> None:
    picture = {"image": np.ones((1, 1, 16, 16), np.float32)}
    others = {"image": np.zeros((10, 1, 16, 16), np.float32)}
    grid = grid_of("image", picture["image"].shape, (2, 3))
    made = hidden_parts(picture, others, grid)["image"]
    assert made.shape == (64, 1, 16, 16)
    assert float(made.sum(axis=0).min()) == float(made.sum(axis=0).max()) == 63.0, "each pixel is hidden once"
    assert float(made[9, 0, 2:4, 2:4].sum()) == 0.0
    assert float(picture["image"].min()) == 1.0, "the sample itself is left as it is"


def test_columns_that_are_not_kept_are_named() -> None:
    assert [one.name for one in missing_units(UNITS, {"x": [1]})] == ["x.load"]
    assert missing_units(UNITS, {"x": []}) == UNITS
    assert missing_units([Unit("z", "z", "input")], {"x": [1]}) == []
