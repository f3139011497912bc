"""`edge-agent enroll TOKEN --run`: the agent in the background of this session, for trying it out. A real device has a service for it."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from edgefleet_agent.errors import AgentNotRunningError
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.status import read_status

WAIT_S = 30.0


def start(state: Path) -> int:
    """Start `edge-agent run` and wait until it is connected; return its process number. Raises AgentNotRunningError.

    It stays when this process ends; what it says before it has a log of its own is in `logs/start.log`.
    """
    file = StatePaths(state).log.with_name("start.log")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.open("ab") as log:
        command = [sys.executable, "-m", "edgefleet_agent", "run", "--state", str(state.absolute())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s and process.poll() is None:
        time.sleep(0.1)
        with suppress(AgentNotRunningError):
            status = read_status(state)
            if status["pid"] == process.pid and status["connected"]:
                return process.pid
    process.terminate()
    raise AgentNotRunningError(
        f"the agent did not connect within {WAIT_S:.0f} s", next_step=f"see {file}, then `edge-agent doctor`"
    )
