"""`edge-agent logs`: the last lines of agentd and its children, redacted and bounded."""

from pathlib import Path
from typing import Any

from edgefleet_agent.core.logfile import tail
from edgefleet_agent.diagnostics.redact import redact
from edgefleet_agent.paths import StatePaths

MAX_BYTES = 256 * 1024


def logs(state: Path, *, lines: int, contains: str = "", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return `{"lines": [...], "left_out": n}`: the newest, oldest first, those with a text only. Raises OSError."""
    # redacted as one text: a private key goes over several lines
    found = redact("\n".join(tail(StatePaths(state).log, max_bytes))).splitlines()
    matching = [line for line in found if contains in line]
    kept = matching[-lines:] if lines else matching
    return {"lines": kept, "left_out": len(matching) - len(kept)}


def logs_text(found: dict[str, Any]) -> str:
    """Return the lines as they are."""
    return "\n".join(found["lines"]) or "no line yet: this agent has not run since it keeps its log on the disk"
