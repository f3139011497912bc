"""What kind of answer each output is, and the metric that fits it (ADR 0090). Pure.

Evidence, strongest first: an output that feeds an input of the same shape and a like name is a state; the operator that makes
the output (softmax, sigmoid, arg-max, L2 norm); the range of the source's answers and what their rows add up to; at last whether
they behave as the logits of a softmax do. An output of real numbers without evidence is a regression: judged by its error.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_protocol.manifest import TensorSpec

Array = npt.NDArray[Any]

CLASS_SCORES: Final = "class scores"
CLASS_NUMBERS: Final = "class numbers"
WHOLE_NUMBERS: Final = "whole numbers"
SEQUENCE: Final = "sequence of scores"
TOKENS: Final = "sequence of tokens"
INDEPENDENT: Final = "independent scores"
REGRESSION: Final = "regression"
MASK: Final = "mask"
CLASS_MAP: Final = "class map"
DETECTOR: Final = "boxes with scores"
ANCHORS: Final = "scores of boxes"
EMBEDDING: Final = "embedding"
STATE: Final = "state"
CONSTANT: Final = "constant"
METRIC_OF: Final[Mapping[str, str]] = {
    CLASS_SCORES: "agreement", CLASS_NUMBERS: "equal", WHOLE_NUMBERS: "equal", SEQUENCE: "edit", TOKENS: "edit", INDEPENDENT: "score-error",
    REGRESSION: "mae-share", MASK: "iou", CLASS_MAP: "iou", DETECTOR: "detection", ANCHORS: "objects",
    EMBEDDING: "similarity", STATE: "long-run", CONSTANT: "constant",
}  # fmt: skip


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STATE_WORDS: Final = _words_of(
    "state states hidden h c hx cx hn cn hc cell mem memory cache caches context ctx buffer buf past present carry "
    "rnn gru lstm kv key keys value values stream conv "
)
_DIRECTIONS: Final = _words_of(
    "in input out output new next prev previous old initial init present past updated n t y x "
)
_EMBEDDING_WORDS: Final = _words_of("embedding embeddings embed embs emb feature features pooled pooler hidden latent ")
_LOGIT_WORDS: Final = _words_of("logit logits prob probs probability probabilities class classes cls posterior ")
_WRITERS: Final = frozenset({"loop", "greedysearch"})
"""Operators that make one whole number after another, the next from those before."""
_MOST_CLASSES: Final = 100_000
_SUM_SLACK: Final = 0.02
_PEAKED: Final = 0.8
_ZERO_SUM: Final = 0.3
_ZERO_SUM_OF_FEW: Final = 0.1
"""Of up to four numbers: with so few, independent ones may cancel by chance."""
_LOOKED_AT: Final = 4096
"""Rows that decide whether scores behave as logits."""
_BOX_NUMBERS: Final = 4
_LEAST_BOXES: Final = 20
_SPATIAL: Final = 8
_ULPS: Final = 8


class OutputPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How one output is judged. name: the source's; feeds: the input that takes a state back; given: named by the user."""

    name: str
    kind: str
    metric: str
    feeds: str = ""
    given: bool = False


Plan = tuple[OutputPlan, ...]


def plan_of(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], answers: Mapping[str, Array], ends: Sequence[str]
) -> Plan:
    """Return the kind and metric of each output. answers: the source's, first axis = samples. ends: the last operator of each
    output, "" where unknown; shorter lists count as unknown.
    """
    states = states_of(inputs, outputs)
    plan = []
    for position, spec in enumerate(outputs):
        if spec.name in states:
            plan.append(OutputPlan(name=spec.name, kind=STATE, metric=METRIC_OF[STATE], feeds=states[spec.name]))
            continue
        end = ends[position] if position < len(ends) else ""
        siblings = [a for name, a in answers.items() if name != spec.name]
        kind = kind_of(answers[spec.name], end, spec.name, siblings)
        plan.append(OutputPlan(name=spec.name, kind=kind, metric=METRIC_OF[kind]))
    return tuple(plan)


def states_of(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return output -> input for recurrent states: the same type and shape, and names that differ by a direction only."""
    pairs: dict[str, str] = {}
    for output in outputs:
        for spec in inputs:
            if spec.name not in pairs.values() and _is_pair(output, spec):
                pairs[output.name] = spec.name
                break
    return pairs if len(pairs) < len(outputs) and len(pairs) < len(inputs) else {}


def _is_pair(output: TensorSpec, spec: TensorSpec) -> bool:
    if output.dtype != spec.dtype or len(output.shape) != len(spec.shape):
        return False
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(output.shape, spec.shape, strict=True)):
        return False
    mine, theirs = _words(output.name), _words(spec.name)
    if not (_STATE_WORDS & set(mine) and _STATE_WORDS & set(theirs)):
        return False
    return _core(mine) == _core(theirs)


def _words(name: str) -> list[str]:
    """Return the words of a tensor's name in lower case: `stateN.1` is state, n, 1."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name.rpartition("/")[2])
    return [part.lower() for part in parts]


def _core(words: list[str]) -> list[str]:
    kept = [word for word in words if word not in _DIRECTIONS or word in ("past", "present")]
    kept = ["past" if word == "present" else word for word in kept]
    return [re.sub(r"^(h|c)[nx0]$", r"\1", word) for word in kept if word != "0"]


def kind_of(values: Array, end: str, name: str, siblings: Sequence[Array] = ()) -> str:
    """Return the kind of one output that is no state. values: the source's answers; end: the operator that makes it."""
    last = end.lower().replace("_", "")
    if values.dtype.kind in "biu" and (values.dtype.itemsize > 1 or values.dtype.kind == "b"):
        return TOKENS if last in _WRITERS and _is_rows(values) else _whole(values)
    if is_constant(values):
        return CONSTANT
    real = values.astype(np.float64) / (255.0 if values.dtype.kind in "iu" else 1.0)
    if values.ndim <= 1 or (values.ndim == 2 and values.shape[1] == 1):
        return INDEPENDENT if last in ("sigmoid", "logistic") else REGRESSION
    if values.ndim == 2:
        return _row(real, last, name)
    if values.ndim == 3:
        return _table(real, last, name, siblings)
    return _map(real, last)


def _is_rows(values: Array) -> bool:
    return values.dtype.kind in "iu" and values.ndim == 2 and values.shape[1] > 1


def is_constant(values: Array) -> bool:
    """Return whether the source gives every sample the same answer, as far as float32 can tell."""
    if values.dtype.kind != "f" or len(values) < 2 or not values.size:
        return False
    scale = max(float(np.abs(values).max()), 1e-30)
    return bool(np.ptp(values, axis=0).max() <= ulps(scale))


def ulps(scale: float) -> float:
    """Return a few units in the last place of float32 at `scale`."""
    return _ULPS * float(np.spacing(np.float32(scale)))


def adds_up(values: Array, axis: int = -1) -> bool:
    """Return whether values are shares of one along an axis."""
    if values.shape[axis] < 2 or float(values.min()) < -1e-6 or float(values.max()) > 1 + _SUM_SLACK:
        return False
    return bool(np.abs(values.sum(axis=axis) - 1).max() <= _SUM_SLACK)


def _whole(values: Array) -> str:
    if values.ndim >= 3 and min(sorted(values.shape[1:])[-2:]) >= _SPATIAL:
        return CLASS_MAP if values.dtype.kind != "b" else MASK
    return CLASS_NUMBERS if values.size == len(values) else WHOLE_NUMBERS


def _row(real: Array, last: str, name: str) -> str:
    if last in ("softmax", "logsoftmax") or adds_up(real):
        return CLASS_SCORES
    if last in ("sigmoid", "logistic"):
        return INDEPENDENT
    norms = np.linalg.norm(real, axis=1)
    unit = real.shape[1] >= _SPATIAL and float(np.ptp(norms)) <= 0.01 * float(norms.mean())
    if unit or last in ("lpnormalization", "l2normalization"):
        return EMBEDDING
    words = set(_words(name))
    if words & _LOGIT_WORDS or (real.shape[1] <= _MOST_CLASSES and behave_as_logits(real)):
        return CLASS_SCORES
    return EMBEDDING if words & _EMBEDDING_WORDS and real.shape[1] >= _SPATIAL else REGRESSION


def behave_as_logits(rows: Array) -> bool:
    """Return whether rows [m, k] look like what a softmax would take: one value stands out in most, several are best at times, and
    their sum hardly varies next to themselves. Training with a softmax leaves the sum where it started; independent numbers vary
    as much together as apart.
    """
    seen = rows[:: max(1, len(rows) // _LOOKED_AT)]
    if len(seen) < 2 or seen.shape[1] < 2:
        return False
    apart = float(seen.var(axis=0).sum())
    if apart <= 0 or float(seen.sum(axis=1).var()) > (_ZERO_SUM if seen.shape[1] > 4 else _ZERO_SUM_OF_FEW) * apart:
        return False
    shifted = seen - seen.max(axis=1, keepdims=True)
    best = 1 / np.exp(shifted).sum(axis=1)
    return float(best.mean()) >= _PEAKED and len(np.unique(seen.argmax(axis=1))) > 1


def _table(real: Array, last: str, name: str, siblings: Sequence[Array]) -> str:
    boxes = any(a.ndim == 3 and a.shape[1] == real.shape[1] and a.shape[2] == _BOX_NUMBERS for a in siblings)
    words = set(_words(name))
    if is_detector(real):
        return DETECTOR
    if boxes and real.shape[2] != _BOX_NUMBERS and (adds_up(real) or last in ("sigmoid", "logistic", "softmax")):
        return ANCHORS
    if last == "logsoftmax" or adds_up(real):
        return SEQUENCE
    if last in ("sigmoid", "logistic"):
        return MASK if _two_sided(real) and min(real.shape[1:]) >= _SPATIAL else INDEPENDENT
    flat = real.reshape(-1, real.shape[2])
    if real.shape[2] > 1 and (words & _LOGIT_WORDS or behave_as_logits(flat)):
        return SEQUENCE
    return REGRESSION


def is_detector(output: Array) -> bool:
    """Return whether [n, rows, 4 + classes] or its transpose holds boxes in pixels and scores from 0 to 1."""
    few, many = sorted(output.shape[1:])
    if few <= _BOX_NUMBERS or many < max(_LEAST_BOXES, few):
        return False
    rows = output.swapaxes(1, 2) if output.shape[1] < output.shape[2] else output
    boxes, scores = rows[..., :_BOX_NUMBERS], rows[..., _BOX_NUMBERS:]
    within = float(scores.min()) >= -0.01 and float(scores.max()) <= 1.01
    return within and float(np.abs(boxes).mean()) > 1.5 and float(boxes[..., 2:].min()) >= -1


def _map(real: Array, last: str) -> str:
    if last in ("softmax", "logsoftmax") or any(adds_up(real, axis) for axis in (1, -1) if real.shape[axis] > 1):
        return CLASS_MAP
    if float(real.min()) >= -1e-6 and float(real.max()) <= 1 + 1e-6 and _two_sided(real):
        return MASK
    return INDEPENDENT if last in ("sigmoid", "logistic") else REGRESSION


def _two_sided(real: Array) -> bool:
    """Return whether nearly all values are a clear yes or no, and both are there."""
    low, high = float(np.mean(real < 0.2)), float(np.mean(real > 0.8))
    return low + high >= 0.8 and min(low, high) > 0
