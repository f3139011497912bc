"""From opened records to samples: only what the policy keeps, one sample a row of the batch, each with its label where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edgefleet_cli.datasets.detections import boxes_of
from edgefleet_cli.datasets.model import NO_CLASS, Array, Box, Record, Sample, Value, name_of
from edgefleet_cli.datasets.policy_check import kept_fields

OUTPUTS: Final = "(answers)"
Labels = Mapping[tuple[str, str], str]
"""Ground truth by device and trace id; the device is "" where it was not named."""


@dataclass
class Samples:
    """Samples, and what was left out on the way. fields: in how many records each is; empty: records of which nothing is kept."""

    items: list[Sample] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    empty: int = 0


def samples_of(records: Iterable[Record], labels: Labels) -> Samples:
    """Return the samples of records, in order of device and record. A record that comes twice counts once."""
    found = Samples()
    known: set[tuple[str, str]] = set()
    names: set[str] = set()
    for record in sorted(records, key=lambda one: (one.device, one.id)):
        if (record.device, record.id) in known:
            continue
        known.add((record.device, record.id))
        kept, left = kept_fields(record.fields, record.facts)
        found.left_out.update(left)
        if record.outputs and not record.facts.policy.outputs:
            found.left_out[OUTPUTS] += 1
        if not kept:
            found.empty += 1
            continue
        found.fields.update(kept.keys())
        name = record.id if record.id not in names else f"{record.id}-{record.device}"
        names.add(record.id)
        found.items += _split(name, record, kept, _label(record, labels))
    return found


def _label(record: Record, labels: Labels) -> str | None:
    for device in (record.device, ""):
        label = labels.get((device, record.trace_id)) if record.trace_id else None
        if label is not None:
            return name_of(label, record.facts.labels)
    return None


def _split(name: str, record: Record, kept: Mapping[str, Value], label: str | None) -> list[Sample]:
    """Return the samples of a record. The label and the answer are about the first."""
    answers = record.facts.policy.outputs
    answer = record.answer if answers else NO_CLASS
    boxes = boxes_of(record) if answers else []
    count = _batch(record, kept)
    if count is None:
        return [Sample(name, record, dict(kept), answer, label, boxes[0] if boxes else ())]
    return [
        Sample(
            name if row == 0 else f"{name}.{row}",
            record,
            {field_name: _row(value, row, count) for field_name, value in kept.items()},
            answer if row == 0 else NO_CLASS,
            label if row == 0 else None,
            _nth(boxes, row),
        )
        for row in range(count)
    ]


def _nth(boxes: list[tuple[Box, ...]], row: int) -> tuple[Box, ...]:
    return boxes[row] if row < len(boxes) else ()


def _batch(record: Record, kept: Mapping[str, Value]) -> int | None:
    """Return how many samples a record has; None where its first axis is not that of the batch."""
    sizes: set[int] = set()
    for name, value in kept.items():
        spec = record.facts.inputs[record.facts.columns.get(name, name)]
        if not spec.shape or (spec.shape[0] != 1 and not isinstance(spec.shape[0], str)):
            return None
        if isinstance(value, Array):
            if not value.shape:
                return None
            sizes.add(value.shape[0])
        elif name in record.facts.columns:
            sizes.add(len(value))
    return sizes.pop() if len(sizes) == 1 and sizes != {0} else None


def _row(value: Value, row: int, count: int) -> Value:
    if isinstance(value, Array):
        size = len(value.data) // count
        return Array(value.dtype, value.shape[1:], value.data[row * size : (row + 1) * size])
    if len(value) == count:
        return value[row]
    size = len(value) // count
    return tuple(value[row * size : (row + 1) * size])
