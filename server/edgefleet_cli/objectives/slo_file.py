"""The file of an objective: read from YAML or JSON, with the line that each field stands on.

The server judges what is written there; here a refusal only gets the lines of the fields that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import STANDARD_INPUT, lines_of, read_text

MAX_BYTES = 100_000
_PATH = re.compile(r"\$(?:\.[A-Za-z_][A-Za-z0-9_-]*|\[[0-9]+\])*")
_START = "start from an example in docs/reference/slo.md"


@dataclass(frozen=True)
class SloFile:
    """One file. lines: by place, such as `$.spec.objectives[0].target`."""

    origin: str
    name: str
    document: Mapping[str, Any]
    lines: Mapping[str, int]

    def located(self, text: str) -> str:
        """Return a refusal with the line of each place that it names; of a field that is missing, the line of what it belongs in."""
        return _PATH.sub(lambda found: f"{self.origin}:{self._line(found[0])}: {found[0]}", text)

    def _line(self, path: str) -> int:
        while path not in self.lines and path != "$":
            path = path[: max(path.rfind("."), path.rfind("["))] or "$"
        return self.lines.get(path, 1)


def read_slo_file(file: str) -> list[SloFile]:
    """Return the objectives in a file, or on standard input for `-`. Raises UsageError, UnreadableFileError."""
    import yaml

    path = None if file == "-" else Path(file)
    origin, text = str(path or STANDARD_INPUT), read_text(path, MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise UsageError(f"{origin} is too large", why=f"more than {MAX_BYTES} characters", next_step="split it")
    try:
        nodes = yaml.compose_all(text, yaml.SafeLoader)
        values = (json.loads(json.dumps(one, default=str, allow_nan=False)) for one in yaml.safe_load_all(text))
        found = [(value, dict(lines_of(node))) for node, value in zip(nodes, values, strict=True) if value is not None]
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UsageError(
            f"{origin} is neither YAML nor JSON", why=str(error), next_step="fix the named line"
        ) from error
    if not found:
        raise UsageError(f"{origin} is empty", why="it has no objective", next_step=_START)
    return [_one(origin, value, lines) for value, lines in found]


def _one(origin: str, value: Any, lines: Mapping[str, int]) -> SloFile:
    metadata = value.get("metadata") if isinstance(value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        line = lines.get("$.metadata", lines.get("$", 1))
        raise UsageError(
            f"{origin}:{line}: $.metadata.name is missing", why="an objective has a name", next_step=_START
        )
    return SloFile(origin, name, value, lines)
