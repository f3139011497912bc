"""Tool environments of this machine, by the converters' own process: the CLI never imports the converters."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import platformdirs

from edgefleet_cli.core.api.release import ConverterTools
from edgefleet_cli.core.errors import CliError, UsageError
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.subprocesses import python_module
from edgefleet_cli.core.transport.reply import Page, struct_of
from edgefleet_cli.release.conversion.pickled_model import PICKLE_SUFFIXES, refuse_pickle

TOOL_OF = {
    ".skops": "sklearn", ".pt2": "torch", ".keras": "tensorflow", ".safetensors": "torch",
} | dict.fromkeys(PICKLE_SUFFIXES, "sklearn")  # fmt: skip
"""The tool that reads a file of this suffix."""


def suffix_of(source: Path) -> str:
    """Return the suffix by which the tool of a source is known; a Hugging Face folder is its ONNX files, else its model.safetensors."""
    has_onnx = any(path for pattern in ("*.onnx", "onnx/*.onnx") for path in source.glob(pattern))
    return ".safetensors" if not has_onnx and (source / "model.safetensors").is_file() else source.suffix.lower()


class Tool(Struct, frozen=True):
    """A tool's environment, as the converters describe it."""

    name: str = ""
    state: str = ""
    version: str | None = None
    python: str | None = None
    serves: str | None = None
    path: str = ""


class _Trouble(Struct, frozen=True):
    message: str = ""
    code: str = ""
    why: str = ""
    next: str = "look at the lines above"


class _Answer(Struct, frozen=True):
    items: list[dict[str, Any]] | None = None
    error: _Trouble | None = None


class ToolError(CliError):
    """A tool environment could not be made, listed or removed."""

    code = "cli.tool"


def tools_folder(given: Path | None = None) -> Path:
    """Return the folder of tool environments: `given`, else `EDGECTL_TOOLS`, else one in the user's data folder."""
    if given is not None:
        return given.absolute()
    named = os.environ.get("EDGECTL_TOOLS")
    return Path(named).absolute() if named else Path(platformdirs.user_data_path("edgefleet")) / "tools"


def refuse_unreadable(source: Path, tools: ConverterTools) -> None:
    """Raise UsageError when the server has told that it cannot read a file. Asked before the upload."""
    if not tools.reads_pickles:
        refuse_pickle(source, is_allowed=True)
    suffix = suffix_of(source)
    needed = TOOL_OF.get(suffix)
    if needed is None or tools.names is None or needed in tools.names:
        return
    folder = "" if Path(tools.folder) == tools_folder() else f" --tools {tools.folder}"
    raise UsageError(
        f"the server cannot read {suffix} files yet",
        why=f"the tool {needed} is not installed there; nothing was uploaded",
        next_step=f"on the server's machine: edgectl tool install {needed}{folder}",
    )


def manage(action: str, folder: Path, name: str | None = None) -> Page[Tool]:
    """Run one action and return the environments it answers with. What pip says goes to stderr. Raises ToolError."""
    names = [] if name is None else [name]
    command = python_module("edgefleet_converters.tools.manage", action, *names, "--tools", str(folder))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    report = struct_of(answer, _Answer)
    if report.items is not None:
        return Page(answer, Tool)
    error = report.error or _Trouble(f"`edgectl tool {action}` failed", why=f"exit code {done.returncode}")
    raise ToolError(error.message, why=error.why, next_step=error.next, foreign_code=error.code)
