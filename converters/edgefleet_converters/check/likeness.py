"""Whether a candidate is still the source's model: its contract, and answers no metric may excuse. Pure.

A metric looks at what the user named: top1 at one output's best class, agreement of class scores at the best class alone. What it
does not look at must not be anything at all:

* `contract_breach`: the same inputs and outputs in the same order, with the same types and shapes;
* `unlike`: each output follows the source's. The mean difference must be below half of how much the source's own answers vary; a
  constant answer has about the whole, an int8 model of use a few per cent.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_protocol.manifest import TensorSpec

Array = npt.NDArray[Any]
Specs = tuple[TensorSpec, ...]

UNLIKE_RATIO: Final = 0.5
_STILL_RATIO: Final = 0.02
"""An output that hardly varies is taken to vary by this part of its largest magnitude."""


def contract_breach(
    inputs: tuple[Specs, Specs], outputs: tuple[Specs, Specs], answers: tuple[Mapping[str, Array], Mapping[str, Array]]
) -> str:
    """Return what differs between candidate and source, "" when nothing does. Each pair: the candidate's, the source's."""
    for kind, pair in (("input", inputs), ("output", outputs)):
        if len(pair[0]) != len(pair[1]):
            return f"it has {len(pair[0])} {kind}s, the source {len(pair[1])}"
    for mine, theirs in zip(*inputs, strict=True):
        if mine.name != theirs.name or mine.dtype != theirs.dtype:
            return f"its input {mine.name!r} ({mine.dtype}) is {theirs.name!r} ({theirs.dtype}) in the source"
    for mine, theirs in zip(*outputs, strict=True):
        if mine.dtype != theirs.dtype:
            return f"its output {mine.name!r} is {mine.dtype}, the source's is {theirs.dtype}"
        shapes = answers[0][mine.name].shape[1:], answers[1][theirs.name].shape[1:]
        if shapes[0] != shapes[1] or len(answers[0][mine.name]) != len(answers[1][theirs.name]):
            return f"its output {mine.name!r} has the shape {list(shapes[0])}, the source's {list(shapes[1])}"
    return ""


def unlike(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> str:
    """Return in words which output does not follow the source's, "" when all do. First axis = samples."""
    for name, wanted in reference.items():
        ratio = difference_ratio(answers[name], wanted)
        if not ratio < UNLIKE_RATIO:
            return (
                f"output {name!r} differs from the source's by {ratio:.0%} of what the source's own answers vary "
                f"(mean over {len(wanted)} samples; {UNLIKE_RATIO:.0%} is the most)"
            )
    return ""


def difference_ratio(got: Array, wanted: Array) -> float:
    """Return the mean difference over the mean distance of `wanted` from its median; NaN or infinity where an answer is."""
    if not wanted.size:
        return 0.0
    x, y = wanted.astype(np.float64), got.astype(np.float64)
    varies = float(np.mean(np.abs(x - np.median(x))))
    return float(np.mean(np.abs(x - y))) / max(varies, _STILL_RATIO * float(np.abs(x).max()), 1e-6)
