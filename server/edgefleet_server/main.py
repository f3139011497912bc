"""The server process: API, device listener, broker, gateway, engine tick and conversion workers, by roles.

    python -m edgefleet_server.main --data DIR [--host H] [--port N] … [--check]

* Everything that can be wrong in the settings is refused before anything starts.
* `run/server.json` appears when all listeners answer and is removed at exit.
* SIGTERM and SIGINT stop everything, after a drain of `drain_s`; a second one ends the process at once. No part is waited for
  longer than a few seconds. Children end with this process even by kill -9: workers by their life line, the broker by its own.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import DatabaseUnavailableError
from edgefleet_server.observability import logs
from edgefleet_server.process.lifecycle.claim import Claim
from edgefleet_server.process.memory import Tidying, collect_seldom, give_back
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings

_log = logging.getLogger(__name__)


def run_server(settings: ServerSettings) -> int:
    """Run the server until SIGTERM or SIGINT; return the exit code. Must be called on the main thread."""
    claim = Claim(settings)
    # only now: loading all features takes two seconds
    from edgefleet_server.process.lifecycle.server_lifecycle import Server

    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)  # asked twice: the user does not want to wait
        _log.info("stopping", extra={"signal": signal.Signals(number).name})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server = Server(settings, claim)
    try:
        server.start()
        tidying = Tidying(time.monotonic())
        while not stop.wait(0.5):
            server.check_threads()
            tidying.do_due(time.monotonic())
        server.drain()
    finally:
        server.stop()
    return 0


def parse(arguments: list[str] | None) -> tuple[ServerSettings, bool]:
    """Return the settings of a command line, and whether it only asks for a check. Raises SettingsError."""
    parser = argparse.ArgumentParser(prog="edgectl server start", description="Run the edgefleet server.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--host", dest="api_host")
    parser.add_argument("--port", dest="api_port", type=int)
    parser.add_argument("--tls-cert", dest="api_tls_cert", type=Path)
    parser.add_argument("--tls-key", dest="api_tls_key", type=Path)
    parser.add_argument("--behind-proxy", action="store_const", const=True)
    parser.add_argument("--device-host")
    parser.add_argument("--device-port", type=int)
    parser.add_argument("--public-host")
    parser.add_argument("--broker")
    parser.add_argument("--broker-host")
    parser.add_argument("--broker-port", type=int)
    parser.add_argument("--db", dest="database_url")
    parser.add_argument("--roles", type=lambda text: tuple(part.strip() for part in text.split(",")))
    parser.add_argument("--instance")
    parser.add_argument("--log-level")
    parser.add_argument("--log-format", choices=("text", "json"))
    parser.add_argument("--check", action="store_true", help="check the settings and say what would be used, then end")
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    data_dir: Path = given.pop("data").absolute()
    only_check = given.pop("check")
    if not (data_dir / "server.toml").is_file():
        raise SettingsError(
            f"{data_dir} holds no server (there is no server.toml)",
            next_step=f"create one: `edgectl server init {data_dir}`, or name another folder with --data",
        )
    return load_settings(data_dir, **given), only_check


def main(arguments: list[str] | None = None) -> int:
    """Run or check the server of a data folder. Returns the exit code."""
    give_back()
    collect_seldom()  # loading all features, which comes after this, takes a fifth less processor time
    try:
        settings, only_check = parse(arguments)
        if only_check:
            from edgefleet_server.process.server_check import describe

            sys.stdout.write(json.dumps(describe(settings), indent=2) + "\n")
            return 0
        logs.set_up("server", settings.log_level, settings.log_format)
        return run_server(settings)
    except EdgefleetError as error:
        _report(error)
        return 1
    except SQLAlchemyError as error:
        _log.debug("the database failed", exc_info=error)
        _report(
            DatabaseUnavailableError(
                f"the database cannot be used: {error}",
                next_step="check `database_url`, and that the database belongs to this server and has space",
            )
        )
        return 1


def _report(error: EdgefleetError) -> None:
    from edgefleet_server.process.init import report_error

    report_error(error)


if __name__ == "__main__":
    sys.exit(main())
