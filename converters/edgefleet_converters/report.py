"""What a conversion tells: one row a candidate, one a bundle, one a refusal; `report.json` holds them all.

Latency and peak memory are measured on this host and differ between runs; they stand here and never in a bundle, whose
bytes must be the same on every run.
"""

import platform
from typing import Any

import msgspec

from edgefleet_protocol.manifest import RuntimeProof


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's outcome. drop: how much worse than the source; data: where the samples come from."""

    name: str
    value: float
    baseline: float
    drop: float
    n: int
    data: str


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate. verdict: passed, rejected or not_tried; reason says why it was not offered."""

    id: str
    precision: str
    bytes: int | None = None
    metric: MetricRow | None = None
    parity: dict[str, dict[str, float]] = {}
    verdict: str = "not_tried"
    reason: str = ""


class BundleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle that was written. bytes: the model member; bundle_bytes: the zip; ratio: bytes over fp32_bytes."""

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


class RefusedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One profile that cannot be served, why, and what to do."""

    profile: str
    code: str
    reason: str
    next: str


class ProfileReport(msgspec.Struct, kw_only=True):
    """All that happened for one profile."""

    profile: str
    passes: list[dict[str, str]] = []
    candidates: list[CandidateRow] = []
    bundle: BundleRow | None = None
    refused: RefusedRow | None = None
    stages_s: dict[str, float] = {}


class ConversionReport(msgspec.Struct, kw_only=True):
    """The whole conversion."""

    v: int = 1
    model: str
    version: str
    source: dict[str, Any]
    data: dict[str, Any] = {}
    options: dict[str, Any] = {}
    profiles: list[ProfileReport] = []
    host: dict[str, Any] = {}

    @property
    def bundles(self) -> list[BundleRow]:
        """The bundles that were written."""
        return [row.bundle for row in self.profiles if row.bundle is not None]

    @property
    def refused(self) -> list[RefusedRow]:
        """The profiles that were refused."""
        return [row.refused for row in self.profiles if row.refused is not None]


def host_facts() -> dict[str, Any]:
    """Return what is known of this machine, for figures that depend on it."""
    return {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()}
