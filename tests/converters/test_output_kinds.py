"""The kind of each output and the metric that fits it; what a few samples can prove."""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgefleet_converters import errors
from edgefleet_converters.accuracy import output_kinds as kinds
from edgefleet_converters.accuracy.confidence import most_lost
from edgefleet_converters.accuracy.output_kinds import OutputPlan, kind_of, plan_of, states_of
from edgefleet_converters.accuracy.output_metrics import OUTPUT_METRICS
from edgefleet_converters.check.metrics import judge, with_labels, with_named
from edgefleet_converters.layer_search import Judge
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.graphs import model_of, run, samples, save

Array = npt.NDArray[Any]
RANDOM = np.random.default_rng(5)


def softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)


def plan(name: str, kind: str, metric: str = "") -> tuple[OutputPlan, ...]:
    return (OutputPlan(name=name, kind=kind, metric=metric or kinds.METRIC_OF[kind]),)


def logits(n: int, classes: int) -> Array:
    """Return what training with a softmax gives: the right class stands out, and the sum of a row hardly moves."""
    rows = RANDOM.standard_normal((n, classes))
    rows[np.arange(n), RANDOM.integers(0, classes, n)] += 9
    return np.asarray(rows - rows.mean(axis=1, keepdims=True), np.float32)


BOXES = np.concatenate([RANDOM.uniform(5, 300, (6, 4, 80)), RANDOM.uniform(0, 1, (6, 3, 80))], axis=1).astype(
    np.float32
)
UNIT = RANDOM.standard_normal((30, 64))
CLEAR = np.where(RANDOM.random((6, 1, 16, 16)) > 0.6, 0.97, 0.02).astype(np.float32)
KINDS = [
    ("softmax", softmax(RANDOM.standard_normal((40, 10))), "Softmax", "out", kinds.CLASS_SCORES),
    ("shares without a softmax", softmax(RANDOM.standard_normal((40, 3))), "Mul", "out", kinds.CLASS_SCORES),
    ("logits", logits(60, 10), "Gemm", "out", kinds.CLASS_SCORES),
    ("logits of two classes", logits(60, 2), "Gemm", "out", kinds.CLASS_SCORES),
    ("three numbers", RANDOM.uniform(0, 10, (60, 3)).astype(np.float32), "Gemm", "scores", kinds.REGRESSION),
    ("three numbers that go together", np.repeat(RANDOM.uniform(0, 50, (60, 1)), 3, 1) + RANDOM.random((60, 3)), "Add", "s",
     kinds.REGRESSION),
    ("one number", RANDOM.standard_normal((40, 1)).astype(np.float32), "Add", "y", kinds.REGRESSION),
    ("a yes or no", RANDOM.random((40, 1)).astype(np.float32), "Sigmoid", "y", kinds.INDEPENDENT),
    ("several labels", RANDOM.random((40, 5)).astype(np.float32), "LOGISTIC", "y", kinds.INDEPENDENT),
    ("steps of classes", softmax(RANDOM.standard_normal((6, 20, 30))), "Softmax", "y", kinds.SEQUENCE),
    ("steps of logits", logits(6 * 20, 12).reshape(6, 20, 12), "Add", "y", kinds.SEQUENCE),
    ("steps of numbers", RANDOM.standard_normal((6, 20, 12)).astype(np.float32), "Add", "y", kinds.REGRESSION),
    ("a detector", BOXES, "Concat", "output0", kinds.DETECTOR),
    ("a mask", CLEAR, "Sigmoid", "y", kinds.MASK),
    ("classes of pixels", softmax(RANDOM.standard_normal((2, 9, 9, 4))).transpose(0, 3, 1, 2), "Softmax", "y", kinds.CLASS_MAP),
    ("a picture", RANDOM.random((4, 3, 16, 16)).astype(np.float32), "Sigmoid", "y", kinds.INDEPENDENT),
    ("unit vectors", UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True), "Div", "y", kinds.EMBEDDING),
    ("named as one", UNIT.astype(np.float32), "Gemm", "sentence_embedding", kinds.EMBEDDING),
    ("the same for all", np.tile(RANDOM.random((1, 7)), (9, 1)).astype(np.float32), "Add", "anchors", kinds.CONSTANT),
    ("class numbers", np.arange(9), "ArgMax", "label", kinds.CLASS_NUMBERS),
    ("several whole numbers", np.arange(20).reshape(4, 5), "TopK", "ids", kinds.WHOLE_NUMBERS),
    ("classes of pixels as numbers", np.zeros((3, 16, 16), np.int64), "ArgMax", "y", kinds.CLASS_MAP),
]  # fmt: skip


@pytest.mark.parametrize(("values", "end", "name", "kind"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_the_kind_of_an_output_is_inferred(values: Array, end: str, name: str, kind: str) -> None:
    assert kind_of(values, end, name) == kind


def test_scores_next_to_boxes_belong_to_them() -> None:
    scores = softmax(RANDOM.standard_normal((3, 50, 5)))
    assert kind_of(scores, "Softmax", "scores", [np.zeros((3, 50, 4), np.float32)]) == kinds.ANCHORS


@pytest.mark.parametrize(
    ("outputs", "inputs", "pairs"),
    [
        (["y", "stateN"], ["x", "state"], {"stateN": "state"}),
        (["y", "hn", "cn"], ["x", "h", "c"], {"hn": "h", "cn": "c"}),
        (["prob", "h_out", "c_out"], ["input", "h_in", "c_in"], {"h_out": "h_in", "c_out": "c_in"}),
        (["logits", "present.0.key"], ["ids", "past.0.key"], {"present.0.key": "past.0.key"}),
        (["audio_out", "gru_state_out"], ["audio_in", "gru_state_in"], {"gru_state_out": "gru_state_in"}),
        (["output"], ["input"], {}),
        (["audio_out", "mask"], ["audio_in", "noise"], {}),
        (["state_out"], ["state_in", "x"], {}),
    ],
)
def test_a_state_is_an_output_that_an_input_takes_back(
    outputs: list[str], inputs: list[str], pairs: dict[str, str]
) -> None:
    specs = [[TensorSpec(name=name, dtype="float32", shape=[1, 8]) for name in names] for names in (inputs, outputs)]
    assert states_of(*specs) == pairs


def test_a_regressor_of_three_numbers_is_not_judged_by_its_largest_one() -> None:
    wanted = RANDOM.standard_normal((100, 3)).astype(np.float32) + np.array([0, 5, 10], np.float32)
    got = wanted + np.float32(0.16)
    own = plan_of([], [TensorSpec(name="s", dtype="float32", shape=["N", 3])], {"s": wanted}, ["Gemm"])
    score = judge(own, {"s": got}, {"s": wanted}, {})
    assert (score.name, judge("agreement", {"s": got}, {"s": wanted}, {}).value) == ("mae-share", 1.0)
    assert 0.02 < score.drop < 0.06


def test_the_arg_max_of_numbers_that_are_no_classes_does_not_count() -> None:
    wanted = RANDOM.standard_normal((200, 1)).astype(np.float32) + np.zeros((1, 3), np.float32)
    got = wanted + np.float32(0.002) * RANDOM.standard_normal((200, 3)).astype(np.float32)
    own = plan_of([], [TensorSpec(name="s", dtype="float32", shape=["N", 3])], {"s": wanted}, ["Gemm"])
    assert judge("agreement", {"s": got}, {"s": wanted}, {}).drop > 0.3
    assert judge(own, {"s": got}, {"s": wanted}, {}).drop < 0.002


def test_a_recogniser_is_judged_by_what_is_read() -> None:
    wanted = softmax(8 * np.eye(50)[RANDOM.integers(1, 50, (40, 60))])
    got = wanted.copy()
    rows, steps = RANDOM.integers(0, 40, 41), RANDOM.integers(0, 60, 41)  # 1.7 % of the steps
    got[rows, steps] = np.roll(got[rows, steps], 1, axis=-1)
    score = judge(plan("t", kinds.SEQUENCE), {"t": got}, {"t": wanted}, {})
    assert judge("agreement", {"t": got}, {"t": wanted}, {}).drop < 0.002
    assert 0.015 < score.drop < 0.018


def test_blanks_and_repeats_of_a_recogniser_are_no_text() -> None:
    read = [[0, 3, 3, 0, 4, 0, 0, 5], [0, 0, 3, 0, 4, 4, 0, 5], [0, 3, 0, 0, 0, 0, 0, 5]]
    first, shifted, lost = (np.eye(9, dtype=np.float32)[row][None] for row in read)
    figure = OUTPUT_METRICS["edit"]
    assert figure(shifted, first).drop == 0
    assert figure(lost, first).drop == pytest.approx(1 / 3)


def test_a_constant_may_differ_in_its_last_bits_only() -> None:
    wanted = np.full((9, 2, 4), 0.1, np.float32)
    next_one = np.nextafter(wanted, np.float32(1))
    assert judge("agreement", {"c": next_one}, {"c": wanted}, {}).value == 0.0
    own = plan("c", kinds.CONSTANT)
    assert judge(own, {"c": next_one}, {"c": wanted}, {}).drop == 0.0
    assert judge(own, {"c": wanted * np.float32(1.05)}, {"c": wanted}, {}).drop == pytest.approx(0.05, rel=1e-3)


def test_masks_objects_and_embeddings_have_their_own_figures() -> None:
    less = CLEAR.copy()
    marked = np.argwhere(CLEAR[0, 0] > 0.5)
    less[0, 0, marked[: len(marked) // 2, 0], marked[: len(marked) // 2, 1]] = 0
    assert OUTPUT_METRICS["iou"](less, CLEAR).drop == pytest.approx(0.5 / 6, abs=0.01)
    scores = softmax(np.where(RANDOM.random((4, 60, 3)) > 0.9, 8.0, 0.0) + np.array([4.0, 0, 0]))
    assert OUTPUT_METRICS["objects"](scores, scores).value == 1.0
    none = softmax(np.tile([9.0, 0, 0], (4, 60, 1)))
    assert OUTPUT_METRICS["objects"](none, scores).value == 0.0
    common = UNIT + 30  # all cosines are near 1, also those of different samples
    assert OUTPUT_METRICS["similarity"](common, common).value == pytest.approx(1.0)
    assert OUTPUT_METRICS["similarity"](common[::-1], common).value < 0.2


def test_the_output_that_loses_most_decides_and_a_name_can_be_given_for_one() -> None:
    own = plan("a", kinds.REGRESSION) + plan("b", kinds.CLASS_SCORES)
    wanted = {"a": RANDOM.standard_normal((50, 1)), "b": softmax(RANDOM.standard_normal((50, 4)))}
    got = wanted | {"a": wanted["a"] + 1}
    score = judge(own, got, wanted, {})
    assert (score.name, [one.output for one in score.outputs]) == ("mae-share", ["a", "b"])
    assert score.drop > 0.1
    named = with_named(own, None, {"a": "ignore"})
    assert judge(named, got, wanted, {}).drop == 0
    assert judge(with_named(own, None, {"a": "mae"}), got, wanted, {}).drop == pytest.approx(1)
    for bad, words in (
        ({"c": "mae"}, "no such output"),
        ({"a": "f1"}, "no metric 'f1'"),
        ({"a": "ignore", "b": "ignore"}, "ignored"),
    ):
        with pytest.raises(errors.MetricError, match=words):
            with_named(own, None, bad)


def test_labels_judge_the_class_scores_and_leave_the_rest_to_its_kind() -> None:
    own = plan("a", kinds.REGRESSION) + plan("b", kinds.CLASS_SCORES)
    wanted = {"a": RANDOM.standard_normal((50, 1)), "b": softmax(RANDOM.standard_normal((50, 4)))}
    labels = {"": wanted["b"].argmax(axis=1)}
    assert [row.metric for row in with_labels(own, labels, wanted)] == ["mae-share", "top1"]
    assert judge(with_labels(own, labels, wanted), wanted, wanted, labels).value == 0.0


def test_a_search_goes_by_the_same_kinds_as_the_gate() -> None:
    wanted = {"s": RANDOM.standard_normal((64, 3)).astype(np.float32)}
    rows = [{"name": "s", "kind": kinds.REGRESSION, "metric": "mae-share", "feeds": "", "given": False}]
    flipped = {"s": wanted["s"] + np.float32(0.002) * RANDOM.standard_normal((64, 3)).astype(np.float32)}
    off = {"s": wanted["s"] + np.float32(0.3)}
    judged = Judge(rows, wanted, n=64, max_drop=0.01)
    assert (judged.holds(flipped, 64), judged.holds(off, 64)) == (True, False)


@pytest.mark.parametrize(("wrong", "n"), [(0, 400), (1, 100), (7, 350), (50, 60)])
def test_bounds_of_shares_are_those_of_clopper_and_pearson(wrong: int, n: int) -> None:
    losses = np.zeros(n)
    losses[:wrong] = 1
    most = most_lost(losses)
    assert sum(comb(n, i) * most**i * (1 - most) ** (n - i) for i in range(wrong + 1)) == pytest.approx(0.05, rel=1e-6)
    assert most_lost(losses, looks=3) > most > wrong / n


def test_bounds_of_means_hold_and_few_samples_prove_little() -> None:
    assert most_lost(np.zeros(400)) == pytest.approx(0.00746, abs=1e-4)
    assert most_lost(np.zeros(4)) > 0.5
    assert most_lost(np.empty(0)) == most_lost(np.ones(5)) == 1.0
    covered = [most_lost(np.random.default_rng(seed).beta(1, 99, 60)) >= 0.01 for seed in range(200)]
    assert sum(covered) >= 190


def recurrent(*, leak: float = 0.9) -> ModelProto:
    """Return x [1, 8], state [1, 256] -> y [1, 4], stateN: a leaky sum and what it shows."""
    random = np.random.default_rng(2)
    stored = {
        "w": 0.1 * random.standard_normal((8, 256)),
        "v": random.standard_normal((256, 4)),
        "leak": np.full((1, 256), leak),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Mul", ["state", "leak"], ["kept"]),
        helper.make_node("Add", ["xw", "kept"], ["stateN"]),
        helper.make_node("Tanh", ["stateN"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["y"]),
    ]
    tensors = {name: value.astype(np.float32) for name, value in stored.items()}
    return model_of(nodes, tensors, {"x": [1, 8], "state": [1, 256]}, {"y": [1, 4], "stateN": [1, 256]})


def test_a_state_is_judged_by_a_long_run_and_its_kind_is_in_the_report(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    data = {"eval": samples(tmp_path, x=x, state=np.zeros((60, 256), np.float32))}
    report, _ = run(save(recurrent(), tmp_path), tmp_path / "out", data=data, precision="fp16")
    (bundle,) = report.bundles
    rows = {row.output: row for row in bundle.metric.outputs}
    assert {name: (row.kind, row.metric) for name, row in rows.items()} == {
        "y": (kinds.REGRESSION, "mae-share"), "stateN": (kinds.STATE, "long-run"),
    }  # fmt: skip
    assert 0 < rows["stateN"].drop < 0.01


def test_a_named_output_is_judged_by_its_metric_and_an_ignored_one_by_none(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    data = {"eval": samples(tmp_path, x=x, state=np.zeros((60, 256), np.float32))}
    metrics = {"y": "mae", "stateN": "ignore"}
    report, _ = run(save(recurrent(), tmp_path), tmp_path / "out", data=data, precision="fp32", metrics=metrics)
    assert [(row.output, row.metric) for row in report.bundles[0].metric.outputs] == [("y", "mae")]


def test_a_constant_output_does_not_refuse_float32(tmp_path: Path) -> None:
    stored = {"w": np.random.default_rng(2).standard_normal((8, 3)).astype(np.float32), "third": np.float32(1 / 3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Mul", ["x", "zero"], ["none"]),
        helper.make_node("Add", ["none", "third"], ["c"]),
    ]
    model = model_of(nodes, stored | {"zero": np.float32(0)}, {"x": ["N", 8]}, {"y": ["N", 3], "c": ["N", 8]})
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    report, _ = run(save(model, tmp_path), tmp_path / "out", data={"eval": samples(tmp_path, x=x)}, precision="fp32")
    assert [row.kind for row in report.bundles[0].metric.outputs] == [kinds.REGRESSION, kinds.CONSTANT]
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (8, 3)
