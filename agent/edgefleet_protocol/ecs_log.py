"""A log line as JSON with the field names of the Elastic Common Schema, the same for agent and server. Pure.

One object a line. Keys are dotted, as in ECS's own logging libraries: Filebeat makes objects of them (`expand_keys`). Fields of the line
are text under `labels`, but those that ECS has a name for. Control characters are escaped by JSON, so no field forges a line.
Source: the ECS reference, and the specification of the ECS loggers.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

ECS_VERSION: Final = "8.11.0"
NAMES: Final[Mapping[str, str]] = {
    "request_id": "http.request.id",
    "status": "http.response.status_code",
    "path": "url.path",
}
"""Names that ECS has for fields of ours."""
NUMBERS: Final = frozenset({"http.response.status_code"})


class Line(Protocol):
    """What Python's logging knows of a line, which it does not import."""

    @property
    def created(self) -> float:
        """Unix time."""
        ...

    @property
    def levelname(self) -> str:
        """Level, as Python names it."""
        ...

    @property
    def name(self) -> str:
        """Name of the logger."""
        ...

    @property
    def process(self) -> int | None:
        """Number of the process."""
        ...

    @property
    def exc_info(self) -> tuple[object, BaseException | None, object] | None:
        """What was raised."""
        ...

    def getMessage(self) -> str:  # noqa: N802  # the name that it has there
        """Return the phrase."""
        ...


def ecs_text(line: Line, fields: Mapping[str, object], service: str, process: str, stack_trace: str) -> str:
    """Return a line as one JSON object, without a newline at the end. process: its word. stack_trace: of what was raised, if anything."""
    at = datetime.fromtimestamp(line.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made: dict[str, object] = {
        "@timestamp": at,
        "log.level": line.levelname.lower(),
        "message": line.getMessage(),
        "ecs.version": ECS_VERSION,
        "service.name": service,
        "event.dataset": f"{service}.{process}",
        "process.name": process,
        "process.pid": line.process or 0,
        "log.logger": line.name,
    }
    labels: dict[str, str] = {}
    for name, value in fields.items():
        key = NAMES.get(name)
        if key is None or (key in NUMBERS and not isinstance(value, int)):
            labels[name] = str(value)
        else:
            made[key] = value if key in NUMBERS else str(value)
    if labels:
        made["labels"] = labels
    raised = line.exc_info[1] if line.exc_info else None
    if raised is not None:
        made |= {"error.type": type(raised).__name__, "error.message": str(raised), "error.stack_trace": stack_trace}
    return json.dumps(made, ensure_ascii=True)
