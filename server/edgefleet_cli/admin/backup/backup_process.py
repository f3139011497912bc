"""The processes of the server that make backups, restores, moves and upgrades: started here; their lines become bars and results."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from typing import Any

import typer

from edgefleet_cli.core.errors import EXIT_INTERRUPTED
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import ended_by_sigterm, python_module, require
from edgefleet_cli.render.progress import board

MODULE = "edgefleet_server.process.backup.command_process"
_STOP_S = 20.0


def run(session: Session, verb: str, flags: list[str], module: str = MODULE) -> tuple[dict[str, Any], int]:
    """Run one command there; return its result and its exit code. Ends with its exit code where there is no result: it has said why."""
    require("fastapi", "server")
    command = python_module(module, verb, *flags)
    result: dict[str, Any] | None = None
    with ended_by_sigterm(), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            with board(session.out) as rows:
                for line in child.stdout:
                    told: dict[str, Any] = json.loads(line)
                    if "result" in told:
                        result = told["result"]
                    else:
                        rows.update(verb, told["stage"], told["message"], told["pct"])
            code = child.wait()
        except KeyboardInterrupt:
            _stop(child)
            session.out.notice("stopped; the same command goes on with what is there")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    if result is None:
        raise typer.Exit(code or 1)
    return result, code


def _stop(child: subprocess.Popen[str]) -> None:
    """End a process that a Ctrl-C of the terminal may have reached already; what it wrote stays usable either way."""
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
