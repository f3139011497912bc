"""Boxes that a detector answered, read from a record's outputs by the bundle's own `postprocess.json`. Needs numpy, loaded when used."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core.subprocesses import require
from edgefleet_cli.datasets.model import Box, Record
from edgefleet_cli.datasets.policy_check import tensor
from edgefleet_protocol.errors import EdgefleetError


def boxes_of(record: Record) -> list[tuple[Box, ...]]:
    """Return the boxes of each sample of a record, [] for what is no detector's. Raises MissingPartError."""
    facts = record.facts
    if not facts.postprocess:
        return []
    arrays = {spec.name: tensor(record.outputs.get(spec.name)) for spec in facts.outputs}
    if any(array is None for array in arrays.values()):
        return []  # a shadow's disagreement holds answers by version, and no outputs
    require("numpy", "convert")
    import numpy as np

    from edgefleet_runtime.postprocess import build_postprocessor, parse_postprocess

    outputs = {
        name: np.frombuffer(array.data, array.dtype).reshape(array.shape)
        for name, array in arrays.items()
        if array is not None
    }
    try:
        made = build_postprocessor(parse_postprocess(facts.postprocess), facts.labels, facts.outputs)
        answers = made.answers(outputs)
    except EdgefleetError:
        return []
    return [tuple(_box(one) for column in answer.values() for one in column if _is_box(one)) for answer in answers]


def _is_box(found: Any) -> bool:
    return isinstance(found, dict) and "box" in found


def _box(found: dict[str, Any]) -> Box:
    left, top, right, bottom = found["box"]
    return Box(str(found.get("label") or ""), int(found["index"]), float(found["score"]), (left, top, right, bottom))
