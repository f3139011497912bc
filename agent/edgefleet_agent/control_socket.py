"""The control socket of the running agent: one JSON object in a line, one back, then the connection ends.

1. Only the agent's own user and root are listened to: mode 0600 in a folder of mode 0700, and the kernel's word on the peer.
2. At most MAX_CALLERS at a time, MAX_REQUEST_BYTES and CALL_S each; a caller that dawdles holds up nothing.
3. `{"do": "rollback", "model": NAME or "", "reason": TEXT}` and `{"do": "flush"}`, which writes the log of answers out, are the commands;
   `{"do": "probe"}` asks whether the loop answers at all: the health check of a container.
   An answer may come later than its request: a flush waits for the workers. A refusal is `{"error": {code, message, next}}`.
"""

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.errors import ControlError, UnknownModelError, WhichModelError
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.worker.control.launch import listen_unix
from edgefleet_protocol.errors import EdgefleetError

MAX_CALLERS = 4
MAX_REQUEST_BYTES = 4_096
MAX_REASON_CHARS = 500
CALL_S = 10.0

_CREDENTIALS = struct.Struct("3i")

log = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], None]
Obey = Callable[[dict[str, Any], Answer], None]
"""Carries out a request in the loop and calls `Answer` once, then or later; or raises EdgefleetError instead."""


class Control:
    """The listening end."""

    def __init__(self, loop: Loop, path: Path, obey: Obey) -> None:
        self._loop = loop
        self._path = path
        self._obey = obey
        self._callers: dict[int, _Caller] = {}
        self._listener = listen_unix(path)
        path.chmod(0o600)
        loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Listen no more and cut who is connected. May be called again."""
        if self._listener.fileno() < 0:
            return
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for caller in list(self._callers.values()):
            self._end(caller)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if len(self._callers) >= MAX_CALLERS or not _is_ours(connection):
            connection.close()
            return
        connection.setblocking(False)
        caller = _Caller(connection)
        self._callers[connection.fileno()] = caller
        caller.timer = self._loop.call_later(CALL_S, lambda: self._end(caller))
        self._loop.watch(connection.fileno(), lambda: self._read(caller))

    def _read(self, caller: "_Caller") -> None:
        try:
            data = caller.connection.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        caller.request += data
        if data and b"\n" not in caller.request and len(caller.request) < MAX_REQUEST_BYTES:
            return
        self._loop.unwatch(caller.connection.fileno())
        if caller.request:
            self._carry_out(bytes(caller.request), partial(self._answer, caller))
        else:
            self._end(caller)

    def _answer(self, caller: "_Caller", answer: dict[str, Any]) -> None:
        if self._callers.get(caller.connection.fileno()) is not caller:
            return  # its time was over
        with contextlib.suppress(OSError):  # it did not wait, or does not read: the answer fits into any socket
            caller.connection.send(json.dumps(answer).encode() + b"\n")
        self._end(caller)

    def _carry_out(self, data: bytes, answer: Answer) -> None:
        try:
            request = json.loads(data.partition(b"\n")[0])
            if not isinstance(request, dict):
                raise ControlError("the request is not a JSON object")
            self._obey(request, answer)
        except ValueError:
            error: EdgefleetError = ControlError(
                f"the request is not one line of JSON of at most {MAX_REQUEST_BYTES} bytes"
            )
        except EdgefleetError as refusal:
            error = refusal
        else:
            return
        log.info("command refused", extra={"code": error.code, "reason": error.message})
        answer({"error": {"code": error.code, "message": error.message, "next": error.next_step}})

    def _end(self, caller: "_Caller") -> None:
        if self._callers.pop(caller.connection.fileno(), None) is None:
            return
        if caller.timer is not None:
            caller.timer.cancel()
        self._loop.unwatch(caller.connection.fileno())
        caller.connection.close()


class _Caller:
    """One connection and what was read from it so far."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = bytearray()
        self.timer: Timer | None = None


def _is_ours(connection: socket.socket) -> bool:
    _pid, uid, _gid = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return uid in (0, os.geteuid())


def obey(
    runner: Runner, flush: Callable[[Callable[[bool], None]], None], request: dict[str, Any], answer: Answer
) -> None:
    """Carry out one request and say what came of it. Raises EdgefleetError saying why not.

    flush: writes the log of answers out, and calls what it is given with whether all of them are in it.
    """
    if request.get("do") == "probe":
        answer({"alive": True})
        return
    if request.get("do") == "flush":
        flush(lambda is_whole: answer({"flushed": True, "whole": is_whole}))
        return
    if request.get("do") != "rollback":
        raise ControlError(f"the agent knows no command {request.get('do')!r}")
    model, reason = request.get("model", ""), request.get("reason", "")
    if not isinstance(model, str) or not isinstance(reason, str):
        raise ControlError("model and reason must be texts")
    model = model or _only_model(runner)
    before = runner.records.get(model)
    reason = reason.strip()[:MAX_REASON_CHARS] or "rolled back by hand on the device"
    after = runner.go_back(model, reason)
    assert before is not None
    assert before.active is not None
    assert after.active is not None
    answer(
        {
            "model": model,
            "from_target": before.active.target,
            "from_sha256": before.active.sha256,
            "to_target": after.active.target,
            "to_sha256": after.active.sha256,
            "slot": after.active.slot,
            "phase": after.phase.value,
            "code": after.error_code,
            "reason": after.reason,
        }
    )


def _only_model(runner: Runner) -> str:
    serving = sorted(model for model, record in runner.records.items() if record.active is not None)
    if not serving:
        raise UnknownModelError("no model serves on this device")
    if len(serving) > 1:
        raise WhichModelError(
            f"{len(serving)} models serve on this device: {', '.join(serving)}",
            next_step="name one: `edge-agent rollback MODEL`",
        )
    return serving[0]
