"""A reference that a device makes itself, of the first answers of a model whose bundle has none. Pure.

Learned are columns of tables, numbers that a model answers, and the confidence of a classification: bins by the deciles of what was seen,
those of confidence fixed ones, as in a reference that comes with a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_agent.worker.control.protocol import LEARN_FROM
from edgefleet_protocol.drift.reference import Confidence, Reference, Signal, SignalKind
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import is_batched
from edgefleet_runtime.postprocess import ArgMax, Postprocessor, TopK
from edgefleet_runtime.signals import MAX_COLUMNS, MAX_NUMBERS, SignalPlan, counted, signal_plan

MAX_LEARNED: Final = 4 * LEARN_FROM
_RANKS: Final = np.arange(1, 10) / 10
_CONFIDENCE_EDGES: Final = [round(0.1 * i, 1) for i in range(1, 10)]
Floats = npt.NDArray[np.float64]


class Baseline:
    """What was seen so far."""

    def __init__(
        self, draft: Reference, plan: SignalPlan, specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]]
    ) -> None:
        self.plan = plan
        self._draft = draft
        self._specs = specs
        self._seen: list[Floats] = []
        self._n = 0

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        postprocess: Postprocessor,
        hidden: Callable[[Reference], Collection[str]] = lambda reference: (),
    ) -> Baseline | None:
        """Return an empty baseline of a model; None when it has nothing that is learned. hidden: which signals must not be made."""
        recipe = postprocess.declared.outputs[0]
        classes = _width(postprocess.specs[recipe.name]) if isinstance(recipe.steps[-1], TopK | ArgMax) else 0
        draft = Reference(
            n=0,
            features=[one for spec in inputs for one in _drafts(spec, MAX_COLUMNS, SignalKind.NUMERIC)],
            outputs=[]
            if classes
            else [one for spec in outputs for one in _drafts(spec, MAX_NUMBERS, SignalKind.OUTPUT)],
            classes=[0] * classes,
            confidence=Confidence(_CONFIDENCE_EDGES, [1] * 10) if classes > 1 else Confidence(),
            source="learned",
        )
        if not draft.signals:
            return None
        return cls(draft, signal_plan(draft, inputs, outputs, hidden(draft)), (inputs, outputs))

    def __len__(self) -> int:
        """Return how many samples were seen."""
        return self._n

    def add(self, values: Floats) -> None:
        """Add samples [n, signals]; those above MAX_LEARNED are left out."""
        taken = values[: MAX_LEARNED - self._n]
        self._seen.append(taken)
        self._n += len(taken)

    def learned(self) -> Reference:
        """Return the reference of what was seen."""
        seen, draft = np.concatenate(self._seen), self._draft
        places = iter(range(seen.shape[1]))
        features = [_signal(one, seen[:, next(places)]) for one in draft.features]
        outputs = [_signal(one, seen[:, next(places)]) for one in draft.outputs]
        binned = msgspec.structs.replace(draft, features=features, outputs=outputs)
        sums = counted(seen, signal_plan(binned, *self._specs))
        counts = [list(one.bins) for one in sums]
        whole = [
            msgspec.structs.replace(one, counts=bins, missing=total.missing)
            for one, bins, total in zip([*features, *outputs], counts, sums, strict=False)
        ]
        return msgspec.structs.replace(
            binned,
            n=len(seen),
            features=whole[: len(features)],
            outputs=whole[len(features) :],
            confidence=Confidence(_CONFIDENCE_EDGES, counts[-1]) if len(counts) > len(whole) else Confidence(),
        )


def _drafts(spec: TensorSpec, most: int, kind: SignalKind) -> Iterator[Signal]:
    is_number = spec.dtype.startswith(("float", "int", "uint"))
    width = _width(spec) if is_number and len(spec.shape) <= 1 + is_batched(spec) else 0
    for column in range(width if width <= most else 0):
        yield Signal(name=f"{spec.name}.{column}", kind=kind, counts=[1])


def _width(spec: TensorSpec) -> int:
    """Return how many numbers a sample has on the last axis; 0 where that is open."""
    last = spec.shape[-1] if len(spec.shape) > is_batched(spec) else 1
    return last if isinstance(last, int) else 0


def _signal(draft: Signal, column: Floats) -> Signal:
    values = column[np.isfinite(column)]
    if not values.size:
        return draft
    edges = sorted({round(float(edge), 6) for edge in np.quantile(values, _RANKS)})
    return msgspec.structs.replace(
        draft,
        mean=float(values.mean()),
        std=float(values.std()),
        low=float(values.min()),
        high=float(values.max()),
        edges=edges,
        counts=[0] * (len(edges) + 1),
    )
