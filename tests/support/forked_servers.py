"""Servers that are forked from one process that has loaded the code already: importing it takes most of what a start takes.

The apps are made in it too (`tests.support.apps`), with the description of the API: that takes most of the rest. A server whose settings
would make another app makes its own, as one does that users start.

One such process for each process of tests, started with the first use. For every server it forks a keeper, which forks the server, waits
for it, and tells the tests how it ended: so a killed server is known as soon as with `subprocess`. Where the start itself, the memory or
the command line of a server are looked at, the server is started as users start it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.processes import at_end, count_elsewhere

_PRELOADED = (
    "edgefleet_server.process.lifecycle.server_lifecycle",
    "edgefleet_server.composition.device_app",
    "edgefleet_server.gateway.broker.supervisor",
    "edgefleet_server.gateway.cut_off",
    "edgefleet_server.gateway.service",
)
_LOOKED_AT = ("login.html", "fleet/overview.html", "fleet/list.html", "registry/model.html")
_START_S = 120.0


class ForkedServer:
    """A server process, with as much of `subprocess.Popen` as tests use of it."""

    def __init__(self, arguments: Sequence[str], log: Path, module: str = "edgefleet_server.main") -> None:
        """Start this module's `main` with these arguments. log: is added to. Raises TimeoutError."""
        self._lock = threading.Lock()
        self._left = b""
        self.returncode: int | None = None
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(os.environ),
            "cwd": str(Path.cwd()),
            "log": str(log),
        }
        self._keeper, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_forking(), [json.dumps(request).encode() + b"\n"], [theirs.fileno()])
        line = self._line(_START_S)
        if line is None:
            raise TimeoutError(f"no server was forked within {_START_S} s")
        self.pid: int = line["pid"]

    def poll(self) -> int | None:
        """Return the exit code, minus a signal's number, or None while it runs."""
        with self._lock:
            return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or minus a signal's number, when it has ended. Raises subprocess.TimeoutExpired."""
        with self._lock:
            code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["edgefleet_server.main"], timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with self._lock:
            if self._ended(0.0) is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and (line := self._line(timeout_s)) is not None:
            self.returncode = line["code"]
            count_elsewhere(line["processor_s"])
            self._keeper.close()
        return self.returncode

    def _line(self, timeout_s: float | None) -> dict[str, Any] | None:
        """Return the next line of the keeper, or None when it does not come in time. Raises EOFError when the keeper is gone."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._left:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            self._keeper.settimeout(left_s)
            try:
                more = self._keeper.recv(4096)
            except (TimeoutError, BlockingIOError):
                return None
            if not more:
                raise EOFError("the process that forks servers has ended; see its errors above")
            self._left += more
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


@cache
def _forking() -> socket.socket:
    """Start the process that forks servers, and return the socket it listens to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.support.forked_servers", str(theirs.fileno())]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    at_end(partial(process.wait, 30))
    at_end(ours.close)
    return ours


def _serve(control: socket.socket) -> tuple[str, list[str]] | None:
    """Fork a server for each request. Return None when the tests have ended, and in each server its module and its arguments."""
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, 1 << 20, 1)
        if not message:
            return None
        (descriptor,) = descriptors
        threads = [task.name for task in Path("/proc/self/task").iterdir()]
        assert len(threads) == 1, f"a module started threads when it was imported, which a fork loses: {threads}"
        with socket.socket(fileno=descriptor) as asker:
            if os.fork() == 0:
                control.close()
                return _keep(asker, json.loads(message))
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(asker: socket.socket, request: dict[str, Any]) -> tuple[str, list[str]]:
    """Fork the server, and in this process wait for its end and tell it. Return in the server."""
    pid = os.fork()
    if pid == 0:
        asker.close()
        return _become(request)
    code = 1
    try:
        asker.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        _, status, used = os.wait4(pid, 0)
        said = {"code": os.waitstatus_to_exitcode(status), "processor_s": used.ru_utime + used.ru_stime}
        asker.sendall(json.dumps(said).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _become(request: dict[str, Any]) -> tuple[str, list[str]]:
    """Give this process what `subprocess.Popen` would have given the server, and return its module and its arguments."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["cwd"])
    module, arguments = request["module"], request["arguments"]
    sys.argv = [module, *arguments]
    return module, arguments


def _make_apps() -> None:
    """Make the apps of a server with usual settings; servers that are forked afterwards use them with their own parts."""
    from edgefleet_server.composition import device_app
    from edgefleet_server.dashboard.core.render import compile_ahead
    from edgefleet_server.process.lifecycle import server_lifecycle
    from edgefleet_server.settings import ServerSettings
    from tests.support import apps

    usual = SimpleNamespace(settings=ServerSettings.model_construct(data_dir=Path("/nowhere")))  # reads no environment
    apps.make_ahead(usual)
    compile_ahead(*_LOOKED_AT)
    gc.collect()
    gc.freeze()  # what all servers share stays shared
    instead = ((server_lifecycle, "create_app", apps.only_app), (device_app, "create_device_app", apps.only_device_app))
    for module, name, make in instead:
        setattr(module, name, make)


def _main(descriptor: int) -> int:
    from importlib import import_module

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests; the servers get the signal themselves
    for name in ("edgefleet_server.main", *_PRELOADED):
        import_module(name)
    _make_apps()
    asked = _serve(socket.socket(fileno=descriptor))
    if asked is not None:
        module, arguments = asked
        code: int = import_module(module).main(arguments)
        return code
    while True:  # so that their processor time counts for the tests
        try:
            os.wait()
        except ChildProcessError:
            return 0


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1])))
