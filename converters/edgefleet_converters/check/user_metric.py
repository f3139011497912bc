"""A metric that the user wrote, run in a sandboxed child.

`pkg.mod:func` is called as `func(outputs, labels)` with dicts of numpy arrays (first axis = samples) and returns a number,
higher is better. It is called once with the source's outputs (baseline) and once with the candidate's.
"""

import importlib
import math
import re
from pathlib import Path
from typing import Any

from edgefleet_converters.errors import MetricError
from edgefleet_converters.sample_data import read_arrays

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
    labels = read_arrays(Path(args["labels"]))
    value, baseline = (call(read_arrays(Path(args[key])), labels) for key in ("candidate", "reference"))
    try:
        figures = {"value": float(value), "baseline": float(baseline)}
    except (TypeError, ValueError) as error:
        raise MetricError(f"the metric {args['function']} returned no number", next_step="return one float") from error
    if not all(math.isfinite(figure) for figure in figures.values()):
        raise MetricError(f"the metric {args['function']} returned NaN or infinity", next_step="return a finite number")
    return figures
