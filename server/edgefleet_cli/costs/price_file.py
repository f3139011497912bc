"""A price file: read from YAML or JSON. The server judges what is written there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import STANDARD_INPUT, read_text

MAX_BYTES = 100_000


def read_price_file(file: str) -> Mapping[str, Any]:
    """Return the prices in a file, or on standard input for `-`. Raises UsageError, UnreadableFileError."""
    import json

    import yaml

    path = None if file == "-" else Path(file)
    origin, text = str(path or STANDARD_INPUT), read_text(path, MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise UsageError(f"{origin} is too large", why=f"more than {MAX_BYTES} characters", next_step="shorten it")
    try:
        found = json.loads(json.dumps(yaml.safe_load(text), default=str, allow_nan=False))
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UsageError(
            f"{origin} is neither YAML nor JSON", why=str(error), next_step="fix the named line"
        ) from error
    if not isinstance(found, dict):
        raise UsageError(
            f"{origin} has no prices",
            why="it is no mapping",
            next_step="start with `currency: EUR` and `down_gb: 0.09`",
        )
    return found
