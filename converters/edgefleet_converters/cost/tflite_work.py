"""Count the work of a TFLite model from the shapes that its file declares; a free length counts as it is declared, mostly 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_converters.cost.work import INTEGERS, Work
from edgefleet_converters.tflite.flatbuffer import OutOfBoundsError, Table
from edgefleet_converters.tflite.schema_operators import BUILTIN_NAMES, DTYPES, ITEM_BYTES

_STEPPED: Final = frozenset(
    {"LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
     "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN"}
)  # fmt: skip


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
    """Return the work of one run. The first graph counts; graphs that a `WHILE` or `IF` calls do not. Raises ValueError."""
    try:
        model = Table.root(data)
        codes = [max(code.number(3, "i"), code.number(0, "b")) for code in model.tables(1)]
        stored = [max(buffer.vector_length(0, 1), buffer.number(2, "Q")) > 0 for buffer in model.tables(4)]
        graph = model.tables(2)[0]
        tensors = [_tensor(table, stored) for table in graph.tables(0)]
        operators = [(BUILTIN_NAMES.get(codes[op.number(0, "I")], ""), op.numbers(1, "i"), op.numbers(2, "i"))
                     for op in graph.tables(3)]  # fmt: skip
        work = Work()
        for name, read, written in operators:
            _count(work, name, [tensors[i] for i in read if i >= 0], [tensors[i] for i in written if i >= 0])
    except (OutOfBoundsError, IndexError, KeyError) as error:
        raise ValueError(f"the TFLite file cannot be read: {error}") from error
    return work.facts()


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
