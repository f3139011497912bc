"""What a conversion reports: one row a candidate, one a bundle, one a refusal; `report.json` holds them all.

Latency and peak memory are measured on this host and differ between runs; they stand here and never in a bundle, whose
bytes must be the same on every run.
"""

import platform
from typing import Any, Final

import msgspec

from edgefleet_converters.pareto import front
from edgefleet_profiles.metric_words import figure_text
from edgefleet_protocol.manifest import RuntimeProof

PASSED: Final = "passed"
UNPROVEN: Final = "unproven"
"""It ran and followed the source on random input; how accurate it is was not measured."""


class OutputRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output's outcome. kind: what its answers were found to be (`accuracy.output_kinds`); drop: in its metric's unit.

    bound: the worst `value` that so many samples leave possible at 95 %; None where nothing can be said.
    """

    output: str
    kind: str
    metric: str
    value: float
    drop: float
    bound: float | None = None


class MetricRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A metric's outcome; where each output has its own, that of the output that loses most. drop: how much worse than the source;
    data: where the samples come from. outputs: each one that is judged.

    is_measured: false where that is random input, so that value and drop say nothing about accuracy. bound: as in `OutputRow`.
    """

    name: str
    value: float
    baseline: float
    drop: float
    n: int
    data: str
    is_measured: bool = True
    outputs: list[OutputRow] = []
    bound: float | None = None


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate. verdict: passed, unproven, rejected or not_tried; reason says why it was not offered, short in two or three
    words.

    Figures of this host, None where it was not measured: latency_ms {p50, p95} of single runs; cold_start_ms from the file
    to the first answer; peak_rss_bytes of a process with this model alone. pareto: no other measured candidate is as good in
    loss, bytes and p50 and better in one. left_out: layers that a search took out of int8.
    """

    id: str
    precision: str
    bytes: int | None = None
    metric: MetricRow | None = None
    parity: dict[str, dict[str, float]] = {}
    verdict: str = "not_tried"
    reason: str = ""
    short: str = ""
    latency_ms: dict[str, float] | None = None
    cold_start_ms: float | None = None
    peak_rss_bytes: int | None = None
    pareto: bool = False
    left_out: int = 0


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What quantising only this layer did on a few samples. kind: weights (a tensor) or node; distance: `check.distance`.

    kept: out of int8, as float where it is a node, in 16 bits where it is weights. together: in a model of many layers, so many
    neighbours were quantised at once, and this is the layer's equal part.
    """

    kind: str
    name: str
    drop: float
    distance: float
    kept: bool
    together: int = 1


class BundleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle that was written. bytes: the model member; bundle_bytes: the zip; ratio: bytes over fp32_bytes; work: what one
    run does, counted (`cost.work`), empty where it could not be.

    verdict: passed, unproven (nothing but random input judged it), or prepared (its backend is not here). latency_shapes: of the
    inputs of each run that `latency_ms` was measured with. search_ended: as in `ProfileReport`.
    """

    model: str
    version: str
    profile: str
    runtime: str
    precision: str
    candidate: str
    bytes: int
    fp32_bytes: int
    ratio: float
    bundle_bytes: int
    sha256: str
    target: str
    metric: MetricRow
    parity: dict[str, dict[str, float]]
    latency_ms: dict[str, float] | None
    peak_rss_bytes: int
    runtimes: list[RuntimeProof]
    verdict: str
    path: str
    signed_at: str | None = None
    work: dict[str, Any] = {}
    latency_shapes: dict[str, list[int]] = {}
    search_ended: str = ""


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One profile that cannot be served, why, and what to do."""

    profile: str
    code: str
    reason: str
    next: str


class ProfileReport(msgspec.Struct, kw_only=True):
    """All that happened for one profile. layers: the ranking of a search, worst first. fp32: the source, measured.

    search_ended: how a search ended that left candidates untried, by its budget or on request; empty for a whole one.
    """

    profile: str
    passes: list[dict[str, str]] = []
    candidates: list[CandidateRow] = []
    layers: list[LayerRow] = []
    fp32: CandidateRow | None = None
    bundle: BundleRow | None = None
    refused: RefusedRow | None = None
    stages_s: dict[str, float] = {}
    search_ended: str = ""


class ConversionReport(msgspec.Struct, kw_only=True):
    """The whole conversion. key: digest of all that decides it (`result_cache`); empty when it cannot be repeated from files.

    kept_from: the release whose conversion this is, where a server did the same before and only named it again. importance: which inputs
    matter (`importance.importance_report.ImportanceRow`), empty where nobody asked. comparison: with the release that this one continues
    (`accuracy.parent_comparison.ComparisonRow`), empty without one.
    """

    v: int = 1
    model: str
    version: str
    source: dict[str, Any]
    data: dict[str, Any] = {}
    options: dict[str, Any] = {}
    profiles: list[ProfileReport] = []
    host: dict[str, Any] = {}
    key: str = ""
    kept_from: str = ""
    importance: dict[str, Any] = {}
    comparison: dict[str, Any] = {}

    @property
    def bundles(self) -> list[BundleRow]:
        """The bundles that were written."""
        return [row.bundle for row in self.profiles if row.bundle is not None]

    @property
    def refused(self) -> list[RefusedRow]:
        """The profiles that were refused."""
        return [row.refused for row in self.profiles if row.refused is not None]


def with_front(rows: list[CandidateRow]) -> list[CandidateRow]:
    """Return the rows with `pareto` set on those that passed, were measured and are beaten by none."""
    points = {
        index: (row.metric.drop, float(row.bytes), row.latency_ms["p50"])
        for index, row in enumerate(rows)
        if row.verdict == PASSED and row.metric is not None and row.bytes is not None and row.latency_ms is not None
    }
    best = dict(zip(points, front(list(points.values())), strict=True))
    return [msgspec.structs.replace(row, pareto=best.get(index, False)) for index, row in enumerate(rows)]


def without_bounds(metric: MetricRow) -> MetricRow:
    """Return the row without bounds, which depend on how many candidates were tried: a recipe must give the same bundle again."""
    outputs = [msgspec.structs.replace(one, bound=None) for one in metric.outputs]
    return msgspec.structs.replace(metric, outputs=outputs, bound=None)


def best_so_far(row: CandidateRow, fp32_bytes: int) -> str:
    """Return how a search says what it would offer now: `best so far int8-static, 0.27 of float32, agreement 99.4 %`."""
    parts = [f"best so far {row.id}"]
    if row.bytes and fp32_bytes:
        parts.append(f"{row.bytes / fp32_bytes:.2f} of float32")
    if row.metric is not None and row.metric.is_measured:
        parts.append(f"{row.metric.name} {figure_text(row.metric.name, row.metric.value)}")
    return ", ".join(parts)


def unproven(rows: list[CandidateRow]) -> list[CandidateRow]:
    """Return the rows of candidates that only random input judged: what held there is unproven."""
    return [msgspec.structs.replace(row, verdict=UNPROVEN) if row.verdict == PASSED else row for row in rows]


def host_facts() -> dict[str, Any]:
    """Return what is known of this machine, for figures that depend on it."""
    return {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()}
