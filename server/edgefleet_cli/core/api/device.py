"""Answers of the API: devices, what they report and measure.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct, field


class DesiredCandidate(Struct, frozen=True):
    """What a document wants beside the active bundle. mode: shadow, split or measure."""

    mode: str = ""
    release: str = ""
    salt: str = ""
    sha256: str = ""
    share_pct: int = 0
    target: str = ""


class DesiredModel(Struct, frozen=True):
    """One model in a desired document."""

    candidate: DesiredCandidate | None = None
    model: str = ""
    release: str = ""
    sha256: str = ""
    target: str = ""


class Desired(Struct, frozen=True):
    """A device's desired document; gen 0 and no times when it has none."""

    expires_at: str | None = None
    gen: int = 0
    issued_at: str | None = None
    models: tuple[DesiredModel, ...] = ()


class ModelExplanation(Struct, frozen=True):
    """One model of a device. why: what is in the way; next: what to do, "" when nothing; rollout: the open one that it has a place in."""

    is_settled: bool = False
    model: str = ""
    next: str = ""
    rollout: str | None = None
    running: str | None = None
    wanted: str | None = None
    why: str = ""


class DeviceExplanation(Struct, frozen=True):
    """Why a device does not run what it should. pinned: why it takes no part in rollouts, "" when it does."""

    device: str = ""
    items: tuple[ModelExplanation, ...] = ()
    pinned: str = ""
    status: str = ""


class ReportedCandidate(Struct, frozen=True):
    """What a device says of the candidate of a model. state: a `CandidatePhase`."""

    code: str = ""
    mode: str = ""
    reason: str = ""
    release: str = ""
    sha256: str = ""
    share_pct: int = 0
    state: str = ""
    target: str = ""


class ReportedModel(Struct, frozen=True):
    """One model as the device reports it; `state` is the server's word for `phase`."""

    candidate: ReportedCandidate | None = None
    changed_at: str = ""
    error_class: str | None = None
    error_code: str = ""
    model: str = ""
    phase: str = ""
    previous_target: str = ""
    progress_pct: int = 0
    reason: str = ""
    release: str | None = None
    serving: bool = False
    sha256: str = ""
    slot: str = ""
    state: str = ""
    target: str = ""
    wanted_sha256: str = ""


class Refusal(Struct, frozen=True):
    """A newer document that the device did not accept, and why. gen 0: the metadata here is older than what it has seen."""

    code: str = ""
    gen: int = 0
    reason: str = ""


class Shadow(Struct, frozen=True):
    """How a candidate compares with what serves, on the same inputs. agreement: agreed ÷ judged, None where nothing was judged."""

    active_p50_ms: float | None = None
    active_p95_ms: float | None = None
    agreed: int = 0
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
    """One window of one model. Latencies are milliseconds, within 1 %; None when nothing was counted."""

    classes: tuple[int, ...] = ()
    crashes: int = 0
    errors: int = 0
    joules_per_answer: float | None = None
    lane: str = ""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    length_s: int = 0
    model: str = ""
    n: int = 0
    nonfinite: int = 0
    received_at: str = ""
    sha256: str = ""
    shadow: Shadow | None = None
    t0: str = ""
    timeouts: int = 0
    version: str = ""
    worker_cpu_s: float = 0.0
    worker_rss_bytes: int = 0


class Latest(Struct, frozen=True):
    """The newest message of a device: its own figures, and the newest window of each model and lane."""

    at: str = ""
    dropped: int = 0
    queue_bytes: int = 0
    received_at: str = ""
    system: dict[str, Any] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()


class Device(Struct, frozen=True):
    """One device. `telemetry` (its newest figures) is given for a single device only."""

    agent_version: str = ""
    arch: str = ""
    cert_not_after: str = ""
    desired: Desired = Desired()
    enrolled_at: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    free_mb: int | None = None
    groups: tuple[str, ...] = ()
    id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    last_seen: str | None = None
    models: tuple[ReportedModel, ...] = ()
    profile: str = ""
    refused: Refusal | None = None
    reported_gen: int = 0
    status: str = ""
    telemetry: Latest | None = None


class LabelChange(Struct, frozen=True):
    """What labelling by selector did, or would do: how many devices matched and changed, and the first of those that change."""

    changed: int = 0
    dry_run: bool = False
    matched: int = 0
    sample: tuple[str, ...] = ()


class Watch(Struct, frozen=True):
    """A device is watched until then; who goes on looking is given longer. status: whether it is there to hear of it."""

    device: str = ""
    status: str = ""
    until: str = ""
