"""Log lines of the agent: a fixed phrase, then its fields as key=value. To stderr; systemd or the caller keeps them."""

import logging
import sys

from edgefleet_protocol.log_fields import with_fields

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Appends the fields given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {name: value for name, value in vars(record).items() if name not in _OWN}
        return with_fields(super().format(record), fields)


def set_up_logging(level: str, process: str) -> None:
    """Send all log lines of this process to stderr. process: its name in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(f"%(asctime)s %(levelname)s {process} %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
