"""Tool environments of this machine, by the converters' own process: the CLI never imports the converters."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import platformdirs

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.subprocesses import python_module

Json = dict[str, Any]


class ToolError(CliError):
    """A tool environment could not be made, listed or removed."""

    code = "cli.tool"


def tools_folder(given: Path | None = None) -> Path:
    """Return the folder of tool environments: `given`, else `EDGECTL_TOOLS`, else one in the user's data folder."""
    if given is not None:
        return given.absolute()
    named = os.environ.get("EDGECTL_TOOLS")
    return Path(named).absolute() if named else Path(platformdirs.user_data_path("edgefleet")) / "tools"


def manage(action: str, folder: Path, name: str | None = None) -> list[Json]:
    """Run one action and return the environments it answers with. What pip says goes to stderr. Raises ToolError."""
    names = [] if name is None else [name]
    command = python_module("edgefleet_converters.tools.manage", action, *names, "--tools", str(folder))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if "items" in answer:
        return list(answer["items"])
    error = answer.get("error") or {
        "message": f"`edgectl tool {action}` failed",
        "code": f"exit code {done.returncode}",
    }
    raise ToolError(
        str(error["message"]), why=str(error["code"]), next_step=str(error.get("next", "look at the lines above"))
    )
