"""Starting the other parts of edgefleet as processes: the CLI never imports the server or the converters."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from edgefleet_cli.core.errors import CliError


class MissingPartError(CliError):
    """What the command needs beyond `edgectl` itself is not installed."""

    code = "cli.missing_part"


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs `module` with this Python."""
    return [sys.executable, "-m", module, *arguments]


def require(package: str, extra: str) -> None:
    """Raise MissingPartError when `package`, which an extra brings, is not installed; nothing of it is imported.

    Our own packages come all in one wheel and are always there; what they need is not.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPartError(
            f"{package} is not installed here",
            why=f"this needs the extra edgefleet[{extra}]",
            next_step=f"pip install 'edgefleet[{extra}]'",
        )


def become(command: list[str]) -> NoReturn:
    """Replace this process by `command`, so that signals and the exit code are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606 - an argument list of ours, no shell


def child_flags(**given: str | int | Path | None) -> list[str]:
    """Return `--name value` for each given option, as the programs of the server take them."""
    flags: list[str] = []
    for name, value in given.items():
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def server_answer(module: str, *arguments: str, exits: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Return the JSON that a module of the server prints. exits: codes with which it answers; with any other this process ends as well.

    It has said why by then. Raises MissingPartError.
    """
    require("fastapi", "server")
    done = subprocess.run(python_module(module, *arguments), stdout=subprocess.PIPE, check=False)
    if done.returncode not in exits:
        raise typer.Exit(done.returncode)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, so that temporary files are removed. Only in the main thread."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
