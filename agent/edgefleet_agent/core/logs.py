"""Log lines of the agent: a fixed phrase, then its fields as key=value. To stderr; systemd or the caller keeps them.

agentd keeps them on its disk as well, with what its workers and its install children say, bounded, for `edge-agent logs`:
1. Two files of at most LIMIT_BYTES: `logs/agent.log` and the one before it, `agent.log.1`.
2. Children inherit descriptor 2. `Capture` makes that the writing end of a pipe, and agentd's loop files what comes out of it:
   so the last words of native code that crashed are kept as well. The pipe never blocks a child: a full one loses lines.
3. A disk that takes no line costs lines, never work: nothing here raises once the agent runs.
4. Not fsynced: a log is worth no flash wear; what an idle agent writes is a few lines a day.
"""

import contextlib
import io
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TextIO, cast

from edgefleet_protocol.log_fields import with_fields

LOG_FORMAT = "EDGEFLEET_AGENT_LOG_FORMAT"
"""How agentd's children learn the format of lines: the variable of the setting."""
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Appends the fields given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {name: value for name, value in vars(record).items() if name not in _OWN}
        return with_fields(super().format(record), fields)


class EcsFormatter(logging.Formatter):
    """Writes a line as JSON with the names of ECS. process: the word of this process."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        from edgefleet_protocol.ecs_log import ecs_text  # nobody pays for it who writes text

        fields = {name: value for name, value in vars(record).items() if name not in _OWN}
        stack_trace = self.formatException(record.exc_info) if record.exc_info else ""
        return ecs_text(record, fields, "edgefleet-agent", self._process, stack_trace)


def set_up_logging(level: str, process: str) -> None:
    """Send all log lines of this process to stderr. process: its name in each line. agentd's children have its format."""
    handler = logging.StreamHandler(sys.stderr)
    text = FieldFormatter(f"%(asctime)s %(levelname)s {process} %(message)s")
    handler.setFormatter(EcsFormatter(process) if os.environ.get(LOG_FORMAT) == "json" else text)
    logging.basicConfig(level=level, handlers=[handler])


LIMIT_BYTES = 512 * 1024
MAX_LINE_BYTES = 4_096
_READ_BYTES = 65_536


class LogFile:
    """A bounded file of lines."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = path
        self._limit = limit_bytes
        self._fd = -1
        self._size = 0
        self._lock = threading.Lock()  # paho's threads log too
        self.lost = 0
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, data: bytes) -> None:
        """Append bytes of whole lines. What the disk does not take is counted in `lost`."""
        with self._lock:
            try:
                if self._fd < 0:
                    self._open()
                if self._size and self._size + len(data) > self._limit:
                    self._rotate()
                self._size += os.write(self._fd, data)
            except OSError:
                self.lost += 1
                self.close()

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._open()


class Capture:
    """Takes over descriptor 2 of this process, for itself and for all its children."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._rest = b""
        self._read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._real = os.dup(2)
        os.set_inheritable(self._real, False)
        os.dup2(write, 2, inheritable=True)
        os.close(write)
        # Python's own words, a last traceback among them, go straight to where stderr was
        self._stderr = sys.stderr
        self._both = cast("TextIO", _Both(self._real, file))
        self._replace(self._stderr, self._both)

    def fileno(self) -> int:
        """Descriptor to watch; `read` when it is readable."""
        return self._read

    def read(self) -> None:
        """Pass on what children said."""
        while True:
            try:
                data = os.read(self._read, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                return
            whole, newline, rest = (self._rest + data).rpartition(b"\n")
            self._rest = rest
            if len(rest) > MAX_LINE_BYTES:
                whole, newline, self._rest = whole + newline + rest, b"\n", b""
            if newline:
                _pass_on(self._real, whole + newline)
                self._file.write(whole + newline)

    def close(self) -> None:
        """Give descriptor 2 back. What children still say goes to the real one."""
        self.read()
        self._replace(self._both, self._stderr)
        os.dup2(self._real, 2)
        os.close(self._read)
        os.close(self._real)
        self._file.close()

    @staticmethod
    def _replace(before: TextIO, after: TextIO) -> None:
        sys.stderr = after
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(after)


class _Both(io.TextIOBase):
    """The text stream that stands for stderr while it is captured: writes to the real one and into the file."""

    def __init__(self, fd: int, file: LogFile) -> None:
        self._fd = fd
        self._file = file

    def write(self, text: str) -> int:
        """Write to both."""
        data = text.encode("utf-8", "backslashreplace")
        _pass_on(self._fd, data)
        self._file.write(data)
        return len(text)

    def fileno(self) -> int:
        """Descriptor of the real stderr."""
        return self._fd


def _pass_on(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a closed terminal: the file still has it
        os.write(fd, data)


def tail(path: Path, max_bytes: int) -> list[str]:
    """Return the last whole lines of the log, the one before included, in at most `max_bytes`. Raises OSError."""
    data = b""
    for file in (path.with_name(f"{path.name}.1"), path):
        with contextlib.suppress(FileNotFoundError):
            data += file.read_bytes()
    if len(data) > max_bytes:
        data = data[-max_bytes:].partition(b"\n")[2]
    return data.decode("utf-8", "backslashreplace").splitlines()
