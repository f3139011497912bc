"""Control messages between agentd and one inference worker, and the routing table that agentd writes for all of them.

1. Transport: one SOCK_SEQPACKET socket pair per worker; a packet is a message; MessagePack maps with the tag field `t`.
2. Normal order: agentd `Start`; worker `Loaded`, `Golden`, `Ready`; agentd `Serve`; worker `Serving`; later agentd `Drain`;
   worker exits 0.
3. `Failed` is the last message of a worker, which exits with status 1. A worker whose control socket closes exits at once.
4. Each `GetStats` is answered with one `Stats` (the delta since the last one), each `CheckGolden` with one `Golden`, each
   `TellAnswers` with the `Predictions` that are held and one `AnswersTold`. Else `Predictions`, `Logged`, `Captured` and `Seen` come
   unasked. `Labels` come as callers send feedback.
   A drained worker sends a last `Stats` unasked before it exits, and so does one that replayed a recording.
5. At start, `Golden(ok=False)` is followed by `Failed(error_class="golden")` and never by `Ready`.
6. Descriptors are inherited under the numbers given in `Start`; they are never sent over the socket.
7. Light: msgspec and the protocol package only, because agentd imports this module.
"""

from pathlib import Path
from typing import Literal

import msgspec

from edgefleet_agent.core.durable import write_file
from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import PredictionLine

MAX_CONTROL_BYTES = 128 * 1024
"""Largest control packet either side may send."""

ROUTES_VERSION = 1

LEARN_FROM = 1_000
"""Answers of which a worker learns a drift reference where its bundle has none."""


class BadControlMessageError(EdgefleetError):
    """A packet on the control socket is not one of the agreed messages."""

    code = "worker.bad_control_message"


class Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """Root of all control messages. Unknown fields are ignored, so either side may be newer."""


# ---- agentd -> worker


class Start(Message, frozen=True, tag="start"):
    """What to load and where to listen. First message; sent once.

    bundle_fd: inherited read-only descriptor of the bundle file; the worker hashes it against `digest` before loading.
    listener_fds: inherited listening stream sockets (TCP on loopback, unix), accepted on only after `Serve`.
    own_socket_path: unix socket which this worker binds itself and serves from `Ready` on ("" = none).
    routes_path: file with a `RoutesTable` ("" = this worker knows only itself).
    threads: runtime threads for one inference. memory_limit_bytes: RLIMIT_DATA, None = no limit.
    run_timeout_s: a request that takes longer is answered 504 and counted as a timeout.
    status_page: answer `GET /` with the page of `http.status_page`; metrics: and `GET /metrics` (`http.exposition`).
    log_predictions: tell agentd of each answer, in blocks.

    Of a candidate in shadow mode: background: give way to everything else. mirror_path: unix socket on which copies of answered
    requests come. replay_path: a recording of such copies; it is compared, reported as one `Stats`, and the worker exits.
    kept_path: file for the disagreements that are kept; keep_inputs: with their raw inputs.
    measure_s: measure golden inputs for so many seconds a round, tell each round as one `Stats`, and exit. measure_batch: of so many
    samples. runtime: one of those the bundle was proved in ("" = the first that is here).

    model_key: of a sealed bundle, sealed to the key in key_path of this device; key_secret: what that file opens with (`wrapped_key`).
    reference_path: the drift reference that a worker before learned of this bundle; read where the bundle has none ("" = none).
    """

    model: str
    version: str
    digest: str
    lane: str
    slot: str
    bundle_fd: int
    listener_fds: tuple[int, ...] = ()
    own_socket_path: str = ""
    routes_path: str = ""
    threads: int = 1
    memory_limit_bytes: int | None = None
    max_body_bytes: int = 32 * 1024 * 1024
    run_timeout_s: float = 30.0
    background: bool = False
    mirror_path: str = ""
    replay_path: str = ""
    kept_path: str = ""
    keep_inputs: bool = False
    log_predictions: bool = False
    status_page: bool = False
    measure_s: float = 0.0
    v: int = 1
    reference_path: str = ""
    metrics: bool = False
    model_key: bytes = b""
    key_path: str = ""
    key_secret: bytes = b""
    measure_batch: int = 1
    runtime: str = ""


class Serve(Message, frozen=True, tag="serve"):
    """Begin to accept on the inherited public listeners; answered with `Serving`."""


class Drain(Message, frozen=True, tag="drain"):
    """Stop accepting, finish what is in flight, answer with `Connection: close`, exit 0.

    idle_grace_s: how long a kept-alive connection without a request may still bring one before it is closed.
    deadline_s: whatever is still open after this is cut.
    """

    idle_grace_s: float = 0.5
    deadline_s: float = 30.0


class CheckGolden(Message, frozen=True, tag="check_golden"):
    """Run golden vectors now. vectors: how many (0 = as at start: all, 64 at most); successive calls with 1 walk through them."""

    vectors: int = 1


class GetStats(Message, frozen=True, tag="get_stats"):
    """Ask for the figures since the last `Stats`."""


class SetCapture(Message, frozen=True, tag="set_capture"):
    """Capture from now on by these rules; an empty key: capture nothing. Sent at any time after `Ready`.

    key: raw X25519 public key of the tenant. salt: of this device, for hashed fields; it never leaves the device. device: its id.
    random_ratio: share of answers that are kept by chance. window_s: how long one sampling lasts.
    """

    key: bytes = b""
    salt: bytes = b""
    device: str = ""
    random_ratio: float = 0.001
    window_s: float = 60.0


class LogRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """To keep the answers of one model: `install.records.LogRules`, without the share."""

    subject_key: bytes
    inputs: bool = False


class SetLog(Message, frozen=True, tag="set_log"):
    """Keep the answers of these models, each with a number (ADR 0105); of others none. Sent at any time after `Ready`.

    key: raw X25519 public key that answers are sealed to, empty: they stay clear. salt, device: as in `SetCapture`.
    counts: folder for `<pid>.count`, where a worker says how many answers it has numbered: a kill takes no number with it.
    """

    models: dict[str, LogRequest] = {}
    key: bytes = b""
    salt: bytes = b""
    device: str = ""
    counts: str = ""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One answer for the kept log; fields as in `edgefleet_protocol.prediction_parts.Row`."""

    at: int
    trace_id: str
    status: str
    latency_us: int
    subject: bytes
    nonce: int
    body: bytes


class SetDrift(Message, frozen=True, tag="set_drift"):
    """Whether signals of this version drift: while they do, a capture keeps more answers, with that reason. Sent when it changes."""

    is_drifting: bool = False


class SetWatch(Message, frozen=True, tag="set_watch"):
    """Somebody watches: tell the newest `lines` answers each second; 0: nobody does any more. Sent at any time after `Ready`."""

    lines: int = 0


class TellAnswers(Message, frozen=True, tag="tell_answers"):
    """Tell now what is noted for the prediction log. number: of this request."""

    number: int


class ReadLabels(Message, frozen=True, tag="read_labels"):
    """Read feedback that the server sent with a task; answered with `Labels`. body: as of the local API."""

    task: str
    body: bytes


# ---- worker -> agentd


class Loaded(Message, frozen=True, tag="loaded"):
    """The bundle's digest matched and the runtime loaded the model. load_ms: from `Start` to here."""

    runtime: str
    runtime_version: str
    load_ms: float = 0.0


class Golden(Message, frozen=True, tag="golden"):
    """Outcome of a golden check. checked: vectors run. latency: of `run` alone. peak_rss_bytes: of the process so far."""

    ok: bool
    reason: str = ""
    checked: int = 0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    peak_rss_bytes: int = 0


class Ready(Message, frozen=True, tag="ready"):
    """Warm, golden vectors passed, own socket listening; waits for `Serve`."""


class Serving(Message, frozen=True, tag="serving"):
    """Accepting on the public listeners: the old worker may be drained now."""


class Stats(Message, frozen=True, tag="stats"):
    """Figures since the last `Stats` of this worker; all counts add up.

    n: answered inferences of this model (errors included). errors: 4xx excluded, 5xx and runtime errors included.
    bad_requests: refused inputs (4xx), not part of n. nonfinite: answers to finite inputs with NaN or an infinity in
    an output.
    latency: `LatencySketch.packed()` of the run alone, in seconds. classes: counts by class index when the bundle declares a
    classification, else empty. rss_bytes and cpu_s: absolute, of this process.
    mirrored: inputs that were had for a shadow; mirror_dropped: of those, not handed over. shadow: of a shadow itself.
    joules_per_answer, wall_s: of a measurement; -1 where the board has no sensor for it, and the seconds of the round.
    basis, signals: as in a `Window`; no signals while none were counted. learning: of how many answers a reference is learned so far.
    """

    n: int = 0
    errors: int = 0
    timeouts: int = 0
    bad_requests: int = 0
    nonfinite: int = 0
    forwarded: int = 0
    latency: list[int] = []
    classes: list[int] = []
    rss_bytes: int = 0
    cpu_s: float = 0.0
    mirrored: int = 0
    mirror_dropped: int = 0
    shadow: ShadowFigures | None = None
    joules_per_answer: float = -1.0
    basis: bytes = b""
    signals: bytes = b""
    learning: int = 0
    wall_s: float = 0.0


class KnownReference(Message, frozen=True, tag="reference"):
    """What the active worker counts signals by from now on (`drift.reference`): of its bundle, or learned by a worker. Unasked."""

    body: bytes


class KnownSchedule(Message, frozen=True, tag="schedule"):
    """The `schedule.json` of an active worker's bundle, before it is `Ready`; one without any says nothing."""

    body: bytes


class Predictions(Message, frozen=True, tag="predictions"):
    """A block of the prediction log (`predictions.pack_block`) with n answers. Unasked; those of a second come together."""

    body: bytes
    n: int


class Logged(Message, frozen=True, tag="logged"):
    """Answers for the kept log, without a gap between them. first: number of the first one in this worker, from 1 on.

    key: what bodies are encrypted with, sealed to the public key with the id key_id; empty: bodies are clear.
    """

    first: int
    entries: list[Entry]
    key: bytes = b""
    key_id: str = ""


class AnswersTold(Message, frozen=True, tag="answers_told"):
    """All answers that were given before the `TellAnswers` of this number are told."""

    number: int


class Captured(Message, frozen=True, tag="captured"):
    """One sealed record. reason: a `CaptureReason`. label: class index, -1 = none.

    taken_ms: unix milliseconds. seen: how many answers of its reason and class it stands for. key: id of the key it is sealed to.
    """

    record: str
    reason: str
    label: int
    trace_id: str
    taken_ms: int
    seen: int
    key: str
    sealed: bytes


class Seen(Message, frozen=True, tag="seen"):
    """The newest answers while somebody watches. n: how many there were since the `Seen` before. Unasked, once a second at most."""

    lines: list[PredictionLine]
    n: int


LABELS_PER_S = 1_000
LABELS_AHEAD = 10_000
"""A worker takes so many labels a second on average, and so many at once: agentd lets more wait, and counts what is beyond as unmatched."""


class Label(msgspec.Struct, frozen=True, array_like=True):
    """What was right about an answer, or business figures. key: its trace id ("" = of no answer). label: class index, -1 = none.

    value: of a model that answers numbers. at_s: when the answer was given, unix seconds, 0 = not said.
    """

    key: str = ""
    label: int = -1
    value: float | None = None
    segment: str = ""
    at_s: int = 0
    figures: dict[str, float] = {}


class Labels(Message, frozen=True, tag="labels"):
    """Feedback of a caller, or of a task. unit: in which errors of this model's numbers are counted (`ground_truth`). Unasked, or the
    answer to `ReadLabels`: then `task` is its, and so many items were refused.
    """

    items: list[Label]
    unit: float = 1.0
    task: str = ""
    refused: int = 0


class Failed(Message, frozen=True, tag="failed"):
    """Last word of a worker that cannot go on. error_class: a value of `edgefleet_protocol.messages.ErrorClass`."""

    error_class: str
    reason: str


ForAll = SetCapture | SetWatch | SetLog | TellAnswers
"""What agentd tells every worker that can answer."""
ToWorker = Start | Serve | Drain | CheckGolden | GetStats | SetDrift | ReadLabels | ForAll
ToAgentd = (
    Loaded
    | Golden
    | Ready
    | Serving
    | Stats
    | KnownReference
    | KnownSchedule
    | Predictions
    | Logged
    | AnswersTold
    | Captured
    | Seen
    | Labels
    | Failed
)

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_agentd: msgspec.msgpack.Decoder[ToAgentd] = msgspec.msgpack.Decoder(ToAgentd)


def encode_control(message: ToWorker | ToAgentd) -> bytes:
    """Return one packet. Raises BadControlMessageError when it would not fit."""
    data = _encoder.encode(message)
    if len(data) > MAX_CONTROL_BYTES:
        raise BadControlMessageError(
            f"a {type(message).__name__} message takes {len(data)} bytes; a control packet holds {MAX_CONTROL_BYTES}",
            next_step="shorten its reason or its lists",
        )
    return data


def decode_to_worker(data: bytes) -> ToWorker:
    """Return agentd's message. Raises BadControlMessageError."""
    try:
        return _to_worker.decode(data)
    except msgspec.MsgspecError as e:
        raise BadControlMessageError(f"the worker got a control packet it cannot read: {e}") from e


def decode_to_agentd(data: bytes) -> ToAgentd:
    """Return a worker's message. Raises BadControlMessageError."""
    try:
        return _to_agentd.decode(data)
    except msgspec.MsgspecError as e:
        raise BadControlMessageError(f"a worker sent a control packet that cannot be read: {e}") from e


# ---- the routing table


class LaneRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker. socket: its own unix socket. state: `ready` once it sent `Ready`, before it `starting`, else `failed`.

    mirror: socket for copies of answered requests ("" = it wants none).
    """

    socket: str
    version: str
    digest: str
    slot: str
    state: Literal["starting", "ready", "failed"] = "ready"
    reason: str = ""
    mirror: str = ""


class ModelRoute(msgspec.Struct, frozen=True, omit_defaults=True):
    """All lanes of one model. mode, share_pct, salt: of the candidate, as in the desired document.

    recording: file that the active worker writes copies of answered requests into, at most record_samples of them and
    record_bytes ("" = none): for a shadow that cannot be resident next to it.
    """

    lanes: dict[str, LaneRoute]
    mode: Literal["shadow", "split"] | None = None
    share_pct: float = 0.0
    salt: str = ""
    recording: str = ""
    record_samples: int = 256
    record_bytes: int = 16 * 1024 * 1024


class RoutesTable(msgspec.Struct, frozen=True, omit_defaults=True):
    """`run/routes.json`: who answers for which model on this device. An unknown or missing model is a 404."""

    models: dict[str, ModelRoute] = {}
    server_version: str = ""
    v: int = ROUTES_VERSION


def encode_routes(table: RoutesTable) -> bytes:
    """Return the table as JSON."""
    return msgspec.json.encode(table)


def decode_routes(data: bytes) -> RoutesTable:
    """Return the table. Raises BadControlMessageError."""
    try:
        return msgspec.json.decode(data, type=RoutesTable)
    except msgspec.MsgspecError as e:
        raise BadControlMessageError(f"the routing table cannot be read: {e}") from e


def write_routes(path: Path, table: RoutesTable) -> None:
    """Replace the table atomically. Not fsynced: it is rebuilt at each start of agentd."""
    write_file(path, encode_routes(table), mode=0o644, durable=False)
