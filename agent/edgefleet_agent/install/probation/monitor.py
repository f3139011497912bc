"""Watches what serves: counts its starts and crashes, judges it by `trial`, and goes back to the previous slot.

1. A start is counted on the disk before it happens, so that a version during whose start the device dies is known at the next one.
2. No network is needed: figures come from the worker, the verdict from the record, the rollback target is on the disk.
3. A withdrawn release is no rollback target while anything else verifies (`machine.is_barred`).
4. A version is judged at each look of the loop while it is new, at each crash always, and before agentd starts it again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edgefleet_agent.errors import (
    NoPreviousVersionError,
    PreviousDamagedError,
    PreviousWithdrawnError,
    UnknownModelError,
)
from edgefleet_agent.install import machine
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.probation import memory_leak, trial
from edgefleet_agent.install.record_cache import RecordCache
from edgefleet_agent.install.records import ModelRecord, Tally, WithdrawnSlot
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_agent.worker.control.protocol import Failed, Golden, Stats
from edgefleet_protocol.messages import ErrorClass, EventKind, Phase

SETTLED_S = 60.0
"""A proven version that has served this long has its starts forgotten."""

log = logging.getLogger(__name__)


class ProbationMonitor:
    """The judge of what serves, for all models."""

    def __init__(
        self, book: RecordCache, slots: Slots, serving: Supervisor, limits: trial.Limits, room: Callable[[], Room]
    ) -> None:
        self._book = book
        self._slots = slots
        self._serving = serving
        self._limits = limits
        self._room = room
        self._resident: dict[str, memory_leak.Resident] = {}
        self._withdrawn: dict[str, str] = {}
        """Why bundles in slots are withdrawn, by digest: as it was verified last."""

    def start(self, record: ModelRecord) -> None:
        """Start what should serve after a start of agentd, or the previous one when the record already speaks against it."""
        if record.active is None:
            return
        facts = trial.Facts(serving=False, golden_ok=False)
        verdict = trial.judge(trial.started(record), facts, self._limits, now_s=self._book.now_s())
        is_counted = isinstance(verdict, trial.RollBack) and verdict.error_class is ErrorClass.CRASH
        if is_counted and self._apply(record, verdict):
            return
        self._serving.serve(record.model, record.active)

    def know_withdrawn(self, found: Sequence[WithdrawnSlot]) -> None:
        """Take over which bundles in slots are withdrawn, and tell of what serves and was not known to be."""
        known, self._withdrawn = self._withdrawn, {one.sha256: one.reason for one in found}
        for model, record in self._book.records.items():
            reason = self.why_withdrawn(model)
            if reason and record.active is not None and record.active.sha256 not in known:
                log.warning("what serves was withdrawn", extra={"model": model, "reason": reason})
                code = machine.RELEASE_WITHDRAWN_CODE
                self._book.reporter.event(EventKind.WITHDRAWN, record, code=code, reason=reason)

    def why_withdrawn(self, model: str) -> str:
        """Return why what serves of a model is withdrawn; "" when it is not."""
        record = self._book.records.get(model)
        active = record.active if record is not None else None
        return self._withdrawn.get(active.sha256, "") if active is not None else ""

    def before_start(self, model: str) -> None:
        """Count the start of an active worker. On a disk that cannot be written it is counted in memory: what is whole serves."""
        record = self._book.records.get(model)
        if record is not None:
            self._book.count(trial.started(record))

    def on_stats(self, model: str, sha256: str, stats: Stats) -> None:
        """A worker that serves, or drains, reported its figures."""
        record = self._book.records.get(model)
        if record is None:
            return
        if record.active is not None and record.active.sha256 == sha256 and machine.is_on_trial(record):
            known = self._resident.get(model, memory_leak.Resident())
            pid = self._serving.pids().get(model, 0)
            self._resident[model] = memory_leak.read(known, pid, self._book.now_s(), stats.rss_bytes)
        if stats.n or stats.errors:
            self._book.keep_figures(trial.counted(record, sha256, stats))

    def on_active_golden(self, model: str, golden: Golden) -> None:
        """The serving worker answered golden vectors; a wrong answer is a reason to go back, a busy worker is none."""
        if not golden.ok and golden.checked == 0:
            log.warning("golden check not run", extra={"model": model, "reason": golden.reason})
            return
        record = self._book.keep_figures(trial.checked(self._book.records[model], ok=golden.ok))
        if golden.ok:
            return
        self._book.reporter.event(EventKind.GOLDEN_MISMATCH, record, code="serving.golden", reason=golden.reason)
        self.roll_back(record, ErrorClass.GOLDEN, "serving.golden", golden.reason)

    def on_active_exit(self, model: str, how: str, failed: Failed | None) -> bool:
        """The serving worker ended unasked. Returns whether to start it again."""
        record = self._book.records[model]
        reason = f"{how}: {failed.reason}" if failed is not None else how
        now_s = self._book.now_s()
        record = self._book.count(trial.crashed(record, now_s=now_s, window_s=self._limits.crash_window_s))
        self._book.reporter.event(EventKind.CRASH, record, code="serving.crash", reason=reason)
        self._book.reporter.changed()
        verdict = trial.judge(record, self._facts(record), self._limits, now_s=now_s)
        if isinstance(verdict, trial.RollBack):
            message = f"{verdict.reason}; last: {reason}"
            return not self.roll_back(record, verdict.error_class, verdict.code, message)
        return record.active is not None

    def look(self, record: ModelRecord, *, replaced: bool) -> None:
        """Judge what serves now. replaced: a request for another version waits for the verdict."""
        if not machine.is_on_trial(record):
            if record.starts and self._serving.serving_s(record.model) >= SETTLED_S:
                self._book.save(trial.settled(record))
            return
        verdict = trial.judge(record, self._facts(record), self._limits, now_s=self._book.now_s(), replaced=replaced)
        if isinstance(verdict, trial.Commit):
            self._resident.pop(record.model, None)
            self._book.write(machine.proven(record, now_s=self._book.now_s()))
        else:
            self._apply(record, verdict)

    def _apply(self, record: ModelRecord, verdict: trial.Verdict) -> bool:
        if not isinstance(verdict, trial.RollBack):
            return False
        return self.roll_back(record, verdict.error_class, verdict.code, verdict.reason)

    def _facts(self, record: ModelRecord) -> trial.Facts:
        model = record.model
        return trial.Facts(
            serving=self._serving.is_serving(model), golden_ok=self._serving.golden_ok(model), leak=self._leak(record)
        )

    def _leak(self, record: ModelRecord) -> str:
        known = self._resident.get(record.model)
        pid = self._serving.pids().get(record.model)
        if known is None or record.active is None or not known.at or known.pid != pid:
            return ""
        info = self._slots.info(record.model, record.active.slot)
        room = self._room()
        limit_bytes = (info.peak_memory_bytes if info is not None else 0) or room.worker_limit_bytes
        return memory_leak.leak(
            known, memory_leak.Memory(limit_bytes, room.spare_bytes), min_span_s=self._limits.leak_min_s
        )

    def modes(self) -> Mapping[str, machine.Mode]:
        """Return how each model does."""
        now_s, limits = self._book.now_s(), self._limits
        return {
            model: machine.mode(
                record, crash_limit=limits.crash_limit, crash_window_s=limits.crash_window_s, now_s=now_s
            )
            for model, record in self._book.records.items()
        }

    def progress(self) -> dict[str, dict[str, int]]:
        """Return how far each new version on probation is, by model."""
        found = {model: trial.progress(record, self._limits) for model, record in self._book.records.items()}
        return {model: one for model, one in found.items() if one is not None}

    def go_back(self, model: str, reason: str, withdraw: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        """Go back to the previous slot because an operator says so; returns the record after it. Reads a whole bundle.

        withdraw: ends an install that is under way. Raises UnknownModelError, NoPreviousVersionError, PreviousWithdrawnError,
        PreviousDamagedError; then nothing was changed.
        """
        record = self._book.records.get(model)
        if record is None or record.active is None:
            raise UnknownModelError(f"no model {model!r} serves on this device")
        previous = record.previous
        if previous is None:
            raise NoPreviousVersionError(
                f"{model} has no previous version on this device; {record.active.target} serves"
            )
        active = record.active
        is_last_resort = active.sha256 in self._withdrawn or not self._slots.rehash(model, active.slot, active.sha256)
        if previous.sha256 in self._withdrawn and not is_last_resort:
            raise PreviousWithdrawnError(f"{previous.target} was withdrawn, and {active.target} is whole and was not")
        if not self._slots.rehash(model, previous.slot, previous.sha256):
            raise PreviousDamagedError(f"slot {previous.slot} no longer holds {previous.target} as it was verified")
        if record.phase in machine.INSTALLING:
            record = withdraw(record)
        self.roll_back(record, ErrorClass.INTERNAL, "operator.rollback", reason, last_resort=is_last_resort)
        return self._book.records[model]

    def roll_back(
        self, record: ModelRecord, error_class: ErrorClass, code: str, reason: str, *, last_resort: bool = False
    ) -> bool:
        """Go back to the previous slot. False when there is nothing better than to go on with what is there. Reads a whole bundle.

        last_resort: what serves verifies no more, so that even a withdrawn release is better.
        """
        if record.phase in machine.INSTALLING:
            return False  # the install under way will replace it
        sound = self._slots.with_sound_previous(record)
        record = record if sound is record else self._book.save(sound)
        is_barred = not last_resort and machine.is_barred(record, self._withdrawn, code)
        if (record.previous is None or is_barred) and (
            record.phase is not Phase.PROBATION or machine.is_proven(record)
        ):
            if not record.error_code:  # what was reported of another version stays
                record = msgspec.structs.replace(record, error_class=error_class, error_code=code, reason=reason)
                self._book.write(record)
            return False
        if is_barred:  # nothing serves rather than that
            record = msgspec.structs.replace(record, previous=None, before=Tally())
        if record.previous is not None and (why := self._withdrawn.get(record.previous.sha256)):
            reason = f"{reason}; it goes back to a withdrawn release, since nothing else verifies: {why}"
        after = self._book.write(machine.rolled_back(record, error_class, code, reason, now_s=self._book.now_s()))
        self._book.reporter.event(EventKind.ROLLBACK, after, code=code, reason=reason)
        log.warning("rolled back", extra={"model": record.model, "code": code, "reason": reason})
        self._resident.pop(record.model, None)
        self._serving.stop(record.model)
        if after.active is not None:
            self._serving.serve(record.model, after.active)
        return True

    def close(self) -> None:
        """Agentd ends in order: that start of what serves was none too many. Raises OSError."""
        for record in list(self._book.records.values()):
            after = trial.left_in_order(record)
            if after is not record:
                self._book.save(after)
