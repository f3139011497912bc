"""Parts of prediction logs as Parquet files, and back (needs the extra `parquet`).

1. A row of the file is a row of the log, or what is left of an erased one (status `erased`, its hash in `leaf`). The heads of all parts
   are in the file's metadata under `edgefleet.heads`, so that a file can be checked without the server. Random bytes there make each
   file another one: two servers that pack the same parts never mean the same blob.
2. `body` is what the device sent: sealed where `epoch` is 0 or more, else the answer. What can be read of a clear one is in columns of
   its own, for whatever reads Parquet; `read_parts` checks that they say the same.
3. pyarrow is imported at the first file, by the process that packs or checks and by no other.
"""

import base64
import io
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from edgefleet_protocol.prediction_parts import HEADS, Erased, Head, Part, Row, columns_of, decode_head
from edgefleet_server.telemetry.errors import NoParquetError

_FILE: Final = b"edgefleet.file"
_BATCH: Final = 1_000
ERASED: Final = "erased"
MAX_MS: Final = 253_402_300_799_000
_COLUMNS: Final = (
    "device", "model", "log", "part", "seq", "at", "version", "sha256", "lane", "trace_id", "status", "latency_us", "subject",
    "label", "score", "answer", "release", "salt", "epoch", "nonce", "body", "leaf", "at_ms",
)  # fmt: skip


class PartKey(NamedTuple):
    """What names a part of a model."""

    device: str
    log: str
    part: int


def require() -> None:
    """Check that Parquet can be written here. Raises NoParquetError."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise NoParquetError(
            f"prediction logs are kept as Parquet files, which needs pyarrow: {error}",
            next_step="install it on the server, `pip install 'edgefleet[parquet]'`, and start the server again",
        ) from error


def write_parts(parts: Sequence[Part]) -> bytes:
    """Return a Parquet file of these parts. Raises NoParquetError."""
    require()
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    heads = []
    for part in parts:
        head = decode_head(part.head)
        heads.append(base64.b64encode(part.head).decode())
        lines = [_line(head, row) for row in part.rows] + [_left(head, one) for one in part.erased]
        for line in sorted(lines, key=lambda one: int(one["seq"])):
            for name, values in columns.items():
                values.append(line.get(name))
    schema = _schema(pa).with_metadata({HEADS: json.dumps(heads).encode(), _FILE: secrets.token_hex(16).encode()})
    out = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), out, compression="zstd")
    return out.getvalue()


def read_parts(data: bytes) -> dict[PartKey, tuple[Part, str]]:
    """Return the parts in a file, each with what is wrong with it ("" = nothing). Raises NoParquetError, ValueError for no such file."""
    require()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
        encoded = json.loads((table.schema.metadata or {})[HEADS])
        raws = [base64.b64decode(one) for one in encoded]
        known = {PartKey(head.device, head.log, head.part): (head, raw) for raw in raws for head in (decode_head(raw),)}
        rows: dict[PartKey, list[Row]] = {key: [] for key in known}
        erased: dict[PartKey, list[Erased]] = {key: [] for key in known}
        wrong: dict[PartKey, str] = {}
        for line in (line for batch in table.to_batches(_BATCH) for line in batch.to_pylist()):
            key = PartKey(line["device"], line["log"], line["part"])
            if line["status"] == ERASED:
                erased[key].append(Erased(line["seq"], line["leaf"]))
                continue
            row = _row(line)
            rows[key].append(row)
            if _line(known[key][0], row) != line:
                wrong[key] = f"the columns of number {row.seq} do not say what its record says"
        return {key: (Part(raw, rows[key], erased[key]), wrong.get(key, "")) for key, (_, raw) in known.items()}
    except (pa.ArrowException, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"not a file of prediction logs: {type(error).__name__}") from error


def _schema(pa: Any) -> Any:
    kinds = {
        "part": pa.int64(), "seq": pa.int64(), "at": pa.timestamp("ms", "UTC"), "latency_us": pa.int64(), "score": pa.float64(),
        "release": pa.int32(), "salt": pa.binary(), "epoch": pa.int32(), "nonce": pa.int64(), "body": pa.binary(),
        "leaf": pa.binary(), "at_ms": pa.int64(),
    }  # fmt: skip
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in _COLUMNS])


def _line(head: Head, row: Row) -> dict[str, Any]:
    release = head.releases[row.release]
    line: dict[str, Any] = dict.fromkeys(_COLUMNS)
    line |= {
        "device": head.device, "model": head.model, "log": head.log, "part": head.part, "seq": row.seq, "at": _moment(row.at),
        "version": release.version, "sha256": release.sha256, "lane": release.lane, "trace_id": row.trace_id,
        "status": row.status, "latency_us": row.latency_us, "subject": row.subject.hex() or None, "release": row.release,
        "salt": row.salt, "epoch": row.epoch, "nonce": row.nonce, "body": row.body, "at_ms": row.at,
    }  # fmt: skip
    if row.epoch < 0:
        line |= columns_of(row.body)
    return line


def _left(head: Head, one: Erased) -> dict[str, Any]:
    return {
        "device": head.device, "model": head.model, "log": head.log, "part": head.part, "seq": one.seq, "status": ERASED,
        "leaf": one.leaf,
    }  # fmt: skip


def _row(line: Mapping[str, Any]) -> Row:
    return Row(
        seq=line["seq"], at=line["at_ms"], release=line["release"], trace_id=line["trace_id"], status=line["status"],
        latency_us=line["latency_us"], subject=bytes.fromhex(line["subject"] or ""), salt=line["salt"], epoch=line["epoch"],
        nonce=line["nonce"], body=line["body"],
    )  # fmt: skip


def _moment(at_ms: int) -> datetime | None:
    return (
        datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)
        if 0 <= at_ms <= MAX_MS
        else None
    )
