"""Files are what the schema says: read back with the copy of the schema that LiteRT ships."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgefleet_converters.tflite.ir import Graph, Op, Option, Quantization, Tensor, constant
from edgefleet_converters.tflite.load import read_facts
from edgefleet_converters.tflite.schema import OPTIONS
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES
from edgefleet_converters.tflite.versions import version_of
from edgefleet_converters.tflite.writer import write

_VALUES: dict[str, Option] = {"int8": 1, "bool": True, "int32": 7, "int64": 7, "float32": 0.5, "ints": (3, 4)}


def unary(code: str, dtype: str = "float32", options: dict[str, Option] | None = None) -> Graph:
    x, y = Tensor("x", dtype, (1, 2, 2, 3)), Tensor("y", dtype, (1, 2, 2, 3))
    w = constant("w", np.zeros((3, 1, 1, 3), np.float32))
    return Graph((x,), (y,), (Op(code, (x, w), (y,), options or {}),))


@pytest.mark.parametrize("code", sorted(OPTIONS))
def test_options_are_where_the_schema_has_them(code: str) -> None:
    fields = OPTIONS[code].fields
    options = {name: _VALUES[field.kind] for name, field in fields.items()}
    model = schema.ModelT.InitFromPackedBuf(write(unary(code, options=options)), 0)
    operator = model.subgraphs[0].operators[0]
    table = operator.builtinOptions
    names = {number: name for name, number in vars(schema.BuiltinOptions).items() if isinstance(number, int)}
    assert operator.builtinOptionsType == OPTIONS[code].union
    assert names[operator.builtinOptionsType] == type(table).__name__.removesuffix("T")
    for name, value in options.items():
        camel = name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:])
        got = getattr(table, camel)
        assert (tuple(got) if isinstance(value, tuple) else got) == value


def test_operator_numbers_are_those_of_the_schema() -> None:
    for number, name in BUILTIN_NAMES.items():
        assert getattr(schema.BuiltinOperator, name) == number


def test_names_shapes_types_and_the_signature_are_kept() -> None:
    model = schema.ModelT.InitFromPackedBuf(write(unary("RELU")), 0)
    (graph,) = model.subgraphs
    x, w, y = graph.tensors
    assert (x.name, y.name, w.name) == (b"x", b"y", b"w")
    assert list(x.shape) == [1, 2, 2, 3]
    (signature,) = model.signatureDefs
    assert [(entry.name, entry.tensorIndex) for entry in signature.inputs] == [(b"x", graph.inputs[0])]
    assert [(entry.name, entry.tensorIndex) for entry in signature.outputs] == [(b"y", graph.outputs[0])]


def test_quantization_is_written() -> None:
    x = Tensor("x", "int8", (2,), quantization=Quantization((0.5, 0.25), (3, -4), 1))
    y = Tensor("y", "int8", (2,))
    model = schema.ModelT.InitFromPackedBuf(write(Graph((x,), (y,), (Op("RELU", (x,), (y,)),))), 0)
    found = model.subgraphs[0].tensors[0].quantization
    assert list(found.scale) == [0.5, 0.25]
    assert list(found.zeroPoint) == [3, -4]
    assert found.quantizedDimension == 1


def test_equal_scales_and_zero_points_are_stored_once() -> None:
    zeros, scales = (0,) * 48, tuple(1 / (7 + at) for at in range(48))
    x, y, z = (Tensor(name, "int8", (1, 48), quantization=Quantization(scales, zeros, 1)) for name in "xyz")
    data = write(Graph((x,), (z,), (Op("RELU", (x,), (y,)), Op("RELU", (y,), (z,)))))
    assert data.count(np.array(scales, np.float32).tobytes()) == 1
    assert data.count(np.zeros(48, np.int64).tobytes()) == 1
    found = [tensor.quantization for tensor in schema.ModelT.InitFromPackedBuf(data, 0).subgraphs[0].tensors]
    assert all(list(one.zeroPoint) == list(zeros) and np.allclose(one.scale, scales) for one in found)


def test_weights_are_stored_once_and_aligned() -> None:
    x, y, z = (Tensor(name, "float32", (4,)) for name in "xyz")
    value = np.arange(4, dtype=np.float32)
    one, two = constant("one", value), constant("two", value)
    data = write(Graph((x,), (z,), (Op("ADD", (x, one), (y,)), Op("MUL", (y, two), (z,)))))
    assert data.count(value.tobytes()) == 1
    assert data.index(value.tobytes()) % 16 == 0


def test_the_same_graph_gives_the_same_bytes() -> None:
    assert write(unary("ABS")) == write(unary("ABS"))


def test_our_own_reader_knows_what_was_written() -> None:
    assert read_facts(write(unary("TANH")))["operators"] == {"TANH": 1}


@pytest.mark.parametrize(
    ("code", "dtype", "version"),
    [("ADD", "int64", 4), ("ABS", "int32", 5), ("RELU", "float32", 1), ("MUL", "int64", 5), ("NOT_EQUAL", "int8", 2)],
)
def test_versions_follow_the_types(code: str, dtype: str, version: int) -> None:
    assert version_of(unary(code, dtype).ops[0]) == version
