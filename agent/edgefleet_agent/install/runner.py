"""Carries out what `machine` decides: writes the record, then acts. One per agent, all models.

1. Every act is announced by a record on the disk first (`_write`); after a power cut `recover` goes on from there.
2. Reports follow the record, never the other way round; a commit does not need the network.
3. Two times: how long something lasts is told by a steady time, the clock at our start plus what has passed since, so that a
   clock set right in the middle (1970 until the network is there) ends no trial and blocks no retry. What a document says
   (`not_before`, `expires`) is compared with the clock itself. Everything else comes in as calls from the loop.
4. Figures of what serves are kept in the record and put on the disk `FIGURES_EVERY_S` after the first that is not there yet, and with
   every other write, so before every verdict. A kill forgets at most that much and what the worker had not told, half a second
   on trial. Once a version is proven, `FIGURES_SETTLED_S` is enough: they are only the measure for its successor.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edgefleet_agent.errors import NoPreviousVersionError, PreviousDamagedError, UnknownModelError
from edgefleet_agent.install import machine, trial, wishes
from edgefleet_agent.install.child_protocol import Fetched, FetchFailed, FetchProgress
from edgefleet_agent.install.intake import Intake, Job
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.machine import InstallEvent
from edgefleet_agent.install.preflight import Room, Unfit, check_disk, check_fit
from edgefleet_agent.install.records import DesiredOk, HoldOk, ModelRecord, Refusal, SlotInfo, SlotRef, Wanted
from edgefleet_agent.install.reporter import Reporter
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.serving import ModelServing
from edgefleet_agent.worker.protocol import Failed, Golden, Loaded, Ready, Stats, ToAgentd
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import ErrorClass, EventKind, Phase

FIGURES_EVERY_S = 5
FIGURES_SETTLED_S = 3_600

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Moment:
    """What is known about a model only while agentd runs."""

    progress_pct: int = 0
    retry_at_s: int = 0
    retries: int = 0


class Runner:
    """The installer."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        journal: Journal,
        slots: Slots,
        intake: Intake,
        serving: ModelServing,
        reporter: Reporter,
        limits: trial.Limits,
        room: Callable[[], Room],
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._slots = slots
        self._intake = intake
        self._serving = serving
        self._reporter = reporter
        self._limits = limits
        self._room = room
        self._clock = clock
        self._offset_s = clock.now().timestamp() - clock.monotonic_s()
        self._records: dict[str, ModelRecord] = {}
        self._moments: dict[str, _Moment] = {}
        self._wanted: dict[str, Wanted] = {}
        self._is_told = False  # of any document: without one, nothing wanted does not mean that nothing is wanted
        self._refused: dict[str, Refusal] = {}
        self._hold: HoldOk | None = None
        self._unsaved_s: dict[str, int] = {}

    @property
    def records(self) -> dict[str, ModelRecord]:
        """Return the records by model."""
        return self._records

    def progress_pct(self, model: str) -> int:
        """Return how much of a running download is there."""
        return self._moment(model).progress_pct

    @property
    def is_busy(self) -> bool:
        """Whether an install or a trial runs, so that time matters now."""
        return any(r.phase in machine.INSTALLING or r.phase is Phase.PROBATION for r in self._records.values())

    @property
    def is_watching(self) -> bool:
        """Whether a version is on trial, so that its figures matter now."""
        return any(machine.is_on_trial(r) for r in self._records.values())

    def is_held(self, model: str) -> bool:
        """Whether a hold keeps what is wanted of this model from beginning."""
        record = self._records.get(model)
        return record is not None and self._decide(record, self._wanted.get(model)) == wishes.HELD

    def lend_idle_slot(self, model: str) -> None:
        """A candidate takes the slot of the way back: from now on there is none. Raises OSError."""
        self._save(machine.lent(self._records[model]))

    # ---- start

    def recover(self) -> None:
        """Read all records, check the slots' bytes, start what should serve, resume what was interrupted. Reads whole bundles."""
        for model in self._journal.models():
            found = self._journal.read(model) or ModelRecord(model=model)
            record = machine.recovered(self._slots.surviving(found), now_s=self._now_s())
            if record != found:
                if found.active is not None and record.active != found.active:
                    reason = "the active slot no longer held its bundle"
                    record = msgspec.structs.replace(
                        record, error_class=ErrorClass.DISK, error_code="slot.damaged", reason=reason
                    )
                self._journal.write(record)
                self._tell_quarantine(found, record)
            self._records[model] = record
            if record.active is not None:
                self._serving.serve(model, record.active)
            self._resume(self._records[model])

    def _resume(self, record: ModelRecord) -> None:
        if record.phase in machine.INSTALLING and record.wanted is not None and self._is_held(record.wanted):
            self._withdraw(record, machine.HELD_CODE, wishes.HELD.reason)
        elif record.phase is Phase.DOWNLOADING and record.wanted is not None:
            self._intake.fetch(Job(record.wanted, record.installing))
        elif record.phase is Phase.PREFLIGHT and record.wanted is not None:
            info = self._slots.info(record.model, record.installing)
            if info is not None and info.sha256 == record.wanted.sha256:
                self._preflight(record, info)
            else:
                self._begin(record, wishes.Begin(record.wanted, record.installing))

    # ---- wishes

    def apply(self, desired: DesiredOk) -> None:
        """Act on a verified document."""
        self._is_told = True
        self._wanted = {wanted.model: wanted for wanted in desired.wanted}
        self._refused = {refusal.model: refusal for refusal in desired.refused}
        for model in sorted(self._wanted.keys() | self._refused.keys() | self._records.keys()):
            self.reconcile(model)
        for refusal in desired.refused:
            self._note_refusal(refusal, desired.gen)
        self._reporter.changed()

    def hold(self, hold: HoldOk) -> None:
        """Act on a verified brake: what is named and not switched yet stops, what is not named any more goes on at once."""
        self._hold = hold
        for model in sorted(self._wanted.keys() | self._records.keys()):
            self.reconcile(model)
        self._reporter.changed()

    def _is_held(self, wanted: Wanted) -> bool:
        hold = self._hold
        if hold is None or hold.expires_s <= self._clock_s():
            return False
        return wanted.sha256 in hold.digests or (wanted.rollout != "" and wanted.rollout in hold.rollouts)

    def reconcile(self, model: str) -> None:
        """Compare one model with what is wanted, and begin, drop or leave it."""
        record = self._records.get(model, ModelRecord(model=model))
        wanted = self._wanted.get(model)
        if wanted is None and (model in self._refused or not self._is_told):
            return  # the wish exists but was refused, or cannot be read: what serves goes on serving
        moment = self._moment(model)
        now_s = self._now_s()
        is_same = _is_same_try(record, wanted)
        if is_same and record.phase is Phase.FAILED and now_s < moment.retry_at_s:
            return
        if not is_same:
            moment.retries = 0
        match self._decide(record, wanted):
            case wishes.Begin() as begin:
                self._begin(record, begin)
            case wishes.Follow() as follow:
                after = machine.followed(record, follow.wanted, now_s=now_s)
                if after is not record:
                    self._write(after)
            case wishes.Withdraw() as stop:
                self._withdraw(record, stop.code, stop.reason)
                self.reconcile(model)  # once: nothing is installed any more
            case wishes.Drop():
                self._intake.cancel(model)
                self._write(machine.dropped(record, now_s=now_s))
                self._serving.stop(model)
            case wishes.Stay() | wishes.Wait():
                self._records.setdefault(model, record)  # so that the report says why nothing happens

    def _decide(self, record: ModelRecord, wanted: Wanted | None) -> wishes.Decision:
        held = wanted is not None and self._is_held(wanted)
        return wishes.decide(record, wanted, now_s=self._clock_s(), held=held)

    def _withdraw(self, record: ModelRecord, code: str, reason: str) -> ModelRecord:
        """Stop an install before its switch."""
        assert record.wanted is not None
        self._intake.cancel(record.model)
        self._serving.stop_trial(record.model)
        log.info("install withdrawn", extra={"model": record.model, "code": code, "reason": reason})
        after = machine.withdrawn(record, now_s=self._now_s())
        return self._write(after, code=code, reason=f"{record.wanted.target}: {reason}")

    def _begin(self, record: ModelRecord, begin: wishes.Begin) -> None:
        self._serving.stop_trial(record.model)
        self._moment(record.model).progress_pct = 0
        record = self._write(machine.begun(record, begin.wanted, begin.slot, now_s=self._now_s()))
        info = self._slots.info(record.model, begin.slot)
        is_there = info is not None and info.sha256 == begin.wanted.sha256  # the way back needs no room on a full disk
        unfit = None if is_there else check_disk(begin.wanted, info.length if info else 0, self._room())
        if unfit is not None:
            self._unfit(record, unfit)
            return
        self._intake.fetch(Job(begin.wanted, begin.slot))

    def _note_refusal(self, refusal: Refusal, gen: int) -> None:
        record = self._records.get(refusal.model, ModelRecord(model=refusal.model))
        if record.phase in machine.INSTALLING:
            self._intake.cancel(refusal.model)
            self._serving.stop_trial(refusal.model)
        refused = msgspec.structs.replace(
            record,
            phase=machine.step(machine.step(record.phase, InstallEvent.WANTED), InstallEvent.FAULT),
            gen=gen,
            installing="",
            error_class=ErrorClass.SIGNATURE,
            error_code=refusal.code,
            reason=refusal.reason,
        )
        if refused != record:
            self._write(refused)
        self._reporter.event(EventKind.REFUSED, refused, code=refusal.code, reason=refusal.reason)

    # ---- the fetch

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """A word of the install child about a bundle."""
        record = self._records.get(packet.model)
        if record is None or record.phase not in (Phase.DOWNLOADING, Phase.VERIFYING):
            return
        match packet:
            case FetchProgress():
                self._moment(packet.model).progress_pct = packet.done_bytes * 100 // max(1, packet.total_bytes)
                if packet.verifying and record.phase is Phase.DOWNLOADING:
                    self._advance(record, InstallEvent.FETCHED)
                self._reporter.changed()
            case Fetched():
                if record.phase is Phase.DOWNLOADING:
                    record = self._advance(record, InstallEvent.FETCHED)
                self._moment(packet.model).progress_pct = 100
                self._preflight(self._advance(record, InstallEvent.VERIFIED), packet.info)
            case FetchFailed():
                self._fail(record, ErrorClass(packet.error_class), packet.code, packet.reason)

    # ---- the trial

    def _preflight(self, record: ModelRecord, info: SlotInfo) -> None:
        if record.phase is not Phase.PREFLIGHT:
            return
        unfit = check_fit(info, self._room())
        if unfit is not None:
            self._unfit(record, unfit)
            return
        if record.tries >= machine.MAX_STARTS:
            reason = f"started {record.tries} times without getting through its trial"
            self._fail(record, ErrorClass.CRASH, "trial.restarts", reason)
            return
        # counted on the disk before the version is started: a device that dies of it comes back wiser
        record = self._write(machine.tried(machine.advanced(record, InstallEvent.FITS, now_s=self._now_s())))
        ref = SlotRef(slot=record.installing, target=info.target, sha256=info.sha256, version=info.version)
        try:
            self._serving.try_out(record.model, ref)
        except OSError as error:
            self._fail(record, ErrorClass.DISK, "trial.not_started", str(error))

    def on_trial_message(self, model: str, message: ToAgentd) -> None:
        """A word of the worker on trial."""
        record = self._records[model]
        match message:
            case Loaded():
                log.info("model loaded", extra={"model": model, "runtime": message.runtime})
            case Golden() if message.ok and record.phase is Phase.GOLDEN:
                self._advance(record, InstallEvent.GOLDEN_OK)
            case Golden() if not message.ok:
                self._reporter.event(EventKind.GOLDEN_MISMATCH, record, code="trial.golden", reason=message.reason)
            case Ready() if record.phase is Phase.WARMING:
                self._switch(self._advance(record, InstallEvent.READY))
            case Failed():
                log.warning("trial failed", extra={"model": model, "reason": message.reason})
            case _:
                log.debug("unexpected word on trial", extra={"model": model})

    def on_trial_exit(self, model: str, how: str, failed: Failed | None) -> None:
        """The worker on trial ended: the install failed before the switch."""
        record = self._records[model]
        if record.phase not in machine.INSTALLING:
            return
        if failed is not None:
            self._fail(record, ErrorClass(failed.error_class), f"trial.{failed.error_class}", failed.reason)
        else:
            self._fail(record, ErrorClass.CRASH, "trial.crash", f"the worker ended on trial: {how}")

    def _switch(self, record: ModelRecord) -> None:
        info = self._slots.info(record.model, record.installing)
        if record.phase is not Phase.SWITCHING or info is None:
            return
        ref = SlotRef(slot=record.installing, target=info.target, sha256=info.sha256, version=info.version)
        self._write(machine.switched(record, ref, now_s=self._now_s()))
        self._serving.promote(record.model)

    # ---- what serves

    def before_start(self, model: str) -> None:
        """Count the start of an active worker while its version is on trial."""
        record = self._records.get(model)
        if record is not None and machine.is_on_trial(record):
            self._save(trial.started(record))

    def on_serving(self, model: str) -> None:
        """The active worker takes requests."""
        self._reporter.changed()

    def on_stats(self, model: str, sha256: str, stats: Stats) -> None:
        """A worker that serves, or drains, told its figures."""
        record = self._records.get(model)
        if record is not None and (stats.n or stats.errors):
            self._keep_figures(trial.counted(record, sha256, stats))

    def on_active_golden(self, model: str, golden: Golden) -> None:
        """The serving worker answered golden vectors; a wrong answer is a reason to go back, a busy worker is none."""
        if not golden.ok and golden.checked == 0:
            log.warning("golden check not run", extra={"model": model, "reason": golden.reason})
            return
        record = self._keep_figures(trial.checked(self._records[model], ok=golden.ok))
        if golden.ok:
            return
        self._reporter.event(EventKind.GOLDEN_MISMATCH, record, code="serving.golden", reason=golden.reason)
        self._roll_back(record, ErrorClass.GOLDEN, "serving.golden", golden.reason)

    def on_active_exit(self, model: str, how: str, failed: Failed | None) -> bool:
        """The serving worker ended unasked. Returns whether to start it again."""
        record = self._records[model]
        reason = f"{how}: {failed.reason}" if failed is not None else how
        record = self._save(trial.crashed(record, now_s=self._now_s(), window_s=self._limits.crash_window_s))
        self._reporter.event(EventKind.CRASH, record, code="serving.crash", reason=reason)
        self._reporter.changed()
        verdict = trial.judge(record, self._facts(model), self._limits, now_s=self._now_s())
        if isinstance(verdict, trial.RollBack):
            return not self._roll_back(record, verdict.error_class, verdict.code, f"{verdict.reason}; last: {reason}")
        return record.active is not None

    def tick(self) -> None:
        """Look at the time: deadlines, trials, retries."""
        now_s = self._now_s()
        for model, record in list(self._records.items()):
            deadline = machine.phase_deadline_s(record)
            if deadline is not None and now_s >= deadline:
                self._fail(record, ErrorClass.DEADLINE, f"{record.phase}.deadline", f"{record.phase} took too long")
            elif record.phase not in machine.INSTALLING:
                if machine.is_on_trial(record):
                    self._judge(record)
                self.reconcile(model)
        for model in self._wanted.keys() - self._records.keys():
            self.reconcile(model)
        self._save_figures(now_s)

    def _judge(self, record: ModelRecord) -> None:
        decision = self._decide(record, self._wanted.get(record.model))
        replaced = isinstance(decision, wishes.Wait)
        facts = self._facts(record.model)
        verdict = trial.judge(record, facts, self._limits, now_s=self._now_s(), replaced=replaced)
        if isinstance(verdict, trial.RollBack):
            self._roll_back(record, verdict.error_class, verdict.code, verdict.reason)
        elif isinstance(verdict, trial.Commit):
            self._write(machine.proven(record, now_s=self._now_s()))

    def _facts(self, model: str) -> trial.Facts:
        return trial.Facts(serving=self._serving.is_serving(model), golden_ok=self._serving.golden_ok(model))

    def go_back(self, model: str, reason: str) -> ModelRecord:
        """Go back to the previous slot because an operator says so; returns the record after it. Reads a whole bundle.

        Raises UnknownModelError, NoPreviousVersionError, PreviousDamagedError; then nothing was changed.
        """
        record = self._records.get(model)
        if record is None or record.active is None:
            raise UnknownModelError(f"no model {model!r} serves on this device")
        previous = record.previous
        if previous is None:
            raise NoPreviousVersionError(
                f"{model} has no previous version on this device; {record.active.target} serves"
            )
        if not self._slots.rehash(model, previous.slot, previous.sha256):
            raise PreviousDamagedError(f"slot {previous.slot} no longer holds {previous.target} as it was verified")
        if record.phase in machine.INSTALLING:
            record = self._withdraw(record, machine.WITHDRAWN_CODE, "an operator went back")
        self._roll_back(record, ErrorClass.INTERNAL, "operator.rollback", reason)
        return self._records[model]

    def _roll_back(self, record: ModelRecord, error_class: ErrorClass, code: str, reason: str) -> bool:
        """Go back to the previous slot. False when there is nothing better than to go on with what is there. Reads a whole bundle."""
        if record.phase in machine.INSTALLING:
            return False  # the install under way will replace it
        sound = self._slots.with_sound_previous(record)
        record = record if sound is record else self._save(sound)
        if record.previous is None and (record.phase is not Phase.PROBATION or machine.is_proven(record)):
            if not record.error_code:  # what was told of another version stays
                self._write(msgspec.structs.replace(record, error_class=error_class, error_code=code, reason=reason))
            return False
        after = self._write(machine.rolled_back(record, error_class, code, reason, now_s=self._now_s()))
        self._reporter.event(EventKind.ROLLBACK, after, code=code, reason=reason)
        log.warning("rolled back", extra={"model": record.model, "code": code, "reason": reason})
        self._serving.stop(record.model)
        if after.active is not None:
            self._serving.serve(record.model, after.active)
        return True

    # ---- records

    def _unfit(self, record: ModelRecord, unfit: Unfit) -> None:
        self._fail(record, unfit.error_class, unfit.code, unfit.reason)

    def _fail(self, record: ModelRecord, error_class: ErrorClass, code: str, reason: str) -> None:
        self._intake.cancel(record.model)
        self._serving.stop_trial(record.model)
        moment = self._moment(record.model)
        delay = machine.RETRY_DELAYS_S[min(moment.retries, len(machine.RETRY_DELAYS_S) - 1)]
        moment.retries += 1
        moment.retry_at_s = self._now_s() + int(delay)
        log.warning("install failed", extra={"model": record.model, "code": code, "reason": reason})
        self._write(machine.failed(record, error_class, code, reason))

    def _advance(self, record: ModelRecord, event: InstallEvent) -> ModelRecord:
        return self._write(machine.advanced(record, event, now_s=self._now_s()))

    def _write(self, record: ModelRecord, *, code: str = "", reason: str = "") -> ModelRecord:
        """Journal first, then memory, then the report. code, reason: of the event, where the record has no error."""
        before = self._records.get(record.model)
        self._save(record)
        if before is None or before.phase is not record.phase or before.error_code != record.error_code:
            code, reason = record.error_code or code, record.reason or reason
            self._reporter.event(EventKind.PHASE, record, code=code, reason=reason)
        self._tell_quarantine(before, record)
        self._reporter.changed()
        return record

    def _tell_quarantine(self, before: ModelRecord | None, record: ModelRecord) -> None:
        known = before.quarantine if before is not None else []
        for entry in record.quarantine:
            if entry not in known:
                self._reporter.quarantined(record, entry)

    def _save(self, record: ModelRecord) -> ModelRecord:
        self._journal.write(record)
        self._records[record.model] = record
        self._unsaved_s.pop(record.model, None)
        return record

    def _keep_figures(self, record: ModelRecord) -> ModelRecord:
        self._records[record.model] = record
        self._unsaved_s.setdefault(record.model, self._now_s())
        return record

    def _save_figures(self, now_s: int) -> None:
        for model, since_s in list(self._unsaved_s.items()):
            record = self._records[model]
            if now_s - since_s >= (FIGURES_EVERY_S if machine.is_on_trial(record) else FIGURES_SETTLED_S):
                self._save(record)

    def close(self) -> None:
        """Put on the disk what is only in memory, if it can be written."""
        for model in list(self._unsaved_s):
            with contextlib.suppress(OSError):
                self._save(self._records[model])

    def _moment(self, model: str) -> _Moment:
        return self._moments.setdefault(model, _Moment())

    def _now_s(self) -> int:
        """Steady unix seconds: to measure by."""
        return int(self._offset_s + self._clock.monotonic_s())

    def _clock_s(self) -> int:
        """What the clock says now, unix seconds: to compare documents with."""
        return int(self._clock.now().timestamp())


def _is_same_try(record: ModelRecord, wanted: Wanted | None) -> bool:
    """Say whether the wish is the one that was tried last; another attempt or a newer document asks for a new try at once."""
    last = record.wanted
    if last is None or wanted is None or last.sha256 != wanted.sha256:
        return False
    return last.attempt == wanted.attempt and record.gen >= wanted.gen
