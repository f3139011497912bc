"""Messages on MQTT that are not signed: MessagePack arrays, each with a version first.

Rules:
1. Fields are only ever added at the end, with a default; a reader ignores what it does not know and fills what is missing.
2. A meaning never changes under the same `v`; a new meaning is a new `v` and a new golden file.
3. Reports are idempotent: they carry `gen`, `attempt`, `boot_id` and `seq`.
4. `assignment_of` is the only map from what a device says to what the server calls it; it is total.
"""

from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.short_form import shortened

HELD_CODE: Final = "install.held"
"""The device waits because its document says `hold`."""
CRASH_LOOP_CODE: Final = "trial.crash_loop"
OVER_MEMORY_CODE: Final = "trial.over_declared"
"""More memory in the golden test than the bundle declares: of the class MEMORY, but a property of the bundle."""
QUARANTINED_CODES: Final = frozenset({OVER_MEMORY_CODE})  # though of a transient class
CANDIDATE_RESTS_CODE: Final = "candidate.rest"
"""A shadow that is compared in turns waits for the next turn: it has been compared before."""
OLD_HOLD_CODE: Final = "verify.old_hold"
MESSAGE_VERSION = 1
MAX_META_CHUNK_BYTES = 96 * 1024
MAX_LABELS = 3
"""How many classes or numbers a `PredictionLine` shows."""
CHILD_DIED_CODE = "install.child_died"
"""The process that verifies died over a document, or over a download: a refused document with this code is tried again, slowly."""
SPREAD_CODE = "install.spread"
"""The device has its document and waits for its part of the seconds over which devices begin to ask for the bundle."""

MAX_SEEN_ROLES = 128
"""How many roles a `Seen` names at once."""


class Phase(StrEnum):
    """Where a device stands with one model (docs/protocol/messages.md)."""

    IDLE = "idle"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PREFLIGHT = "preflight"
    GOLDEN = "golden"
    WARMING = "warming"
    SWITCHING = "switching"
    PROBATION = "probation"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class ErrorClass(StrEnum):
    """Why an install or a running version failed, coarse enough to act on."""

    NETWORK = "network"
    DISK = "disk"
    MEMORY = "memory"
    SIGNATURE = "signature"
    INCOMPATIBLE = "incompatible"
    GOLDEN = "golden"
    LOAD = "load"
    CRASH = "crash"
    NONFINITE = "nonfinite"
    SLOW = "slow"
    DEADLINE = "deadline"
    INTERNAL = "internal"


TRANSIENT: Final = frozenset({ErrorClass.NETWORK, ErrorClass.DISK, ErrorClass.MEMORY, ErrorClass.DEADLINE})
"""Classes that say something about the moment, not about the bundle: tried again later, never quarantined but for QUARANTINED_CODES."""


class AssignmentState(StrEnum):
    """What the server calls the state of one device in one rollout (docs/explanation/rollouts.md, "States")."""

    ELIGIBLE = "eligible"
    OFFERED = "offered"
    ACKED = "acked"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    PARITY_OK = "parity_ok"
    APPLYING = "applying"
    VERIFYING = "verifying"
    HEALTHY = "healthy"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    LOST = "lost"
    UNREACHABLE = "unreachable"
    INCOMPATIBLE = "incompatible"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    REGRESSED = "regressed"


ASSIGNMENT_OF_PHASE: dict[Phase, AssignmentState] = {
    Phase.IDLE: AssignmentState.ACKED,
    Phase.DOWNLOADING: AssignmentState.DOWNLOADING,
    Phase.VERIFYING: AssignmentState.DOWNLOADING,
    Phase.PREFLIGHT: AssignmentState.STAGED,
    Phase.GOLDEN: AssignmentState.STAGED,
    Phase.WARMING: AssignmentState.PARITY_OK,
    Phase.SWITCHING: AssignmentState.APPLYING,
    Phase.PROBATION: AssignmentState.VERIFYING,
    Phase.COMMITTED: AssignmentState.HEALTHY,
    Phase.ROLLED_BACK: AssignmentState.ROLLED_BACK,
    Phase.FAILED: AssignmentState.FAILED,
}


def assignment_of(phase: Phase) -> AssignmentState:
    """Return the server's word for a device's phase. Total over Phase."""
    return ASSIGNMENT_OF_PHASE[phase]


class EventKind(StrEnum):
    """The kinds of events. Stored and public: never renamed."""

    PHASE = "phase"
    CRASH = "crash"
    ROLLBACK = "rollback"
    REFUSED = "refused"
    BOOT = "boot"
    GOLDEN_MISMATCH = "golden_mismatch"
    QUARANTINED = "quarantined"
    OUTBOX_DROPPED = "outbox_dropped"
    IDENTITY_RENEWED = "identity_renewed"
    TASK = "task"
    CANDIDATE = "candidate"
    DRIFT = "drift"
    DRIFT_OVER = "drift_over"
    DRIFT_BASELINE = "drift_baseline"
    WITHDRAWN = "withdrawn"
    RUN_MISSED = "run_missed"
    RUN_LATE = "run_late"
    RUN_FAILED = "run_failed"


class CandidatePhase(StrEnum):
    """Where a device stands with the candidate of a model. Stored and public: never renamed."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    STARTING = "starting"
    RUNNING = "running"
    RECORDING = "recording"
    REPLAYING = "replaying"
    SUSPENDED = "suspended"
    FAILED = "failed"
    MEASURING = "measuring"
    MEASURED = "measured"


class _Message(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    v: int = MESSAGE_VERSION


class CandidateState(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The candidate. mode: shadow, split or measure. state: a `CandidatePhase`; reason says why it is not running."""

    target: str
    sha256: str
    mode: str
    state: str
    share_pct: int = 0
    code: str = ""
    reason: str = ""


class ModelState(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One model on the device. Digests are sha256 of the bundle; empty strings mean none."""

    model: str
    phase: Phase
    active_target: str = ""
    active_sha256: str = ""
    previous_target: str = ""
    previous_sha256: str = ""
    wanted_sha256: str = ""
    attempt: int = 0
    gen: int = 0
    error_class: ErrorClass | None = None
    error_code: str = ""
    reason: str = ""
    progress_pct: int = 0
    slot: str = ""
    serving: bool = False
    rollout: str = ""
    candidate: CandidateState | None = None


class Seen(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """How the server's TUF repository falls short of what a device has accepted of it: the server was restored from an older copy.

    version: the highest of any role but root, 0 when none went back. roles: the version of each that the newest snapshot no
    longer names, at most MAX_SEEN_ROLES of them.
    """

    version: int = 0
    roles: dict[str, int] = msgspec.field(default_factory=dict)


class State(_Message, frozen=True, kw_only=True):
    """Reported state of a device, whole and retained. `gen` is the highest accepted desired document.

    The `refused_…` fields say why a newer document was not accepted; 0 and "" when none was refused since. `seen`: it was refused
    because the repository is older than what this device has seen.
    """

    device: str
    gen: int
    boot_id: str
    seq: int
    ts: int
    models: list[ModelState]
    agent_version: str = ""
    refused_gen: int = 0
    refused_code: str = ""
    refused_reason: str = ""
    facts: dict[str, Any] = msgspec.field(default_factory=dict)
    seen: Seen | None = None


class Event(_Message, frozen=True, kw_only=True):
    """Something happened once. (device, boot_id, seq) is unique; `ts` is unix milliseconds by the device's clock."""

    device: str
    boot_id: str
    seq: int
    ts: int
    kind: EventKind
    model: str = ""
    target: str = ""
    sha256: str = ""
    gen: int = 0
    attempt: int = 0
    phase: Phase | None = None
    error_class: ErrorClass | None = None
    code: str = ""
    reason: str = ""
    detail: dict[str, Any] = msgspec.field(default_factory=dict)


class Presence(_Message, frozen=True, kw_only=True):
    """On or off. An off whose `conn_id` is not the newest is stale (a will may fire on take-over) and is ignored."""

    on: bool
    conn_id: str
    boot_id: str
    ts: int
    cert: str = ""  # serial of the certificate of this connection, lower-case hex; "": an off, or not known


class SystemFigures(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Figures of the device over one window. Ratios are 0 … 1, sizes bytes, -1 means not readable.

    throttled_ratio: how much of the processor's clock heat or voltage takes away, 0 = nothing.
    """

    cpu_ratio: float = -1.0
    agent_rss_bytes: int = -1
    workers_rss_bytes: int = -1
    memory_available_bytes: int = -1
    disk_free_bytes: int = -1
    load_1m: float = -1.0
    temperature_celsius: float = -1.0
    uptime_s: int = -1
    net_rx_bytes: int = -1
    net_tx_bytes: int = -1
    throttled_ratio: float = -1.0


class Window(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One telemetry window of one model and lane. `latency` is the packed sketch (`sketch.LatencySketch`), counts are of this window.

    signals: what the model was asked and answered, as histograms (`drift.histogram`), counted by the bins that `basis` names. They
    do not come with each window: signals_s says how many seconds they cover, the last of them in this window; 0 that there are none.
    truth: how earlier answers compare with labels that came for them in this window (`ground_truth`).
    """

    t0: int
    length_s: int
    model: str
    lane: str
    sha256: str
    version: str
    n: int = 0
    errors: int = 0
    timeouts: int = 0
    nonfinite: int = 0
    crashes: int = 0
    latency: list[int] = msgspec.field(default_factory=list)
    classes: list[int] = msgspec.field(default_factory=list)
    worker_rss_bytes: int = -1
    worker_cpu_s: float = 0.0
    shadow: ShadowFigures | None = None
    joules_per_answer: float = -1.0
    basis: bytes = b""
    signals: bytes = b""
    signals_s: int = 0
    truth: bytes = b""


class Telemetry(_Message, frozen=True, kw_only=True):
    """A batch of windows. (device, boot_id, seq) is unique, so a replay counts once; `system` is the newest reading.

    dropped_by: of `dropped`, how many were events, telemetry and samples. merged: how many messages were added into a
    neighbour since the outbox was made; nothing of those is lost but the times between them. joined: how many went into this one.
    """

    device: str
    boot_id: str
    seq: int
    ts: int
    windows: list[Window]
    system: SystemFigures = msgspec.field(default_factory=SystemFigures)
    queue_bytes: int = 0
    dropped: int = 0
    dropped_by: list[int] = msgspec.field(default_factory=list)
    merged: int = 0
    joined: int = 0


class RepoHead(_Message, frozen=True, kw_only=True):
    """Newest TUF root version and the signed timestamp file: an unsigned hint that saves round trips; it can only delay."""

    root_version: int
    timestamp: bytes


class MetaRequest(_Message, frozen=True, kw_only=True):
    """Asks for one small file by name: TUF metadata, or `leaves.<sha256>` (a leaf index). The answer is MetaReply chunks."""

    req_id: int
    name: str
    max_bytes: int


class MetaReply(_Message, frozen=True, kw_only=True):
    """Chunk `part` of `parts` of an answer, MAX_META_CHUNK_BYTES at most. `error`: "", "not_found", "too_big", "denied" or "failed"."""

    req_id: int
    name: str
    part: int
    parts: int
    data: bytes = b""
    error: str = ""


class Ack(_Message, frozen=True, kw_only=True):
    """The server stored these, since a PUBACK proves nothing; `seq` per kind of one boot.

    stretch: make windows so many times as long. shards: hold and head are also in so many shards (ADR 0171).
    """

    boot_id: str
    events: list[int] = msgspec.field(default_factory=list)
    telemetry: list[int] = msgspec.field(default_factory=list)
    samples: list[int] = msgspec.field(default_factory=list)
    stretch: int = 0
    shards: int = 0


class CaptureReason(StrEnum):
    """Why a record was kept. Stored and public: never renamed."""

    RANDOM = "random"
    LOW_CONFIDENCE = "low_confidence"
    DISAGREEMENT = "disagreement"
    FLAG = "flag"
    DRIFT = "drift"


class Sample(_Message, frozen=True, kw_only=True):
    """One captured record, sealed to the tenant's key (ADR 0030): only the holder of the private key can read `sealed`.

    (device, boot_id, seq) is unique; `record` names the record on the device. task: the id of the task that asked for it.
    left: how many records of that task come after this one; 0 with an empty `record` says that there was none.
    reason: why it was kept, a `CaptureReason`. seen: how many predictions of its
    reason and class it stands for. taken: unix milliseconds. key: first 16 hex of the sha256 of the public key.
    """

    device: str
    boot_id: str
    seq: int
    ts: int
    task: str
    left: int = 0
    record: str = ""
    model: str = ""
    sha256: str = ""
    reason: str = ""
    label: int = -1
    trace_id: str = ""
    taken: int = 0
    seen: int = 1
    key: str = ""
    sealed: bytes = b""


class PredictionLine(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One answer as it is shown to who watches a device: what the model said, never what it was asked.

    at: unix milliseconds. latency_us: of the run alone. labels, scores: the best of the first output, at most MAX_LABELS; for numbers
    that have no names the labels are "". hidden: the bundle's privacy policy keeps what the model says on the device.
    """

    model: str
    version: str
    lane: str
    trace_id: str
    at: int
    latency_us: int
    labels: list[str] = msgspec.field(default_factory=list)
    scores: list[float] = msgspec.field(default_factory=list)
    nonfinite: bool = False
    hidden: bool = False


class WatchState(StrEnum):
    """What a device says to being watched. Public: never renamed."""

    ON = "on"
    OFF = "off"
    METERED = "metered"


class Watched(_Message, frozen=True, kw_only=True):
    """The newest answers of a device that somebody watches; may be lost, and is sent again by nobody.

    seen: how many answers there were since the message before, of which `lines` are the newest few. state: a `WatchState`;
    off: the owner of the device does not want it; metered: the link costs by the byte, so nothing more is sent.
    """

    device: str
    boot_id: str
    seq: int
    ts: int
    seen: int = 0
    state: str = WatchState.ON.value
    lines: list[PredictionLine] = msgspec.field(default_factory=list)


class Feedback(_Message, frozen=True, kw_only=True):
    """Reserved: a label or verdict about an earlier answer, joined by `trace_id`. Not sent by version 1 agents."""

    device: str
    boot_id: str
    seq: int
    ts: int
    model: str
    sha256: str
    trace_id: str
    label: str = ""
    score: float = 0.0


class Downlink(_Message, frozen=True, kw_only=True):
    """What `dn/meta` carries: exactly one of a metadata reply or an acknowledgement."""

    reply: MetaReply | None = None
    ack: Ack | None = None


M = TypeVar("M", bound=msgspec.Struct)

_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type[msgspec.Struct], msgspec.msgpack.Decoder[Any]] = {}


def encode(message: msgspec.Struct) -> bytes:
    """Return the MessagePack bytes of a message."""
    return _ENCODER.encode(message)


def encode_short(message: msgspec.Struct) -> bytes:
    """Return the same message in fewer bytes (`short_form`).

    By rule 1 every reader fills in what is missing; `decode` gives the very same message. For what is sent all day.
    """
    return _ENCODER.encode(shortened(message))


def decode(cls: type[M], data: bytes | bytearray | memoryview) -> M:
    """Return the message in `data`. Raises BadMessageError for anything else, or for a version this reader does not know."""
    decoder = _DECODERS.get(cls)
    if decoder is None:
        decoder = _DECODERS.setdefault(cls, msgspec.msgpack.Decoder(cls))
    try:
        message: M = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessageError(f"not a {cls.__name__} message: {error}") from error
    version = getattr(message, "v", MESSAGE_VERSION)
    if version != MESSAGE_VERSION:
        raise BadMessageError(f"{cls.__name__} message has version {version}; this reader knows {MESSAGE_VERSION}")
    return message
