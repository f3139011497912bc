"""Where a tool environment lies and whether it can be used.

    TOOLS_DIR/torch/               a virtual environment
    TOOLS_DIR/torch/edgefleet.json written last: its presence says that the installation was finished

The server's folder of tools lies next to its data folder (`<data>-tools`), so that a backup of the data does not carry
gigabytes that can be installed again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgefleet_converters.errors import ToolMissingError
from edgefleet_converters.tools.table import TOOLS, Tool

STAMP: Final = "edgefleet.json"


@dataclass(frozen=True)
class Environment:
    """A tool environment on disk. state: `installed`, `outdated` (made from other requirements), `incomplete`, `absent`."""

    tool: Tool
    folder: Path
    state: str
    python_version: str
    versions: dict[str, str]

    @property
    def python(self) -> Path:
        """The interpreter that runs the tool."""
        return self.folder / "bin" / "python"

    @property
    def is_usable(self) -> bool:
        """Whether the tool can be run."""
        return self.state in ("installed", "outdated")


def look(root: Path, name: str) -> Environment:
    """Return the environment of tool `name` (a key of TOOLS) below `root`, whatever its state. Reads files."""
    tool = TOOLS[name]
    folder = root / name
    stamp = _stamp(folder / STAMP)
    if stamp is None or not (folder / "bin" / "python").exists():
        return Environment(tool, folder, "incomplete" if folder.exists() else "absent", "", {})
    versions = {str(key): str(value) for key, value in dict(stamp.get("versions") or {}).items()}
    state = "installed" if stamp.get("requirements") == list(tool.requirements) else "outdated"
    return Environment(tool, folder, state, str(stamp.get("python", "")), versions)


def needed(root: Path | None, name: str, what: str) -> Environment:
    """Return a usable environment. what: names the file that needs it. Raises ToolMissingError with the command to type."""
    if root is None:
        raise ToolMissingError(
            f"{what} needs the tool environment {name!r}, and this conversion was given no folder of tools",
            next_step=f"run `edgectl tool install {name}` and convert with `edgectl convert MODEL`",
        )
    found = look(root, name)
    if not found.is_usable:
        raise ToolMissingError(
            f"{what} needs the tool environment {name!r}, which is not in {root}"
            + (" (an installation was not finished)" if found.state == "incomplete" else ""),
            next_step=f"on the machine that converts: edgectl tool install {name} --tools {root}",
        )
    return found


def _stamp(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
