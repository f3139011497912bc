"""The running agent's own `run/status.json`: agentd writes it, `edge-agent` reads it, and only while that agent lives."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from edgefleet_agent.core.durable import write_file
from edgefleet_agent.errors import AgentNotRunningError
from edgefleet_agent.identity.store import Identity, load_identity
from edgefleet_agent.paths import StatePaths
from edgefleet_protocol.messages import ModelState


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


def is_running(state: Path) -> bool:
    """Say whether an agent works on `state`."""
    return _is_locked(StatePaths(state).lock)


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace the status. Raises OSError."""
    write_file(path, json.dumps(status, indent=1).encode(), mode=0o644, durable=False)


def identity_fields(identity: Identity) -> dict[str, Any]:
    """Return who this agent is: the first fields of the status."""
    return {
        "device": identity.device,
        "display_name": identity.display_name,
        "certificate_from_s": identity.cert_from_s,
        "profile": identity.profile,
        "pid": os.getpid(),
        "broker": f"{identity.broker_host}:{identity.broker_port}",
    }


def model_rows(
    models: Iterable[ModelState], modes: Mapping[str, StrEnum], withdrawn: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Return each model's report by the names of its fields, since on the wire structs are positional; and how it does.

    withdrawn: returns why what serves of a model is withdrawn, "" when it is not.
    """
    return [
        {name: _plain(getattr(model, name)) for name in model.__struct_fields__}
        | {
            "mode": modes[model.model].value if model.model in modes else "none",
            "withdrawn": withdrawn(model.model),
        }
        for model in models
    ]


def _plain(value: Any) -> Any:
    return msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else msgspec.to_builtins(value)


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
