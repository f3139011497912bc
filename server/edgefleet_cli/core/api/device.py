"""The API: devices, what they report and measure. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class ClassShares(Struct, frozen=True):
    index: int = 0


class ClearSuspicionIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET


class DesiredCandidate(Struct, frozen=True):
    mode: str = ""
    release: str = ""
    salt: str = ""
    sha256: str = ""
    share_pct: int = 0
    target: str = ""


class DesiredModel(Struct, frozen=True):
    candidate: DesiredCandidate | None = None
    model: str = ""
    release: str = ""
    sha256: str = ""
    target: str = ""


class Desired(Struct, frozen=True):
    expires_at: str | None = None
    gen: int = 0
    models: tuple[DesiredModel, ...] = ()


class ModelExplanation(Struct, frozen=True):
    is_settled: bool = False
    model: str = ""
    next: str = ""
    rollout: str | None = None
    running: str | None = None
    wanted: str | None = None
    why: str = ""


class DeviceExplanation(Struct, frozen=True):
    device: str = ""
    items: tuple[ModelExplanation, ...] = ()
    pinned: str = ""
    status: str = ""


class DeviceIn(Body, frozen=True, kw_only=True):
    display_name: str | Unset | None = UNSET
    labels: dict[str, str | None] | Unset = UNSET
    profile: str | Unset | None = UNSET


class HealthReason(Struct, frozen=True):
    health: str = ""
    since: str | None = None
    text: str = ""


class ReportedCandidate(Struct, frozen=True):
    code: str = ""
    mode: str = ""
    reason: str = ""
    release: str = ""
    sha256: str = ""
    share_pct: int = 0
    state: str = ""
    target: str = ""


class ReportedModel(Struct, frozen=True):
    candidate: ReportedCandidate | None = None
    error_class: str | None = None
    model: str = ""
    phase: str = ""
    reason: str = ""
    release: str | None = None
    sha256: str = ""
    state: str = ""
    target: str = ""
    wanted_sha256: str = ""
    withdrawn: str = ""


class Refusal(Struct, frozen=True):
    code: str = ""
    gen: int = 0
    reason: str = ""


class Shadow(Struct, frozen=True):
    active_p95_ms: float | None = None
    agreement: float | None = None
    compared: int = 0
    delta_p50: float | None = None
    delta_p95: float | None = None
    dropped: int = 0
    failed: int = 0
    judged: int = 0
    kept: int = 0
    offered: int = 0
    overlap: float | None = None


class Window(Struct, frozen=True):
    classes: tuple[int, ...] = ()
    crashes: int = 0
    errors: int = 0
    joules_per_answer: float | None = None
    lane: str = ""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    length_s: int = 0
    model: str = ""
    n: int = 0
    nonfinite: int = 0
    received_at: str = ""
    sha256: str = ""
    shadow: Shadow | None = None
    timeouts: int = 0
    version: str = ""
    worker_rss_bytes: int = 0


class Latest(Struct, frozen=True):
    at: str = ""
    dropped: int = 0
    missing: int = 0
    queue_bytes: int = 0
    received_at: str = ""
    system: dict[str, Any] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()


class Device(Struct, frozen=True):
    agent_version: str = ""
    arch: str = ""
    cert_not_after: str = ""
    cut_off_at: str | None = None
    desired: Desired = Desired()
    display_name: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    free_mb: int | None = None
    groups: tuple[str, ...] = ()
    health: str = "unknown"
    health_reasons: tuple[HealthReason, ...] = ()
    id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    last_seen: str | None = None
    models: tuple[ReportedModel, ...] = ()
    profile: str = ""
    refused: Refusal | None = None
    reported_gen: int = 0
    revoked_at: str | None = None
    status: str = ""
    status_reason: str = ""
    suspect_reason: str = ""
    suspect_since: str | None = None
    telemetry: Latest | None = None


class LabelChange(Struct, frozen=True):
    changed: int = 0
    dry_run: bool = False
    matched: int = 0
    sample: tuple[str, ...] = ()


class LabelsIn(Body, frozen=True, kw_only=True):
    dry_run: bool | Unset = UNSET
    labels: dict[str, str | None]
    selector: str


class Mark(Struct, frozen=True):
    at: str = ""
    device: str = ""
    kind: str = ""
    model: str = ""
    n: int = 1
    rollout: str = ""
    title: str = ""


class MetricLine(Struct, frozen=True):
    classes: tuple[ClassShares, ...] = ()
    crashes: tuple[int | None, ...] = ()
    errors: tuple[int | None, ...] = ()
    key: str = ""
    nonfinite: tuple[int | None, ...] = ()
    p50_ms: tuple[float | None, ...] = ()
    p95_ms: tuple[float | None, ...] = ()
    p99_ms: tuple[float | None, ...] = ()
    requests: tuple[int | None, ...] = ()
    requests_per_s: tuple[float | None, ...] = ()
    timeouts: tuple[int | None, ...] = ()


class Readmission(Struct, frozen=True):
    asked_at: str = ""
    decided_at: str | None = None
    decided_by: str = ""
    device: str = ""
    ended_at: str = ""
    heard_at: str = ""
    readmitted_at: str | None = None
    state: str = ""
    why: str = ""


class ReadmissionSkipped(Struct, frozen=True):
    device: str = ""
    next: str = ""
    reason: str = ""


class ReadmissionDecisions(Struct, frozen=True):
    done: tuple[Readmission, ...] = ()
    skipped: tuple[ReadmissionSkipped, ...] = ()


class ReadmissionRefusalIn(Body, frozen=True, kw_only=True):
    devices: tuple[str, ...]
    reason: str | Unset = UNSET


class ReadmissionsIn(Body, frozen=True, kw_only=True):
    devices: tuple[str, ...]


class Timeline(Struct, frozen=True):
    at: tuple[str, ...] = ()
    by: str = ""
    classes: tuple[ClassShares, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)
    lines: tuple[MetricLine, ...] = ()
    marks: tuple[Mark, ...] = ()
    name: str = ""
    since: str = ""
    step_s: int = 0
    system: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    until: str = ""


class Watch(Struct, frozen=True):
    device: str = ""
    status: str = ""
    until: str = ""
