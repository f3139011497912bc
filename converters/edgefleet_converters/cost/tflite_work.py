"""Count the work of a TFLite model from the shapes that its file declares; a free length counts as it is declared, mostly 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_converters.cost.work import INTEGERS, Work
from edgefleet_converters.tflite.flatbuffer import OutOfBoundsError, Table
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, DTYPES, ITEM_BYTES

_STEPPED: Final = frozenset(
    {"LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
     "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN"}
)  # fmt: skip

_DEEPEST: Final = 4
_INT32: Final = 4


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str
    is_constant: bool

    @property
    def elements(self) -> int:
        return math.prod(max(0, size) for size in self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * (ITEM_BYTES.get(self.dtype) or 1)


def tflite_work(data: bytes) -> dict[str, Any]:
    """Return the work of one run. What a `WHILE` does counts as often as its condition allows, where that is one constant, else not;
    what an `IF` calls does not. Raises ValueError.
    """
    try:
        work = Work()
        _File(Table.root(data)).count(work, 0, _DEEPEST)
    except (OutOfBoundsError, IndexError, KeyError) as error:
        raise ValueError(f"the TFLite file cannot be read: {error}") from error
    return work.facts()


class _File:
    """The parts of a file that each of its graphs names by number."""

    def __init__(self, model: Table) -> None:
        self._codes = [max(code.number(3, "i"), code.number(0, "b")) for code in model.tables(1)]
        self._graphs, self._buffers = model.tables(2), model.tables(4)
        self._stored = [max(buffer.vector_length(0, 1), buffer.number(2, "Q")) > 0 for buffer in self._buffers]

    def count(self, work: Work, position: int, depth: int) -> None:
        """Add what one graph does. depth: so many loops in one another are looked into."""
        graph = self._graphs[position]
        tensors = [_tensor(table, self._stored) for table in graph.tables(0)]
        for op in graph.tables(3):
            name, read, written = self._name(op), op.numbers(1, "i"), op.numbers(2, "i")
            options = op.table(4)
            if name == "WHILE" and options is not None and depth:
                each = Work()
                self.count(each, options.number(1, "i"), depth - 1)
                work.add_rounds(each, self._rounds(self._graphs[options.number(0, "i")]))
            else:
                _count(work, name, [tensors[i] for i in read if i >= 0], [tensors[i] for i in written if i >= 0])

    def _name(self, op: Table) -> str:
        return BUILTIN_NAMES.get(self._codes[op.number(0, "I")], "")

    def _rounds(self, condition: Table) -> int:
        """Return how often a loop runs whose condition is one LESS against a constant; 0 where it is anything else."""
        ops = condition.tables(3)
        if len(ops) != 1 or self._name(ops[0]) != "LESS":
            return 0
        limit = condition.tables(0)[ops[0].numbers(1, "i")[1]]
        number = self._buffers[limit.number(2, "I")].numbers(0, "B")
        return max(0, int.from_bytes(bytes(number), "little", signed=True)) if len(number) == _INT32 else 0


def _tensor(table: Table, stored: Sequence[bool]) -> _Tensor:
    buffer = table.number(2, "I")
    return _Tensor(table.numbers(0, "i"), DTYPES[table.number(1, "b")], buffer < len(stored) and stored[buffer])


def _count(work: Work, name: str, read: Sequence[_Tensor], written: Sequence[_Tensor]) -> None:
    work.add(
        weights=sum(one.bytes for one in read if one.is_constant),
        read=sum(one.bytes for one in read if not one.is_constant), written=sum(one.bytes for one in written),
    )  # fmt: skip
    kind, count = _macs(name, read, written)
    weights = read[1].dtype if len(read) > 1 else ""
    work.add_macs(kind, count, is_integer=weights in INTEGERS)
    for integers, values in _integers(name, read, written, count):
        work.add_integers(integers, values)


def _integers(name: str, read: Sequence[_Tensor], written: Sequence[_Tensor], macs: int) -> Iterator[tuple[str, int]]:
    """Yield what integers make slower in one operator."""
    if not read or not written or written[0].dtype not in INTEGERS:
        if macs and len(read) > 1 and read[1].dtype in INTEGERS and read[0].dtype == "float32":
            yield "round", read[0].elements
        return
    if name == "BATCH_MATMUL" and not read[1].is_constant:
        yield "product", macs
    elif name == "SOFTMAX":
        yield "softmax", written[0].elements
    elif name in ("RELU", "RELU6") or (name == "GATHER" and read[0].is_constant and len(read[0].shape) == 1):
        yield "lookup", written[0].elements


def _macs(name: str, read: Sequence[_Tensor], written: Sequence[_Tensor]) -> tuple[str, int]:
    """Return (kind, multiply-adds) of one operator. Layouts: of the TFLite schema, channels last, weights [O, H, W, I]."""
    if len(read) < 2 or not written:
        return "", 0
    first, weight, made = read[0], read[1].shape, written[0]
    if name == "CONV_2D":
        return "conv", made.elements * math.prod(weight[1:])
    if name == "DEPTHWISE_CONV_2D":
        return "depthwise", made.elements * math.prod(weight[1:3])
    if name == "CONV_3D":
        return "conv", made.elements * math.prod(weight[:4])
    if name == "TRANSPOSE_CONV" and len(read) > 2:
        return "conv", read[2].elements * math.prod(weight[:3])
    if name == "FULLY_CONNECTED":
        return "matmul", made.elements * (weight[-1] if weight else 0)
    if name == "BATCH_MATMUL" and len(first.shape) >= 2 and len(made.shape) >= 2:
        rows = math.prod(first.shape[:-2]) * made.shape[-2]
        return "matmul", made.elements * (first.elements // max(1, rows))
    if name in _STEPPED and first.shape:
        steps = first.elements // max(1, first.shape[-1])
        return "recurrent", steps * sum(one.elements for one in read[1:] if one.is_constant and len(one.shape) == 2)
    return "", 0
