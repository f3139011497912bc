"""agentd's side of a worker: start the process with its descriptors and speak the control protocol. Loads no numpy.

1. The child gets only the descriptors named in `Start` and its control socket; everything else is closed.
2. The returned socket is non-blocking for agentd's selector; end of file on it means the worker is gone.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgefleet_agent.errors import SocketError
from edgefleet_agent.worker.control.protocol import (
    MAX_CONTROL_BYTES,
    Start,
    ToAgentd,
    ToWorker,
    decode_to_agentd,
    encode_control,
)
from edgefleet_agent.worker.control.start_priority import FLAG

LISTEN_BACKLOG = 128
SUN_PATH_BYTES = 107
"""What Linux takes as the path of a unix socket."""


class WorkerLink:
    """The control socket of one worker and its process."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.process = process
        self.control = control

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self.process.pid

    def fileno(self) -> int:
        """Descriptor to select on."""
        return self.control.fileno()

    def send(self, message: ToWorker) -> None:
        """Send one message. Raises OSError (BrokenPipeError when the worker is gone)."""
        self.control.send(encode_control(message))

    def receive(self) -> ToAgentd | None:
        """Return the next message, None at end of file.

        Raises BlockingIOError when nothing is there, BadControlMessageError.
        """
        try:
            data = self.control.recv(MAX_CONTROL_BYTES)
        except ConnectionResetError:
            return None
        return decode_to_agentd(data) if data else None

    def close(self) -> None:
        """Close the control socket; a live worker then exits by itself."""
        self.control.close()


def start_worker(
    start: Start, *, command: Sequence[str] = (), limited: Callable[[int], bool] | None = None, gentle: str = ""
) -> WorkerLink:
    """Start the process, send it `start`, return the link; does not wait for `Ready`.

    start.bundle_fd and start.listener_fds must be open here; they are inherited under the same numbers. command: the
    interpreter and its prefix (default: this one), for devices that start Python through an emulator. limited: called with the
    process id before the worker learns what to load; True says that its memory is limited, so that it need not do it by itself.
    gentle: "idle" or "low", the priority to load at while another worker answers (`start_priority`).
    The worker's stderr is ours. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        arguments = [
            *(command or (sys.executable,)),
            "-m",
            "edgefleet_agent.worker",
            "--control-fd",
            str(theirs.fileno()),
            *((FLAG, gentle) if gentle else ()),
        ]
        process = subprocess.Popen(
            arguments,
            pass_fds=(theirs.fileno(), start.bundle_fd, *start.listener_fds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            close_fds=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    link = WorkerLink(process, ours)
    if limited is not None and limited(process.pid):
        start = msgspec.structs.replace(start, memory_limit_bytes=None)
    link.send(start)
    return link


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a listening loopback socket for workers to inherit; port 0 takes a free one. Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Return a listening unix socket of mode 0660; a stale file of that name is replaced. Raises SocketError, OSError."""
    taken = len(os.fsencode(path))
    if taken > SUN_PATH_BYTES:
        raise SocketError(
            f"the unix socket {path} cannot be made: its path has {taken} bytes, and Linux takes {SUN_PATH_BYTES}",
            next_step="use a state folder with a shorter path, or set TMPDIR to a short folder like /tmp",
        )
    # no longer than the names of the agent's sockets, or a path that fits would not be usable
    temporary = path.with_name(f".{os.getpid()}.tmp")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o660)
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
        # renamed only when it listens: nobody can connect to a dead or half-made socket of this name
        temporary.replace(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SocketError(
            f"the unix socket {path} cannot be made: {error.strerror or error}",
            next_step=f"make sure that {path.parent} is there, has room, and that the agent's user may write to it",
        ) from error
    return listener
