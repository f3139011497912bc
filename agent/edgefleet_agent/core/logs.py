"""Log lines of the agent: a fixed phrase, then its fields as key=value. To stderr; systemd or the caller keeps them."""

import logging
import sys

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Appends the fields given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = " ".join(f"{key}={_printable(value)}" for key, value in vars(record).items() if key not in _OWN)
        line = super().format(record)
        return f"{line} {fields}" if fields else line


def _printable(value: object) -> str:
    """Return a field's text with control characters escaped: what a stranger sent never looks like a line of ours."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def set_up_logging(level: str, process: str) -> None:
    """Send all log lines of this process to stderr. process: its name in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(f"%(asctime)s %(levelname)s {process} %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
