"""Weights in fewer bits, equalisation, bias correction, shared constants: each on a model small enough to check by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgefleet_profiles
from edgefleet_converters.errors import TransformError
from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx import calibrate
from edgefleet_converters.onnx.block_weights import BLOCKS, packed, stored_in_blocks
from edgefleet_converters.onnx.calibrate import Calibration, Samples
from edgefleet_converters.onnx.load import operators_of
from edgefleet_converters.onnx.passes.correct_bias import CorrectBias
from edgefleet_converters.onnx.passes.equalise import Equalise
from edgefleet_converters.onnx.passes.hoist_constants import HoistConstants
from edgefleet_converters.onnx.prepare import prepared
from edgefleet_converters.onnx.quantize import bias_corrected, candidate
from edgefleet_converters.onnx.walk import all_nodes
from edgefleet_converters.onnx.weights import rounded, store_weights, weights_of
from edgefleet_converters.recipe import CandidateSpec, default_recipe
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import load
from tests.converters.graphs import Array, classifier, data_for, model_of, save
from tests.converters.recurrent_graphs import sequences, tagger


def answer(model: onnx.ModelProto, x: Array) -> Array:
    runtime = load("ort", model.SerializeToString())
    return np.concatenate([next(iter(runtime.run({"x": row[None]}).values())) for row in x])


def convolutions(*, seed: int = 0, spread: int = 0) -> onnx.ModelProto:
    """Return Conv-Relu-Conv-Relu-MaxPool-Flatten-Gemm: `x` float32 [N, 3, 8, 8] -> `y` [N, 5].

    spread: channels of the first two layers get factors of 2^-spread to 2^spread that the next layer takes back.
    """
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> Array:
        return np.asarray(random.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    tensors = {
        "w1": weights(16, 3, 3, 3), "b1": weights(16, 1)[:, 0], "w2": weights(24, 16, 3, 3), "b2": weights(24, 1)[:, 0],
        "w3": weights(5, 24 * 16), "b3": weights(5, 1)[:, 0],
    }  # fmt: skip
    one, two = (np.exp2(random.permutation(np.rint(np.linspace(-spread, spread, n)))) for n in (16, 24))
    tensors["w1"] *= one[:, None, None, None]
    tensors["b1"] *= one
    tensors["w2"] *= two[:, None, None, None] / one[None, :, None, None]
    tensors["b2"] *= two
    tensors["w3"] /= two.repeat(16)[None, :]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="r1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="r2"),
        helper.make_node("MaxPool", ["r2"], ["p"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="g", transB=1),
    ]
    tensors = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    return model_of(nodes, tensors, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]})


def images(n: int = 24, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random((n, 3, 8, 8), dtype=np.float32)


def spec(**keys: object) -> CandidateSpec:
    return CandidateSpec(id="t", precision="int8", **keys)  # type: ignore[arg-type]


def samples_of(x: Array) -> Samples:
    return Samples({"x": x}, [TensorSpec(name="x", dtype="float32", shape=["N", *x.shape[1:]])])


def test_weights_in_eight_bits_are_a_quarter_and_off_by_half_a_step_at_most() -> None:
    model = classifier(features=64)
    small = store_weights(model, 8)
    x, _ = data_for(model, 16)
    onnx.checker.check_model(small, full_check=True)
    stored = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert stored["w1_q"].dtype == np.int8
    assert stored["w1_s"].shape == (1, 32), "one scale for each output of a Gemm without transB"
    assert "w2" in stored, "128 values are too few to be worth three more entries in the graph"
    back = stored["w1_q"] * stored["w1_s"]
    assert (np.abs(back - before["w1"]) <= stored["w1_s"] / 2 + 1e-7).all()
    assert np.abs(answer(small, x) - answer(model, x)).max() < 0.05 * np.ptp(answer(model, x))


@pytest.mark.parametrize("bits", [8, 16])
def test_stored_weights_cost_no_node_at_run_time(bits: int, tmp_path: Path) -> None:
    small = store_weights(convolutions(), bits)
    assert "Cast" in {node.op_type for node in small.graph.node}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx")
    assert not {"Cast", "Mul", "DequantizeLinear"} & {node.op_type for node in loaded.graph.node}


def test_a_stored_weight_takes_no_name_of_an_input() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "w_q"], ["y"])]
    model = model_of(nodes, {"w": np.ones((16, 16), np.float32)}, {"x": [1, 16], "w_q": [1, 16]}, {"y": [1, 16]})
    x = np.ones((1, 16), np.float32)
    got = load("ort", store_weights(model, 8).SerializeToString()).run({"x": x, "w_q": x})
    assert np.allclose(got["y"], 17)


def test_a_weight_beyond_float16_stays_as_it_is() -> None:
    model = classifier(features=64)
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e6
    tensor.CopyFrom(numpy_helper.from_array(values, "w1"))
    assert "w1" in {t.name for t in store_weights(model, 16).graph.initializer}


def test_named_weights_are_kept_or_halved() -> None:
    made = store_weights(convolutions(), 8, half=frozenset({"w2"}), kept=frozenset({"w3"}))
    types = {t.name: t.data_type for t in made.graph.initializer}
    assert types["w1_q"] == TensorProto.INT8
    assert types["w2_q"] == TensorProto.FLOAT16
    assert types["w3"] == TensorProto.FLOAT


@pytest.mark.parametrize("inner", [64, 40, 7])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_hold_a_matrix_as_the_runtime_reads_it(inner: int, bits: Literal[4, 8]) -> None:
    matrix = np.random.default_rng(0).standard_normal((inner, 48)).astype(np.float32) + np.float32(0.5)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": matrix}, {"x": ["N", inner]}, {"y": ["N", 48]})
    small = stored_in_blocks(model, bits)
    assert [node.op_type for node in small.graph.node] == ["MatMulNBits"]
    form, count = packed(matrix, bits), -(-inner // BLOCKS[bits])
    assert (form.blob.shape, form.scales.shape) == ((48, count, BLOCKS[bits] * bits // 8), (48 * count,))
    back = answer(small, np.eye(inner, dtype=np.float32))  # one value of 1 in each row: the left side loses nothing
    step = np.abs(form.scales.reshape(48, -1)).repeat(BLOCKS[bits], axis=1)[:, :inner].T
    off = np.abs(back - matrix) / step
    assert off.mean() < 0.3
    assert off.max() <= (0.501 if bits == 8 else 3), "the outermost of 4 bits may be cut off where the others gain"


def test_four_bits_in_blocks_take_the_range_with_the_least_error() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    matrix[5] *= 3
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": matrix}, {"x": ["N", 64]}, {"y": ["N", 48]})
    back = answer(store_weights(model, 4), np.eye(64, dtype=np.float32))
    groups = matrix.T.reshape(48, 2, 32)
    low, high = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    whole = (np.clip(np.rint(groups / scale) + zero, 0, 15) - zero) * scale
    assert np.square(back - matrix).mean() < 0.97 * np.square(whole - groups).mean()


def test_dense_layers_get_four_bits_and_no_other_file_bears_the_name() -> None:
    four = CandidateSpec(id="t", precision="int4-weights", method="weights", weight_bits=4)
    small = candidate(classifier(), four, None)
    assert [node.op_type for node in small.graph.node].count("MatMulNBits") == 1, "the second has too few weights"
    x, _ = data_for(classifier())
    assert np.abs(answer(small, x) - answer(classifier(), x)).mean() < 0.2 * np.abs(answer(classifier(), x)).mean()
    with pytest.raises(TransformError, match="no product"):
        candidate(classifier(features=4), four, None)


def test_weights_inside_a_branch_are_shared_and_can_be_stored_small() -> None:
    values = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)

    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        nodes = [helper.make_node("MatMul", ["x", "w"], [f"{name}_p"], name=f"{name}_m"),
                 helper.make_node("Neg" if name == "else" else "Abs", [f"{name}_p"], [f"{name}_y"])]  # fmt: skip
        return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(values, "w")])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("then"), else_branch=branch("else")),
    ]
    model = model_of(nodes, {"zero": np.array(0, np.float32)}, {"x": [1, 32]}, {"y": [1, 32]})
    result = run_passes(model, [HoistConstants()])
    assert result.notes[0].outcome == "applied"
    assert result.model.ByteSize() < model.ByteSize() - 4000
    (shared,) = weights_of(result.model)
    assert [node.name for node in all_nodes(result.model) if shared.name in node.input] == ["then_m", "else_m"]
    x = np.random.default_rng(1).standard_normal((6, 32)).astype(np.float32)
    assert np.array_equal(answer(result.model, x), answer(model, x))
    assert np.allclose(answer(store_weights(result.model, 8), x), answer(model, x), atol=0.1)


def test_equalisation_changes_no_answer_and_rescues_uneven_channels() -> None:
    even, uneven = convolutions(), convolutions(spread=6)
    x = images()
    assert np.allclose(answer(uneven, x), answer(even, x), atol=1e-5)
    result = run_passes(uneven, [Equalise()])
    assert result.notes[0].outcome == "applied"
    assert np.array_equal(answer(result.model, x), answer(uneven, x)), "powers of two change no bit"
    errors = {}
    for equalise in (False, True):
        wanted = spec(method="static", per_channel=True, equalise=equalise)
        model, calibration, _ = prepared(uneven, wanted, samples_of(x))
        errors[equalise] = np.abs(answer(candidate(model, wanted, calibration), x) - answer(uneven, x)).mean()
    assert errors[True] < errors[False] / 2


def test_an_equalised_model_is_calibrated_anew_only_where_it_has_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = convolutions(spread=6), images()
    even = spec(method="static", per_channel=True, equalise=True)
    _, plain, _ = prepared(model, spec(method="static", per_channel=True), samples_of(x))
    _, whole, _ = prepared(model, even, samples_of(x))
    seen: list[str] = []
    measure = calibrate._lowest_and_highest

    def noted(shown: onnx.ModelProto, tensors: Sequence[str], found: Samples) -> dict[str, tuple[float, float]]:
        seen.extend(tensors)
        return measure(shown, tensors, found)

    monkeypatch.setattr(calibrate, "_lowest_and_highest", noted)
    _, quick, _ = prepared(model, even, samples_of(x), plain)
    assert quick.ranges == whole.ranges
    assert {name: list(mean) for name, mean in quick.means.items()} == {n: list(m) for n, m in whole.means.items()}
    assert seen == ["c1", "c2", "f", "p", "r1", "r2"], "the tensors between the layers"
    assert plain.ranges["c1"] != whole.ranges["c1"]


def test_equalisation_needs_a_clear_way_between_two_layers() -> None:
    model = convolutions(spread=6)
    model.graph.node[1].op_type = "Sigmoid"
    model.graph.node[3].op_type = "Sigmoid"
    assert run_passes(model, [Equalise()]).notes[0].outcome == "skipped"
    model = convolutions(spread=6)
    model.graph.output.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, None))
    before = {t.name: t for t in model.graph.initializer}
    after = {t.name: t for t in run_passes(model, [Equalise()]).model.graph.initializer}
    assert after["w1"] == before["w1"], "an output of the model must keep its size"
    assert after["w3"] != before["w3"]


def test_bias_correction_takes_the_mean_error_away() -> None:
    model, x = convolutions(), images(32)
    coarse = {"w1": 3, "w2": 3, "w3": 3}
    means = {"x": x.mean(axis=(0, 2, 3)).astype(np.float64)}
    corrected = run_passes(model, [CorrectBias(means, coarse)]).model
    changed = {t.name for t, u in zip(corrected.graph.initializer, model.graph.initializer, strict=True) if t != u}
    assert changed == {"b1"}, "only where the mean of the input is known"
    kept = run_passes(model, [CorrectBias(means, {"w2": 3})])
    assert kept.notes[0].outcome == "unchanged"


def test_bias_correction_brings_the_answers_of_rounded_weights_nearer() -> None:
    model, x = convolutions(seed=3), images(32)
    off = {}
    for correct in (False, True):
        wanted = spec(method="weights", weight_bits=4, correct_bias=correct)
        ready, calibration, _ = prepared(model, wanted, samples_of(x))
        made = candidate(ready, wanted, calibration)
        off[correct] = np.abs((answer(made, x) - answer(model, x)).mean(axis=0)).mean()
    assert off[True] < off[False] * 0.7


@pytest.mark.parametrize("per_channel", [True, False])
def test_bias_correction_reckons_with_the_scales_that_the_weights_get(per_channel: bool) -> None:
    model, x = convolutions(spread=3), images(8)
    wanted = spec(method="static", correct_bias=True, per_channel=per_channel)
    means = {"x": x.mean(axis=(0, 2, 3)).astype(np.float64)}
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
        for made in (model, bias_corrected(model, wanted, Calibration({}, means)))
    )
    error = rounded(before["w1"], (0,) if per_channel else ()) - before["w1"]
    assert np.allclose(before["b1"] - after["b1"], error.sum(axis=(2, 3)) @ means["x"], atol=1e-7)


def test_a_calibration_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    wanted = spec(method="static", per_channel=True)
    model, calibration, _ = prepared(convolutions(), wanted, samples_of(images()))
    calibration.save(path)
    again = Calibration.load(path)
    assert again.ranges == calibration.ranges
    assert candidate(model, wanted, again) == candidate(model, wanted, calibration)


@pytest.mark.parametrize("method", ["MinMax", "Entropy", "Percentile"])
def test_every_calibration_method_gives_a_model_that_holds(method: str) -> None:
    model, x = convolutions(), images()
    wanted = spec(method="static", per_channel=True, calibration=method)
    ready, calibration, _ = prepared(model, wanted, samples_of(x))
    got = answer(candidate(ready, wanted, calibration), x)
    assert np.abs(got - answer(model, x)).mean() < 0.05 * np.ptp(answer(model, x))


@pytest.mark.parametrize("act_dtype", ["uint8", "int8", "uint16", "int16"])
def test_activations_of_8_and_16_bits_run_and_16_are_nearer(act_dtype: str) -> None:
    model, x = convolutions(), images()
    wanted = spec(method="static", per_channel=True, act_dtype=act_dtype)
    ready, calibration, _ = prepared(model, wanted, samples_of(x))
    error = np.abs(answer(candidate(ready, wanted, calibration), x) - answer(model, x)).mean()
    assert error < (0.01 if "16" in act_dtype else 0.05) * np.ptp(answer(model, x))


def test_sixteen_bits_with_a_scale_a_channel_are_nearer_than_float16_and_as_small() -> None:
    model = convolutions()
    x = images(8)
    wanted = answer(model, x)
    whole = store_weights(model, 16, whole=True)
    half = store_weights(model, 16)
    apart = {name: float(np.abs(answer(made, x) - wanted).max()) for name, made in (("whole", whole), ("half", half))}
    assert apart["whole"] < 0.5 * apart["half"]
    assert len(whole.SerializeToString()) < 1.15 * len(half.SerializeToString())
    kinds = {tensor.data_type for tensor in whole.graph.initializer}
    assert TensorProto.INT16 in kinds
    assert TensorProto.FLOAT16 not in kinds


def test_channels_whose_largest_weight_dwarfs_the_rest_keep_float16() -> None:
    random = np.random.default_rng(0)
    uneven = random.standard_normal((64, 32)).astype(np.float32)
    uneven[0] = 3e4
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    even = random.standard_normal((32, 16)).astype(np.float32)
    model = model_of(nodes, {"w": uneven, "v": even}, {"x": ["N", 64]}, {"y": ["N", 16]})
    kinds = {t.name: t.data_type for t in store_weights(model, 16, whole=True).graph.initializer}
    assert (kinds["w_q"], kinds["v_q"]) == (TensorProto.FLOAT16, TensorProto.INT16)


def test_ranges_are_those_of_onnxruntimes_calibrator(tmp_path: Path) -> None:
    from onnxruntime.quantization.calibrate import create_calibrator

    from edgefleet_converters.onnx.calibrate import quantizable_operators, tensor_ranges

    model, found = convolutions(), samples_of(images(6))
    calibrator = create_calibrator(
        save(model, tmp_path), quantizable_operators(), augmented_model_path=str(tmp_path / "augmented.onnx")
    )
    calibrator.collect_data(samples_of(images(6)))
    theirs = {
        name: tuple(float(np.asarray(v).reshape(-1)[0]) for v in data.range_value)
        for name, data in calibrator.compute_data().items()
    }
    ours = tensor_ranges(model, found, method="MinMax")
    assert set(ours) == set(theirs)
    for name, pair in theirs.items():
        assert ours[name] == pytest.approx(pair, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize(
    ("operator", "name", "made_of"),
    [
        ("LSTM", "int8-static", "LSTM"),
        ("GRU", "int8-static", "GRU"),
        ("LSTM", "int8-static-lstm", "com.microsoft::DynamicQuantizeLSTM"),
    ],
)
def test_a_static_model_stores_recurrent_weights_in_8_bits_too(
    operator: Literal["LSTM", "GRU"], name: str, made_of: str
) -> None:
    model, x = tagger(operator), sequences(24)
    recipe = default_recipe(edgefleet_profiles.load("generic-x86_64-ort"), seed=0)
    (wanted,) = [spec for spec in recipe.candidates if spec.id == name]
    ready, calibration, _ = prepared(model, wanted, samples_of(x))
    small = candidate(ready, wanted, calibration)
    assert made_of in operators_of(small)
    kinds = {t.data_type for t in small.graph.initializer if np.prod(t.dims) >= 600}
    assert kinds == {TensorProto.INT8}, "weights of all layers"
    assert small.ByteSize() < 0.35 * model.ByteSize()
    off = np.abs(answer(small, x) - answer(model, x)).mean()
    assert off < 0.06 * np.abs(answer(model, x)).mean()


def test_no_accelerator_gets_weights_that_its_compiler_does_not_know() -> None:
    base = edgefleet_profiles.load("generic-x86_64-ort")
    strict = msgspec.structs.replace(base, quant=msgspec.structs.replace(base.quant, mode="required"))
    static = [spec for spec in default_recipe(strict, seed=0).candidates if spec.id.startswith("int8-static")]
    assert [spec.weight_bits for spec in static] == [0] * len(static)
    assert "int8-static-lstm" not in [spec.id for spec in static]


def test_products_in_blocks_bear_an_outlier_that_one_scale_does_not() -> None:
    random = np.random.default_rng(0)
    tensors = {
        "up": random.standard_normal((64, 512)).astype(np.float32) / 8,
        "down": random.standard_normal((512, 64)).astype(np.float32) / 22,
        "rare": np.where(np.arange(512) == 7, 300, 1).astype(np.float32),
    }
    tensors["down"][7] = 0  # the large value means nothing, and costs the others their steps
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["h"], name="up"),
        helper.make_node("Mul", ["h", "rare"], ["g"], name="rare"),
        helper.make_node("MatMul", ["g", "down"], ["y"], name="down"),
    ]
    model = model_of(nodes, tensors, {"x": ["N", 64]}, {"y": ["N", 64]})
    x = random.standard_normal((8, 64)).astype(np.float32)
    off, products = {}, {}
    for blocks in ("none", "narrowing", "all"):
        wanted = CandidateSpec(
            id="t", precision="dynamic", method="dynamic", op_types=["MatMul", "Gemm"], per_channel=True, weight_bits=8,
            blocks=cast("Any", blocks),
        )  # fmt: skip
        small = candidate(model, wanted, None)
        products[blocks] = [node.op_type for node in small.graph.node if node.op_type.startswith("MatMul")]
        off[blocks] = np.abs(answer(small, x) - answer(model, x)).mean()
    assert products["none"] == ["MatMulInteger", "MatMulInteger"]
    assert products["narrowing"] == ["MatMulInteger", "MatMulNBits"]
    assert products["all"] == ["MatMulNBits", "MatMulNBits"]
    assert off["narrowing"] < off["none"] / 1.3
    assert off["all"] < off["none"] / 1.3


def test_blocks_of_a_model_without_products_are_refused() -> None:
    wanted = CandidateSpec(id="t", precision="dynamic", method="dynamic", blocks="all", weight_bits=8)
    with pytest.raises(TransformError, match="no product"):
        candidate(classifier(features=4), wanted, None)


def test_a_product_behind_one_in_blocks_is_ranged_at_run_time() -> None:
    random = np.random.default_rng(0)
    tensors = {
        "down": random.standard_normal((256, 32)).astype(np.float32),
        "up": random.standard_normal((32, 64)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "down"], ["h"], name="down"),
        helper.make_node("MatMul", ["h", "up"], ["y"], name="up"),
    ]
    model = model_of(nodes, tensors, {"x": ["N", 256]}, {"y": ["N", 64]})
    wanted = CandidateSpec(id="t", precision="dynamic", method="dynamic", op_types=["MatMul"], blocks="narrowing")
    found = operators_of(candidate(model, wanted, None))
    assert (found["com.microsoft::MatMulNBits"], found["MatMulInteger"]) == (1, 1)
