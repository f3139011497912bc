"""Read a float `.tflite` file into the compiler's own picture, so that smaller forms can be made of it as of a compiled model.

Constants of 16 bits behind a DEQUANTIZE are read as float32 constants. A file that holds anything which this picture cannot say in
full (several graphs, state, sparse weights, options that are not known) is not read: it is served as it is. Slots are those of
`schema.fbs`, version 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import numpy as np

from edgefleet_converters.errors import TransformError
from edgefleet_converters.tflite.flatbuffer import Table
from edgefleet_converters.tflite.ir import Array, Graph, Op, Option, Quantization, Shape, Tensor
from edgefleet_converters.tflite.schema import OPTIONS, Field
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, CUSTOM, DTYPES, ITEM_BYTES

_STATEFUL: Final = frozenset({
    "ASSIGN_VARIABLE", "CALL_ONCE", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "READ_VARIABLE",
    "VAR_HANDLE",
})  # fmt: skip
_LETTERS: Final = {"int8": "b", "bool": "b", "float32": "f", "int32": "i"}
_NAME_LENGTH: Final = 24


class NotReadError(TransformError):
    """`message` says in half a sentence what the file holds that no smaller form is made of."""

    def __init__(self, what: str) -> None:
        super().__init__(what, next_step="publish the ONNX model, of which smaller forms are made here")


@dataclass(frozen=True)
class FileGraph:
    """A file that was read. is_half: its weights are stored in float16."""

    graph: Graph
    is_half: bool


def read_graph(data: bytes) -> FileGraph:
    """Return the graph of a file that `load.read_facts` took. Raises NotReadError, OutOfBoundsError."""
    model = Table.root(data)
    graphs, signatures = model.tables(2), model.tables(7)
    if len(graphs) != 1:
        _refuse(f"it has {len(graphs)} graphs (control flow or several entry points)")
    if len(signatures) > 1:
        _refuse(f"it has {len(signatures)} signatures")
    return _Reader(model, graphs[0], signatures).graph()


def _refuse(what: str) -> NoReturn:
    raise NotReadError(what)


class _Reader:
    """One file on its way."""

    def __init__(self, model: Table, graph: Table, signatures: Sequence[Table]) -> None:
        self._model, self._graph, self._signatures = model, graph, signatures
        self._buffers = model.tables(4)
        self._names: set[str] = set()
        inputs, outputs = graph.numbers(1, "i"), graph.numbers(2, "i")
        edges = self._edge_names(inputs, outputs)
        self._names |= set(edges.values())
        self._tensors = [self._tensor(table, edges.get(index)) for index, table in enumerate(graph.tables(0))]
        self._inputs = tuple(self._tensors[index] for index in inputs)
        self._outputs = outputs

    def graph(self) -> FileGraph:
        """Return the graph. Raises NotReadError."""
        codes = [self._code(table) for table in self._model.tables(1)]
        ops: list[Op] = []
        made = {id(t) for t in self._inputs}
        is_half = False
        for number, table in enumerate(self._graph.tables(3)):
            op = self._op(table, codes, f"node {number}")
            first = op.inputs[0] if op.inputs else None
            if op.code == "DEQUANTIZE" and first is not None and first.data is not None and first.dtype == "float16":
                is_half = True
                index = table.numbers(2, "i")[0]
                self._tensors[index] = replace(op.outputs[0], data=first.data.astype(np.float32), signature=None)
                continue
            for tensor in op.inputs:
                if tensor is not None and tensor.data is None and id(tensor) not in made:
                    _refuse(f"node {number} ({op.code}) reads a tensor that nothing makes, such as a state")
            made |= {id(t) for t in op.outputs}
            ops.append(op)
        outputs = tuple(self._tensors[index] for index in self._outputs)
        if any(id(t) not in made for t in outputs):
            _refuse("one of its outputs is made by no operator")
        return FileGraph(Graph(self._inputs, outputs, tuple(ops)), is_half)

    def _edge_names(self, inputs: Sequence[int], outputs: Sequence[int]) -> dict[int, str]:
        """Return tensor -> its name in the signature; none where the signature is about other tensors, as for the runtimes."""
        if not self._signatures:
            return {}
        sides = [{entry.number(1, "I"): entry.text(0) for entry in self._signatures[0].tables(slot)} for slot in (0, 1)]
        return sides[0] | sides[1] if (set(sides[0]), set(sides[1])) == (set(inputs), set(outputs)) else {}

    def _code(self, table: Table) -> tuple[str, int]:
        number = max(table.number(3, "i"), table.number(0, "b"))
        name = BUILTIN_NAMES[number]
        if number == CUSTOM or table.text(1):
            _refuse(f"it uses the custom operator {table.text(1)!r}")
        if name in _STATEFUL:
            _refuse(f"it keeps a state ({name})")
        return name, table.number(2, "i", 1)

    def _tensor(self, table: Table, name: str | None) -> Tensor:
        shape, dtype = table.numbers(0, "i"), DTYPES[table.number(1, "b")]
        if name is None:
            name = self._unique(_short(table.text(3)))
        if table.number(5, "b") or table.table(6) is not None:
            _refuse(f"tensor {name!r} is {'a state' if table.number(5, 'b') else 'sparse'}")
        signature = table.numbers(7, "i")
        opened = signature if signature and signature != shape and len(signature) == len(shape) else None
        return Tensor(
            name,
            dtype,
            shape,
            self._data(table.number(2, "I"), dtype, shape, name),
            self._quantization(table, name),
            opened,
        )

    def _unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name

    def _data(self, number: int, dtype: str, shape: Shape, name: str) -> Array | None:
        table = self._buffers[number] if number < len(self._buffers) else None
        if table is not None and table.number(1, "Q") > 1:
            _refuse("its weights lie behind the file's graph")
        stored = bytes(table.numbers(0, "B")) if table is not None else b""
        if not stored:
            return None
        if dtype not in ITEM_BYTES or dtype == "bfloat16":
            _refuse(f"its constant {name!r} is {dtype}")
        array = np.frombuffer(stored, np.dtype(dtype))
        if array.size != int(np.prod(shape, dtype=np.int64)):
            _refuse(f"its constant {name!r} has {array.size} values for the shape {list(shape)}")
        return array.reshape(shape)

    def _quantization(self, table: Table, name: str) -> Quantization | None:
        found = table.table(4)
        if found is None:
            return None
        if found.number(4, "B"):
            _refuse(f"tensor {name!r} is quantized in a form of its own")
        scale, zero_point = found.numbers(2, "f"), found.numbers(3, "q")
        return Quantization(scale, zero_point or (0,) * len(scale), found.number(6, "i")) if scale else None

    def _op(self, table: Table, codes: Sequence[tuple[str, int]], where: str) -> Op:
        code, version = codes[table.number(0, "I")]
        unknown = set(table.present()) - {0, 1, 2, 3, 4, 6}
        held = [index for index in unknown if index not in (7, 8) or table.vector_length(index, 1)]
        if held:
            _refuse(f"{where} ({code}) has fields of the format that are not known here")
        inputs = tuple(None if i < 0 else self._tensors[i] for i in table.numbers(1, "i"))
        outputs = tuple(self._tensors[i] for i in table.numbers(2, "i"))
        if not outputs or any(t is None for t in inputs[:1]):
            _refuse(f"{where} ({code}) makes nothing, or reads nothing")
        return Op(code, inputs, outputs, self._options(table, code, where), f"{where} ({code})", version)

    def _options(self, table: Table, code: str, where: str) -> dict[str, Option]:
        options, known = table.table(4), OPTIONS.get(code)
        if options is None:
            return {}
        fields = known.fields if known is not None else {}
        if known is not None and table.number(3, "B") != known.union:
            _refuse(f"{where} ({code}) has the options of another operator")
        if set(options.present()) - {field.slot for field in fields.values()}:
            _refuse(f"{where} ({code}) has options that are not known here")
        return {name: _value(options, field) for name, field in fields.items()}


def _short(name: str) -> str:
    """Return the last part of a name of TensorFlow, which has the whole path in it: in a small file names are a quarter of the bytes."""
    return name.partition(";")[0].rpartition("/")[2][:_NAME_LENGTH] or "tensor"


def _value(options: Table, field: Field) -> Option:
    if field.kind == "ints":
        return options.numbers(field.slot, "i")
    default: Any = field.default if field.kind == "float32" else int(field.default)
    value = options.number(field.slot, _LETTERS[field.kind], default)
    return bool(value) if field.kind == "bool" else value
