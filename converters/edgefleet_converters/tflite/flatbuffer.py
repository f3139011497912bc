"""A read-only flatbuffer view that never leaves its buffer.

LiteRT crashes on some malformed files (2 of 7,000 that were changed at random), so a `.tflite` file is walked with these checks
first. Offsets are checked on each access; a violation is `OutOfBoundsError`, which says whether the file is too short or inconsistent.
Source: the flatbuffers internals document (tables, vtables, vectors; little endian, unsigned 32-bit offsets).
"""

import struct
from dataclasses import dataclass


class OutOfBoundsError(ValueError):
    """An offset or length points outside the file. beyond_end: past the end, as in a file that was cut off."""

    def __init__(self, message: str, *, beyond_end: bool) -> None:
        super().__init__(message)
        self.beyond_end = beyond_end


@dataclass(frozen=True)
class Table:
    """One table of a flatbuffer."""

    data: bytes
    position: int

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """Return the root table."""
        return cls(data, _number(data, 0, "<I"))

    def _field(self, index: int) -> int:
        """Return the absolute position of field `index`; 0 when it is absent."""
        vtable = self.position - _number(self.data, self.position, "<i")
        if vtable < 0:
            raise OutOfBoundsError("a table points before the file", beyond_end=False)
        size = _number(self.data, vtable, "<H")
        slot = 4 + 2 * index
        if slot + 2 > size:
            return 0
        offset = _number(self.data, vtable + slot, "<H")
        return self.position + offset if offset else 0

    def number(self, index: int, kind: str, default: int = 0) -> int:
        """Return a scalar field. kind: struct letter without byte order, such as `I` or `b`."""
        position = self._field(index)
        return _number(self.data, position, "<" + kind) if position else default

    def present(self) -> tuple[int, ...]:
        """Return the numbers of the fields that the table has."""
        vtable = self.position - _number(self.data, self.position, "<i")
        size = _number(self.data, vtable, "<H")
        return tuple(index for index in range((size - 4) // 2) if self._field(index))

    def table(self, index: int) -> "Table | None":
        """Return a sub-table, or None."""
        position = self._field(index)
        return Table(self.data, self._target(position)) if position else None

    def text(self, index: int) -> str:
        """Return a string field; empty when absent."""
        start, length = self._vector(index, 1)
        return self.data[start : start + length].decode("utf-8", "replace")

    def tables(self, index: int) -> "list[Table]":
        """Return a vector of tables."""
        start, length = self._vector(index, 4)
        return [Table(self.data, self._target(start + 4 * item)) for item in range(length)]

    def numbers(self, index: int, kind: str) -> tuple[int, ...]:
        """Return a vector of scalars."""
        width = struct.calcsize("<" + kind)
        start, length = self._vector(index, width)
        return struct.unpack_from(f"<{length}{kind}", self.data, start) if length else ()

    def vector_length(self, index: int, width: int) -> int:
        """Return the number of items of a vector, each `width` bytes."""
        return self._vector(index, width)[1]

    def _vector(self, index: int, width: int) -> tuple[int, int]:
        position = self._field(index)
        if not position:
            return 0, 0
        start = self._target(position)
        length = _number(self.data, start, "<I")
        if start + 4 + length * width > len(self.data):
            raise OutOfBoundsError("a vector is longer than the file", beyond_end=True)
        return start + 4, length

    def _target(self, position: int) -> int:
        target = position + _number(self.data, position, "<I")
        if target + 4 > len(self.data):
            raise OutOfBoundsError("an offset points past the end of the file", beyond_end=True)
        return target


def _number(data: bytes, position: int, kind: str) -> int:
    width = struct.calcsize(kind)
    if position < 0:
        raise OutOfBoundsError("an offset points before the file", beyond_end=False)
    if position + width > len(data):
        raise OutOfBoundsError("a field lies past the end of the file", beyond_end=True)
    value: int = struct.unpack_from(kind, data, position)[0]
    return value
