"""A server that runs in the background: how it is made, started, waited for and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final

import typer

from edgefleet_cli.admin.data_folder import data_flag
from edgefleet_cli.core.contexts import Context
from edgefleet_cli.core.errors import BadAnswerError, CliError, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.subprocesses import child_flags, python_module
from edgefleet_cli.core.transport.reply import struct_of

READY_S: Final = 90.0
STOP_S: Final = 30.0
_POLL_S: Final = 0.1
_MQTTS: Final = 8883
_BROKER_PORT: Final = "broker_port = "
LOG: Final = "server.log"
_ERROR: Final = "error: "
_NEXT = " next: "
_TAIL_BYTES: Final = 4000


class Up(Struct, frozen=True):
    """A server that runs in the background, and the context that was saved for it.

    token: file of the first admin token. contexts: file in which the context is. device, state: of this machine, "" when it is none.
    """

    url: str
    pid: int
    data: str
    log: str
    token: str
    context: str
    contexts: str
    device: str = ""
    state: str = ""


class Running(Struct, frozen=True):
    """What a running server says of itself in `run/server.json`. process: when it began, by boot; "" = an older server."""

    api_url: str
    pid: int
    process: str = ""


class ServerStartError(CliError):
    """The server did not start, or did not stop."""

    code = "cli.server_start"


def stop(session: Session, folder: Path, pid: int) -> None:
    """End a server and wait until it has. Raises ServerStartError when it still runs after STOP_S."""
    os.kill(pid, signal.SIGTERM)
    end_s = session.clock.monotonic_s() + STOP_S
    while _is_alive(pid):
        if session.clock.monotonic_s() > end_s:
            raise ServerStartError(
                f"the server (process {pid}) still runs {STOP_S:.0f} s after it was asked to stop",
                why="it may be in the middle of a conversion",
                next_step=f"see {folder / 'run' / LOG}, and end process {pid} if necessary",
            )
        session.clock.sleep(_POLL_S)


def make(session: Session, folder: Path, *, public_host: str | None, broker: str | None, db: str | None = None) -> None:
    """Make a new data folder, and show no token. Raises typer.Exit with the code of the process that could not."""
    flags = child_flags(public_host=public_host, broker=broker, db=db)
    command = python_module("edgefleet_server.process.init", "--data", str(folder), *flags)
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise typer.Exit(_repeat(session, done))
    session.out.note(done.stderr.decode("utf-8", "replace").strip() or f"made {folder}")
    _keep_broker_port(folder)


def _keep_broker_port(folder: Path) -> None:
    """Write down a port for the broker: devices that have enrolled must find it there after every start."""
    port = _MQTTS if _is_free(_MQTTS) else _free_port()
    with (folder / "server.toml").open("a", encoding="utf-8") as file:
        file.write(f"{_BROKER_PORT}{port}\n")


def _take_another_port(folder: Path, why: str) -> bool:
    """Write down another port for the broker where a server could not start for the one that was kept; return whether it was so.

    why: what the server said. The program that had the port may have let go of it since.
    """
    file = folder / "server.toml"
    text, _, port = file.read_text("utf-8").rpartition(_BROKER_PORT)
    if f"port {port.strip()} of " not in why:
        return False
    file.write_text(f"{text}{_BROKER_PORT}{_free_port()}\n", "utf-8")
    return True


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _repeat(session: Session, done: subprocess.CompletedProcess[bytes]) -> int:
    session.out.note(done.stderr.decode("utf-8", "replace").strip())
    return done.returncode


def started(session: Session, folder: Path, flags: list[str], ca_file: str | None) -> Running:
    """Start a server and wait until it is ready. ca_file: of the CA of the certificate that its settings may name."""
    if ca_file is not None:
        from edgefleet_cli.core.transport.api_client import verification

        verification("https://", ca_file)  # one that cannot be read is refused before anything runs
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    with (folder / "run" / LOG).open("ab") as log:
        process = subprocess.Popen(
            python_module("edgefleet_server.main", "--data", str(folder), *flags),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end_s = session.clock.monotonic_s() + (session.options.timeout_s or READY_S)
    while process.poll() is None and session.clock.monotonic_s() < end_s:
        running = running_server(folder)
        if running is not None and running.pid == process.pid and _is_ready(running.api_url, ca_file):
            return running
        session.clock.sleep(_POLL_S)
    if process.poll() is None:
        process.terminate()
    why, next_step = _last_words(folder / "run" / LOG)
    raise ServerStartError(
        "the server did not become ready",
        why=why,
        next_step=next_step or f"`edgectl server check{data_flag(folder)}`",
    )


def started_new(session: Session, folder: Path, flags: list[str], ca_file: str | None) -> Running:
    """Start a server that was made just now. Where another program took the broker's port since, the server gets another one."""
    try:
        return started(session, folder, flags, ca_file)
    except ServerStartError as error:
        if not _take_another_port(folder, error.why):
            raise
        return started(session, folder, flags, ca_file)


def log_in(session: Session, folder: Path, url: str, name: str, known: Context | None) -> None:
    """Save the context of a running server. known: the one of that name until now; its CA file stays."""
    token_file = folder / "admin.token"
    if not token_file.is_file():
        if known is None or known.server != url:
            raise UsageError(
                "the server runs, but its admin token is not in its folder any more",
                why=f"{token_file} is gone",
                next_step=f"`edgectl login {url} --token-stdin` with a token of yours",
            )
        return
    token, ca_file = token_file.read_text("utf-8").strip(), known.ca_file if known else None
    session.contexts.put(Context(name, url, token, ca_file), make_current=True)


def running_server(folder: Path) -> Running | None:
    """Return what the running server of a folder says of itself, None when none runs."""
    try:
        running = struct_of(json.loads((folder / "run" / "server.json").read_text("utf-8")), Running)
    except (OSError, ValueError, BadAnswerError):
        return None
    if running.process and running.process != _process_mark(running.pid):
        return None  # it was killed, and its number is another process's
    return running if _is_alive(running.pid) else None


def _process_mark(pid: int) -> str:
    """Return what the server calls `process`, "" where there is no such process."""
    try:
        began = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()}:{began}"
    except (OSError, IndexError):
        return ""


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return pid > 0 and state != "Z"


def _is_ready(url: str, ca_file: str | None) -> bool:
    import httpx

    from edgefleet_cli.core.transport.api_client import verification

    try:
        return httpx.get(f"{url}/readyz", timeout=2.0, verify=verification(url, ca_file)).is_success
    except httpx.HTTPError:
        return False


def _last_words(log: Path) -> tuple[str, str]:
    """Return the last error of a log and its next step, "" where it names none; without an error the last line."""
    try:
        lines = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    place = max((place for place, line in enumerate(lines) if line.startswith(_ERROR)), default=None)
    if place is None:
        return (lines or ["it wrote nothing"])[-1], ""
    steps = [line.removeprefix(_NEXT) for line in lines[place:] if line.startswith(_NEXT)]
    return lines[place].removeprefix(_ERROR), steps[0] if steps else ""
