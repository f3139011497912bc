"""How log lines of the server's processes look: time, level, process word, logger, event phrase, then the fields.

Server and conversion worker look alike by it.
"""

import logging
import sys

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class FieldFormatter(logging.Formatter):
    """Appends what was passed as `extra` to the line: `release signed release=digits@1.0.0`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = " ".join(
            f"{name}={_printable(value)}" for name, value in record.__dict__.items() if name not in _PLAIN
        )
        line = super().format(record)
        if not fields:
            return line
        first, newline, rest = line.partition("\n")
        return f"{first} {fields}{newline}{rest}"


def _printable(value: object) -> str:
    """Return a field's text with control characters escaped: what a stranger sent never looks like a line of ours."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def set_up(process: str, level: str) -> None:
    """Send all log lines of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn.error", "alembic.runtime.migration"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
