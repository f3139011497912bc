"""Random forms of operators with many attributes: the compiled model answers as onnxruntime does, on both runtimes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from edgefleet_converters.tflite.runtimes import RUNTIMES
from tests.converters.tflite.models import Case, comparable, compiled_in, graph_of, one_node, same_as_onnxruntime

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime ends with Python 3.11"),
]

Array = npt.NDArray[Any]
Inputs = dict[str, Array | None]


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def padding(rng: np.random.Generator, rank: int) -> dict[str, Any]:
    kind = rng.integers(0, 4)
    if kind == 0:
        return {"auto_pad": str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))}
    return {"pads": [int(v) for v in rng.integers(0, 3, 2 * rank)]}


@pytest.mark.parametrize("seed", range(24))
def test_convolutions(seed: int) -> None:
    rng = random(seed)
    rank = int(rng.integers(1, 4))
    group = int(rng.choice([1, 1, 2, 4]))
    channels, filters = group * int(rng.integers(1, 4)), group * int(rng.integers(1, 4))
    kernel = [int(v) for v in rng.integers(1, 4, rank)]
    attributes = padding(rng, rank) | {
        "group": group, "strides": [int(v) for v in rng.integers(1, 4, rank)], "kernel_shape": kernel,
    }  # fmt: skip
    if "auto_pad" not in attributes:
        attributes["dilations"] = [int(v) for v in rng.integers(1, 3, rank)]
    inputs: Inputs = {
        "x": floats(rng, 2, channels, *rng.integers(7, 11, rank)),
        "w": floats(rng, filters, channels // group, *kernel),
        "b": floats(rng, filters) if rng.integers(0, 2) else None,
    }
    constants = ["w"] if rng.integers(0, 2) else []
    same_as_onnxruntime(one_node("Conv", inputs, constants, **attributes), inputs, constants)


@pytest.mark.parametrize("seed", range(20))
def test_transposed_convolutions(seed: int) -> None:
    rng = random(seed)
    rank = int(rng.integers(1, 4))
    group = int(rng.choice([1, 1, 2]))
    channels, filters = group * int(rng.integers(1, 3)), int(rng.integers(1, 4))
    kernel = [int(v) for v in rng.integers(1, 4, rank)]
    strides = [int(v) for v in rng.integers(1, 4, rank)]
    attributes: dict[str, Any] = {"group": group, "strides": strides, "kernel_shape": kernel}
    attributes["output_padding"] = [int(rng.integers(0, s)) for s in strides]
    attributes["pads"] = [int(rng.integers(0, 2)) for _ in range(2 * rank)]
    attributes["dilations"] = [int(v) for v in rng.integers(1, 3, rank)]
    inputs: Inputs = {
        "x": floats(rng, 1, channels, *rng.integers(4, 7, rank)),
        "w": floats(rng, channels, filters, *kernel),
        "b": floats(rng, filters * group) if rng.integers(0, 2) else None,
    }
    same_as_onnxruntime(one_node("ConvTranspose", inputs, ["w"], **attributes), inputs, ["w"])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("seed", range(16))
def test_pools(op: str, seed: int) -> None:
    rng = random(seed)

    def draw() -> Case:
        rank = int(rng.integers(1, 4))
        kernel = [int(v) for v in rng.integers(2, 4, rank)]
        attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [int(v) for v in rng.integers(1, 4, rank)]}
        if rng.integers(0, 4) == 0:
            attributes["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        else:
            attributes["pads"] = [int(rng.integers(0, k)) for k in kernel + kernel]
            attributes["ceil_mode"] = int(rng.integers(0, 2)) if op != "LpPool" else 0
            attributes["dilations"] = [int(v) for v in rng.integers(1, 3, rank)]
        if op == "AveragePool":
            attributes["count_include_pad"] = int(rng.integers(0, 2))
        inputs: Inputs = {"x": floats(rng, 2, 3, *rng.integers(7, 11, rank))}
        return one_node(op, inputs, **attributes), inputs

    model, inputs = comparable(draw)
    same_as_onnxruntime(model, inputs)


@pytest.mark.parametrize("seed", range(12))
def test_places_of_maxima(seed: int) -> None:
    rng = random(seed)

    def draw() -> Case:
        kernel = [int(v) for v in rng.integers(2, 4, 2)]
        attributes: dict[str, Any] = {
            "kernel_shape": kernel, "strides": [int(v) for v in rng.integers(1, 4, 2)],
            "pads": [int(rng.integers(0, k)) for k in kernel + kernel], "ceil_mode": int(rng.integers(0, 2)),
        }  # fmt: skip
        inputs: Inputs = {"x": rng.permutation(2 * 2 * 7 * 8).reshape(2, 2, 7, 8).astype(np.float32)}
        return one_node("MaxPool", inputs, outputs=2, **attributes), inputs

    model, inputs = comparable(draw)
    same_as_onnxruntime(model, inputs)


@pytest.mark.parametrize("seed", range(40))
def test_resizes(seed: int) -> None:
    rng = random(seed)
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": str(rng.choice(coordinates))}
    if mode == "nearest":
        attributes["nearest_mode"] = str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    x = floats(rng, 1, 2, int(rng.integers(3, 9)), int(rng.integers(3, 9)))
    sizes = np.array([1, 2, *rng.integers(2, 13, 2)], np.int64)
    inputs: Inputs = {"x": x, "roi": None, "scales": None, "sizes": sizes}
    same_as_onnxruntime(one_node("Resize", inputs, ["sizes"], **attributes), inputs, ["sizes"], rtol=1e-3)


@pytest.mark.parametrize("seed", range(40))
def test_slices(seed: int) -> None:
    rng, names = random(seed), ["starts", "ends", "axes", "steps"]

    def draw() -> Case:
        shape = [int(v) for v in rng.integers(3, 7, int(rng.integers(1, 6)))]
        count = int(rng.integers(1, len(shape) + 1))
        axes = rng.permutation(len(shape))[:count].astype(np.int64)
        negative = rng.integers(0, 2, count).astype(bool)
        axes = np.where(negative, axes - len(shape), axes)
        steps = rng.choice([-3, -2, -1, 1, 2, 3], count).astype(np.int64)
        starts = np.where(steps > 0, rng.integers(-9, 2, count), rng.integers(2, 9, count)).astype(np.int64)
        ends = np.where(
            steps > 0, rng.choice([-1, 3, 5, 2**62], count), rng.choice([-(2**62), -9, 0, 1], count)
        ).astype(np.int64)
        inputs: Inputs = {"x": floats(rng, *shape), "starts": starts, "ends": ends, "axes": axes, "steps": steps}
        return one_node("Slice", inputs, names), inputs

    model, inputs = comparable(draw)
    same_as_onnxruntime(model, inputs, names)


@pytest.mark.parametrize("seed", range(24))
def test_pads(seed: int) -> None:
    rng = random(seed)
    mode = str(rng.choice(["constant", "reflect", "edge", "wrap"]))
    shape = [int(v) for v in rng.integers(3, 6, int(rng.integers(1, 6)))]
    pads = rng.integers(-1 if mode == "constant" else 0, 3, 2 * len(shape)).astype(np.int64)
    value = np.array(2.5, np.float32) if mode == "constant" and rng.integers(0, 2) else None
    inputs: Inputs = {"x": floats(rng, *shape), "pads": pads, "value": value}
    constants = ["pads"] + (["value"] if value is not None else [])
    same_as_onnxruntime(one_node("Pad", inputs, constants, mode=mode), inputs, constants)


REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_reductions(op: str, seed: int) -> None:
    rng = random(seed)
    shape = [int(v) for v in rng.integers(1, 5, int(rng.integers(1, 7)))]
    axes = rng.permutation(len(shape))[: int(rng.integers(1, len(shape) + 1))].astype(np.int64)
    inputs: Inputs = {"x": floats(rng, *shape), "axes": axes}
    same_as_onnxruntime(one_node(op, inputs, ["axes"], keepdims=int(rng.integers(0, 2))), inputs, ["axes"])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Less", "Pow"])
@pytest.mark.parametrize("seed", range(6))
def test_broadcasting_of_any_rank(op: str, seed: int) -> None:
    rng = random(seed)
    shape = [int(v) for v in rng.integers(1, 4, int(rng.integers(1, 8)))]
    other = [int(rng.choice([1, n])) for n in shape][int(rng.integers(0, len(shape))) :]
    left, right = np.abs(floats(rng, *shape)) + 0.5, np.abs(floats(rng, *other)) + 0.5
    inputs: Inputs = {"x": left, "y": right} if rng.integers(0, 2) else {"x": right, "y": left}
    constants = ["y"] if rng.integers(0, 2) else []
    same_as_onnxruntime(one_node(op, inputs, constants), inputs, constants)


@pytest.mark.parametrize("seed", range(12))
def test_transposes_of_any_rank(seed: int) -> None:
    rng = random(seed)
    shape = [int(v) for v in rng.integers(1, 4, int(rng.integers(2, 7)))]
    kind = rng.choice(["float32", "int64", "int32", "bool", "uint8", "int16", "float16"])
    x = rng.integers(0, 9, shape).astype(kind)
    inputs: Inputs = {"x": x}
    same_as_onnxruntime(one_node("Transpose", inputs, perm=[int(p) for p in rng.permutation(len(shape))]), inputs)


@pytest.mark.parametrize("seed", range(10))
def test_matrix_products(seed: int) -> None:
    rng = random(seed)
    rank = int(rng.integers(1, 5))
    batch = [int(v) for v in rng.integers(1, 4, max(0, rank - 2))]
    left = [3, 4] if rank >= 2 else [4]
    right = [*[int(rng.choice([1, n])) for n in batch], 4, 5]
    inputs: Inputs = {"x": floats(rng, *batch, *left), "y": floats(rng, *right)}
    constants = ["y"] if rng.integers(0, 2) else []
    same_as_onnxruntime(one_node("MatMul", inputs, constants), inputs, constants)


EQUATIONS = ["ij,jk->ik", "bij,bjk->bik", "ij->ji", "i,i->", "bhqd,bhkd->bhqk", "ii->i", "...ij,...jk->...ik", "ij,kj->ik", "i,j->ij",
             "ijk->j", "abc,cd->abd"]  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsums(equation: str) -> None:
    rng = random(0)
    sizes = dict(zip("abcdhijkq", [2, 3, 2, 4, 2, 3, 4, 5, 3], strict=True))
    sizes["i"] = 3
    terms = equation.split("->", maxsplit=1)[0].split(",")
    inputs: Inputs = {}
    for position, term in enumerate(terms):
        lead = [2] if "..." in term else []
        inputs[f"x{position}"] = floats(rng, *lead, *(sizes[c] for c in term.replace("...", "")))
    same_as_onnxruntime(one_node("Einsum", inputs, equation=equation), inputs)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_recurrent_layers(op: str, direction: str, lengths: bool) -> None:
    rng = random(7)
    gates, count = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    steps, batch, width, hidden = 5, 3, 4, 6
    inputs: Inputs = {
        "x": floats(rng, steps, batch, width), "w": floats(rng, count, gates * hidden, width),
        "r": floats(rng, count, gates * hidden, hidden) * 0.5, "b": floats(rng, count, 2 * gates * hidden),
        "lengths": np.array([5, 2, 4], np.int32) if lengths else None, "h": floats(rng, count, batch, hidden),
    }  # fmt: skip
    outputs = 3 if op == "LSTM" else 2
    attributes = {"linear_before_reset": 1} if op == "GRU" else {}
    model = one_node(op, inputs, ["w", "r", "b"], outputs, hidden_size=hidden, direction=direction, **attributes)
    same_as_onnxruntime(model, inputs, ["w", "r", "b"])


@pytest.mark.parametrize("kind", ["int64", "int32", "uint32", "uint8", "int8", "int16"])
def test_whole_numbers_are_divided_exactly(kind: str) -> None:
    rng = random(3)
    low, high = int(np.iinfo(kind).min) + 1, int(np.iinfo(kind).max)
    edge = np.array([high, high - 1, low, low + 1, 1, 7, 100, high // 2], kind)
    left = np.concatenate([edge, rng.integers(low, high, 4000).astype(kind)])
    right = np.concatenate(
        [edge[::-1], rng.integers(1, high, 2000).astype(kind), rng.integers(1, 50, 2000).astype(kind)]
    )
    right = np.where(right == 0, np.array(1, kind), right)
    quotients = [
        abs(int(a)) // abs(int(b)) * (1 if (a >= 0) == (b >= 0) else -1) for a, b in zip(left, right, strict=True)
    ]
    inputs: Inputs = {"x": left, "y": right}
    for runtime in RUNTIMES.values():
        (got,) = compiled_in(runtime, one_node("Div", inputs), {"x": left, "y": right})
        np.testing.assert_array_equal(got, np.array(quotients).astype(kind))


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize("axes", [[1], [0, -1], [0, 1, 2]])
def test_means_of_whole_numbers_are_cut_towards_zero(kind: str, axes: list[int]) -> None:
    high = int(np.iinfo(np.int32).max)  # a sum of these needs more than 32 bits
    x = np.array([[-7, -8, 3, 1], [1, 2, 2, 2], [high, high - 4, high // 2, 7]], kind).reshape(3, 4, 1).repeat(2, 2)
    inputs: Inputs = {"x": x, "axes": np.array(axes, np.int64)}
    same_as_onnxruntime(one_node("ReduceMean", inputs, ["axes"], keepdims=0), inputs, ["axes"], rtol=0)


@pytest.mark.parametrize("op", ["Less", "Greater", "Max", "Min", "Add", "Mul", "Equal"])
def test_unsigned_64_bit_numbers_keep_their_order(op: str) -> None:
    x = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1, 5], np.uint64)
    inputs: Inputs = {"x": x, "y": x[::-1].copy()}
    same_as_onnxruntime(one_node(op, inputs), inputs)


def test_layout_is_the_models_own_through_a_residual_block() -> None:
    rng = random(1)
    inputs: Inputs = {
        "x": floats(rng, 1, 4, 8, 8),
        "w": floats(rng, 4, 4, 3, 3),
        "v": floats(rng, 4, 4, 3, 3),
        "s": floats(rng, 4, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["a", "s"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "a"], ["d"]),
        helper.make_node("Concat", ["d", "r"], ["e"], axis=1),
        helper.make_node("GlobalAveragePool", ["e"], ["y"]),
    ]
    same_as_onnxruntime(graph_of(nodes, inputs, ["w", "v", "s"], ["y"]), inputs, ["w", "v", "s"])


@pytest.mark.parametrize("seed", range(4))
def test_deformed_convolutions(seed: int) -> None:
    rng = random(seed)
    group, apart = int(rng.choice([1, 2])), int(rng.choice([1, 2]))
    kernel, stride, pad, step = [2, 3], int(rng.integers(1, 3)), int(rng.integers(0, 2)), int(rng.integers(1, 3))
    x, w = floats(rng, 2, 4, 9, 10), floats(rng, 6, 4 // group, *kernel)
    out = [(size + 2 * pad - step * (k - 1) - 1) // stride + 1 for size, k in zip((9, 10), kernel, strict=True)]
    inputs: Inputs = {
        "x": x, "w": w, "offset": 2 * floats(rng, 2, apart * 12, *out), "b": floats(rng, 6),
        "mask": rng.random((2, apart * 6, *out), np.float32) if seed % 2 else None,
    }  # fmt: skip
    attributes: dict[str, Any] = {
        "group": group, "offset_group": apart, "kernel_shape": kernel, "strides": [stride] * 2, "pads": [pad] * 4,
        "dilations": [step] * 2,
    }  # fmt: skip
    same_as_onnxruntime(one_node("DeformConv", inputs, ["w", "b"], **attributes), inputs, ["w", "b"])


@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
def test_aligned_regions(mode: str) -> None:
    rng = random(3)
    corners = rng.uniform(-4, 20, (5, 2)).astype(np.float32)
    regions = np.concatenate([corners, corners + rng.uniform(0.2, 18, (5, 2)).astype(np.float32)], axis=1)
    inputs: Inputs = {"x": floats(rng, 2, 3, 12, 16), "rois": regions, "at": np.array([0, 1, 1, 0, 1])}
    attributes: dict[str, Any] = {
        "output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.6, "coordinate_transformation_mode": mode,
    }  # fmt: skip
    same_as_onnxruntime(one_node("RoiAlign", inputs, **attributes), inputs)


def test_sequences_of_known_length() -> None:
    inputs: Inputs = {"x": floats(random(1), 5, 3), "size": np.array(2), "last": np.array(-1), "first": np.array(0)}
    nodes = [
        helper.make_node("SplitToSequence", ["x", "size"], ["parts"], axis=0),
        helper.make_node("SequenceAt", ["parts", "last"], ["end"]),
        helper.make_node("SequenceInsert", ["parts", "end", "first"], ["more"]),
        helper.make_node("SequenceErase", ["more", "last"], ["fewer"]),
        helper.make_node("SequenceLength", ["fewer"], ["count"]),
        helper.make_node("ConcatFromSequence", ["fewer"], ["y"], axis=0),
    ]
    constants = ["size", "last", "first"]
    same_as_onnxruntime(graph_of(nodes, inputs, constants, ["y", "count"]), inputs, constants)
