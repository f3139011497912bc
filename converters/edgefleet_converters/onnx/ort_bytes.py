"""Give a `.ort` file the same bytes in every process.

onnxruntime writes the part that resolves kernel types in the order of a hash table whose seed differs from process to process;
all else is the same. That part is built last, so it lies before the model; here it is built again in the order of its names.
Source of the layout: `ort.fbs` of onnxruntime (tables InferenceSession, KernelTypeStrResolver), which is stable by its own rules.
"""

from typing import Any, Final

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

_IDENTIFIER: Final = b"ORTM"
_VERSION, _MODEL, _OLD_STATE, _RESOLVER = 0, 1, 2, 3
_ALIGNMENT: Final = 16
_Arguments = list[tuple[int, int]]


def in_order(data: bytes) -> bytes:
    """Return the same `.ort` file with the kernel type resolver sorted. Raises ValueError when the file is built otherwise."""
    if data[4:8] != _IDENTIFIER:
        raise ValueError("it does not begin as a .ort file does")
    root = _root(data)
    version, model = _child(root, _VERSION), _child(root, _MODEL)
    if model is None or version is None or _child(root, _OLD_STATE) is not None:
        raise ValueError("it has no version or no model, or the session state of an older format")
    start = min(model, model - _signed(data, model))
    if version < start or len(data) % _ALIGNMENT:
        raise ValueError("its parts lie in another order")
    resolver = _resolver(root)
    if not resolver:
        return data
    return _built(data[start:], version - start, model - start, resolver)


def _resolver(root: Table) -> dict[bytes, dict[bytes, _Arguments]]:
    """Return {operator: {type name: [(input 0 or output 1, index)]}}."""
    at = _child(root, _RESOLVER)
    if at is None:
        return {}
    return {
        _text(operator): {_text(kind): _arguments(kind) for kind in _tables(operator, 1)}
        for operator in _tables(Table(root.Bytes, at), 0)
    }


def _arguments(kind: Table) -> _Arguments:
    return [
        (_scalar(one, 0, number_types.Int8Flags), _scalar(one, 1, number_types.Uint32Flags)) for one in _tables(kind, 1)
    ]


def _built(kept: bytes, version: int, model: int, resolver: dict[bytes, dict[bytes, _Arguments]]) -> bytes:
    builder = flatbuffers.Builder(0)
    # What is kept ends the file, as before: offsets inside of it are relative, and alignment counts from the end.
    builder.Bytes, builder.head, builder.minalign = bytearray(kept), 0, _ALIGNMENT
    operators = []
    for operator, kinds in sorted(resolver.items()):
        entries = []
        for kind, arguments in sorted(kinds.items()):
            pairs = [_table(builder, ((0, "Int8", which), (1, "Uint32", index))) for which, index in arguments]
            entries.append(_named(builder, kind, pairs))
        operators.append(_named(builder, operator, entries))
    vector = _vector(builder, operators)
    found = _table(builder, ((0, "UOffsetTRelative", vector),))
    parts = ((_VERSION, len(kept) - version), (_MODEL, len(kept) - model), (_RESOLVER, found))
    session = _table(builder, tuple((slot, "UOffsetTRelative", at) for slot, at in parts))
    builder.Finish(session, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _named(builder: Any, name: bytes, children: list[int]) -> int:
    text, vector = builder.CreateString(name), _vector(builder, children)
    return _table(builder, ((0, "UOffsetTRelative", text), (1, "UOffsetTRelative", vector)))


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(builder: Any, fields: tuple[tuple[int, str, int], ...]) -> int:
    builder.StartObject(max(slot for slot, _, _ in fields) + 1)
    for slot, kind, value in fields:
        getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    return int(builder.EndObject())


def _root(data: bytes) -> Table:
    return Table(data, int.from_bytes(data[:4], "little"))


def _field(table: Table, slot: int) -> int:
    """Return where a field lies in the file, 0 when it is not there."""
    offset = int(table.Offset(4 + 2 * slot))
    return table.Pos + offset if offset else 0


def _child(table: Table, slot: int) -> int | None:
    at = _field(table, slot)
    return int(table.Indirect(at)) if at else None


def _scalar(table: Table, slot: int, flags: Any) -> int:
    at = _field(table, slot)
    return int(table.Get(flags, at)) if at else 0


def _text(table: Table) -> bytes:
    at = _field(table, 0)
    return bytes(table.String(at)) if at else b""


def _tables(table: Table, slot: int) -> list[Table]:
    at = _field(table, slot)
    if not at:
        return []
    offset = at - table.Pos
    first, count = int(table.Vector(offset)), int(table.VectorLen(offset))
    return [Table(table.Bytes, int(table.Indirect(first + 4 * index))) for index in range(count)]


def _signed(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little", signed=True)
