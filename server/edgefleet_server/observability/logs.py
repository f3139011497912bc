"""How log lines of the server's processes look: time, level, process word, logger, event phrase, then the fields.

Server and conversion worker agree by it: neither may import the other.
"""

import logging
import sys

from edgefleet_protocol.log_fields import with_fields

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class FieldFormatter(logging.Formatter):
    """Appends what was passed as `extra` to the line: `release signed release=digits@1.0.0`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        return with_fields(super().format(record), fields)


def set_up(process: str, level: str) -> None:
    """Send all log lines of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn.error", "alembic.runtime.migration"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
