"""`.npy` and `.npz` files, written and read without numpy, which `edgectl` does not load: the same bytes for the same arrays."""

from __future__ import annotations

import ast
import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_cli.datasets.model import Array, DataSetError

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_DTYPE = re.compile(r"<U\d{1,6}|[<|](?:b1|[iu][1248]|f[248])")


def words(values: Sequence[str]) -> Array:
    """Return texts as an array of numpy's `<U`."""
    width = max((len(one) for one in values), default=0) or 1
    return Array(f"<U{width}", (len(values),), b"".join(one.ljust(width, "\0").encode("utf-32-le") for one in values))


def integers(values: Sequence[int]) -> Array:
    """Return int64."""
    return Array("<i8", (len(values),), struct.pack(f"<{len(values)}q", *values))


def floats(values: Sequence[float]) -> Array:
    """Return float64."""
    return Array("<f8", (len(values),), struct.pack(f"<{len(values)}d", *values))


def stacked(arrays: Sequence[Array]) -> Array:
    """Return arrays of one type and shape as one with a first axis more."""
    return Array(arrays[0].dtype, (len(arrays), *arrays[0].shape), b"".join(one.data for one in arrays))


def rows_of(array: Array, rows: Sequence[int]) -> Array:
    """Return these rows of the first axis."""
    size = len(array.data) // array.shape[0] if array.shape[0] else 0
    data = b"".join(array.data[row * size : (row + 1) * size] for row in rows)
    return Array(array.dtype, (len(rows), *array.shape[1:]), data)


def text_values(array: Array) -> list[str]:
    """Return the texts of a `<U` array."""
    width = 4 * int(array.dtype[2:])
    return [array.data[at : at + width].decode("utf-32-le").rstrip("\0") for at in range(0, len(array.data), width)]


def integer_values(array: Array) -> list[int]:
    """Return the values of an int64 array."""
    return list(struct.unpack(f"<{len(array.data) // 8}q", array.data))


def npy(array: Array) -> bytes:
    """Return a `.npy` file, format 1.0."""
    dimensions = ", ".join(str(n) for n in array.shape) + ("," if len(array.shape) == 1 else "")
    head = f"{{'descr': '{array.dtype}', 'fortran_order': False, 'shape': ({dimensions}), }}"
    head += " " * (-(len(_MAGIC) + 2 + len(head) + 1) % 64) + "\n"
    return _MAGIC + len(head).to_bytes(2, "little") + head.encode("latin-1") + array.data


def read_npy(data: bytes) -> Array:
    """Return what `npy` wrote. Raises DataSetError."""
    try:
        end = 10 + int.from_bytes(data[8:10], "little")
        head: dict[str, Any] = ast.literal_eval(data[10:end].decode("latin-1"))
        found = Array(str(head["descr"]), tuple(int(n) for n in head["shape"]), data[end:])
        size = 4 * int(found.dtype[2:]) if found.dtype[1] == "U" else int(found.dtype[2:])
        is_ours = data.startswith(_MAGIC) and _DTYPE.fullmatch(found.dtype) and not head["fortran_order"]
        if is_ours and math.prod(found.shape) * size == len(found.data):
            return found
    except (ValueError, SyntaxError, KeyError, TypeError, IndexError):
        pass
    raise DataSetError("an array of the data set cannot be read", next_step="export the data set again")


def npz(arrays: Mapping[str, Array]) -> bytes:
    """Return a `.npz` file with fixed dates."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, npy(array), compresslevel=6)
    return out.getvalue()


def read_npz(data: bytes) -> dict[str, Array]:
    """Return the arrays of a file. Raises DataSetError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name.removesuffix(".npy"): read_npy(archive.read(name)) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise DataSetError(
            "the arrays of the data set cannot be read", why=str(error), next_step="export the data set again"
        ) from error
