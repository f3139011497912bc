"""This machine as a device of a server that runs here: enrolled and started by the agent's own commands."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_CONFLICT, EXIT_NOT_FOUND, ApiError, CliError
from edgefleet_cli.core.subprocesses import python_module
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part

_TTL_S: Final = 600
_NOT_ENROLLED: Final = "agent.not_enrolled"


class DeviceHereError(CliError):
    """This machine could not be made a device of the server."""

    code = "cli.device_here"


def ensure(server: ApiClient) -> tuple[str, str]:
    """Return the device that this machine is and its state folder; enrols it and starts its agent where that is not done yet.

    Raises DeviceHereError.
    """
    from edgefleet_agent.paths import default_state

    state = str(default_state().absolute())
    code, answer = _agent("run", "--background")
    if answer.get("error", {}).get("code") == _NOT_ENROLLED:
        body = api.enrollment.EnrollmentIn(count=1, ttl_s=_TTL_S, approval=False)
        (claim,) = server.post("/enrollments", body, api.enrollment.ClaimTokens).value.tokens
        code, answer = _agent("enroll", "-", "--run", feed=claim.token)
        _check(code, answer, "the agent was not enrolled and started")
    elif code != EXIT_CONFLICT:  # already running
        _check(code, answer, f"this machine is a device already ({state}), but its agent did not start")
    code, answer = _agent("status")
    _check(code, answer, "the agent says nothing")
    device = str(answer["device"])
    try:
        server.get(f"/devices/{part(device)}", dict)
    except ApiError as error:
        if error.exit_code != EXIT_NOT_FOUND:
            raise
        raise DeviceHereError(
            f"this machine is a device of another server: {device}",
            why=f"it is enrolled there with the state folder {state}",
            next_step="leave --with-device out, or set EDGEFLEET_AGENT_STATE to an empty folder for a second device",
        ) from error
    return device, state


def _agent(*arguments: str, feed: str = "") -> tuple[int, dict[str, Any]]:
    command = python_module("edgefleet_agent", *arguments, "-o", "json")
    done = subprocess.run(command, input=feed, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"error": {"message": done.stderr.strip() or "the agent said nothing"}}
    return done.returncode, answer


def _check(code: int, answer: dict[str, Any], what: str) -> None:
    if code == 0:
        return
    error = answer.get("error", {})
    raise DeviceHereError(
        what, why=str(error.get("message", "")), next_step=str(error.get("next") or "run `edge-agent doctor`")
    )
