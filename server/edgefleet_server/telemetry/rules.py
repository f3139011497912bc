"""What a watched device shows, made fit for the database and for the API. Pure (ADR 0044)."""

import math
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from edgefleet_protocol.messages import MAX_LABELS, PredictionLine, Watched
from edgefleet_server.telemetry.intake.columns import MAX_INT
from edgefleet_server.telemetry.model import PredictionView

MAX_LINES: Final = 16
MAX_TEXT: Final = 64
MAX_MS: Final = 253_402_300_799_000  # the last second of the year 9999


def watched_row(message: Watched, now: datetime) -> dict[str, Any] | None:
    """Return the row of a message; None for one that no device sends."""
    if len(message.lines) > MAX_LINES or not 0 <= message.seq < MAX_INT or not 0 <= message.seen < MAX_INT:
        return None
    lines = [_sound(line) for line in message.lines if _is_sound(line)]
    return {
        "device_id": message.device,
        "boot_id": _text(message.boot_id),
        "seq": message.seq,
        "received_at": now,
        "seen": message.seen,
        "state": _text(message.state)[:16],
        "lines": msgspec.msgpack.encode(lines),
    }


def prediction_view(line: PredictionLine) -> PredictionView:
    """Return a line as the API tells it."""
    return PredictionView(
        model=line.model,
        version=line.version,
        lane=line.lane,
        at=datetime.fromtimestamp(line.at / 1000, UTC),
        trace_id=line.trace_id,
        latency_ms=line.latency_us / 1000,
        labels=line.labels,
        scores=[score if math.isfinite(score) else None for score in line.scores],
        nonfinite=line.nonfinite,
        hidden=line.hidden,
    )


def _is_sound(line: PredictionLine) -> bool:
    return 0 <= line.at <= MAX_MS and 0 <= line.latency_us < MAX_INT and len(line.labels) == len(line.scores)


def _sound(line: PredictionLine) -> PredictionLine:
    texts = {name: _text(getattr(line, name)) for name in ("model", "version", "lane", "trace_id")}
    labels = [_text(label) for label in line.labels[:MAX_LABELS]]
    return msgspec.structs.replace(line, labels=labels, scores=line.scores[:MAX_LABELS], **texts)


def _text(text: str) -> str:
    """Return a device's text as every database takes it."""
    return text[:MAX_TEXT].replace("\0", "\N{REPLACEMENT CHARACTER}")
