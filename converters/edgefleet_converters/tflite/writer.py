"""Write a graph as a `.tflite` file: the same graph gives the same bytes.

Slots are those of the schema's tables Model, OperatorCode, SubGraph, Tensor, Operator, Buffer, QuantizationParameters,
SignatureDef and TensorMap (`schema.fbs`, version 3).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import flatbuffers
import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Option, Quantization, Tensor, all_ops
from edgefleet_converters.tflite.schema import OPTIONS, Field
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, DTYPES
from edgefleet_converters.tflite.versions import version_of

NUMBER_OF: Final = {name: number for number, name in BUILTIN_NAMES.items()}
TYPE_OF: Final = {name: number for number, name in DTYPES.items()}
SIGNATURE: Final = "serving_default"
_PLACEHOLDER: Final = 127
_ALIGN: Final = 16


def write(graph: Graph, description: str = "edgefleet") -> bytes:
    """Return the file. Raises KeyError for an operator, dtype or option that the schema tables do not have."""
    return _Writer(graph).model(description)


class _Writer:
    """One file on its way. Flatbuffers are written from the leaves to the root."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._graphs = _graphs(graph)
        size = sum(t.data.nbytes for each in self._graphs for t in _all_tensors(each) if t.data is not None)
        self._b = flatbuffers.Builder(1024 + 2 * size)
        self._index: dict[int, int] = {}
        self._buffers: list[bytes] = [b""]
        self._buffer_of: dict[bytes, int] = {b"": 0}
        self._shared: dict[tuple[str, tuple[Any, ...]], int] = {}

    def model(self, description: str) -> bytes:
        """Return the bytes of the whole model."""
        b = self._b
        codes = sorted({(NUMBER_OF[op.code], version_of(op)) for op in all_ops(self._graph)})
        code_index = {code: position for position, code in enumerate(codes)}
        # The main graph is written last, so that its tensors' places are still known for the signature.
        inner = [self._subgraph(each, code_index) for each in self._graphs[1:]]
        subgraphs = [self._subgraph(self._graph, code_index), *inner]
        signature = self._signature()
        code_tables = [self._operator_code(*code) for code in codes]
        buffers = [self._buffer(data) for data in self._buffers]
        vectors = [self._offsets(code_tables), self._offsets(subgraphs), self._offsets(buffers)]
        signatures, text = self._offsets([signature]), b.CreateString(description)
        b.StartObject(8)
        b.PrependUint32Slot(0, 3, 0)
        b.PrependUOffsetTRelativeSlot(1, vectors[0], 0)
        b.PrependUOffsetTRelativeSlot(2, vectors[1], 0)
        b.PrependUOffsetTRelativeSlot(3, text, 0)
        b.PrependUOffsetTRelativeSlot(4, vectors[2], 0)
        b.PrependUOffsetTRelativeSlot(7, signatures, 0)
        b.Finish(b.EndObject(), b"TFL3")
        return bytes(b.Output())

    def _subgraph(self, graph: Graph, code_index: dict[tuple[int, int], int]) -> int:
        all_tensors = _all_tensors(graph)
        self._index = {id(tensor): position for position, tensor in enumerate(all_tensors)}
        tensors = self._offsets([self._tensor(tensor) for tensor in all_tensors])
        operators = self._offsets([self._operator(op, code_index) for op in graph.ops])
        inputs = self._ints([self._index[id(t)] for t in graph.inputs])
        outputs = self._ints([self._index[id(t)] for t in graph.outputs])
        name = self._b.CreateString("main" if graph is self._graph else "body")
        return self._table(5, {0: tensors, 1: inputs, 2: outputs, 3: operators, 4: name})

    def _tensor(self, tensor: Tensor) -> int:
        b = self._b
        shape, name = self._ints(tensor.shape), b.CreateString(tensor.name)
        quantization = self._quantization(tensor.quantization) if tensor.quantization else 0
        buffer = self._buffer_number(tensor.data) if tensor.data is not None else 0
        signature = self._ints(tensor.signature) if tensor.signature else 0
        b.StartObject(9)
        b.PrependUOffsetTRelativeSlot(0, shape, 0)
        b.PrependInt8Slot(1, TYPE_OF[tensor.dtype], 0)
        b.PrependUint32Slot(2, buffer, 0)
        b.PrependUOffsetTRelativeSlot(3, name, 0)
        b.PrependUOffsetTRelativeSlot(4, quantization, 0)
        b.PrependUOffsetTRelativeSlot(7, signature, 0)
        b.PrependBoolSlot(8, True, False)
        return int(b.EndObject())

    def _quantization(self, quantization: Quantization) -> int:
        def made() -> int:
            b = self._b
            scale = self._once("f", quantization.scale, lambda: self._vector(quantization.scale, 4, b.PrependFloat32))
            zeros = quantization.zero_point
            zero_point = self._once("q", zeros, lambda: self._vector(zeros, 8, b.PrependInt64))
            b.StartObject(7)
            b.PrependUOffsetTRelativeSlot(2, scale, 0)
            b.PrependUOffsetTRelativeSlot(3, zero_point, 0)
            b.PrependInt32Slot(6, quantization.dimension, 0)
            return int(b.EndObject())

        key = (*quantization.scale, *quantization.zero_point, quantization.dimension)
        return self._once("quantization", key, made)

    def _once(self, kind: str, values: tuple[Any, ...], made: Callable[[], int]) -> int:
        """Return where equal values are already, else make them: a file of many channels is a third scales and zero points."""
        key = (kind, values)
        if key not in self._shared:
            self._shared[key] = made()
        return self._shared[key]

    def _operator(self, op: Op, code_index: dict[tuple[int, int], int]) -> int:
        b = self._b
        inputs = self._ints([-1 if t is None else self._index[id(t)] for t in op.inputs])
        outputs = self._ints([self._index[id(t)] for t in op.outputs])
        options = self._options(op)
        b.StartObject(5)
        b.PrependUint32Slot(0, code_index[NUMBER_OF[op.code], version_of(op)], 0)
        b.PrependUOffsetTRelativeSlot(1, inputs, 0)
        b.PrependUOffsetTRelativeSlot(2, outputs, 0)
        if options:
            b.PrependUint8Slot(3, OPTIONS[op.code].union, 0)
            b.PrependUOffsetTRelativeSlot(4, options, 0)
        return int(b.EndObject())

    def _options(self, op: Op) -> int:
        table = OPTIONS.get(op.code)
        if op.bodies:
            numbers = [next(i for i, each in enumerate(self._graphs) if each is body) for body in op.bodies]
            op = replace(op, options=dict(zip(("cond_subgraph_index", "body_subgraph_index"), numbers, strict=True)))
        if table is None:
            assert not op.options, f"{op.code} has no option table"
            return 0
        vectors = {name: self._ints(value) for name, value in op.options.items() if isinstance(value, tuple)}
        self._b.StartObject(max((field.slot for field in table.fields.values()), default=-1) + 1)
        for name, value in op.options.items():
            self._option(table.fields[name], value, vectors.get(name, 0))
        return int(self._b.EndObject())

    def _option(self, field: Field, value: Option, vector: int) -> None:
        b = self._b
        if field.kind == "ints":
            b.PrependUOffsetTRelativeSlot(field.slot, vector, 0)
        elif field.kind == "bool":
            b.PrependBoolSlot(field.slot, value, bool(field.default))
        elif field.kind == "float32":
            b.PrependFloat32Slot(field.slot, value, float(field.default))
        elif field.kind == "int8":
            b.PrependInt8Slot(field.slot, TYPE_OF[value] if isinstance(value, str) else value, int(field.default))
        else:
            b.PrependInt32Slot(field.slot, value, int(field.default))

    def _signature(self) -> int:
        inputs = self._offsets([self._tensor_map(tensor) for tensor in self._graph.inputs])
        outputs = self._offsets([self._tensor_map(tensor) for tensor in self._graph.outputs])
        return self._table(5, {0: inputs, 1: outputs, 2: self._b.CreateString(SIGNATURE)})

    def _tensor_map(self, tensor: Tensor) -> int:
        name = self._b.CreateString(tensor.name)
        self._b.StartObject(2)
        self._b.PrependUOffsetTRelativeSlot(0, name, 0)
        self._b.PrependUint32Slot(1, self._index[id(tensor)], 0)
        return int(self._b.EndObject())

    def _operator_code(self, number: int, version: int) -> int:
        b = self._b
        b.StartObject(4)
        # Readers older than 2020 look only at the 8-bit field; 127 in it sends newer ones to the 32-bit field.
        b.PrependInt8Slot(0, min(number, _PLACEHOLDER), 0)
        b.PrependInt32Slot(2, version, 1)
        b.PrependInt32Slot(3, number, 0)
        return int(b.EndObject())

    def _buffer_number(self, data: Array) -> int:
        raw = np.ascontiguousarray(data).tobytes()
        if raw not in self._buffer_of:
            self._buffer_of[raw] = len(self._buffers)
            self._buffers.append(raw)
        return self._buffer_of[raw]

    def _buffer(self, data: bytes) -> int:
        b = self._b
        offset = 0
        if data:
            # Kernels read weights in place: 16-byte alignment is what the schema asks for (force_align).
            b.StartVector(1, len(data), _ALIGN)
            start = b.Head() - len(data)
            b.head = start
            b.Bytes[start : start + len(data)] = data
            offset = b.EndVector()
        b.StartObject(1)
        b.PrependUOffsetTRelativeSlot(0, offset, 0)
        return int(b.EndObject())

    def _table(self, slots: int, offsets: dict[int, int]) -> int:
        self._b.StartObject(slots)
        for slot, offset in offsets.items():
            self._b.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return int(self._b.EndObject())

    def _offsets(self, offsets: Sequence[int]) -> int:
        return self._vector(offsets, 4, self._b.PrependUOffsetTRelative)

    def _ints(self, values: Sequence[int]) -> int:
        return self._once("i", tuple(values), lambda: self._vector(values, 4, self._b.PrependInt32))

    def _vector(self, values: Sequence[Any], width: int, prepend: Callable[[Any], None]) -> int:
        self._b.StartVector(width, len(values), width)
        for value in reversed(values):
            prepend(value)
        return int(self._b.EndVector())


def _graphs(graph: Graph) -> list[Graph]:
    """Return the graph and those inside it, each once."""
    found = {id(graph): graph} | {id(body): body for op in all_ops(graph) for body in op.bodies}
    return list(found.values())


def _all_tensors(graph: Graph) -> list[Tensor]:
    """Return each tensor once: inputs, then what operators read and make in their order, then outputs."""
    found: dict[int, Tensor] = {}

    def add(tensors: Iterable[Tensor | None]) -> None:
        for tensor in tensors:
            if tensor is not None:
                found.setdefault(id(tensor), tensor)

    add(graph.inputs)
    for op in graph.ops:
        add(op.inputs)
        add(op.outputs)
    add(graph.outputs)
    return list(found.values())
