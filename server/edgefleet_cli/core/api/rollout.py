"""Answers of the API: rollouts, their plans and decisions.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct, field


class Approval(Struct, frozen=True):
    """The approval that a stage needs in a stratum. asked_at, until: null before the stage comes to it; approved_by: "" = nobody."""

    approved_by: str = ""
    asked_at: str | None = None
    role: str = ""
    timeout_s: float = 0.0
    until: str | None = None


class Counts(Struct, frozen=True):
    """Devices by outcome. members = all that belong; exposed = took the release up; rolled_back is also in failed when the device did it
    by itself. retried: of failed, those that a person had tried again, however that ended.
    """

    exposed: int = 0
    failed: int = 0
    healthy: int = 0
    incompatible: int = 0
    members: int = 0
    offered: int = 0
    pending: int = 0
    retried: int = 0
    rolled_back: int = 0
    unreachable: int = 0


class Recomputed(Struct, frozen=True):
    """A decision made again from its stored evidence. rule_version: of the rules that made it, today's."""

    code: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    rule_version: int = 0
    verdict: str = ""


class Decision(Struct, frozen=True):
    """One decision. agrees: made again now from `evidence`, it comes out the same, bit for bit."""

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
    """A device that the selector matches but that cannot take part."""

    device: str = ""
    next: str = ""
    profile: str = ""
    reason: str = ""


class Finding(Struct, frozen=True):
    """Something about a spec that its author should know. stage: its index; None when it is about the whole spec."""

    code: str = ""
    level: str = ""
    message: str = ""
    next: str = ""
    stage: int | None = None
    stratum: str | None = None


class Metric(Struct, frozen=True):
    """One metric of one stratum. verdict: pass, hold, no_data or fail (`code` and `reason` say which way)."""

    bound: str = ""
    code: str = ""
    confidence_high: float = 0.0
    confidence_low: float = 0.0
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


class StratumCost(Struct, frozen=True):
    """One stratum: bytes of its bundle, devices that download it, devices that hold it already, bytes in all."""

    bundle_bytes: int = 0
    bytes: int = 0
    downloads: int = 0
    kept: int = 0
    stratum: str = ""


class PlanCost(Struct, frozen=True):
    """All strata together, when every device of the plan gets the release."""

    bytes: int = 0
    downloads: int = 0
    kept: int = 0
    strata: tuple[StratumCost, ...] = ()


class StagePower(Struct, frozen=True):
    """What one stage can find out in a stratum. needed: healthy devices that a promotion takes (null: none suffice)."""

    devices: int = 0
    needed: int | None = None
    rule: str = ""
    stage: str = ""
    stops: dict[str, float] = field(default_factory=dict)


class StratumPower(Struct, frozen=True):
    """What the stages can find out in a stratum. to_stop: devices until a release so bad is stopped, as likely as not (null: never)."""

    devices: int = 0
    stages: tuple[StagePower, ...] = ()
    stratum: str = ""
    to_stop: dict[str, int | None] = field(default_factory=dict)


class PlannedDevice(Struct, frozen=True):
    """A device of a stage, and why it is in this one."""

    device: str = ""
    why: str = ""


class PlannedCell(Struct, frozen=True):
    """One stage of one stratum. new: devices that it adds; cumulative: with those of the stages before; devices: the first 50."""

    cumulative: int = 0
    devices: tuple[PlannedDevice, ...] = ()
    new: int = 0
    rule: str = ""
    stratum: str = ""
    why: str = ""


class PlannedStage(Struct, frozen=True):
    """One stage over all strata."""

    idx: int = 0
    name: str = ""
    size_text: str = ""
    soak_s: int = 0
    strata: tuple[PlannedCell, ...] = ()


class PlannedStratum(Struct, frozen=True):
    """One stratum: how many devices match, and the target of their bundle (None: the release has none for them)."""

    bundle: str | None = None
    population: int = 0
    stratum: str = ""


class Plan(Struct, frozen=True):
    """The plan of a rollout. ok: no finding is an error. power: what each stratum's stages can find out. spec: in normal form."""

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
    """All strata together: evidence against the release so far, and where it aborts."""

    abort_at: float = 0.0
    e_abort: float = 0.0
    exposed: int = 0
    failed: int = 0


class Rate(Struct, frozen=True):
    """The ramp of a stage. per_min: of this minute; offered: in it so far; until: when the next one begins at the soonest."""

    failed: int = 0
    next_per_min: int = 0
    offered: int = 0
    per_min: int = 0
    until: str | None = None


class RolloutDevice(Struct, frozen=True):
    """One device of a rollout. running: release that it reports; phase: its own word; reason: why it stands where it stands."""

    attempt: int = 0
    deadline: str | None = None
    device: str = ""
    ended_at: str | None = None
    error_class: str = ""
    exposed_at: str | None = None
    failed_before: str = ""
    is_accepted: bool = False
    is_back: bool = False
    is_joiner: bool = False
    moves: str = ""
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
    """One stage of one stratum. Its counts are of all devices of the stratum up to and with this stage."""

    abort_at: float | None = None
    approval: Approval | None = None
    bound: str = ""
    code: str = ""
    counts: Counts = Counts()
    cut: str = ""
    e_abort: float | None = None
    e_promote: float | None = None
    ended_at: str | None = None
    members: int = 0
    opened_at: str | None = None
    population: int = 0
    quality: tuple[Metric, ...] = ()
    reason: str = ""
    rule: str = ""
    soak_until: str | None = None
    state: str = ""
    stratum: str = ""
    strength: str | None = None
    verdict: str | None = None


class Wait(Struct, frozen=True):
    """What some devices wait for. count: how many; reason: of the one that moves first; until: when, where it is known."""

    code: str = ""
    count: int = 0
    moves: str = ""
    reason: str = ""
    until: str | None = None


class Stage(Struct, frozen=True):
    """One stage over all strata. devices: those that took the release up in it, at most 100."""

    counts: Counts = Counts()
    devices: tuple[str, ...] = ()
    ended_at: str | None = None
    idx: int = 0
    match: str = ""
    mode: str = "active"
    name: str = ""
    opened_at: str | None = None
    promote: str = ""
    rate: Rate | None = None
    reason: str = ""
    size_text: str = ""
    soak_s: float = 0.0
    state: str = ""
    strata: tuple[Stratum, ...] = ()
    strength: str | None = None
    verdict: str | None = None
    waits: tuple[Wait, ...] = ()


class Rollout(Struct, frozen=True):
    """One rollout, whole."""

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
    pooled: Pooled = Pooled()
    reason: str = ""
    release: str = ""
    selector: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    stages: tuple[Stage, ...] = ()
    started_at: str | None = None
    state: str = ""
    version: str = ""
    waits: tuple[Wait, ...] = ()


class Strategy(Struct, frozen=True):
    """A named strategy. spec: the whole document that it stands for, to be filled in with release and selector."""

    about: str = ""
    name: str = ""
    spec: dict[str, Any] = field(default_factory=dict)


class UndoDevice(Struct, frozen=True):
    """One device that goes back. source: `kept slot`, `download` or `nothing`."""

    back_to: str = ""
    bytes: int = 0
    device: str = ""
    profile: str = ""
    runs: str = ""
    source: str = ""


class UndoLeft(Struct, frozen=True):
    """One device that stays as it is, and why."""

    device: str = ""
    profile: str = ""
    reason: str = ""
    runs: str = ""


class UndoMove(Struct, frozen=True):
    """Devices of one profile that go the same way. back_to: "" = they ran nothing of the model before."""

    back_to: str = ""
    bytes: int = 0
    devices: int = 0
    downloads: int = 0
    profile: str = ""
    runs: str = ""


class Undo(Struct, frozen=True):
    """What an undo does. devices_shown: the first 50 in the order in which they go back; rollouts: those that take them back."""

    bytes: int = 0
    devices: int = 0
    devices_shown: tuple[UndoDevice, ...] = ()
    downloads: int = 0
    dry_run: bool = False
    left: tuple[UndoLeft, ...] = ()
    model: str = ""
    moves: tuple[UndoMove, ...] = ()
    rollouts: tuple[str, ...] = ()
