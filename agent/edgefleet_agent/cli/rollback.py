"""`edge-agent rollback`: ask the running agent to go back to the previous version, and wait until that one serves."""

import json
import socket
import time
from pathlib import Path
from typing import Any

from edgefleet_agent import errors
from edgefleet_agent.clock import SystemClock
from edgefleet_agent.errors import AgentNotRunningError, ControlError
from edgefleet_agent.reporting.status import read_status
from edgefleet_protocol.errors import EdgefleetError

ANSWER_S = 60.0
SERVING_S = 30.0
LOOK_S = 0.1
MAX_ANSWER_BYTES = 64 * 1024
MAX_REASON_CHARS = 500

_REFUSALS: dict[str, type[EdgefleetError]] = {
    kind.code: kind
    for kind in (
        errors.UnknownModelError,
        errors.WhichModelError,
        errors.NoPreviousVersionError,
        errors.PreviousDamagedError,
        errors.PreviousWithdrawnError,
    )
}


def roll_back(state: Path, model: str = "", reason: str = "") -> dict[str, Any]:
    """Return what the agent did: from_target, to_target, slot, phase, reason, and `serving`, whether the older version answers.

    model: "" is allowed on a device with one. Blocks at most ANSWER_S + SERVING_S.
    Raises NotEnrolledError, AgentNotRunningError, ControlError, and the refusals of `Runner.go_back`.
    """
    status = read_status(state)
    answer = ask_agent(
        str(status["control_socket"]), {"do": "rollback", "model": model, "reason": reason[:MAX_REASON_CHARS]}
    )
    if "error" in answer:
        refusal = answer["error"]
        kind = _REFUSALS.get(refusal.get("code"), ControlError)
        raise kind(str(refusal.get("message")), next_step=refusal.get("next"))
    return {**answer, "serving": _serves(state, answer)}


def rollback_text(answer: dict[str, Any]) -> str:
    """Return what happened as lines for a person."""
    serves = "and answers" if answer["serving"] else f"but does not answer yet after {SERVING_S:.0f} s"
    return "\n".join(
        (
            f"{answer['model']} is back on {answer['to_target']} (slot {answer['slot']}) {serves}",
            f"{answer['from_target']} is quarantined here ({answer['code']}): {answer['reason']}",
            "next: nothing here; the server is told, and only a newer document or attempt brings that version again",
        )
    )


def ask_agent(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return what the running agent answers on its control socket. Raises AgentNotRunningError, ControlError."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(path)
            connection.sendall(json.dumps(request, ensure_ascii=False).encode() + b"\n")
            while len(answer) < MAX_ANSWER_BYTES and (data := connection.recv(65_536)):
                answer += data
        found = json.loads(answer)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AgentNotRunningError("the agent does not listen for commands") from error
    except PermissionError as error:
        raise ControlError(
            f"{path} belongs to another user", next_step="run it as the agent's user, or as root"
        ) from error
    except (OSError, ValueError) as error:
        raise ControlError(f"the agent gave no answer: {error}") from error
    if not isinstance(found, dict):
        raise ControlError("the agent gave an answer that cannot be read")
    return found


def _serves(state: Path, answer: dict[str, Any]) -> bool:
    clock = SystemClock()
    until = clock.monotonic_s() + SERVING_S
    while clock.monotonic_s() < until:
        models = read_status(state)["models"]
        if any(
            m["model"] == answer["model"] and m["active_sha256"] == answer["to_sha256"] and m["serving"] for m in models
        ):
            return True
        time.sleep(LOOK_S)
    return False
