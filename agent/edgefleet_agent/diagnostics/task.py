"""The child of one task: makes the result and sends it to the server, or checks. `python -m edgefleet_agent.diagnostics.task`.

Says one JSON line `{"code", "reason"}` on stdout when it did not work. Exit 0 sent, 75 try again later (no network, no room), 1 not.
What the server refuses for good (unknown, over, too large) is not tried again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.logs import set_up_logging
from edgefleet_agent.diagnostics.diag import diag, logs, logs_text
from edgefleet_agent.enrolment.renew import ask_as_device
from edgefleet_agent.enrolment.server_api import problem_of
from edgefleet_agent.errors import CheckLaterError, ServerUnreachableError, TaskRefusedError
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.settings import load_settings
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError

DEFAULT_LINES = 500
TRY_AGAIN = 75
MAX_LOG_BYTES = 900_000


def do(task: str, kind: str, args: dict[str, Any], state: Path, clock: Clock) -> None:
    """Do one task. Raises EdgefleetError, OSError."""
    if kind == "check":
        from edgefleet_agent.diagnostics.installed_check import check  # numpy and tuf, which the other kinds do without

        check(str(args["model"]), str(args["sha256"]), state, clock)
    else:
        send(task, make(kind, args, state, clock), state, clock)


def make(kind: str, args: dict[str, Any], state: Path, clock: Clock) -> bytes:
    """Return the result of a task. Raises EdgefleetError, OSError."""
    if kind == "diag":
        return diag(state, load_settings(StatePaths(state).settings), clock)
    found = logs(state, lines=int(args.get("lines", DEFAULT_LINES)), contains=str(args.get("contains", "")))
    return (logs_text(found) + "\n").encode()[-MAX_LOG_BYTES:]


def send(task: str, data: bytes, state: Path, clock: Clock) -> None:
    """Give the result to the server. Raises TaskRefusedError, ServerUnreachableError, PinMismatchError, StateFileError, OSError."""
    path = f"/device/v1/tasks/{task}/result"
    status, answer = ask_as_device(StatePaths(state).identity, clock, "PUT", path, data)
    if status >= 500 or status == 429:
        raise ServerUnreachableError(f"the server could not take the result: {problem_of(status, answer)[0]}")
    if status != 204:
        raise TaskRefusedError(f"the server does not take the result: {problem_of(status, answer)[0]}")


def main(arguments: list[str] | None = None) -> int:
    """Do one task. Returns the exit status."""
    parser = argparse.ArgumentParser("edgefleet_agent.diagnostics.task")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--kind", choices=("diag", "logs", "check"), required=True)
    parser.add_argument("--args", default="{}")
    args = parser.parse_args(arguments)
    set_up_logging("WARNING", "task")
    clock = SystemClock()
    try:
        do(args.id, args.kind, json.loads(args.args), args.state, clock)
    except (ServerUnreachableError, CheckLaterError, OSError) as error:
        code = error.code if isinstance(error, EdgefleetError) else "agent.disk"
        return _say(TRY_AGAIN, code, str(error))
    except EdgefleetError as error:
        return _say(1, error.code, error.message)
    return 0


def _say(status: int, code: str, reason: str) -> int:
    sys.stdout.write(json.dumps({"code": code, "reason": reason[:1000]}) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
