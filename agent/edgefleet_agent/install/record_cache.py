"""The records of all models while agentd runs: on the disk first, then in memory, then in a report.

1. `write` returns when the record is on the disk; the report of it follows, never the other way round.
2. Figures of what serves are kept in memory and put on the disk `FIGURES_EVERY_S` after the first that is not there yet, and with
   every other write, so before every verdict. A kill forgets at most that much and what the worker had not reported, half a second
   on trial. Once a version is proven, `FIGURES_SETTLED_S` is enough: they are only the measure for its successor.
3. Two times: `now_s` measures how long something lasts, by a steady time, the clock at our start plus what has passed since, so
   that a clock set right in the middle (1970 until the network is there) ends no trial and blocks no retry. What a document says
   (`not_before`, `expires`) is compared with the clock itself, `clock_s`.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Protocol

from edgefleet_agent.install import machine
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.records import ModelRecord, Quarantine
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import EventKind


class Reporter(Protocol):
    """Reports installs to the server."""

    def changed(self) -> None:
        """The state is another one; a report is due soon."""
        ...

    def event(self, kind: EventKind, record: ModelRecord, *, code: str = "", reason: str = "") -> None:
        """Something happened once to a model."""
        ...

    def quarantined(self, record: ModelRecord, entry: Quarantine) -> None:
        """A digest will not be tried again by itself."""
        ...


FIGURES_EVERY_S = 5
FIGURES_SETTLED_S = 3_600

log = logging.getLogger(__name__)


@contextlib.contextmanager
def _tolerant(model: str) -> Iterator[None]:
    """Go on where the disk cannot be written: full, or read-only."""
    try:
        yield
    except OSError as error:
        log.warning("record not written", extra={"model": model, "reason": str(error)})


class RecordCache:
    """Records by model, and the ways to change them. trouble: why the last one could not be written, "" when it could."""

    def __init__(self, journal: Journal, reporter: Reporter, clock: Clock) -> None:
        self.records: dict[str, ModelRecord] = {}
        self.trouble = ""
        self.reporter = reporter
        self._journal = journal
        self._clock = clock
        self._offset_s = clock.now().timestamp() - clock.monotonic_s()
        self._unsaved_s: dict[str, int] = {}

    def now_s(self) -> int:
        """Steady unix seconds: to measure by."""
        return int(self._offset_s + self._clock.monotonic_s())

    def clock_s(self) -> int:
        """What the clock says now, unix seconds: to compare documents with."""
        return int(self._clock.now().timestamp())

    def write(self, record: ModelRecord, *, code: str = "", reason: str = "") -> ModelRecord:
        """Journal first, then memory, then the report. code, reason: of the event, where the record has no error. Raises OSError."""
        before = self.records.get(record.model)
        self.save(record)
        if before is None or before.phase is not record.phase or before.error_code != record.error_code:
            code, reason = record.error_code or code, record.reason or reason
            self.reporter.event(EventKind.PHASE, record, code=code, reason=reason)
        self._tell_quarantine(before, record)
        self.reporter.changed()
        return record

    def recovered(self, found: ModelRecord, record: ModelRecord) -> ModelRecord:
        """Take a record as it was read at the start; what was changed in it is put on the disk first, if that can be written.

        If not, the old one stays there, and the next start comes to the same again: what is whole must serve also then.
        """
        if record != found:
            with _tolerant(record.model):
                self._journal.write(record)
            self._tell_quarantine(found, record)
        self.records[record.model] = record
        return record

    def count(self, record: ModelRecord) -> ModelRecord:
        """Take a record in which only something was counted: memory at once, the disk if it can be written."""
        self.keep_figures(record)
        with _tolerant(record.model):
            self.save(record)
        return record

    def _tell_quarantine(self, before: ModelRecord | None, record: ModelRecord) -> None:
        """Report every digest that is quarantined now and was not before."""
        known = before.quarantine if before is not None else []
        for entry in record.quarantine:
            if entry not in known:
                self.reporter.quarantined(record, entry)

    def save(self, record: ModelRecord) -> ModelRecord:
        """Journal, then memory. Raises OSError."""
        try:
            self._journal.write(record)
        except OSError as error:
            self.trouble = (
                f"the state folder cannot be written: {error.strerror}: free space there, or look at the disk"
            )
            self.reporter.changed()
            raise
        self.trouble = ""
        self.records[record.model] = record
        self._unsaved_s.pop(record.model, None)
        return record

    def keep_figures(self, record: ModelRecord) -> ModelRecord:
        """Memory now, the disk soon."""
        self.records[record.model] = record
        self._unsaved_s.setdefault(record.model, self.now_s())
        return record

    def save_figures(self) -> None:
        """Put on the disk what has waited long enough. Raises OSError."""
        for model, since_s in list(self._unsaved_s.items()):
            record = self.records[model]
            if self.now_s() - since_s >= (FIGURES_EVERY_S if machine.is_on_trial(record) else FIGURES_SETTLED_S):
                self.save(record)

    def forget(self, model: str) -> bool:
        """Remove what the disk holds of a model that nothing runs of, and say whether there was any.

        Its last record stays in memory, for the report; on the disk only when it names digests to refuse. Raises OSError.
        """
        if self._journal.is_bare(model, keep_record=bool(self.records[model].quarantine)):
            return False
        self._journal.remove(model, keep_record=bool(self.records[model].quarantine))
        self._unsaved_s.pop(model, None)
        return True

    def close(self) -> None:
        """Put on the disk what is only in memory, if it can be written."""
        for model in list(self._unsaved_s):
            with contextlib.suppress(OSError):
                self.save(self.records[model])
