"""The records that an install leaves on disk. Truth about a model is its `current.msgpack` (`ModelRecord`), nothing else."""

import math
from typing import Any

import msgspec

from edgefleet_protocol.messages import ErrorClass, Phase

RECORD_VERSION = 1


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that this device may install: fields of a verified desired document and of TUF, nothing unverified.

    leaves: sha256 of the leaf index. not_before_s and the deadlines: unix seconds and seconds.
    start_s: when this device may ask for the bundle, unix seconds by its clock, at most start_within_s after it first accepted this
    request (0: at once). download_s counts from there: what is waited is off it already.
    sec_version: of the release, as TUF names it; 0 for one that was signed without.
    """

    model: str
    target: str
    sha256: str
    length: int
    leaves: str
    gen: int
    rollout: str = ""
    attempt: int = 1
    not_before_s: int = 0
    download_s: int = 21_600
    apply_s: int = 600
    verify_s: int = 1_800
    start_s: int = 0
    start_within_s: int = 0
    sec_version: int = 0


class ShutOut(msgspec.Struct, frozen=True, kw_only=True):
    """What may not run here of one model: versions that were withdrawn, and all below a security version."""

    sec_floor: int = 0
    versions: list[str] = []


class WithdrawnSlot(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle in a slot of this device that is shut out."""

    model: str
    target: str
    sha256: str
    reason: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why one bundle of an accepted document may not be installed: document and TUF disagree about it."""

    model: str
    target: str
    sha256: str
    code: str
    reason: str


class CandidateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate: a second bundle of the same model. mode: shadow or split; share_pct and salt are for split."""

    wanted: Wanted
    mode: str
    share_pct: int = 0
    salt: str = ""


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A task of the document; `until_s` 0 = no limit. args: what it takes, checked by the part that does it."""

    id: str
    kind: str
    until_s: int = 0
    args: dict[str, Any] = {}


class LogRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which answers of a model are kept and sent: `PredictionLogRequest`. subject_key and the keys of erased: raw."""

    subject_key: bytes
    ratio: float = 1.0
    inputs: bool = False
    erased: dict[bytes, int] = {}


class DesiredOk(msgspec.Struct, frozen=True, kw_only=True):
    """`desired.ok`: what the install child verified. agentd acts on this and on nothing else.

    raw_sha256: of the envelope as received, so that the same document is recognised without parsing it. capture_key: 64 hex
    digits of the tenant's public key, "" = nothing is captured. predictions_until_s: until when somebody watches, 0 = nobody does.
    withdrawn: bundles in slots that are shut out; shut_out: by what, by model, also for a floor that is lost.
    """

    v: int = RECORD_VERSION
    device: str
    gen: int
    raw_sha256: str
    issued_s: int
    expires_s: int
    wanted: list[Wanted]
    idle_models: list[str]
    refused: list[Refusal] = []
    telemetry_profile: str = "normal"
    telemetry_until_s: int = 0
    predictions_until_s: int = 0
    tasks: list[TaskRequest] = []
    candidates: list[CandidateRequest] = []
    refused_candidates: list[Refusal] = []
    capture_key: str = ""
    prediction_logs: dict[str, LogRules] = {}
    withdrawn: list[WithdrawnSlot] = []
    shut_out: dict[str, ShutOut] = {}

    def live_until_s(self) -> float:
        """Return until when `live` telemetry is asked for, unix seconds: infinite = for good, 0 = it is not."""
        return (self.telemetry_until_s or math.inf) if self.telemetry_profile == "live" else 0.0


class HoldOk(msgspec.Struct, frozen=True, kw_only=True):
    """`hold.ok`: the verified hold."""

    v: int = RECORD_VERSION
    seq: int
    expires_s: int
    rollouts: list[str]
    digests: list[str]
    raw_sha256: str


class SlotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`slot.msgpack`: what the install child found in a bundle that it verified whole. Sizes in bytes, 0 = not declared.

    model_key: of a sealed bundle, sealed to this device.
    """

    v: int = RECORD_VERSION
    model: str
    version: str
    profile: str
    target: str
    sha256: str
    length: int
    runtime: str
    sec_version: int = 0
    latency_p95_ms: float = 0.0
    peak_memory_bytes: int = 0
    model_key: bytes = b""


class SlotRef(msgspec.Struct, frozen=True, kw_only=True):
    """A slot and the bundle that was in it when this was written. proven: it lived through a trial here."""

    slot: str
    target: str
    sha256: str
    version: str
    proven: bool = False


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A digest that failed here. It is tried again only for a higher `gen` or another attempt."""

    sha256: str
    gen: int
    attempt: int
    error_class: ErrorClass
    code: str
    reason: str


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the bundle `sha256` since it began to serve here, over restarts of its worker and of agentd.

    since_s: unix seconds of that beginning, from which its trial is measured. n: answers, errors included. golden_ok, golden_bad:
    checks with golden vectors in the serving worker. latency: `LatencySketch.packed()` of the answers, older ones fading.
    """

    sha256: str = ""
    since_s: int = 0
    n: int = 0
    errors: int = 0
    nonfinite: int = 0
    golden_ok: int = 0
    golden_bad: int = 0
    latency: list[int] = []


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything agentd must remember about one model across a power cut.

    active: what serves. previous: where to go back to. installing: slot being written or tried, "" = none.
    phase, gen, wanted and the error fields are of one request: the last one begun, or found to be what serves. served: the request
    that what serves carried out; None when it came back by a rollback.
    tries, starts: how often the version being installed, or the one that serves, was started; written *before* each start. Once
    proven, a version that served for a while, or was stopped in order, has its starts forgotten.
    bad_trials: trials of this request that failed for want of memory, disk or time; bounds how often it is tried again.
    strategy: how the running install gets its memory, "" = not decided yet (`preflight.Strategy`).
    crashes_s: unix seconds of crashes of what serves. steps: records written for this install; bounds loops.
    seen, before: figures of `active` and of `previous`.
    error fields: of the last failed install or rollback, until another request is carried out.
    """

    v: int = RECORD_VERSION
    model: str
    phase: Phase = Phase.IDLE
    gen: int = 0
    active: SlotRef | None = None
    previous: SlotRef | None = None
    wanted: Wanted | None = None
    served: Wanted | None = None
    installing: str = ""
    tries: int = 0
    starts: int = 0
    bad_trials: int = 0
    strategy: str = ""
    crashes_s: list[int] = []
    steps: int = 0
    phase_since_s: int = 0
    seen: Tally = Tally()
    before: Tally = Tally()
    quarantine: list[Quarantine] = []
    error_class: ErrorClass | None = None
    error_code: str = ""
    reason: str = ""
