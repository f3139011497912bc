"""Whether a candidate is still the source's model: its contract, and answers no metric may excuse. Pure.

A metric looks at what the user named: top1 at one output's best class, agreement of class scores at the best class alone. What it
does not look at must not be anything at all:

* `contract_breach`: the same inputs and outputs in the same order, with the same types and shapes;
* `unlike`: each output, and each of its channels, follows the source's. The mean difference must be below half of how much the
  source's own answers vary from sample to sample; a constant answer has about the whole, an int8 model of use a few per cent.
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
_CHANNEL_RATIO: Final = 0.25
"""A channel that hardly varies is taken to vary by this part of the whole output's mean."""
_LEAST: Final = 1e-6
_STILL_CHANGES: Final = 0.05
"""Whole numbers that hardly change are taken to change in this part of the samples."""


def contract_breach(
    inputs: tuple[Specs, Specs], outputs: tuple[Specs, Specs], answers: tuple[Mapping[str, Array], Mapping[str, Array]]
) -> str:
    """Return what differs between candidate and source, "" when nothing does. Each pair: the candidate's, the source's."""
    for kind, pair in (("input", inputs), ("output", outputs)):
        if len(pair[0]) != len(pair[1]):
            return f"it has {len(pair[0])} {kind}s, the source {len(pair[1])}"
    for mine, theirs in zip(*inputs, strict=True):
        if mine.name != theirs.name or not _takes(mine, theirs):
            return f"its input {mine.name!r} ({mine.dtype}) is {theirs.name!r} ({theirs.dtype}) in the source"
    for mine, theirs in zip(*outputs, strict=True):
        if not _takes(mine, theirs):
            return f"its output {mine.name!r} is {mine.dtype}, the source's is {theirs.dtype}"
        shapes = answers[0][mine.name].shape[1:], answers[1][theirs.name].shape[1:]
        if shapes[0] != shapes[1] or len(answers[0][mine.name]) != len(answers[1][theirs.name]):
            return f"its output {mine.name!r} has the shape {list(shapes[0])}, the source's {list(shapes[1])}"
    return ""


def _takes(mine: TensorSpec, theirs: TensorSpec) -> bool:
    """Whether the types agree: integers with a scale stand for float32 on boards without it (`quant.io_dtype` is held elsewhere)."""
    return mine.dtype == theirs.dtype or (theirs.dtype == "float32" and mine.quantization is not None)


def unlike(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> str:
    """Return in words which output does not follow the source's, "" when all do. First axis = samples."""
    for name, wanted in reference.items():
        ratio, where = difference_ratio(answers[name], wanted)
        if not ratio < UNLIKE_RATIO:
            return (
                f"output {name!r}{where} differs from the source's by {ratio:.0%} of what the source's own answers vary from sample "
                f"to sample (mean over {len(wanted)} samples; {UNLIKE_RATIO:.0%} is the most)"
            )
    return ""


def difference_ratio(got: Array, wanted: Array) -> tuple[float, str]:
    """Return the mean difference over how much `wanted` varies from sample to sample, and where that is worst: of the whole output
    ("") or of a channel (" at [:, 3]").

    Channels are the indices of a sample's first and last axis. got, wanted: first axis = samples. NaN or infinity where an answer is.
    """
    if not wanted.size:
        return 0.0, ""
    found = _worst(*_means(got, wanted), still=max(_STILL_RATIO * float(np.abs(wanted).max()), _LEAST))
    if wanted.dtype.kind in "biu":
        # A class number or a decision is another one, however far apart the numbers are.
        found = min(found, _worst(*_changes(got, wanted), still=_STILL_CHANGES), key=lambda pair: pair[0])
    return found


def _worst(away: Array, varies: Array, *, still: float) -> tuple[float, str]:
    """Return the largest ratio of `away` over `varies`, of the whole and of each channel, and where. still: the least that counts."""
    whole = float(varies.mean())
    found = [(float(away.mean()) / max(whole, still), "")]
    for axis in sorted({0, away.ndim - 1} if away.ndim else set()):
        others = tuple(at for at in range(away.ndim) if at != axis)
        least = np.maximum(varies.mean(axis=others), max(_CHANNEL_RATIO * whole, still))
        ratios = away.mean(axis=others) / least
        worst = int(ratios.argmax())
        place = [":"] * axis + [str(worst)] + [":"] * (away.ndim - 1 - axis)
        found.append((float(ratios[worst]), f" at [{', '.join([':', *place])}]"))
    return max(found, key=lambda pair: pair[0])


def _changes(got: Array, wanted: Array) -> tuple[Array, Array]:
    """Return for each value of one sample how often it is another one, and how often it is in two samples of the source's."""
    away, varies = np.zeros(wanted.shape[1:]), np.zeros(wanted.shape[1:])
    for position, other in enumerate(np.random.default_rng(0).permutation(len(wanted))):
        away += got[position] != wanted[position]
        varies += wanted[position] != wanted[other]
    return np.asarray(away / len(wanted)), np.asarray(varies / len(wanted))


def _means(got: Array, wanted: Array) -> tuple[Array, Array]:
    """Return for each value of one sample its mean difference and its mean distance from its own mean. Sample by sample: a text
    recogniser's answers to 100 lines are 200 MB in float64.
    """
    mean = wanted.mean(axis=0, dtype=np.float64)
    away, varies = np.zeros_like(mean), np.zeros_like(mean)
    for x, y in zip(wanted, got, strict=True):
        away += np.abs(x.astype(np.float64) - y)
        varies += np.abs(x - mean)
    return np.asarray(away / len(wanted)), np.asarray(varies / len(wanted))
