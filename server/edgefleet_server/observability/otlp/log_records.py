"""Log lines as records of OpenTelemetry: the phrase is the body, its fields are attributes, and the trace is that of the request."""

import logging
from typing import Final

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import get_current

from edgefleet_server.observability.logs import PLAIN

OWN: Final = ("opentelemetry", "urllib3", "requests")
"""Loggers of the export itself: what they say is not exported."""
SEVERITIES: Final = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class OtlpHandler(logging.Handler):
    """Gives lines to a logger of OpenTelemetry. Thread-safe; never blocks: what has no room in its queue is dropped."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._otlp = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on. Never raises: a wrong line is told as every handler of Python's tells it."""
        try:
            if not record.name.startswith(OWN):
                self._emit(record)
        except Exception:  # noqa: BLE001  # as in logging's own handlers: no line may fail the caller
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        attributes = {name: _plain(value) for name, value in vars(record).items() if name not in PLAIN}
        attributes["log.logger"] = record.name
        raised = record.exc_info[1] if record.exc_info else None
        if record.exc_info and raised is not None:
            attributes["exception.type"], attributes["exception.message"] = type(raised).__name__, str(raised)
            attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)
        at_ns = int(record.created * 1e9)
        self._otlp.emit(
            LogRecord(
                timestamp=at_ns, observed_timestamp=at_ns, context=get_current(), severity_text=record.levelname,
                severity_number=SEVERITIES.get(record.levelno, SeverityNumber.INFO), body=record.getMessage(), attributes=attributes,
            )
        )  # fmt: skip


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
