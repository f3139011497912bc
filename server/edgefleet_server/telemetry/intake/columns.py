"""Messages and windows as rows of their tables, in the order of these columns. Pure.

Rows are tuples of what the driver takes as it is: at hundreds of thousands a minute a mapping and a conversion a value cost more than the
database does.
"""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window

BATCH: Final = ("device_id", "boot_id", "seq", "at", "received_at", "system", "queue_bytes", "dropped")
WINDOW: Final = (
    *("device_id", "model", "version", "sha256", "lane", "t0", "length_s", "received_at", "n", "errors", "timeouts", "nonfinite"),
    *("crashes", "latency", "latency_p95_ms", "classes", "worker_rss_bytes", "worker_cpu_s", "joules_per_answer", "shadow"),
)  # fmt: skip
SYSTEM: Final = SystemFigures.__struct_fields__
MAX_SECONDS: Final = 253_402_300_799  # the last second of the year 9999
MAX_INT: Final = 2**62
MAX_JOULES: Final = 1e9
DROPPED: Final = ("events", "telemetry", "samples")
_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class Moments:
    """Times as this database stores them. One batch names the same ones often."""

    def __init__(self, now: datetime, *, is_postgresql: bool) -> None:
        """now: stands for what a device's clock says of no time at all."""
        self._zone = "+00" if is_postgresql else ""
        self._known: dict[int, str] = {}
        self._now = now
        self.now = self._text(now)

    def of(self, seconds: int) -> str:
        """Return a device's time, unix seconds."""
        found = self._known.get(seconds)
        if found is None:
            found = self._known[seconds] = self._text(moment_of(seconds, self._now))
        return found

    def _text(self, moment: datetime) -> str:
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds") + self._zone


def batch_row(message: Telemetry, boot_id: str, moments: Moments) -> tuple[Any, ...]:
    """Return a message's row."""
    figures = zip(SYSTEM, msgspec.structs.astuple(message.system), strict=True)
    system: dict[str, Any] = {name: value for name, value in figures if 0 <= value < MAX_INT}
    if message.dropped_by:
        system |= {
            f"dropped_{kind}": n for kind, n in zip(DROPPED, message.dropped_by, strict=False) if 0 < n < MAX_INT
        }
    if 0 < message.merged < MAX_INT:
        system["merged"] = message.merged
    if 0 < message.joined < MAX_INT:
        system["joined"] = message.joined
    return (
        message.device,
        boot_id,
        seq_of(message),
        moments.of(message.ts // 1000),
        moments.now,
        _json(system).decode(),
        max(0, min(message.queue_bytes, MAX_INT)),
        max(0, min(message.dropped, MAX_INT)),
    )


def window_row(
    device: str, bundle: tuple[str, str, str, str], window: Window, p95_ms: float | None, moments: Moments
) -> tuple[Any, ...]:
    """Return a window's row. bundle: model, version, digest and lane as every database takes them."""
    joules, shadow = window.joules_per_answer, window.shadow
    model, version, sha256, lane = bundle
    return (
        device,
        model,
        version,
        sha256,
        lane,
        moments.of(window.t0),
        window.length_s,
        moments.now,
        window.n,
        window.errors,
        window.timeouts,
        window.nonfinite,
        window.crashes,
        _pack(window.latency),
        p95_ms,
        _pack(window.classes),
        window.worker_rss_bytes,
        window.worker_cpu_s,
        joules if 0 <= joules < MAX_JOULES else -1.0,
        None if shadow is None else _pack(shadow),
    )


def moment_of(seconds: int, now: datetime) -> datetime:
    """Return a device's time, unix seconds; `now` when its clock says nonsense."""
    return datetime.fromtimestamp(seconds, UTC) if 0 <= seconds <= MAX_SECONDS else now


def seq_of(message: Telemetry) -> int:
    """Return a message's number as it is stored."""
    return max(0, min(message.seq, MAX_INT))


def text_of(text: str, limit: int) -> str:
    """Return a device's text as every database takes it."""
    return text[:limit].replace("\0", "\N{REPLACEMENT CHARACTER}")
