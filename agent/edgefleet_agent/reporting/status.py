"""What `edge-agent status` shows: the running agent's own `run/status.json`, and only while that agent lives."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from edgefleet_agent.core.text_table import cut
from edgefleet_agent.errors import AgentNotRunningError
from edgefleet_agent.identity.store import load_identity
from edgefleet_agent.paths import StatePaths


def read_status(state: Path) -> dict[str, Any]:
    """Return the status of the agent on `state`. Raises NotEnrolledError, AgentNotRunningError."""
    paths = StatePaths(state)
    load_identity(paths.identity)
    try:
        data: dict[str, Any] = json.loads(paths.status.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AgentNotRunningError(f"no agent runs on {state}") from error
    if not _is_locked(paths.lock):
        raise AgentNotRunningError(f"the agent on {state} is gone (it was process {data.get('pid')})")
    return data


def status_text(status: dict[str, Any]) -> str:
    """Return the status as lines for a person: at most 80 columns, but a path is never cut."""
    line = "connected to" if status["connected"] else "NOT connected to"
    lines = [
        cut(f"device   {status['device']}  pid {status['pid']}  agent {status['agent_version']}"),
        cut(f"profile  {status['profile']}"),
        cut(
            f"link     {line} {status['broker']}; {status['outbox']['messages']} messages waiting; gen {status['gen']}"
        ),
        f"infer    {status['infer_url']}",
        f"socket   {status['infer_socket']}",
    ]
    if status["refused"]["code"]:
        lines.append(cut(f"refused  {status['refused']['code']}: {status['refused']['reason']}"))
    for model in status["models"]:
        parts = model["active_target"].split("/")
        what = f"{model['model']}@{parts[1]}" if len(parts) > 1 else f"{model['model']}, nothing yet"
        serving = "serving" if model["serving"] else "not serving"
        lines.append(cut(f"model    {what}  {model['phase']}  slot {model['slot'] or '-'}  {serving}"))
        if model["error_code"]:
            lines.append(cut(f"         {model['error_code']}: {model['reason']}"))
    return "\n".join(lines)


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
