"""A metric that the user wrote, run in a sandboxed child.

`pkg.mod:func` is called as `func(outputs, labels)` with dicts of numpy arrays (first axis = samples) and returns a number,
higher is better. It is called once with the source's outputs (baseline) and once with the candidate's.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from edgefleet_converters.errors import MetricError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_user_metric(name: str | None) -> bool:
    """Return whether a metric's name has the form `pkg.mod:func`."""
    return bool(name and _NAME.fullmatch(name))


def metric_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {function, candidate, reference, labels: npz paths}. Returns `{value, baseline}`."""
    module, _, function = str(args["function"]).partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise MetricError(
            f"the metric {args['function']} cannot be imported: {error}",
            next_step="install its package beside the converter",
        ) from error
    labels = _arrays(args["labels"])
    value, baseline = (call(_arrays(args[key]), labels) for key in ("candidate", "reference"))
    try:
        return {"value": float(value), "baseline": float(baseline)}
    except (TypeError, ValueError) as error:
        raise MetricError(f"the metric {args['function']} returned no number", next_step="return one float") from error


def _arrays(path: str) -> dict[str, Any]:
    with np.load(Path(path), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
