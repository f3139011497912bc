"""The agent in the background of this session, for trying it out: start it, stop it. A real device has a service for it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgefleet_agent.errors import AgentNotRunningError, AgentRunningError, AgentStopError, ServiceRunsAgentError
from edgefleet_agent.paths import StatePaths, state_flag
from edgefleet_agent.reporting.status import is_running, read_status

WAIT_S = 30.0
STOP_S = 30.0
LOOK_S = 0.1


def start(state: Path) -> int:
    """Start `edge-agent run` and wait until it is connected; return its process number.

    It stays when this process ends; what it says before it has a log of its own is in `logs/start.log`.
    Raises NotEnrolledError, AgentRunningError, AgentNotRunningError.
    """
    with suppress(AgentNotRunningError):
        raise AgentRunningError(
            f"an agent runs on {state} already: process {read_status(state)['pid']}",
            next_step=f"nothing to start; `edge-agent status{state_flag(state)}` says what it does",
        )
    file = StatePaths(state).log.with_name("start.log")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.open("ab") as log:
        begin = log.tell()
        command = [sys.executable, "-m", "edgefleet_agent", "run", "--state", str(state.absolute())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s and process.poll() is None:
        time.sleep(LOOK_S)
        with suppress(AgentNotRunningError):
            status = read_status(state)
            if status["pid"] == process.pid and status["connected"]:
                return process.pid
    has_ended = process.poll() is not None
    process.terminate()
    look = f"see {file}, then `edge-agent doctor{state_flag(state)}`"
    if not has_ended:
        raise AgentNotRunningError(f"the agent did not connect within {WAIT_S:.0f} s", next_step=look)
    complaint, step = _complaint(file, begin)
    raise AgentNotRunningError(f"the agent ended at once: {complaint}", next_step=step or look)


def _complaint(file: Path, begin: int) -> tuple[str, str]:
    """Return the last error of what was written since `begin`, and its next step."""
    lines = file.read_bytes()[begin:].decode("utf-8", "replace").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    steps = [line.removeprefix(" next: ") for line in lines if line.startswith(" next: ")]
    return (errors or lines or ["it wrote nothing"])[-1], steps[-1] if errors and steps else ""


def stop(state: Path) -> dict[str, Any]:
    """Ask the agent of a state folder to end, and wait until it has; return its device and process number.

    Raises NotEnrolledError, AgentNotRunningError, ServiceRunsAgentError, AgentStopError.
    """
    try:
        status = read_status(state)
    except AgentNotRunningError as error:
        raise AgentNotRunningError(
            error.message, next_step="there is nothing to stop; name the folder of another agent with --state"
        ) from error
    pid = int(status["pid"])
    if unit := unit_of(pid):
        raise ServiceRunsAgentError(f"systemd runs this agent as {unit[-1]}", next_step=f"`{' '.join(unit)}`")
    try:
        if not _holds(pid, StatePaths(state).lock):
            raise AgentStopError(
                f"process {pid} of run/status.json is not the agent that works on {state}",
                next_step="it may just be starting: try again in a moment",
            )
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise AgentStopError(
            f"the agent on {state}, process {pid}, belongs to another user",
            next_step="run this as that user, or as root",
        ) from error
    end_s = time.monotonic() + STOP_S
    while is_running(state):
        if time.monotonic() > end_s:
            raise AgentStopError(
                f"the agent, process {pid}, still runs {STOP_S:.0f} s after it was asked to stop",
                next_step=f"see `edge-agent logs{state_flag(state)}`; `kill -KILL {pid}` ends it, which it is made to survive",
            )
        time.sleep(LOOK_S)
    return {"device": status["device"], "pid": pid, "state": str(state)}


def unit_of(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """Return the command that stops the service whose main process this is, [] when systemd did not start it.

    systemd tells a process that it starts its own number; what that process starts inherits a number that is not its own.
    """
    try:
        environment = (proc / str(pid) / "environ").read_bytes().split(b"\0")
        group = (proc / str(pid) / "cgroup").read_text("utf-8").partition("::")[2].split("\n")[0]
    except OSError:
        return []
    unit = next((part for part in reversed(group.split("/")) if part.endswith(".service")), "")
    if f"SYSTEMD_EXEC_PID={pid}".encode() not in environment or not unit:
        return []
    return ["systemctl", *(["--user"] if "/user@" in group else []), "stop", unit]


def _holds(pid: int, lock: Path) -> bool:
    """Say whether a process has the lock file open. Raises PermissionError where it is another user's."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    for descriptor in descriptors:
        with suppress(FileNotFoundError):
            if descriptor.samefile(lock):
                return True
    return False
