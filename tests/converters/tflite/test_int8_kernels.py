"""Rows of the table of int8 kernels that onnx's own tests do not reach, measured on files of one operator."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefleet_converters.tflite.ir import Graph, Op, Tensor, constant
from edgefleet_converters.tflite.quantize.kernels import KERNELS
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.static import quantize_static
from edgefleet_converters.tflite.runtimes import RUNTIMES
from edgefleet_converters.tflite.writer import write
from tests.converters.tflite.models import file_in

Array = npt.NDArray[Any]
RNG = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return RNG.uniform(-2, 2, shape).astype(np.float32)


def ints(values: Any) -> Array:
    return np.array(values, np.int32)


IMAGE = floats(1, 4, 4, 4)
ROWS: dict[str, tuple[list[Array], list[Array], tuple[int, ...], dict[str, Any]]] = {
    "PACK": ([floats(2, 3), 2 * floats(2, 3)], [], (2, 2, 3), {"values_count": 2, "axis": 0}),
    "SPACE_TO_DEPTH": ([IMAGE], [], (1, 2, 2, 16), {"block_size": 2}),
    "DEPTH_TO_SPACE": ([IMAGE], [], (1, 8, 8, 1), {"block_size": 2}),
    "SQUARED_DIFFERENCE": ([floats(2, 5), floats(2, 5)], [], (2, 5), {}),
    "PRELU": ([IMAGE], [floats(4)], (1, 4, 4, 4), {}),
    "MIRROR_PAD": ([floats(3, 4)], [ints([[1, 1], [0, 2]])], (5, 6), {"mode": 0}),
    "RESIZE_BILINEAR": ([IMAGE], [ints([8, 8])], (1, 8, 8, 4), {"half_pixel_centers": True}),
    "RESIZE_NEAREST_NEIGHBOR": ([IMAGE], [ints([8, 8])], (1, 8, 8, 4), {}),
    "RSQRT": ([np.abs(floats(2, 5)) + 2], [], (2, 5), {}),
    "RELU6": ([4 * floats(2, 5)], [], (2, 5), {}),
    "TILE": ([floats(2, 3)], [ints([2, 1])], (4, 3), {}),
    "LOG_SOFTMAX": ([floats(2, 5)], [], (2, 5), {}),
    "GATHER_ND": ([floats(3, 4)], [ints([[2], [0]])], (2, 4), {}),
    "GELU": ([floats(2, 5)], [], (2, 5), {"approximate": False}),
    "REVERSE_V2": ([floats(3, 4)], [ints([1])], (3, 4), {}),
}


@pytest.mark.parametrize("name", sorted(RUNTIMES))
@pytest.mark.parametrize("code", sorted(ROWS))
def test_a_row_of_the_table_is_right(code: str, name: str) -> None:
    runtime = RUNTIMES[name]
    if name == "tflite-2.14" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime ends with Python 3.11")
    if code not in KERNELS[runtime.adapter]:
        pytest.skip("the runtime has no right int8 kernel for it")
    flowing, fixed, shape, options = ROWS[code]
    inputs = tuple(Tensor(f"x{i}", "float32", array.shape) for i, array in enumerate(flowing))
    constants = tuple(constant(f"c{i}", array) for i, array in enumerate(fixed))
    out = Tensor("y", "float32", shape)
    graph = Graph(inputs, (out,), (Op(code, (*inputs, *constants), (out,), options),))
    arrays = {tensor.name: array for tensor, array in zip(inputs, flowing, strict=True)}
    made = quantize_static(graph, observe(graph, lambda _model: [arrays], runtime.adapter), runtime.adapter)
    (operator,) = (op for op in made.ops if op.code == code)
    held = operator.outputs[0].quantization
    assert held is not None, "it was left in float32"
    (wanted,), (got,) = (file_in(runtime, write(each), arrays) for each in (graph, made))
    assert np.abs(got - wanted).max() <= 2 * held.scale[0]
