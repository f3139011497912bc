"""A month of 10,000 devices in roll-ups, and what their charts take."""

from typing import Any


def measured(kind: str) -> dict[str, Any]:
    """Return milliseconds of charts."""
    return {"kind": kind}
