"""The desired document: what one device should run, whole, in one signed JSON (docs/protocol/desired.md); and `hold`, which stops rollouts.

Rules:
1. Higher `gen` wins; lower or equal is ignored. Every re-signing raises it.
2. `expires` and `not_before` gate only the start of an install, never inference, a running trial or a local rollback.
3. Readers ignore unknown fields; writers never change a meaning under the same `v`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgefleet_protocol.errors import BadMessageError

DESIRED_TYPE = "application/vnd.edgefleet.desired.v1+json"
HOLD_TYPE = "application/vnd.edgefleet.hold.v1+json"
MAX_INT = 2**63 - 1
_KEY = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"([0-9a-f]{2})*")


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """How long each part of an install may take, seconds."""

    download_s: int = 21_600
    apply_s: int = 600
    verify_s: int = 1_800


class Ref(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle: TUF target path, digest and length, and the rules of this attempt.

    start_within_s: over how many seconds devices begin to ask for the bundle, counted from taking the document up, each at its own
    part (`digest.start_after_s`); the wait is part of `deadlines.download_s`. UNSET, and agents that do not know it: at once.
    """

    target: str
    sha256: str
    length: int
    rollout: str | None = None
    attempt: int = 1
    not_before: datetime | None = None
    deadlines: Deadlines = Deadlines()
    start_within_s: int | UnsetType = UNSET


class ModelDesired(msgspec.Struct, frozen=True, kw_only=True):
    """What one named model should be: the active bundle, and a candidate next to it in shadow or split mode.

    mode measure: the candidate is run on golden inputs once, reported and ended; then `active` may be None.
    """

    active: Ref | None
    candidate: Ref | None = None
    mode: Literal["shadow", "split", "measure"] | None = None
    share_pct: int = 0
    salt: str = ""


class TelemetryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which telemetry profile to use, and until when (None: for good).

    predictions_until: somebody watches this device until then: the newest answers are to be shown too (ADR 0044).
    """

    profile: Literal["normal", "live", "metered"] = "normal"
    until: datetime | None = None
    predictions_until: datetime | UnsetType = UNSET


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A thing to do once; `id` makes it idempotent. kind: diag, logs, restart, check, measure, capture; a device ignores what it
    does not know, so that a newer server's task never makes it deaf.
    """

    id: str
    kind: str
    until: datetime | None = None
    args: dict[str, Any] = {}


class CaptureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """To whom captured records are sealed: the tenant's X25519 public key, 64 lower-case hex digits (ADR 0030)."""

    key: str


class PredictionLogRequest(msgspec.Struct, frozen=True, kw_only=True):
    """To keep a log of a model's answers and send it (ADR 0105). ratio: share of the answers, 0 to 1.

    subject_key: what subjects are hashed with, 64 lower-case hex digits. inputs: also what the bundle's privacy policy keeps of them.
    erased: subjects (their hash, 32 hex digits) whose rows are to go, each with until when, unix milliseconds.
    """

    subject_key: str
    ratio: float = 1.0
    inputs: bool = False
    erased: dict[str, int] = {}


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """All that one device should run. `sec_floor` is the lowest security version allowed per model."""

    v: Literal[1] = 1
    device: str
    gen: int
    issued: datetime
    expires: datetime
    models: dict[str, ModelDesired]
    sec_floor: dict[str, int] = {}
    telemetry: TelemetryRequest = TelemetryRequest()
    tasks: list[Task] = []
    capture: CaptureRequest | UnsetType = UNSET
    prediction_logs: dict[str, PredictionLogRequest] | UnsetType = UNSET


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """The hold: anything not yet switched that belongs to these rollouts or digests stops. Higher `seq` wins."""

    v: Literal[1] = 1
    seq: int
    expires: datetime
    rollouts: list[str] = []
    digests: list[str] = []


_ENCODER = msgspec.json.Encoder(order="sorted")
_DESIRED = msgspec.json.Decoder(Desired)
_HOLD = msgspec.json.Decoder(Hold)


def encode_desired(document: Desired) -> bytes:
    """Return the JSON bytes that are signed: sorted keys, no blanks."""
    return _ENCODER.encode(document)


def decode_desired(data: bytes) -> Desired:
    """Return the desired document in signed payload bytes. Raises BadMessageError."""
    try:
        document = _DESIRED.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessageError(f"not a desired document: {error}") from error
    _require_aware("issued", document.issued)
    _require_aware("expires", document.expires)
    if document.telemetry.predictions_until is not UNSET:
        _require_aware("telemetry.predictions_until", document.telemetry.predictions_until)
    if document.gen < 1:
        raise BadMessageError("desired document has gen < 1")
    _require_storable(document)
    if document.capture is not UNSET and _KEY.fullmatch(document.capture.key) is None:
        raise BadMessageError("desired document names a capture key that is none")
    for name, kept in (document.prediction_logs or {}).items():
        is_hex = all(_HEX.fullmatch(subject) for subject in kept.erased)
        if _KEY.fullmatch(kept.subject_key) is None or not 0.0 <= kept.ratio <= 1.0 or not is_hex:
            raise BadMessageError(f"desired document asks for a prediction log of {name} that cannot be kept")
    return document


def encode_hold(hold: Hold) -> bytes:
    """Return the JSON bytes that are signed."""
    return _ENCODER.encode(hold)


def decode_hold(data: bytes) -> Hold:
    """Return the hold in signed payload bytes. Raises BadMessageError."""
    try:
        hold = _HOLD.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessageError(f"not a hold: {error}") from error
    _require_aware("expires", hold.expires)
    if not 0 <= hold.seq <= MAX_INT:
        raise BadMessageError("hold has a seq that no device can store")
    return hold


def _require_storable(document: Desired) -> None:
    """Refuse numbers that a device cannot write to its disk: JSON knows no largest integer, MessagePack does."""
    numbers = [document.gen, *document.sec_floor.values()]
    for model in document.models.values():
        for ref in (model.active, model.candidate):
            if ref is not None:
                limits = ref.deadlines
                numbers += [ref.length, ref.attempt, limits.download_s, limits.apply_s, limits.verify_s]
                numbers += [] if ref.start_within_s is UNSET else [ref.start_within_s]
    if not all(0 <= number <= MAX_INT for number in numbers):
        raise BadMessageError(f"desired document holds a number outside 0 … {MAX_INT}")


def _require_aware(name: str, value: datetime) -> None:
    if value.tzinfo is None:
        raise BadMessageError(f"{name} has no time zone")
