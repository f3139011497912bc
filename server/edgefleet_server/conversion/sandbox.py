"""Runs one conversion child and listens to it. The child reads untrusted models, so nothing it says is believed unchecked.

* Own session, clean environment, empty working folder, private temporary folder, and the layers of `active_layers`.
* Its folder is bounded: more than `output_bytes` on disk, a longer wall time or a flood of lines ends it.
* It ends with this process: the kernel kills it when the worker dies, whatever the way.
* Whatever happens, its process group and its control group are gone when `Child.run` returns, and with process 1 of its
  namespaces all that it started. Only where the kernel gives it neither may a process that made a session of its own outlive it.
"""

import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from edgefleet_protocol.clock import Clock
from edgefleet_server.clock import SystemClock
from edgefleet_server.conversion.confinement.job_group import NAME, JobGroup, make_group
from edgefleet_server.conversion.confinement.privileges import child_id
from edgefleet_server.conversion.errors import (
    BadAnswerError,
    ChildCrashError,
    ChildKilledError,
    ChildRefusalError,
    ChildTimeoutError,
    ConversionError,
    OutputTooLargeError,
    SandboxMissingError,
    StoppedError,
)
from edgefleet_server.conversion.model import ChildAnswer, SandboxLimits
from edgefleet_server.conversion.sandbox_entry import NO_SANDBOX

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_LINES = 100_000
_LAUNCH = (sys.executable, "-P", "-m", "edgefleet_server.conversion.sandbox_entry")
_LOG_NAME = "child.log"
_POLL_S = 0.2
_SIZE_CHECK_S = 1.0
_KILLED = frozenset({-signal.SIGKILL, 128 + signal.SIGKILL})  # the second from a program in between
_EXIT_WAIT_S = 10.0
_LOG_TAIL_BYTES = 2000
_IS_LINUX = sys.platform.startswith("linux")
_NUMBERS = itertools.count(1)
JOB_FOLDERS = ("source", "data", "cwd", "tmp", "out")
LAYERS = (
    "rlimits", "dies_with_worker", "no_new_privs", "no_capabilities", "own_uid", "no_network", "no_unix_sockets", "syscalls",
    "files", "own_root", "own_processes", "group",
)  # fmt: skip
"""Names of all layers; `own_uid` only concerns a server that runs as root."""
_PROBE_LIMITS = SandboxLimits(memory_bytes=1 << 30, file_bytes=1 << 20, output_bytes=1 << 20, wall_s=20, cpu_s=10)

OnLine = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Converter:
    """The program of the conversion child, the folder of tool environments that it may run too, and the server's data folder."""

    command: list[str]
    tools_folder: Path | None = None
    top: Path | None = None


def converter_command(configured: Sequence[str] | None) -> list[str]:
    """Return the command of the conversion child."""
    if configured:
        return list(configured)
    return [sys.executable, "-P", "-m", "edgefleet_converters.job"]


def launch_command(plan: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` with the rights of `plan` only (`conversion.launch`)."""
    return [*_LAUNCH, json.dumps(plan), *command]


def active_layers(tools_folder: Path | None = None) -> list[str]:
    """Return the sandbox layers that held when a child of this process tried to get past them. Starts a short-lived process."""
    with tempfile.TemporaryDirectory(prefix="ef-layers-") as place, socket.create_server(("127.0.0.1", 0)) as tcp:
        outside, folder = Path(place), Path(place, "job")
        (outside / "file").write_bytes(b"outside")
        for name in JOB_FOLDERS:
            (folder / name).mkdir(parents=True, mode=0o700)
        with socket.socket(socket.AF_UNIX) as local:
            local.bind(str(outside / "socket"))
            local.listen()
            targets = {
                "pid": os.getpid(), "command": Path("/proc/self/cmdline").read_bytes().hex() if _IS_LINUX else "",
                "file": str(outside / "file"), "socket": str(outside / "socket"), "port": tcp.getsockname()[1],
                "uid": os.getuid(), "group": NAME,
            }  # fmt: skip
            command = [sys.executable, "-P", "-m", "edgefleet_server.conversion.confinement.layer_probe"]
            found: list[str] = []
            child = Child(
                [*command, json.dumps(targets)], folder, _PROBE_LIMITS, SystemClock(), tools_folder, top=outside
            )
            child.run({}, lambda line: found.extend(line["layers"]), lambda: False)
    return found


class Child:
    """One running conversion child in `folder` (which must hold the empty folders `cwd`, `tmp` and `out`).

    tools_folder: tool environments that it may run too. top: the folder above `folder` that only the server's user may enter.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        limits: SandboxLimits,
        clock: Clock,
        tools_folder: Path | None = None,
        top: Path | None = None,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._command = command
        self._tools_folder = tools_folder
        self._top = top
        self._log_path = folder / _LOG_NAME
        self._answer = ChildAnswer()
        self._lines = 0
        self._is_complete = False

    def run(self, request: Mapping[str, Any], on_line: OnLine, should_stop: Callable[[], bool]) -> ChildAnswer:
        """Run the child to its end and return its answer. Blocks.

        `on_line` gets every progress and candidate line, and `tools` when it is the first.
        `should_stop` is asked several times a second, also while it is silent.
        Raises ChildTimeoutError, ChildCrashError, ChildKilledError, OutputTooLargeError, BadAnswerError, ChildRefusalError, StoppedError.
        """
        name = f"{os.getpid()}-{next(_NUMBERS)}"
        group = make_group(name, self._limits.memory_bytes, self._limits.processes) if _IS_LINUX else JobGroup(())
        with self._log_path.open("wb") as log:
            process = subprocess.Popen(
                launch_command(self._plan(group), self._command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder / "cwd",
                env=self._environment(),
                start_new_session=True,
            )
            try:
                self._feed(process, request)
                self._listen(process, on_line, should_stop)
                code = process.wait(_EXIT_WAIT_S)
            except subprocess.TimeoutExpired as error:
                raise ChildTimeoutError("the converter closed its output but does not end") from error
            finally:
                _end_group(process)
                group.kill()
        if not self._is_complete or code != 0:
            raise self._crash(code)
        return self._answer

    def _plan(self, group: JobGroup) -> dict[str, Any]:
        folder = self._folder.absolute()
        return {
            "limits": {name: int(value) for name, value in asdict(self._limits).items()},
            "read": [str(folder / name) for name in ("source", "data", "cwd")],
            "write": [str(folder / name) for name in ("tmp", "out")],
            "run": [] if self._tools_folder is None else [str(self._tools_folder)],
            "uid": child_id(str(folder)),
            "top": str(folder if self._top is None else self._top.absolute()),
            "groups": [str(path) for path in group.folders],
        }

    def _environment(self) -> dict[str, str]:
        tmp = str(self._folder / "tmp")
        return {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": tmp,
            "TMPDIR": tmp,
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _feed(self, process: "subprocess.Popen[bytes]", request: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; its exit code says more

    def _listen(self, process: "subprocess.Popen[bytes]", on_line: OnLine, should_stop: Callable[[], bool]) -> None:
        assert process.stdout is not None
        start = self._clock.monotonic_s()
        next_size_check = start + _SIZE_CHECK_S
        pending = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(_POLL_S):
                    chunk = os.read(process.stdout.fileno(), 65536)
                    if not chunk:
                        return
                    pending += chunk
                    *complete, rest = bytes(pending).split(b"\n")
                    pending = bytearray(rest)
                    for line in complete:
                        self._take(line, on_line)
                    if len(pending) > MAX_LINE_BYTES:
                        raise BadAnswerError(f"the converter wrote a line of more than {MAX_LINE_BYTES} bytes")
                now = self._clock.monotonic_s()
                if should_stop():
                    raise StoppedError("the conversion worker was asked to stop")
                if now - start > self._limits.wall_s:
                    raise ChildTimeoutError(
                        f"the conversion took longer than {self._limits.wall_s:g} s and was ended",
                        next_step="publish a smaller model or fewer calibration samples, or raise `job_timeout_s`",
                    )
                if now >= next_size_check:
                    next_size_check = now + _SIZE_CHECK_S
                    self._check_size()

    def _take(self, line: bytes, on_line: OnLine) -> None:
        self._lines += 1
        if self._lines > MAX_LINES:
            raise BadAnswerError(f"the converter wrote more than {MAX_LINES} lines")
        if not line.strip():
            return
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadAnswerError(f"the converter wrote a line that is no JSON: {line[:80]!r}") from error
        if not isinstance(document, dict):
            raise BadAnswerError("the converter wrote a line that is no JSON object")
        kind = document.get("type")
        if kind == "bundle":
            self._answer.bundles[str(document.get("profile"))] = document
        elif kind == "refused":
            self._answer.refused[str(document.get("profile"))] = document
        elif kind == "tools" and self._lines > 1:
            raise BadAnswerError("the converter said what it is after it had begun to work")
        elif kind == "result":
            self._is_complete = True
        elif kind == "error":
            raise ChildRefusalError(
                str(document.get("message", "the converter gave no reason")),
                code=str(document.get("code", "convert.error")),
                next_step=str(document.get("next", "")),
            )
        else:
            on_line(document)

    def _check_size(self) -> None:
        total = folder_bytes(self._folder / "out") + folder_bytes(self._folder / "tmp")
        if total > self._limits.output_bytes:
            raise OutputTooLargeError(
                f"the conversion wrote {total} bytes, it may write {self._limits.output_bytes}",
                next_step="publish a smaller model, or raise `job_output_bytes`",
            )

    def _crash(self, code: int) -> ConversionError:
        if code == NO_SANDBOX:
            with self._log_path.open("rb") as log:
                return SandboxMissingError(
                    f"the converter was not started: {_tail(log)}",
                    next_step="run the server as a user of its own, not as root; `edgectl server check` shows which layers work",
                )
        if code in _KILLED:  # its own bugs and limits end a process by other signals
            return ChildKilledError(
                "the system ended the converter (SIGKILL), most likely because memory ran out",
                next_step="see the system's log; give the server more memory or fewer `converter_workers`, then publish again",
            )
        how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        with self._log_path.open("rb") as log:
            tail = _tail(log)
        return ChildCrashError(
            f"the converter {how} without a result; its last words: {tail or '(none)'}",
            next_step="run `edgectl convert MODEL` to see the whole log; a model that crashes it is not offered",
        )


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Make the folder of one child, and remove it with all that is in it at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for name in JOB_FOLDERS:
        (folder / name).mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, without following links."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118  # hot loop over a tree
            except FileNotFoundError:
                continue
    return total


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_TAIL_BYTES))
    return " | ".join(log.read().decode("utf-8", "replace").split("\n")[-6:]).strip(" |")


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue
