"""A log line as JSON with the field names of the Elastic Common Schema, the same for agent and server. Pure.

One object a line. Keys are dotted, as in ECS's own logging libraries: Filebeat makes objects of them (`expand_keys`). Fields of the line
are text under `labels`, but those that ECS has a name for. Control characters are escaped by JSON, so no field forges a line.
Source: the ECS reference, and the specification of the ECS loggers.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

ECS_VERSION: Final = "8.11.0"
NAMES: Final[Mapping[str, str]] = {
    "request_id": "http.request.id",
    "method": "http.request.method",
    "status": "http.response.status_code",
    "path": "url.path",
    "address": "source.address",
    "trace_id": "trace.id",
    "span_id": "span.id",
}
"""Names that ECS has for fields of ours."""
NUMBERS: Final = frozenset({"http.response.status_code"})


class LoggedError(NamedTuple):
    """What was raised: its type, what it says, and the traceback."""

    type: str
    message: str
    stack_trace: str


class LogLine(NamedTuple):
    """A line. at_s: Unix time. level: as Python names it."""

    at_s: float
    level: str
    logger: str
    message: str
    service: str
    process: str
    pid: int
    fields: Mapping[str, object]
    error: LoggedError | None = None


def ecs_text(line: LogLine) -> str:
    """Return the line as one JSON object, without a newline at the end."""
    at = datetime.fromtimestamp(line.at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made: dict[str, object] = {
        "@timestamp": at,
        "log.level": line.level.lower(),
        "message": line.message,
        "ecs.version": ECS_VERSION,
        "service.name": line.service,
        "event.dataset": f"{line.service}.{line.process}",
        "process.name": line.process,
        "process.pid": line.pid,
        "log.logger": line.logger,
    }
    labels: dict[str, str] = {}
    for name, value in line.fields.items():
        key = NAMES.get(name)
        if key is None or (key in NUMBERS and not isinstance(value, int)):
            labels[name] = str(value)
        else:
            made[key] = value if key in NUMBERS else str(value)
    if labels:
        made["labels"] = labels
    if line.error is not None:
        made |= {f"error.{name}": value for name, value in line.error._asdict().items()}
    return json.dumps(made, ensure_ascii=True)
