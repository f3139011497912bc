"""One bundle as it is shown and compared: what the converter measured, what was predicted for devices, what devices reported. Pure.

A bundle's report came from a child process: only its outline was checked when it was taken, so every figure is looked at before it is
used, and what is no figure is left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_profiles.metric_words import judged_as
from edgefleet_server.registry.model import BundleView
from edgefleet_server.registry.rules import is_measured, verdict_of
from edgefleet_server.telemetry.model import Figures, Observed, Performance

ALIKE: Final = 0.9
"""Cosine of an output with the source's, below which nobody calls the bundle as good as the source, whatever its metric says."""
LOWER_IS_BETTER: Final = frozenset({"mae"})


@dataclass(frozen=True, slots=True)
class Metric:
    """How well a bundle does. drop: how much worse than the source, in the metric's unit; n: samples; data: where they are from.

    is_measured: false where that is random input: then the figures say nothing about accuracy. judged: a line for each output.
    """

    name: str
    value: float
    baseline: float | None
    drop: float | None
    n: int | None
    data: str
    is_measured: bool = True
    judged: tuple[str, ...] = ()

    @property
    def is_lower_better(self) -> bool:
        """Say whether a smaller value is better: by the figures where they differ, else by the name."""
        if self.baseline is not None and self.drop and self.value != self.baseline:
            return (self.value > self.baseline) == (self.drop > 0)
        return self.name in LOWER_IS_BETTER


@dataclass(frozen=True, slots=True)
class Expected:
    """A predicted figure with the interval that holds the true one at the level of its estimate."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BundleLine:
    """A row of the bundle table. bytes: the model in the bundle; latencies are milliseconds, memory is bytes, None where unknown.

    host_p50_ms, host_p95_ms, host_memory: of the converting machine, with inputs of `host_shapes`. likeness: least cosine of an output
    with the source's, None where it is not known. predicted: `latency_p50_ms latency_p95_ms memory_bytes`, as
    of today where the bundle carries none. prediction: what they rest on, or why there are none. off: by figure, observed against
    predicted. observed: medians over devices; recent: what the newest windows say.
    """

    view: BundleView
    bytes: float | None
    ratio: float | None
    metric: Metric | None
    host_p50_ms: float | None
    host_p95_ms: float | None
    host_memory: float | None
    runtimes: str
    verdict: str
    host_shapes: str
    likeness: float | None
    predicted: Mapping[str, Expected]
    prediction: str
    observed: Observed | None
    off: Mapping[str, float]
    within: Mapping[str, bool]
    recent: Figures | None

    @property
    def is_unlike(self) -> bool:
        """Say whether an output differs from the source's by so much that an equal metric does not make it as good."""
        return self.likeness is not None and self.likeness < ALIKE


def bundle_line(view: BundleView, performance: Performance | None, recent: Figures | None) -> BundleLine:
    """Return the row of a bundle."""
    report = view.report
    estimate: Mapping[str, Any] = {}
    if performance is not None:
        estimate = performance.predicted or performance.current or {}
    return BundleLine(
        view=view,
        bytes=figure_in(report, "bytes"),
        ratio=figure_in(report, "ratio"),
        metric=metric_in(report),
        host_p50_ms=figure_in(report, "latency_ms", "p50"),
        host_p95_ms=figure_in(report, "latency_ms", "p95"),
        host_memory=figure_in(report, "peak_rss_bytes"),
        runtimes=", ".join(_runtime(one) for one in report.get("runtimes") or () if isinstance(one, Mapping)),
        verdict=verdict_of(report),
        host_shapes=_shapes(report.get("latency_shapes")),
        likeness=_likeness(report.get("parity")),
        predicted=_expected(estimate),
        prediction=_prediction(estimate),
        observed=None if performance is None else performance.observed,
        off={} if performance is None else performance.error,
        within={} if performance is None else performance.within,
        recent=recent if recent is not None and recent.windows else None,
    )


def figure_in(tree: Any, *path: str) -> float | None:
    """Return the finite number at a path of nested mappings, None when there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    is_figure = isinstance(tree, int | float) and not isinstance(tree, bool) and math.isfinite(tree)
    return tree if is_figure else None


def metric_in(report: Mapping[str, Any]) -> Metric | None:
    """Return the metric of a bundle's report, None when it has none."""
    metric = report.get("metric")
    value = figure_in(report, "metric", "value")
    if not isinstance(metric, Mapping) or value is None:
        return None
    n = figure_in(metric, "n")
    return Metric(
        name=str(metric.get("name") or "metric"),
        value=value,
        baseline=figure_in(metric, "baseline"),
        drop=figure_in(metric, "drop"),
        n=None if n is None else int(n),
        data=str(metric.get("data") or ""),
        is_measured=is_measured(report),
        judged=tuple(judged_as(metric)),
    )


def _shapes(shapes: object) -> str:
    """Return shapes as `1×3×640×640`, one an input, "" where there is none."""
    found = shapes.values() if isinstance(shapes, Mapping) else ()
    return ", ".join("×".join(str(dim) for dim in shape) for shape in found if isinstance(shape, list))


def _likeness(parity: object) -> float | None:
    outputs = parity.values() if isinstance(parity, Mapping) else ()
    known = [one for output in outputs if (one := figure_in(output, "cosine")) is not None]
    return min(known, default=None)


def _runtime(runtime: Mapping[str, Any]) -> str:
    return f"{runtime.get('name', '?')} {runtime.get('version', '')}".strip()


def _expected(estimate: Mapping[str, Any]) -> dict[str, Expected]:
    found = {}
    for name in ("latency_p50_ms", "latency_p95_ms", "memory_bytes"):
        parts = [figure_in(estimate, name, part) for part in ("value", "low", "high")]
        if parts[0] is not None and parts[1] is not None and parts[2] is not None:
            found[name] = Expected(parts[0], parts[1], parts[2])
    return found


def _prediction(estimate: Mapping[str, Any]) -> str:
    if not estimate:
        return ""
    basis, reason = str(estimate.get("basis") or ""), str(estimate.get("reason") or "")
    level = figure_in(estimate, "level")
    sure = f", true for {level:.0%} of models" if basis != "none" and level is not None else ""
    return f"{'no estimate' if basis == 'none' else basis}: {reason}{sure}"
