"""Import a TFLite source: walk the file with bounds checks and say what is in it. Runs in a sandboxed child.

Source of field numbers: TFLite schema 3 (`schema.fbs`): Model, OperatorCode, SubGraph, Tensor, Operator, Buffer.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgefleet_converters.errors import (
    ForeignOperatorError,
    InvalidModelError,
    ModelTooLargeError,
    NotAModelError,
    ShapeOptionError,
    TruncatedModelError,
)
from edgefleet_converters.tflite.file_graph import NotReadError, read_graph
from edgefleet_converters.tflite.flatbuffer import OutOfBoundsError, Table
from edgefleet_converters.tflite.runtimes import CUSTOM_OPERATORS
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, CUSTOM, DTYPES, ITEM_BYTES

MAGIC: Final = b"TFL3"
"""At the fifth byte of every TFLite file."""
MAX_BYTES: Final = 2**31 - 1
MAX_OPERATORS: Final = 50_000
MAX_ELEMENTS: Final = 2**31 - 1
_SCHEMA_VERSION: Final = 3
_NODE_KEYS: Final = ("name", "version", "node", "dtypes", "flowing", "weights", "per_channel", "rank")


def import_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, shapes, values, out}. Writes a copy to `out`; returns the facts of `read_facts` and `kept`.

    kept: why no smaller form can be made of the file, empty where one can.
    """
    if args["shapes"] or args["values"]:
        raise ShapeOptionError(
            "shapes and values of inputs cannot be given for a TFLite file",
            next_step="convert the ONNX model, or export the TFLite file with the wanted shapes",
        )
    path = Path(args["model"])
    if path.stat().st_size > MAX_BYTES:
        raise ModelTooLargeError(
            f"the model has {path.stat().st_size} bytes; the converter takes {MAX_BYTES}",
            next_step="use a smaller model",
        )
    data = path.read_bytes()
    facts = read_facts(data)
    Path(args["out"]).write_bytes(data)
    return facts | {"kept": _kept(data, facts["precision"])}


def _kept(data: bytes, precision: str) -> str:
    """Return why no smaller form can be made of a file. Raises as `read_facts`."""
    if precision not in ("fp32", "fp16"):
        return f"it is {precision} already"
    try:
        with _sound(data):
            read_graph(data)
    except NotReadError as reason:
        return reason.message
    return ""


_MOVES: Final = frozenset(("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "CAST", "QUANTIZE", "DEQUANTIZE"))
_MOST_MOVES: Final = 64


def read_facts(data: bytes) -> dict[str, Any]:
    """Return `{operators: {name: count}, nodes: [{name, version, node, …}], precision}`.

    Of each node: dtypes of all its tensors; `flowing`, of those that are no constants; `weights`, of its constants of rank 2
    or more; `per_channel`, whether one of those has a scale a channel; `rank`, the largest number of dimensions of a flowing
    tensor, counted from the first that is not 1.
    precision: `int8` when a weighted operator runs on 8-bit tensors (without such an operator, when no tensor is float),
    `dynamic` when only weights are 8-bit, `fp16` when weights are float16, else `fp32`.

    Raises NotAModelError, TruncatedModelError, InvalidModelError, ForeignOperatorError.
    """
    if data[4:8] != MAGIC:
        raise NotAModelError("the file has no TFLite header", next_step="publish a .tflite file")
    with _sound(data):
        return _facts(Table.root(data))


@contextmanager
def _sound(data: bytes) -> Iterator[None]:
    """Raise TruncatedModelError or InvalidModelError where something in the block points outside the file."""
    try:
        yield
    except OutOfBoundsError as error:
        if error.beyond_end:
            raise TruncatedModelError(
                f"the TFLite file ends too early (it has {len(data)} bytes): {error}",
                next_step="copy or export the file again and compare its size",
            ) from error
        raise InvalidModelError(f"the TFLite file is damaged: {error}", next_step="export the model again") from error


def _facts(model: Table) -> dict[str, Any]:
    version = model.number(0, "I")
    if version != _SCHEMA_VERSION:
        raise InvalidModelError(
            f"the TFLite file has schema version {version}; only {_SCHEMA_VERSION} is known",
            next_step="export it again",
        )
    codes = [_operator_code(code) for code in model.tables(1)]
    buffers = [_buffer_bytes(buffer) for buffer in model.tables(4)]
    graphs = model.tables(2)
    if not graphs or not codes:
        raise InvalidModelError("the TFLite file holds no graph", next_step="export the model again")
    nodes: list[dict[str, Any]] = []
    weights: set[str] = set()
    activations: set[str] = set()
    for number, graph in enumerate(graphs):
        tensors = [_tensor(table, buffers) for table in graph.tables(0)]
        _check_indices(graph.numbers(1, "i") + graph.numbers(2, "i"), len(tensors), f"graph {number}", optional=False)
        for index, operator in enumerate(graph.tables(3)):
            node = _node(operator, codes, tensors, f"{number}:{index}")
            nodes.append(node)
            if node["weights"]:
                weights.update(node["weights"])
                activations |= node["read"]
        if len(nodes) > MAX_OPERATORS:
            raise ModelTooLargeError(
                f"the model has more than {MAX_OPERATORS} operators", next_step="use a smaller model"
            )
    operators: dict[str, int] = {}
    for node in nodes:
        operators[node["name"]] = operators.get(node["name"], 0) + 1
    return {
        "operators": dict(sorted(operators.items())),
        "nodes": [{key: node[key] for key in _NODE_KEYS} for node in nodes],
        "ends": _ends(graphs[0], codes),
        "precision": _precision(weights, activations, {dtype for node in nodes for dtype in node["dtypes"]}),
    }


def _ends(graph: Table, codes: list[tuple[str, int]]) -> list[str]:
    """Return the operator that makes each output, behind what only moves or stores values; "" for one that none makes."""
    made_by = {index: op for op in graph.tables(3) for index in op.numbers(2, "i")}
    ends = []
    for output in graph.numbers(2, "i"):
        index, end = output, ""
        for _ in range(_MOST_MOVES):
            op = made_by.get(index)
            end = codes[op.number(0, "I")][0] if op is not None else ""
            read = op.numbers(1, "i") if op is not None else ()
            if end not in _MOVES or not read:
                break
            index = read[0]
        ends.append(end)
    return ends


def _operator_code(code: Table) -> tuple[str, int]:
    builtin = max(code.number(3, "i"), code.number(0, "b"))
    if builtin == CUSTOM or code.text(1):
        name = code.text(1)[:80] or "(unnamed)"
        if builtin == CUSTOM and name in CUSTOM_OPERATORS:
            return name, code.number(2, "i", 1)
        raise ForeignOperatorError(
            f"the model uses the custom operator {name!r}, which neither LiteRT nor tflite-runtime brings along",
            next_step="convert the model with built-in operators only (no SELECT_TF_OPS, no custom operators)",
        )
    if builtin not in BUILTIN_NAMES:
        raise InvalidModelError(f"the model uses the unknown operator number {builtin}", next_step="export it again")
    return BUILTIN_NAMES[builtin], code.number(2, "i", 1)


def _buffer_bytes(buffer: Table) -> int:
    outside = buffer.number(1, "Q"), buffer.number(2, "Q")
    if outside[0] > 1:
        # Weights behind the flatbuffer (models over 2 GB): the offset counts from the start of the file.
        if outside[0] + outside[1] > len(buffer.data):
            raise OutOfBoundsError("a weight buffer lies past the end of the file", beyond_end=True)
        return outside[1]
    return buffer.vector_length(0, 1)


def _tensor(table: Table, buffers: list[int]) -> dict[str, Any]:
    shape, kind, buffer = table.numbers(0, "i"), table.number(1, "b"), table.number(2, "I")
    name = table.text(3)[:120]
    if kind not in DTYPES:
        raise InvalidModelError(f"tensor {name!r} has the unknown type {kind}", next_step="export the model again")
    if buffer >= len(buffers) and buffer != 0:
        raise InvalidModelError(f"tensor {name!r} names buffer {buffer} of {len(buffers)}", next_step="export it again")
    elements = math.prod(max(0, dim) for dim in shape)
    if any(dim < -1 for dim in shape) or elements > MAX_ELEMENTS:
        raise InvalidModelError(f"tensor {name!r} has the shape {list(shape)}", next_step="export the model again")
    stored = buffers[buffer] if buffer < len(buffers) else 0
    width = ITEM_BYTES.get(DTYPES[kind], 0)
    sparse = table.table(6) is not None
    if stored and width and not sparse and stored < elements * width:
        raise InvalidModelError(
            f"tensor {name!r} needs {elements * width} bytes of values and has {stored}",
            next_step="export the model again",
        )
    quantization = table.table(4)
    scales = quantization.vector_length(2, 4) if quantization is not None else 0
    return {
        "dtype": DTYPES[kind], "constant": stored > 0, "rank": len(shape), "per_channel": scales > 1,
        "flowing_rank": len(shape) - next((at for at, size in enumerate(shape) if size != 1), len(shape)),
    }  # fmt: skip


def _node(operator: Table, codes: list[tuple[str, int]], tensors: list[dict[str, Any]], where: str) -> dict[str, Any]:
    code = operator.number(0, "I")
    if code >= len(codes):
        raise InvalidModelError(
            f"node {where} names operator {code} of {len(codes)}", next_step="export the model again"
        )
    name, version = codes[code]
    inputs, outputs = operator.numbers(1, "i"), operator.numbers(2, "i")
    _check_indices(inputs, len(tensors), f"node {where} ({name})", optional=True)
    _check_indices(outputs, len(tensors), f"node {where} ({name})", optional=True)
    read = [tensors[index] for index in inputs if index >= 0]
    constants = [t for t in read if t["constant"] and t["rank"] >= 2]
    made = [tensors[index] for index in outputs if index >= 0]
    moving = [t for t in (*read, *made) if not t["constant"]]
    return {
        "name": name, "version": version, "node": where,
        "dtypes": sorted({t["dtype"] for t in (*read, *made)}),
        "read": {t["dtype"] for t in read if not t["constant"]},
        "weights": sorted({t["dtype"] for t in constants}), "per_channel": any(t["per_channel"] for t in constants),
        "flowing": sorted({t["dtype"] for t in moving}), "rank": max((t["flowing_rank"] for t in moving), default=0),
    }  # fmt: skip


def _check_indices(indices: tuple[int, ...], count: int, where: str, *, optional: bool) -> None:
    for index in indices:
        if index >= count or index < (-1 if optional else 0):
            raise InvalidModelError(f"{where} names tensor {index} of {count}", next_step="export the model again")


def _precision(weights: set[str], activations: set[str], everywhere: set[str]) -> str:
    small = {"int8", "uint8", "int4", "int2"}
    if not weights and everywhere & (small | {"int16"}) and not everywhere & {"float16", "float32", "float64"}:
        return "int8"
    if weights & small:
        return "int8" if activations & (small | {"int16"}) else "dynamic"
    return "fp16" if "float16" in weights or "float16" in everywhere else "fp32"
