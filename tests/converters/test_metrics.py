"""Metrics, detector score and declared tolerances: pure figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_converters import errors
from edgefleet_converters.check.detection import detection_f1, objects
from edgefleet_converters.check.distance import MAGNIFIED, allowed_loss, magnified
from edgefleet_converters.check.metrics import classes_of, is_lost, judge
from edgefleet_converters.check.parity import parity, spread_of, tolerances, usable_vectors
from edgefleet_protocol.manifest import Quantization, TensorSpec

Array = npt.NDArray[Any]
EYE = np.eye(4, dtype=np.float32)


def test_top1_tells_value_baseline_and_drop() -> None:
    worse = EYE.copy()
    worse[0] = EYE[1]
    score = judge(None, {"s": worse}, {"s": EYE}, {"": np.arange(4)})
    assert (score.name, score.value, score.baseline, score.drop, score.n) == ("top1", 0.75, 1.0, 0.25, 4)


def test_without_labels_agreement_is_the_metric() -> None:
    score = judge(None, {"s": EYE[::-1]}, {"s": EYE}, {})
    assert (score.name, score.value, score.drop) == ("agreement", 0.0, 1.0)


def test_float_labels_do_not_make_top1_the_default() -> None:
    assert judge(None, {"s": EYE}, {"s": EYE}, {"": np.ones(4)}).name == "agreement"


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        (np.array([[0.2, 0.8], [0.9, 0.1]]), [1, 0]),
        (np.array([[0.2], [0.8]]), [0, 1]),
        (np.array([0.2, 0.8]), [0, 1]),
        (np.array([3, 7]), [3, 7]),
    ],
)
def test_classes_are_read_from_each_form_of_output(output: Array, classes: list[int]) -> None:
    assert classes_of(output).tolist() == classes


def test_agreement_of_maps_counts_values_within_one_percent_of_the_range() -> None:
    wanted = np.linspace(0, 10, 200, dtype=np.float32).reshape(2, 10, 10)
    near, far = wanted + 0.05, wanted.copy()
    far[0] += 1.0
    assert judge("agreement", {"m": near}, {"m": wanted}, {}).value == 1.0
    assert judge("agreement", {"m": far}, {"m": wanted}, {}).value == 0.5


def test_the_worst_output_decides_agreement() -> None:
    score = judge("agreement", {"a": EYE, "b": EYE[::-1]}, {"a": EYE, "b": EYE}, {})
    assert score.value == 0.0


def test_mae_is_lower_better_and_its_drop_is_the_increase() -> None:
    wanted = np.zeros((4, 2), np.float32)
    assert judge("mae", {"o": wanted + 0.5}, {"o": wanted}, {}).drop == 0.5
    score = judge("mae", {"o": wanted + 0.5}, {"o": wanted + 0.25}, {"": wanted})
    assert (score.value, score.baseline, score.drop) == (0.5, 0.25, 0.25)


def test_sequences_are_compared_after_joining_repeats_and_dropping_blanks() -> None:
    def read(*steps: int) -> Array:
        return np.eye(5, dtype=np.float32)[list(steps)][None]

    same = judge("sequence", {"o": read(1, 1, 0, 2, 2)}, {"o": read(0, 1, 0, 0, 2)}, {})
    assert same.value == 1.0
    other = judge("sequence", {"o": read(1, 0, 1, 2, 2)}, {"o": read(0, 1, 0, 0, 2)}, {})
    assert other.value == 0.0
    labelled = judge("sequence", {"o": read(1, 1, 0, 2, 2)}, {"o": read(1, 1, 0, 2, 2)}, {"": np.array([[1, 2, -1]])})
    assert (labelled.value, labelled.baseline) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([0, 1, 2, 4]), "0 to 4.*4 classes"),
        (np.array([-1, 0, 1, 2]), "-1"),
        (np.ones((4, 2), int), "one-dimensional"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Array, told: str) -> None:
    with pytest.raises(errors.LabelsError) as caught:
        judge("top1", {"s": EYE}, {"s": EYE}, {"": labels})
    import re

    assert re.search(told, f"{caught.value.message} {caught.value.next_step}")


@pytest.mark.parametrize(
    ("name", "answers", "labels", "told"),
    [
        ("top1", EYE, {}, "needs labels"),
        ("sequence", EYE, {}, "steps"),
        ("detection", EYE, {}, "boxes"),
        ("detection", np.ones((4, 10, 4), np.float32), {}, "4 . classes"),
        ("scores", np.ones((4, 3, 10), np.float32), {}, "4 . classes"),
        ("f1", EYE, {}, "no metric 'f1'"),
        ("top1", np.ones((4, 2, 3), np.float32), {"": np.zeros(4, int)}, "one row of class scores"),
    ],
)
def test_a_metric_that_cannot_be_computed_says_why(
    name: str, answers: Array, labels: dict[str, Array], told: str
) -> None:
    with pytest.raises(errors.MetricError, match=told):
        judge(name, {"o": answers}, {"o": answers}, labels)


def boxes(*rows: tuple[float, float, float, float, float, float]) -> Array:
    """Return a detector's output [1, 40, 6]: 4 box numbers and 2 class scores; empty rows score nothing."""
    table = np.zeros((1, 40, 6), np.float32)
    table[0, : len(rows)] = np.array(rows).reshape(-1, 6)
    return table


def test_a_detector_that_finds_the_same_objects_scores_one_in_both_layouts() -> None:
    wanted = boxes((50, 50, 20, 20, 0.9, 0), (150, 50, 20, 20, 0, 0.8))
    moved = boxes((52, 50, 20, 20, 0.7, 0), (150, 51, 20, 20, 0, 0.9))
    assert detection_f1(moved, wanted) == 1.0
    assert detection_f1(moved.transpose(0, 2, 1), wanted.transpose(0, 2, 1)) == 1.0


def test_a_lost_object_or_another_class_costs() -> None:
    wanted = boxes((50, 50, 20, 20, 0.9, 0), (150, 50, 20, 20, 0, 0.8))
    assert detection_f1(boxes((50, 50, 20, 20, 0.9, 0)), wanted) == pytest.approx(2 / 3)
    assert detection_f1(boxes((50, 50, 20, 20, 0, 0.9)), wanted) == 0.0
    assert detection_f1(boxes(), wanted) == 0.0
    assert detection_f1(boxes(), boxes()) == 1.0


def test_overlapping_rows_are_one_object() -> None:
    assert len(objects(boxes((50, 50, 20, 20, 0.9, 0), (51, 50, 20, 20, 0.8, 0))[0])) == 1


@given(noise=st.floats(0, 0.2), precision=st.sampled_from(["fp32", "fp16", "int8", "dynamic"]), seed=st.integers(0, 50))
def test_usable_vectors_lie_within_the_declared_tolerance(noise: float, precision: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    wanted = random.standard_normal((20, 5)).astype(np.float32)
    got = (wanted + noise * random.standard_normal((20, 5))).astype(np.float32)
    usable = usable_vectors({"o": got}, {"o": wanted}, precision)
    spec = (TensorSpec(name="o", dtype="float32", shape=["N", 5]),)
    if usable:
        declared = tolerances({"o": got}, {"o": wanted}, spec, precision, usable)["o"]
        near = np.abs(got[usable].astype(float) - wanted[usable])
        assert (near <= (declared.atol + declared.rtol * np.abs(wanted[usable])) * (1 + 1e-4)).all()
        assert declared.atol <= 0.26 * spread_of(wanted)


def test_integer_outputs_must_be_equal_and_quantised_ones_within_two_steps() -> None:
    plain = TensorSpec(name="o", dtype="int64", shape=["N"])
    stored = TensorSpec(name="o", dtype="uint8", shape=["N"], quantization=Quantization(scale=0.1, zero_point=0))
    value = {"o": np.zeros(9, np.int64)}
    assert tolerances(value, value, (plain,), "fp32", [0])["o"].atol == 0
    small = {"o": np.zeros(9, np.uint8)}
    assert tolerances(small, small, (stored,), "int8", [0])["o"].atol == 2


def test_a_decision_is_not_near_its_opposite() -> None:
    yes = {"o": np.ones((3, 4), bool)}
    assert usable_vectors(yes, yes, "fp32") == [0, 1, 2]
    assert usable_vectors({"o": ~yes["o"]}, yes, "fp32", slack=10) == []


def test_parity_figures_are_plain_numbers() -> None:
    figures = parity({"o": EYE + 0.1}, {"o": EYE})["o"]
    assert figures["max_abs"] == pytest.approx(0.1)
    assert 0.9 < figures["cosine"] < 1


@given(
    rows=st.lists(st.booleans(), min_size=8, max_size=40), first=st.integers(1, 8), max_drop=st.floats(0, 0.5),
    metric=st.sampled_from(["agreement", "mae", "sequence"]),
)  # fmt: skip
def test_what_is_lost_early_is_lost(rows: list[bool], first: int, max_drop: float, metric: str) -> None:
    wanted = np.tile(EYE[0], (len(rows), 1, 1)) if metric == "sequence" else np.tile(EYE[0], (len(rows), 1))
    got = np.where(np.array(rows).reshape(-1, *[1] * (wanted.ndim - 1)), wanted, wanted[..., ::-1])
    early = judge(metric, {"y": got[:first]}, {"y": wanted[:first]}, {})
    if is_lost(early, {"y": wanted[:first]}, n=len(rows), max_drop=max_drop):
        assert judge(metric, {"y": got}, {"y": wanted}, {}).drop > max_drop - 1e-9


def test_a_detector_is_never_given_up_early() -> None:
    wanted = np.zeros((4, 6, 10), np.float32)
    assert not is_lost(judge("detection", {"y": wanted}, {"y": wanted}, {}), {"y": wanted}, n=10, max_drop=0.0)


@pytest.mark.parametrize(
    ("metric", "wanted", "max_drop", "allowed"),
    [
        ("agreement", np.tile(EYE, (16, 1)), 0.01, 1 / 64),  # one of 64, seen with twice its error, tells of 0.78 %
        ("agreement", np.tile(EYE, (12, 1)), 0.01, 0.007),  # one of 48 would tell of 1.04 %
        ("agreement", np.tile(EYE, (16, 1)), 0.005, 0.0035),
        ("agreement", np.tile(EYE, (8, 1)), 0.02, 1 / 32),
        ("agreement", EYE, 0.2, 0.14),  # one of 4 tells too little
        ("agreement", np.tile(EYE, (64, 1)), 0.01, 0.007),  # of 256 one is less than the gate allows anyway
        ("agreement", np.zeros((64, 1), np.float32), 0.01, 0.007),  # no classes: the share of values, not of samples
        ("sequence", np.zeros((64, 3, 4), np.float32), 0.01, 0.007),
        ("mae", np.tile(EYE, (16, 1)), 0.01, 0.007),
        ("agreement", np.zeros((0, 4), np.float32), 0.01, 0.007),
    ],
)
def test_one_sample_may_change_where_it_tells_of_no_more_than_the_gate_allows(
    metric: str, wanted: npt.NDArray[np.float32], max_drop: float, allowed: float
) -> None:
    assert allowed_loss(metric, {"y": wanted}, max_drop=max_drop, margin=0.7) == pytest.approx(allowed)


def test_errors_are_magnified_only_where_changed_samples_are_counted() -> None:
    got = EYE + np.float32(0.125)
    assert np.array_equal(magnified("agreement", {"y": got}, {"y": EYE})["y"], EYE + np.float32(MAGNIFIED * 0.125))
    assert magnified("mae", {"y": got}, {"y": EYE})["y"] is got
    assert magnified("agreement", {"y": got[:, :1]}, {"y": EYE[:, :1]})["y"].shape == (4, 1)
    whole = np.arange(4)
    assert magnified("agreement", {"y": whole}, {"y": whole})["y"] is whole
