"""The API: rollouts, their plans and decisions. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class AnswerIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET
    stratum: str | Unset | None = UNSET


class Approval(Struct, frozen=True):
    timeout_s: float = 0.0
    until: str | None = None


class CommandIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET
    rollback: bool | Unset = UNSET
    stratum: str | Unset | None = UNSET


class DrawnDevice(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    is_new: bool = False
    text: str = ""


class ReportingDevice(Struct, frozen=True):
    device: str = ""
    display_name: str = ""


class Confirmation(Struct, frozen=True):
    closed_at: str | None = None
    code: str = ""
    deadline: str = ""
    drawn: tuple[DrawnDevice, ...] = ()
    error_class: str = ""
    how_text: str = ""
    is_proof_ok: bool | None = None
    next: str = ""
    opened_at: str = ""
    proof: str = ""
    reported_by: tuple[ReportingDevice, ...] = ()
    reports: int = 0
    text: str = ""
    verdict: str = ""


class Counts(Struct, frozen=True):
    exposed: int = 0
    failed: int = 0
    healthy: int = 0
    incompatible: int = 0
    members: int = 0
    offered: int = 0
    pending: int = 0
    rolled_back: int = 0
    unreachable: int = 0


class Recomputed(Struct, frozen=True):
    code: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    rule_version: int = 0
    verdict: str = ""


class Decision(Struct, frozen=True):
    actor: str = ""
    agrees: bool = False
    at: str = ""
    code: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    id: int = 0
    reason: str = ""
    recomputed: Recomputed = Recomputed()
    rule: str = ""
    rule_version: int = 0
    stage: str = ""
    stratum: str = ""
    verdict: str = ""


class ExcludedDevice(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    next: str = ""
    profile: str = ""
    reason: str = ""


class Finding(Struct, frozen=True):
    code: str = ""
    level: str = ""
    message: str = ""
    next: str = ""
    stage: int | None = None
    stratum: str | None = None


class Metric(Struct, frozen=True):
    bound: str = ""
    code: str = ""
    devices: int = 0
    high: float | None = None
    low: float | None = None
    missing: int = 0
    name: str = ""
    reason: str = ""
    threshold: float = 0.0
    unit: str = ""
    value: float | None = None
    verdict: str = ""


class Outlook(Struct, frozen=True):
    failed: int = 0
    healthy: int = 0
    next_decision_at: str | None = None
    of: int = 0
    phase: str = ""
    soaking: int = 0
    text: str = ""


class StratumCost(Struct, frozen=True):
    bytes: int = 0
    downloads: int = 0
    kept: int = 0
    stratum: str = ""


class PlanCost(Struct, frozen=True):
    bytes: int = 0
    downloads: int = 0
    kept: int = 0
    strata: tuple[StratumCost, ...] = ()


class StagePower(Struct, frozen=True):
    devices: int = 0
    needed: int | None = None
    rule: str = ""
    stage: str = ""
    stops: dict[str, float] = field(default_factory=dict)


class StratumPower(Struct, frozen=True):
    devices: int = 0
    failures_to_stop: int | None = None
    failures_to_take_back: int | None = None
    liars: float = 0.0
    stages: tuple[StagePower, ...] = ()
    stratum: str = ""
    to_stop: dict[str, int | None] = field(default_factory=dict)
    to_take_back: dict[str, int | None] = field(default_factory=dict)


class PlannedDevice(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    why: str = ""


class PlannedCell(Struct, frozen=True):
    cumulative: int = 0
    devices: tuple[PlannedDevice, ...] = ()
    new: int = 0
    rule: str = ""
    stratum: str = ""
    why: str = ""


class PlannedStage(Struct, frozen=True):
    idx: int = 0
    name: str = ""
    size_text: str = ""
    soak_s: int = 0
    strata: tuple[PlannedCell, ...] = ()


class PlannedStratum(Struct, frozen=True):
    after_failure: str = ""
    bundle: str | None = None
    population: int = 0
    stratum: str = ""


class Plan(Struct, frozen=True):
    cost: PlanCost | None = None
    excluded: tuple[ExcludedDevice, ...] = ()
    findings: tuple[Finding, ...] = ()
    matched: int = 0
    ok: bool = False
    power: tuple[StratumPower, ...] = ()
    release: str = ""
    selector: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    stages: tuple[PlannedStage, ...] = ()
    strata: tuple[PlannedStratum, ...] = ()


class Pooled(Struct, frozen=True):
    abort_at: float = 0.0
    e_abort: float = 0.0
    e_take_back: float = 0.0
    exposed: int = 0
    failed: int = 0


class Rate(Struct, frozen=True):
    failed: int = 0
    next_per_min: int = 0
    offered: int = 0
    per_min: int = 0
    until: str | None = None


class RetryIn(Body, frozen=True, kw_only=True):
    devices: tuple[str, ...] | Unset = UNSET
    failed: bool | Unset = UNSET
    reason: str | Unset = UNSET


class RolloutDevice(Struct, frozen=True):
    at: str = ""
    attempt: int = 0
    deadline: str | None = None
    device: str = ""
    display_name: str = ""
    ended_at: str | None = None
    error_class: str = ""
    exposed_at: str | None = None
    failed_before: str = ""
    is_joiner: bool = False
    moves: str = ""
    next: str = ""
    offered_at: str | None = None
    online: str = ""
    phase: str | None = None
    profile: str = ""
    reason: str = ""
    retries: int = 0
    running: str = ""
    stage: str = ""
    state: str = ""
    stratum: str = ""
    switched_at: str | None = None
    until: str | None = None
    waits_for: str = ""


class Stratum(Struct, frozen=True):
    abort_at: float | None = None
    approval: Approval | None = None
    bound: str = ""
    code: str = ""
    confirmations: tuple[Confirmation, ...] = ()
    counts: Counts = Counts()
    cut: str = ""
    e_abort: float | None = None
    e_promote: float | None = None
    e_take_back: float | None = None
    ended_at: str | None = None
    members: int = 0
    opened_at: str | None = None
    population: int = 0
    quality: tuple[Metric, ...] = ()
    reason: str = ""
    rule: str = ""
    soak_until: str | None = None
    state: str = ""
    stopped_by: str = ""
    stratum: str = ""
    strength: str | None = None
    verdict: str | None = None


class Wait(Struct, frozen=True):
    at: str = ""
    code: str = ""
    count: int = 0
    moves: str = ""
    next: str = ""
    reason: str = ""
    text: str = ""
    until: str | None = None


class Stage(Struct, frozen=True):
    counts: Counts = Counts()
    devices: tuple[str, ...] = ()
    ended_at: str | None = None
    idx: int = 0
    mode: str = "active"
    name: str = ""
    opened_at: str | None = None
    rate: Rate | None = None
    reason: str = ""
    size_text: str = ""
    soak_s: float = 0.0
    state: str = ""
    stopped_by: str = ""
    strata: tuple[Stratum, ...] = ()
    strength: str | None = None
    verdict: str | None = None
    waits: tuple[Wait, ...] = ()


class Rollout(Struct, frozen=True):
    code: str = ""
    counts: Counts = Counts()
    created_at: str = ""
    created_by: str = ""
    downloads: int = 0
    finished_at: str | None = None
    id: str = ""
    is_braked: bool = False
    is_partial: bool = False
    model: str = ""
    name: str = ""
    outlook: Outlook | None = None
    pooled: Pooled = Pooled()
    reason: str = ""
    release: str = ""
    selector: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    stages: tuple[Stage, ...] = ()
    started_at: str | None = None
    state: str = ""
    stopped_by: str = ""
    version: str = ""
    waits: tuple[Wait, ...] = ()


class SkipIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET
    stage: str
    stratum: str | Unset | None = UNSET


class Strategy(Struct, frozen=True):
    about: str = ""
    name: str = ""
    spec: dict[str, Any] = field(default_factory=dict)


class UndoIn(Body, frozen=True, kw_only=True):
    dry_run: bool | Unset = UNSET
    name: str
    reason: str | Unset = UNSET


class UndoLeft(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    profile: str = ""
    reason: str = ""
    runs: str = ""


class UndoMove(Struct, frozen=True):
    back_to: str = ""
    bytes: int = 0
    devices: int = 0
    downloads: int = 0
    profile: str = ""
    runs: str = ""


class Undo(Struct, frozen=True):
    bytes: int = 0
    devices: int = 0
    downloads: int = 0
    dry_run: bool = False
    left: tuple[UndoLeft, ...] = ()
    model: str = ""
    moves: tuple[UndoMove, ...] = ()
    rollouts: tuple[str, ...] = ()
