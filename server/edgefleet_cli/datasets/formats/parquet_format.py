"""`parquet`: one file `data.parquet`, a row a sample. Needs pyarrow (`edgefleet[parquet]`), loaded when used.

A field is a column of its name (`in.NAME` where a column of the samples has it): a number or a hash as it is, an array as
`{dtype, shape, data}`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.subprocesses import require
from edgefleet_cli.datasets.model import NO_CLASS, Array, Sample
from edgefleet_cli.datasets.policy_check import numbers

FILE: Final = "data.parquet"
_TEXTS: Final = ("sample", "record", "device", "trace_id", "reason", "release", "label")
_NUMBERS: Final = ("seen", "class", "answer")


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write the samples into an empty folder. Raises MissingPartError, OSError."""
    require("pyarrow", "parquet")
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in (*_TEXTS, *_NUMBERS)}
    for sample in samples:
        for name, value in _facts(sample).items():
            columns[name].append(value)
    schema = [pa.field(name, pa.int64() if name in _NUMBERS else pa.string()) for name in columns]
    for name in sorted({name for sample in samples for name in sample.values}):
        shown = f"in.{name}" if name in columns else name
        values = [sample.values.get(name) for sample in samples]
        kind, columns[shown] = _column(pa, values)
        schema.append(pa.field(shown, kind))
    _save(pa.table(columns, schema=pa.schema(schema)), folder)


def remove(folder: Path, gone: Collection[tuple[str, str]]) -> None:
    """Remove the samples of these records, by device and id. Raises MissingPartError, OSError, DataSetError."""
    require("pyarrow", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO((folder / FILE).read_bytes()))
    keys = zip(table.column("device").to_pylist(), table.column("record").to_pylist(), strict=True)
    stay = [row for row, key in enumerate(keys) if key not in gone]
    _save(table.take(pa.array(stay, pa.int64())), folder)


def _save(table: Any, folder: Path) -> None:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    write_private(folder / FILE, out.getvalue())


def _facts(sample: Sample) -> dict[str, Any]:
    record = sample.record
    return {
        "sample": sample.id, "record": record.id, "device": record.device, "trace_id": record.trace_id, "reason": record.reason,
        "release": record.facts.release, "label": sample.label, "seen": record.seen, "class": _class(sample.label_index),
        "answer": _class(sample.answer),
    }  # fmt: skip


def _class(index: int) -> int | None:
    return None if index == NO_CLASS else index


def _column(pa: Any, values: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return the type and the values of a field's column."""
    there = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in there):
        return pa.string(), list(values)
    if all(isinstance(value, Array) and value.shape == () for value in there):
        kinds = {value.dtype[1] for value in there}
        kind = pa.float64() if kinds & {"f"} else pa.bool_() if kinds == {"b"} else pa.int64()
        return kind, [None if value is None else numbers(value)[0] for value in values]
    arrays = pa.struct([("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.binary())])
    if all(isinstance(value, Array) for value in there):
        return arrays, [None if value is None else _array(value) for value in values]
    texts = [None if value is None else list(value) if isinstance(value, tuple) else [str(value)] for value in values]
    return pa.list_(pa.string()), texts


def _array(value: Array) -> dict[str, Any]:
    return {"dtype": value.dtype, "shape": list(value.shape), "data": value.data}
