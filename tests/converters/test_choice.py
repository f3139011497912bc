"""Which candidate is chosen: over all of them by bytes and counted time, and none that does not earn its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from edgefleet_converters import errors
from edgefleet_converters.candidate_worth import Best, Scale, Worth, in_order, is_beaten, not_small
from edgefleet_converters.onnx.weights import store_weights
from edgefleet_converters.recipe import CandidateSpec, default_recipe
from edgefleet_converters.report import CandidateRow, MetricRow
from edgefleet_converters.search_refusal import rejected
from edgefleet_converters.tflite.quantize.candidate_recipe import tflite_recipe
from tests.converters.graphs import changed, model_of, run, samples, save

CONVS = {"macs": {"conv.float": 10_000_000}, "activation_bytes": 100_000}
PRODUCTS = {"macs": {"matmul.float": 10_000_000}, "activation_bytes": 100_000}
RECIPE = {spec.id: spec for spec in default_recipe(changed("generic-x86_64-ort"), seed=0).candidates}


def recurrent(hidden: int = 48) -> onnx.ModelProto:
    """Return a small Conv in front of a large LSTM, which has no static int8 form: `x` [1, 8, 12] -> `y` [1, 4]."""
    random = np.random.default_rng(5)
    tensors = {
        "k": random.normal(0, 0.3, (16, 8, 3)), "w": random.normal(0, 0.2, (1, 4 * hidden, 16)),
        "r": random.normal(0, 0.2, (1, 4 * hidden, hidden)), "o": random.normal(0, 0.5, (hidden, 4)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1], name="conv"),
        helper.make_node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["t", "w", "r"], ["", "h"], hidden_size=hidden, name="lstm"),
        helper.make_node("Squeeze", ["h", "zero"], ["s"]),
        helper.make_node("MatMul", ["s", "o"], ["y"], name="out"),
    ]
    stored = {name: value.astype(np.float32) for name, value in tensors.items()}
    return model_of(nodes, stored | {"zero": np.array([0])}, {"x": [1, 8, 12]}, {"y": [1, 4]})


def test_what_static_int8_leaves_is_small_too_and_one_of_the_smallest_is_chosen(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((120, 8, 12)).astype(np.float32)
    data = {"calibration": samples(tmp_path, "c.npz", x=x[:60]), "eval": samples(tmp_path, "e.npz", x=x[60:])}
    report, _ = run(save(recurrent(), tmp_path), tmp_path / "out", data=data, max_drop=0.05, explore=True)
    (bundle,) = report.bundles
    (profile,) = report.profiles
    assert bundle.ratio < 0.45
    rows = {row.id: row for row in profile.candidates}
    assert rows["int8-static-lstm"].verdict == "passed", "the weights that static int8 leaves are ranged at run time"
    passing = [row.bytes for row in profile.candidates if row.verdict == "passed" and row.bytes]
    assert len(passing) > 2
    assert bundle.bytes <= 1.25 * min(passing), [(row.id, row.bytes, row.verdict) for row in profile.candidates]


def test_a_tiny_model_does_not_grow(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": random.normal(size=(6, 3)).astype(np.float32)}, {"x": ["N", 6]}, {"y": ["N", 3]})
    x = random.standard_normal((80, 6)).astype(np.float32)
    report, _ = run(save(model, tmp_path), tmp_path / "out", data={"calibration": samples(tmp_path, x=x)}, max_drop=0.1)
    assert report.bundles[0].ratio <= 1
    assert report.bundles[0].precision == "fp32"


@pytest.mark.parametrize(
    ("precision", "size", "is_small"),
    [("int8", 901, False), ("int8-weights", 901, False), ("dynamic", 900, True), ("fp16", 1001, False),
     ("fp16", 999, True), ("fp32", 1100, True)],
)  # fmt: skip
def test_a_name_is_earned_by_bytes(precision: str, size: int, is_small: bool) -> None:
    assert (not_small(precision, size, 1000) == "") == is_small


def test_the_most_promising_come_first_and_slow_ones_last() -> None:
    order = [spec.id for spec in in_order(list(RECIPE.values()), Scale(1000, CONVS, "ort"))]
    assert order[0] == "int8-static"
    assert order[-1] == "int8-dynamic", "ConvInteger takes many times float32's time"
    assert order.index("int8-weights") < order.index("int8-mixed") < order.index("int16-weights") < order.index("fp32")
    by_products = [spec.id for spec in in_order(list(RECIPE.values()), Scale(1000, PRODUCTS, "ort"))]
    assert by_products.index("int8-dynamic-matmul") < by_products.index("int8-weights")


def test_what_cannot_beat_the_best_is_not_made() -> None:
    scale = Scale(1000, CONVS, "ort")
    static = Best(RECIPE["int8-static"], Worth(0.3, 0.45))
    assert is_beaten(RECIPE["int8-static-head-float"], scale, static), "the same form with more left in float"
    assert is_beaten(RECIPE["int8-weights"], scale, static)
    assert not is_beaten(RECIPE["int8-weights"], scale, None)
    large = Best(RECIPE["int8-static"], Worth(0.8, 0.45))
    assert not is_beaten(RECIPE["int8-weights"], scale, large)
    assert not is_beaten(RECIPE["int8-mixed"], scale, large)
    slow = CandidateSpec(id="s", precision="int16x8", method="static", act_dtype="uint16")
    assert scale.promise(slow).time > 1.0


def test_of_two_alike_the_earlier_one_stays() -> None:
    scale = Scale(1000, CONVS, "ort")
    near = Best(RECIPE["int16-weights"], Worth(0.516, 1.0))
    assert is_beaten(RECIPE["fp16"], scale, near), "float16 is a fiftieth smaller, and farther from the weights"
    assert not near.is_better(Worth(0.505, 1.0))
    assert near.is_better(Worth(0.27, 1.0))
    half = CONVS | {"activation_bytes": 50_000}
    assert scale.made(RECIPE["fp16-weights"], 505, half).time == 1.0, "fewer bytes do not make float32 faster"
    assert scale.made(RECIPE["fp16"], 505, half).time > 1.0, "without float16 arithmetic values are cast all the time"
    assert Scale(1000, CONVS, "ort", has_float16=True).made(RECIPE["fp16"], 505, half).time == 1.0


SMALL = {"macs": {"matmul.float": 12_000}, "products": {"matmul.float": 3}, "activation_bytes": 2_000}
LARGE = {"macs": {"matmul.float": 3_000_000}, "products": {"matmul.float": 3}, "activation_bytes": 20_000}


def test_small_products_become_slower_in_fewer_bits() -> None:
    """Each rounds its left side on each run, which costs more than a small product itself."""
    small, large = Scale(70_000, SMALL, "ort"), Scale(3_000_000, LARGE, "ort")
    for name in ("int4-weights", "int8-dynamic-matmul", "int8-dynamic-blocks"):
        assert small.promise(RECIPE[name]).time > 1.1
        assert large.promise(RECIPE[name]).time < 1.1
    assert small.promise(RECIPE["int8-weights"]).time == small.promise(RECIPE["int8-mixed"]).time == 1.0
    order = [spec.id for spec in in_order(list(RECIPE.values()), small)]
    assert order.index("int8-weights") < min(
        order.index(name) for name in ("int4-weights", "int8-dynamic-matmul", "int8-static")
    )
    made = {"macs": {"matmul.int8": 12_000}, "products": {"matmul.int8": 3}, "activation_bytes": 2_000}
    assert small.made(RECIPE["int8-dynamic-matmul"], 22_000, made).time > 1.2


@pytest.mark.parametrize(("runtime", "is_fast"), [("litert", True), ("tflite", False)])
def test_int8_next_to_float_is_fast_in_one_tflite_runtime_alone(runtime: str, is_fast: bool) -> None:
    recipe = {spec.id: spec for spec in tflite_recipe(changed("generic-x86_64-litert"), seed=0).candidates}
    for work in (CONVS, LARGE):
        scale = Scale(1000, work, runtime)
        assert (scale.promise(recipe["int8-dynamic"]).time < 0.7) is is_fast
        order = [spec.id for spec in in_order(list(recipe.values()), scale)]
        assert (order.index("int8-dynamic") < order.index("int8-weights")) is is_fast
    depthwise = Scale(1000, {"macs": {"depthwise.float": 10_000_000}, "activation_bytes": 100_000}, runtime)
    assert depthwise.promise(recipe["int8-dynamic"]).time == 1.0, "stored in 8 bits, and computed in float32"


def test_time_is_counted_on_what_was_made() -> None:
    scale = Scale(1000, CONVS, "ort")
    half = {"macs": {"conv.float": 5_000_000, "conv.int8": 5_000_000}, "activation_bytes": 50_000}
    all_ = {"macs": {"conv.int8": 10_000_000}, "activation_bytes": 25_000}
    spec = RECIPE["int8-static"]
    assert scale.made(spec, 300, all_).time < scale.made(spec, 300, half).time < 1
    assert scale.made(RECIPE["int8-weights"], 300, CONVS).time == pytest.approx(1.0)


def test_a_zero_point_a_channel_keeps_weights_on_one_side_nearer() -> None:
    weights = np.random.default_rng(2).uniform(4.0, 5.0, (32, 16)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": weights}, {"x": [1, 32]}, {"y": [1, 16]})
    errors = {}
    for zero in (False, True):
        made = store_weights(model, 8, zero=zero)
        onnx.checker.check_model(made)
        errors[zero] = float(np.abs(_restored(made) - weights).max())
        stored = {t.name: numpy_helper.to_array(t).dtype for t in made.graph.initializer}
        assert stored["w_q"] == np.int8
    assert errors[True] < 0.6 * errors[False]


def _restored(model: onnx.ModelProto) -> npt.NDArray[Any]:
    import onnxruntime as ort

    x = np.eye(32, dtype=np.float32)[:, None]
    session = ort.InferenceSession(model.SerializeToString())
    return np.concatenate([session.run(None, {"x": row})[0] for row in x])


def test_rows_of_what_was_not_tried_say_why(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((120, 64)).astype(np.float32)
    w = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": w}, {"x": ["N", 64]}, {"y": ["N", 32]})
    data = {"calibration": samples(tmp_path, x=x)}
    report, _ = run(save(model, tmp_path), tmp_path / "out", data=data, max_drop=0.1)
    left: list[CandidateRow] = [row for row in report.profiles[0].candidates if row.verdict == "not_tried"]
    assert left
    assert all("passed with" in row.reason for row in left)


@pytest.mark.parametrize(
    ("error", "metric", "short"),
    [
        (errors.AccuracyError("x", drop=0.0345), ("top1", 0.96, 0.9945, 0.0345), "3.5 points lost"),
        (errors.AccuracyError("x", drop=0.012), ("mae", 0.012, 0.0, 0.012), "0.012 worse"),
        (errors.TransformError("x"), None, "cannot be made"),
        (errors.CrashedError("x"), None, "crashes"),
    ],
)  # fmt: skip
def test_a_rejection_has_a_short_reason(
    error: errors.ConversionError, metric: tuple[str, float, float, float] | None, short: str
) -> None:
    figures = None
    if metric is not None:
        name, value, baseline, drop = metric
        figures = MetricRow(name=name, value=value, baseline=baseline, drop=drop, n=10, data="evaluation data")
    row = rejected(CandidateRow(id="c", precision="int8"), error, figures)
    assert (row.verdict, row.short, row.reason) == ("rejected", short, error.message)
    assert len(f"rejected: {row.short}") <= 26
