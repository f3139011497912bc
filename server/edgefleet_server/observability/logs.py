"""How log lines of the server's processes look: time, level, process word, logger, event phrase, then the fields; or JSON (ECS).

Server and conversion worker agree by it: neither may import the other.

What strangers can cause over and over must not fill the disk: the same line, its traceback included, comes once a second, and one
phrase with different fields PHRASE_BURST times a second. A line a second later says how often it was left out.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

from edgefleet_protocol.ecs_log import LoggedError, LogLine, ecs_text
from edgefleet_protocol.log_fields import with_fields

WINDOW_S: Final = 1.0
PHRASE_BURST: Final = 50
MAX_KEYS: Final = 1000
_VARYING: Final = frozenset({"request_id"})
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class FieldFormatter(logging.Formatter):
    """Appends what was passed as `extra` to the line: `release signed release=digits@1.0.0`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        return with_fields(super().format(record), fields)


class EcsFormatter(logging.Formatter):
    """Writes a line as JSON with the names of ECS. process: the word of this process."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        raised = record.exc_info[1] if record.exc_info else None
        error = None
        if record.exc_info and raised is not None:
            error = LoggedError(type(raised).__name__, str(raised), self.formatException(record.exc_info))
        what = (record.created, record.levelname, record.name, record.getMessage())
        return ecs_text(LogLine(*what, "edgefleet", self._process, record.process or 0, fields, error))


class RepeatHandler(logging.StreamHandler[TextIO]):
    """Writes lines, but not the same one more often than once a second. Thread-safe, as every handler is."""

    def __init__(self, stream: TextIO, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._now_s = monotonic_s
        self._seen: dict[tuple[object, ...], tuple[float, int, int, logging.LogRecord]] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        now_s = self._now_s()
        self.write_counts(now_s)
        if self._is_let_through(_line_key(record), 1, now_s, record) and self._is_let_through(
            (record.name, record.levelno, record.msg), PHRASE_BURST, now_s, record
        ):
            super().emit(record)
            return
        if self._timer is None:
            self._timer = threading.Timer(WINDOW_S, self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def write_counts(self, now_s: float) -> None:
        """Forget what is older than a second, and say how often it was left out."""
        old = [key for key, (began_s, *_rest) in self._seen.items() if now_s - began_s >= WINDOW_S]
        for key in old:
            _, _, left_out, record = self._seen.pop(key)
            if left_out:
                again = logging.makeLogRecord(
                    {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
                    | {"msg": f"{_first_line(record)} (repeated)", "times": left_out}
                )
                super().emit(again)

    def _is_let_through(self, key: tuple[object, ...], most: int, now_s: float, record: logging.LogRecord) -> bool:
        began_s, written, left_out, first = self._seen.get(key, (now_s, 0, 0, record))
        if written == 0 and len(self._seen) >= MAX_KEYS:
            return True
        is_new = written < most
        self._seen[key] = (began_s, written + is_new, left_out + (not is_new), first)
        return is_new

    def _on_timer(self) -> None:
        self.acquire()
        try:
            self._timer = None
            self.write_counts(self._now_s())
        finally:
            self.release()


def _first_line(record: logging.LogRecord) -> str:
    return record.getMessage().partition("\n")[0]


def _line_key(record: logging.LogRecord) -> tuple[object, ...]:
    """Return what makes two lines the same: all but the time and what differs in every request."""
    fields = sorted((k, repr(v)) for k, v in vars(record).items() if k not in _PLAIN and k not in _VARYING)
    error = record.exc_info[1] if record.exc_info else None
    return (
        record.name,
        record.levelno,
        record.getMessage(),
        *fields,
        type(error),
        None if error is None else str(error),
    )


def set_up(process: str, level: str, log_format: str = "text") -> None:
    """Send all log lines of this process to stderr. log_format: text, or json with the names of ECS."""
    handler = RepeatHandler(sys.stderr)
    text = FieldFormatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")
    handler.setFormatter(EcsFormatter(process) if log_format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn.error", "alembic.runtime.migration"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
