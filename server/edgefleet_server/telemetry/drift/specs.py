"""The signals of a reference as they are judged: with what is expected of each, from the bundle or from a period that was chosen. Pure.

Classes are judged in at most MOST_CLASSES bins: the most frequent of the reference each, and the others as one.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Reference, Signal, SignalKind
from edgefleet_server.telemetry.drift.model import SignalSpec

MOST_CLASSES: Final = 16
CLASSES: Final = "classes"


def specs_of(reference: Reference, baseline: Sequence[SignalSums] = ()) -> list[SignalSpec]:
    """Return the signals in the order of the wire form, and last the classes where the model answers some.

    baseline: what was chosen as normal, in the same order; where it counts nothing of a signal, the reference stays.
    """
    found = [_spec(one) for one in reference.signals]
    if any(reference.classes):
        folded = folded_classes(reference.classes, reference.classes)
        names = [*(float(index) for index in _chosen(reference.classes))]
        found.append(
            SignalSpec(CLASSES, SignalKind.CLASSES, (*folded, 0), values=names, has_sums=False, bins=len(folded))
        )
    return [
        _chosen_normal(spec, baseline[number]) if number < len(baseline) else spec for number, spec in enumerate(found)
    ]


def folded_classes(counts: Sequence[int], known: Sequence[int]) -> list[int]:
    """Return counts by class in the bins in which classes are judged. known: counts of the reference."""
    chosen = _chosen(known)
    kept = [counts[index] if index < len(counts) else 0 for index in chosen]
    others = sum(counts) - sum(kept)
    return [*kept, others]


def bin_names(spec: SignalSpec) -> list[str]:
    """Return what each bin holds, in few characters; the last one are answers without a value."""
    if spec.kind == SignalKind.CLASSES:
        names = [f"class {value:.0f}" for value in spec.values] + ["others"]
    elif spec.values:
        names = [f"{value:g}" for value in spec.values] + ["others"]
    elif not spec.edges:
        names = ["any"]
    else:
        edges = [f"{edge:.4g}" for edge in spec.edges]
        between = [f"{low} … {high}" for low, high in pairwise(edges)]
        names = [f"< {edges[0]}", *between, f"≥ {edges[-1]}"]
    return [*names, "missing"]


def _chosen(known: Sequence[int]) -> list[int]:
    order = sorted(range(len(known)), key=lambda index: (-known[index], index))
    return sorted(order[: MOST_CLASSES - 1])


def _spec(signal: Signal) -> SignalSpec:
    return SignalSpec(
        name=signal.name,
        kind=signal.kind,
        counts=(*signal.counts, signal.missing),
        edges=signal.edges,
        values=signal.values,
        mean=signal.mean,
        std=signal.std,
        has_sums=signal.std > 0 and signal.kind not in (SignalKind.CATEGORICAL, SignalKind.CONFIDENCE),
        bins=signal.bins,
    )


def _chosen_normal(spec: SignalSpec, sums: SignalSums) -> SignalSpec:
    if len(sums.bins) != spec.bins or not sums.n + sums.missing:
        return spec
    return SignalSpec(
        name=spec.name,
        kind=spec.kind,
        counts=(*sums.bins, sums.missing),
        edges=spec.edges,
        values=spec.values,
        mean=spec.mean,
        std=spec.std,
        mean_z=sums.mean_z,
        has_sums=spec.has_sums,
        bins=spec.bins,
    )
