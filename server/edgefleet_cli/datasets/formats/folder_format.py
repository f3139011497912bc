"""`folder`: `labels.csv`, a row a sample, and `data/` with a PNG of each picture and an `.npy` of each other array.

A field is a column of `labels.csv`: the place of its file, or its value where that is one number or one hash.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from edgefleet_cli.core.files import write_private
from edgefleet_cli.datasets.formats.images import picture
from edgefleet_cli.datasets.formats.npy_file import npy, words
from edgefleet_cli.datasets.model import NO_CLASS, Array, Sample
from edgefleet_cli.datasets.policy_check import numbers

TABLE: Final = "labels.csv"
DATA: Final = "data"
_COLUMNS: Final = ("sample", "record", "device", "label", "class", "answer", "reason", "seen", "trace_id", "release")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write the samples into an empty folder. Raises OSError."""
    (folder / DATA).mkdir(mode=0o700)
    names = sorted({name for sample in samples for name in sample.values})
    files = {name: f".{_UNSAFE.sub('_', name)[:40]}{number or ''}" for number, name in enumerate(names)}
    if len(names) == 1:
        files = {names[0]: ""}
    rows = []
    for sample in samples:
        cells = {name: _cell(sample, name, folder, files[name]) for name in sample.values}
        rows.append([*_facts(sample), *(cells.get(name, "") for name in names)])
    write_private(folder / TABLE, _csv([[*_COLUMNS, *(f"field:{name}" for name in names)], *rows]))


def remove(folder: Path, gone: Collection[tuple[str, str]]) -> None:
    """Remove the samples of these records, by device and id. Raises OSError."""
    rows = list(csv.reader(io.StringIO((folder / TABLE).read_text("utf-8"), newline="")))
    at = {name: rows[0].index(name) for name in ("device", "record")}
    is_gone = [(row[at["device"]], row[at["record"]]) in gone for row in rows[1:]]
    stay = [row for row, lost in zip(rows[1:], is_gone, strict=True) if not lost]
    write_private(folder / TABLE, _csv([rows[0], *stay]))
    named = {cell for row in stay for cell in row[len(_COLUMNS) :] if cell.startswith(f"{DATA}/")}
    for path in (folder / DATA).iterdir():
        if f"{DATA}/{path.name}" not in named:
            path.unlink()


def _facts(sample: Sample) -> list[str]:
    record = sample.record
    return [
        sample.id, record.id, record.device, sample.label or "", _class(sample.label_index), _class(sample.answer),
        record.reason, str(record.seen), record.trace_id, record.facts.release,
    ]  # fmt: skip


def _class(index: int) -> str:
    return "" if index == NO_CLASS else str(index)


def _cell(sample: Sample, name: str, folder: Path, ending: str) -> str:
    """Return what stands in the table of a field, its file written."""
    value = sample.values[name]
    if isinstance(value, str):
        return value
    if isinstance(value, Array) and value.shape == ():
        return repr(numbers(value)[0])
    shown = picture(sample, name)
    if shown is not None:
        return _file(folder, f"{sample.id}{ending}.png", shown[0])
    return _file(folder, f"{sample.id}{ending}.npy", npy(value if isinstance(value, Array) else words(value)))


def _file(folder: Path, name: str, data: bytes) -> str:
    write_private(folder / DATA / name, data)
    return f"{DATA}/{name}"


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()
