"""Look at the outer protobuf fields of an ONNX file without parsing it.

onnx's parser answers "cannot parse" for a photograph and for a model that lost its last byte. A person needs to know which.
Source: protobuf encoding (wire types 0, 1, 2, 5) and onnx.proto3, message ModelProto.
"""

from typing import Final

_MODEL_FIELDS: Final = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field number -> wire type of ModelProto."""
_FIXED_BYTES: Final = {1: 8, 5: 4}


def classify(data: bytes) -> str:
    """Return `complete`, `truncated` or `foreign` for a file's bytes.

    `complete` says only that the outer fields end exactly at the end of the file and that a graph is there.
    """
    position, graph_seen, fields = 0, False, 0
    while position < len(data):
        key, position = _varint(data, position)
        if position < 0:
            return "truncated" if fields else "foreign"
        field, wire = key >> 3, key & 7
        if _MODEL_FIELDS.get(field) != wire:
            return "foreign"
        length, position = _varint(data, position) if wire in (0, 2) else (_FIXED_BYTES.get(wire, 0), position)
        if position < 0:
            return "truncated"
        if wire != 0:
            position += length
        if position > len(data):
            return "truncated" if fields else "foreign"
        graph_seen = graph_seen or field == 7
        fields += 1
    if fields == 0:
        return "foreign"
    return "complete" if graph_seen else "truncated"


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return (value, next position); the position is -1 when the data ends inside the number."""
    value, shift = 0, 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return 0, -1
