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

from edgefleet_protocol.ecs_log import ecs_text
from edgefleet_protocol.log_fields import with_fields

WINDOW_S: Final = 1.0
PHRASE_BURST: Final = 50
MAX_KEYS: Final = 1000
_VARYING: Final = frozenset({"request_id"})
PLAIN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
"""What a record has without fields."""


class FieldFormatter(logging.Formatter):
    """Appends what was passed as `extra` to the line: `release signed release=digits@1.0.0`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {name: value for name, value in vars(record).items() if name not in PLAIN}
        return with_fields(super().format(record), fields)


class EcsFormatter(logging.Formatter):
    """Writes a line as JSON with the names of ECS. process: the word of this process."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {name: value for name, value in vars(record).items() if name not in PLAIN}
        stack_trace = self.formatException(record.exc_info) if record.exc_info else ""
        return ecs_text(record, fields, "edgefleet", self._process, stack_trace)


class RepeatHandler(logging.StreamHandler[TextIO]):
    """Writes lines, but not the same one more often than once a second. Thread-safe, as every handler is.

    also: handlers that get what is written, and nothing else.
    """

    def __init__(self, stream: TextIO, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self.also: list[logging.Handler] = []
        self._now_s = monotonic_s
        self._seen: dict[tuple[object, ...], tuple[float, int, int, logging.LogRecord]] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it. Never raises, as no handler of Python's does: a wrong line may not fail its caller."""
        try:
            self._take(record)
        except Exception:  # noqa: BLE001  # as there
            self.handleError(record)

    def _take(self, record: logging.LogRecord) -> None:
        now_s = self._now_s()
        self.write_counts(now_s)
        if self._is_let_through(_line_key(record), 1, now_s, record) and self._is_let_through(
            (record.name, record.levelno, record.msg), PHRASE_BURST, now_s, record
        ):
            self._write(record)
            return
        if self._timer is None:
            self._timer = threading.Timer(WINDOW_S, self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def write_counts(self, now_s: float) -> None:
        """Forget what is older than a second, and say how often it was left out."""
        old = [key for key, (began_s, *_rest) in self._seen.items() if now_s - began_s >= WINDOW_S]
        for _, _, left_out, record in [self._seen.pop(key) for key in old]:
            if left_out:
                again = logging.makeLogRecord(
                    {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
                    | {"msg": f"{_first_line(record)} (repeated)", "times": left_out}
                )
                self._write(again)

    def _write(self, record: logging.LogRecord) -> None:
        super().emit(record)
        for handler in self.also:
            handler.handle(record)

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
    fields = sorted((k, repr(v)) for k, v in vars(record).items() if k not in PLAIN and k not in _VARYING)
    error = record.exc_info[1] if record.exc_info else None
    return (
        record.name,
        record.levelno,
        record.getMessage(),
        *fields,
        type(error),
        None if error is None else str(error),
    )


def also_to(handler: logging.Handler) -> Callable[[], None]:
    """Give another handler every line that is written; return what ends that. Without `set_up` no line is written."""
    written = [one for one in logging.getLogger().handlers if isinstance(one, RepeatHandler)]
    for one in written:
        one.also.append(handler)

    def end() -> None:
        for one in written:
            one.also.remove(handler)

    return end


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
