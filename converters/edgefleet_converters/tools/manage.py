"""Process entry of `edgectl tool`: make, list and remove tool environments.

    python -m edgefleet_converters.tools.manage list|install|remove --tools DIR [NAME]

One JSON object on stdout: `{"items": [...]}` (exit 0) or `{"error": {code, message, next}}` (exit 1). What venv and pip say
goes to stderr. An environment is made in its place and its stamp is written last; a half-made one is made again.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgefleet_converters.errors import ToolFailedError
from edgefleet_converters.tools.environment import STAMP, Environment, look
from edgefleet_converters.tools.table import TOOLS, Tool
from edgefleet_protocol.errors import EdgefleetError

_VERSION_CODE: Final = "import sys; print('%d.%d' % sys.version_info[:2])"
_LIST_CODE: Final = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl tool")
    parser.add_argument("action", choices=["list", "install", "remove"])
    parser.add_argument("name", nargs="?", choices=sorted(TOOLS))
    parser.add_argument("--tools", type=Path, required=True)
    given = parser.parse_args(arguments)
    root: Path = given.tools.absolute()
    try:
        if given.action == "list":
            items = [look(root, name) for name in TOOLS]
        else:
            with _locked(root):
                items = [install(root, given.name) if given.action == "install" else remove(root, given.name)]
    except EdgefleetError as error:
        _tell({"error": {"code": error.code, "message": error.message, "why": error.reason(), "next": error.next_step}})
        return 1
    _tell({"items": [as_json(item) for item in items]})
    return 0


def as_json(found: Environment) -> dict[str, Any]:
    """Return an environment as the command prints it."""
    return {
        "name": found.tool.name, "state": found.state, "serves": found.tool.serves, "path": str(found.folder),
        "python": found.python_version, "version": found.versions.get(found.tool.probe, ""),
        "requirements": list(found.tool.requirements), "proved": found.tool.proved,
    }  # fmt: skip


def install(root: Path, name: str) -> Environment:
    """Make the environment of a tool, or leave it when it is as wanted. Raises ToolFailedError. Downloads packages."""
    found = look(root, name)
    if found.state == "installed":
        return found
    python = _interpreter(found.tool)
    _clear(found.folder)
    _run([python, "-m", "venv", str(found.folder)], "making a virtual environment", "apt-get install -y python3-venv")
    pip = [str(found.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    _run([*pip, *found.tool.requirements], f"installing {name}", "check the network and free space, then run it again")
    versions = json.loads(_output([str(found.python), "-I", "-c", _LIST_CODE]))
    stamp = {
        "requirements": list(found.tool.requirements),
        "python": _output([str(found.python), "-I", "-c", _VERSION_CODE]),
        "versions": versions,
    }
    partial = found.folder / f"{STAMP}.part"
    partial.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    partial.replace(found.folder / STAMP)
    return look(root, name)


def remove(root: Path, name: str) -> Environment:
    """Delete the environment of a tool."""
    _clear(root / name)
    return look(root, name)


def _interpreter(tool: Tool) -> str:
    """Return a Python of a version the tool runs on: this one, else the newest on PATH. Raises ToolFailedError."""
    lowest, beyond = tool.python
    if lowest <= sys.version_info[:2] < beyond:
        return sys.executable
    for minor in range(beyond[1] - 1, lowest[1] - 1, -1):
        path = shutil.which(f"python3.{minor}")
        if path and _output([path, "-I", "-c", _VERSION_CODE]) == f"3.{minor}":
            return path
    raise ToolFailedError(
        f"{tool.name} runs on Python {lowest[0]}.{lowest[1]} to {beyond[0]}.{beyond[1] - 1}, and none of them is installed",
        next_step=f"install python{lowest[0]}.{lowest[1]} with its venv module, then run this again",
    )


def _clear(folder: Path) -> None:
    # The stamp goes first: what is deleted only in part is never taken for whole.
    (folder / STAMP).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the folder for one installation at a time. Raises ToolFailedError when it cannot be made."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ToolFailedError(
            f"the folder of tools {root} cannot be used: {error.strerror}", next_step="give another with --tools"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(command: list[str], what: str, cure: str) -> None:
    done = subprocess.run(
        command, stdout=sys.stderr.fileno(), stdin=subprocess.DEVNULL, env=_environment(), check=False
    )
    if done.returncode != 0:
        raise ToolFailedError(
            f"{what} failed with exit code {done.returncode}; the lines above say why", next_step=cure
        )


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False, timeout=60)
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Return the environment without what would lead a tool's Python to our own packages."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
