"""`npz`: one file `data.npz` of arrays whose first axis is the sample.

1. Each field is an array of its name. Where its values differ in type or shape, there is one a kind, `NAME.0`, `NAME.1`, …; where not every
   sample has one, `NAME.rows` says which do. A field named like a column of the samples is `in.NAME`.
2. The samples: `record`, `device`, `trace_id`, `reason`, `release` (texts), `seen`, `answer` (the class that was answered), `label` (the
   class, -1 without one), `label_name` (text), `label_value` (a label that is a number, else NaN).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from edgefleet_cli.core.files import write_private
from edgefleet_cli.datasets.formats.npy_file import (
    floats,
    integer_values,
    integers,
    npz,
    read_npz,
    rows_of,
    stacked,
    text_values,
    words,
)
from edgefleet_cli.datasets.model import Array, Sample

FILE: Final = "data.npz"
_ROWS: Final = ".rows"


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write the samples into an empty folder. Raises OSError."""
    columns = _columns(samples)
    arrays: dict[str, Array] = {}
    for name in sorted({name for sample in samples for name in sample.values}):
        arrays |= _field(f"in.{name}" if name in columns else name, name, samples)
    write_private(folder / FILE, npz(arrays | columns))


def remove(folder: Path, gone: Collection[tuple[str, str]]) -> None:
    """Remove the samples of these records, by device and id. Raises OSError, DataSetError."""
    arrays = read_npz((folder / FILE).read_bytes())
    keys = list(zip(text_values(arrays["device"]), text_values(arrays["record"]), strict=True))
    stay = [row for row, key in enumerate(keys) if key not in gone]
    place = {row: at for at, row in enumerate(stay)}
    left: dict[str, Array] = {}
    for name, array in arrays.items():
        index = arrays.get(name + _ROWS)
        if name.endswith(_ROWS) and name.removesuffix(_ROWS) in arrays:
            left[name] = integers([place[row] for row in integer_values(array) if row in place])
        elif index is not None:
            left[name] = rows_of(array, [at for at, row in enumerate(integer_values(index)) if row in place])
        else:
            left[name] = rows_of(array, stay)
    write_private(folder / FILE, npz(left))


def _columns(samples: Sequence[Sample]) -> dict[str, Array]:
    records = [one.record for one in samples]
    return {
        "record": words([one.id for one in records]),
        "device": words([one.device for one in records]),
        "trace_id": words([one.trace_id for one in records]),
        "reason": words([one.reason for one in records]),
        "release": words([one.facts.release for one in records]),
        "seen": integers([one.seen for one in records]),
        "answer": integers([one.answer for one in samples]),
        "label": integers([one.label_index for one in samples]),
        "label_name": words([one.label or "" for one in samples]),
        "label_value": floats([one.label_value for one in samples]),
    }


def _field(shown: str, name: str, samples: Sequence[Sample]) -> dict[str, Array]:
    kinds: dict[tuple[str, tuple[int, ...]], tuple[list[int], list[Array]]] = {}
    for row, sample in enumerate(samples):
        value = sample.values.get(name)
        if value is None:
            continue
        array = value if isinstance(value, Array) else _hashes(value)
        rows, arrays = kinds.setdefault((array.dtype, array.shape), ([], []))
        rows.append(row)
        arrays.append(array)
    found: dict[str, Array] = {}
    for number, (_, (rows, arrays)) in enumerate(sorted(kinds.items())):
        key = shown if len(kinds) == 1 else f"{shown}.{number}"
        found[key] = stacked(arrays)
        if len(rows) < len(samples):
            found[key + _ROWS] = integers(rows)
    return found


def _hashes(value: str | tuple[str, ...]) -> Array:
    if isinstance(value, tuple):
        return words(value)
    one = words([value])
    return Array(one.dtype, (), one.data)
