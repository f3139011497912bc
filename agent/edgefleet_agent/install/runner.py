"""Carries out what `machine` decides: writes the record, then acts. One per agent, all models.

1. Every act is announced by a record on the disk first (`Book.write`); after a power cut `recover` goes on from there.
2. Reports follow the record, never the other way round; a commit does not need the network.
3. Time and the records themselves: `record_cache`. What serves: `probation.monitor`. Everything else comes in as calls from the loop.
4. Stop-first (`preflight`): the old worker leaves only after the record that says so is on the disk; whatever ends the trial before
   the switch starts it again.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from edgefleet_agent.install import desired_diff, machine
from edgefleet_agent.install.desired_diff import is_early
from edgefleet_agent.install.intake import Intake, Job
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.machine import InstallEvent
from edgefleet_agent.install.preflight import Room, Strategy, Unfit, check_disk, check_fit
from edgefleet_agent.install.probation import trial
from edgefleet_agent.install.probation.monitor import ProbationMonitor
from edgefleet_agent.install.record_cache import RecordCache, Reporter
from edgefleet_agent.install.records import DesiredOk, HoldOk, ModelRecord, Refusal, SlotInfo, SlotRef, Wanted
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.install.verifier_protocol import Fetched, FetchFailed, FetchProgress
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_agent.worker.control.protocol import Failed, Golden, Loaded, Ready, Stats, ToAgentd
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import HELD_CODE, ErrorClass, EventKind, Phase

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
        serving: Supervisor,
        reporter: Reporter,
        limits: trial.Limits,
        room: Callable[[], Room],
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._slots = slots
        self._intake = intake
        self._serving = serving
        self._limits = limits
        self._room = room
        self._book = RecordCache(journal, reporter, clock)
        self._probation = ProbationMonitor(self._book, slots, serving, limits, room)
        self._moments: dict[str, _Moment] = {}
        self._wanted: dict[str, Wanted] = {}
        self._has_document = False  # of any document: without one, nothing wanted does not mean that nothing is wanted
        self._refused: dict[str, Refusal] = {}
        self._hold: HoldOk | None = None

    @property
    def records(self) -> dict[str, ModelRecord]:
        """Return the records by model."""
        return self._book.records

    def digests(self) -> set[str]:
        """Return the digests of all bundles that records name."""
        named = [ref for one in self.records.values() for ref in (one.active, one.previous, one.wanted, one.served)]
        return {ref.sha256 for ref in named if ref is not None}

    @property
    def trouble(self) -> str:
        """Why records cannot be written, "" when they can."""
        return self._book.trouble

    def progress_pct(self, model: str) -> int:
        """Return how much of a running download is there."""
        return self._moment(model).progress_pct

    @property
    def is_busy(self) -> bool:
        """Whether an install or a trial runs, so that time matters now."""
        return self.is_installing or any(r.phase is Phase.PROBATION for r in self.records.values())

    @property
    def is_installing(self) -> bool:
        """Whether an install is on its way."""
        return any(r.phase in machine.INSTALLING for r in self.records.values())

    @property
    def is_watching(self) -> bool:
        """Whether a version is on trial, so that its figures matter now."""
        return any(machine.is_on_trial(r) for r in self.records.values())

    def is_held(self, model: str) -> bool:
        """Whether a hold keeps what is wanted of this model from beginning."""
        record = self.records.get(model)
        return record is not None and self._decide(record, self._wanted.get(model)) == desired_diff.HELD

    def waits_until_s(self, model: str) -> int:
        """Return until when a download waits so that not all devices begin at once, unix seconds by the clock; 0: none waits."""
        record, wanted = self.records.get(model), self._wanted.get(model)
        if record is None or wanted is None or self._decide(record, wanted) != desired_diff.SPREAD:
            return 0
        return wanted.start_s

    def lend_idle_slot(self, model: str) -> None:
        """A candidate takes the slot of the rollback target: from now on there is none. Raises OSError."""
        self._book.save(machine.lent(self.records[model]))

    def withdrawn(self, model: str) -> str:
        """Return why what serves of a model is withdrawn; "" when it is not."""
        return self._probation.why_withdrawn(model)

    def know_withdrawn(self, desired: DesiredOk) -> None:
        """Take over what was verified to be withdrawn; before `recover`, so that no start goes back to it unseen."""
        self._probation.know_withdrawn(desired.withdrawn)

    # ---- start

    def recover(self) -> None:
        """Read all records, check the slots' bytes, start what should serve, resume what was interrupted. Reads whole bundles."""
        for model in self._journal.models():
            found = self._journal.read(model) or ModelRecord(model=model)
            record = machine.recovered(self._slots.surviving(found), now_s=self._book.now_s())
            is_damaged = found.active is not None and record.active != found.active
            if is_damaged:
                reason = "the active slot no longer held its bundle"
                record = msgspec.structs.replace(
                    record, error_class=ErrorClass.DISK, error_code="slot.damaged", reason=reason
                )
            self._book.recovered(found, record)
            if (
                is_damaged
            ):  # reported at once: the next install may begin in this moment, and writes its own state over this one
                self._book.reporter.event(EventKind.PHASE, record, code=record.error_code, reason=record.reason)
            self._probation.start(record)
            self._resume(self.records[model])

    def _resume(self, record: ModelRecord) -> None:
        if record.phase in machine.INSTALLING and record.wanted is not None and self._is_held(record.wanted):
            self._withdraw(record, HELD_CODE, desired_diff.HELD.reason)
        elif record.phase is Phase.DOWNLOADING and record.wanted is not None:
            self._intake.fetch(Job(record.wanted, record.installing))
        elif record.phase is Phase.PREFLIGHT and record.wanted is not None:
            info = self._slots.info(record.model, record.installing)
            if info is not None and info.sha256 == record.wanted.sha256:
                self._preflight(record, info)
            else:
                self._begin(record, desired_diff.Begin(record.wanted, record.installing))

    # ---- requests

    def apply(self, desired: DesiredOk) -> None:
        """Act on a verified document."""
        self._has_document = True
        self.know_withdrawn(desired)
        self._wanted = {wanted.model: wanted for wanted in desired.wanted}
        self._refused = {refusal.model: refusal for refusal in desired.refused}
        for model in sorted(self._wanted.keys() | self._refused.keys() | self.records.keys()):
            self.reconcile(model)
        for refusal in desired.refused:
            self._note_refusal(refusal, desired.gen)
        self._book.reporter.changed()

    def hold(self, hold: HoldOk) -> None:
        """Act on a verified hold: what is named and not switched yet stops, what is not named any more goes on at once."""
        self._hold = hold
        for model in sorted(self._wanted.keys() | self.records.keys()):
            self.reconcile(model)
        self._book.reporter.changed()

    def _is_held(self, wanted: Wanted) -> bool:
        hold = self._hold
        if hold is None or hold.expires_s <= self._book.clock_s():
            return False
        return wanted.sha256 in hold.digests or (wanted.rollout != "" and wanted.rollout in hold.rollouts)

    def reconcile(self, model: str) -> None:
        """Compare one model with what is wanted, and begin, drop or leave it."""
        record = self.records.get(model, ModelRecord(model=model))
        wanted = self._wanted.get(model)
        if wanted is None and (model in self._refused or not self._has_document):
            return  # the request exists but was refused, or cannot be read: what serves goes on serving
        moment = self._moment(model)
        now_s = self._book.now_s()
        is_same = machine.is_same_try(record, wanted)
        if is_same and record.phase is Phase.FAILED and now_s < moment.retry_at_s:
            return
        if not is_same:
            moment.retries = 0
        match self._decide(record, wanted):
            case desired_diff.Begin() as begin:
                self._begin(record, begin)
            case desired_diff.Follow() as follow:
                after = machine.followed(record, follow.wanted, now_s=now_s)
                if after is not record:
                    self._book.write(after)
            case desired_diff.Withdraw() as stop:
                self._withdraw(record, stop.code, stop.reason)
                self.reconcile(model)  # once: nothing is installed any more
            case desired_diff.Drop():
                self._intake.cancel(model)
                self._book.write(machine.dropped(record, now_s=now_s))
                self._serving.stop(model)
            case desired_diff.Stay() | desired_diff.Wait():
                self.records.setdefault(model, record)  # so that the report says why nothing happens

    def _decide(self, record: ModelRecord, wanted: Wanted | None) -> desired_diff.Decision:
        held, now_s = wanted is not None and self._is_held(wanted), self._book.clock_s()
        in_slot = False
        if wanted is not None and is_early(wanted, now_s):  # else nobody asks, and the slot is not looked into
            info = self._slots.info(record.model, desired_diff.idle_slot(record))
            in_slot = info is not None and info.sha256 == wanted.sha256
        return desired_diff.decide(record, wanted, now_s=now_s, held=held, in_slot=in_slot)

    def _withdraw(self, record: ModelRecord, code: str, reason: str) -> ModelRecord:
        """Stop an install before its switch."""
        assert record.wanted is not None
        self._intake.cancel(record.model)
        self._serving.stop_trial(record.model)
        log.info("install withdrawn", extra={"model": record.model, "code": code, "reason": reason})
        after = machine.withdrawn(record, now_s=self._book.now_s())
        after = self._book.write(after, code=code, reason=f"{record.wanted.target}: {reason}")
        self._serve_again(after)
        return after

    def _begin(self, record: ModelRecord, begin: desired_diff.Begin) -> None:
        self._serving.stop_trial(record.model)
        self._moment(record.model).progress_pct = 0
        record = self._book.write(machine.begun(record, begin.wanted, begin.slot, now_s=self._book.now_s()))
        self._serve_again(record)
        info = self._slots.info(record.model, begin.slot)
        is_there = info is not None and info.sha256 == begin.wanted.sha256  # a rollback needs no room on a full disk
        unfit = None if is_there else self._check_disk(begin.wanted, info.length if info else 0)
        if unfit is not None:
            self._unfit(record, unfit)
            return
        self._intake.fetch(Job(begin.wanted, begin.slot))

    def _check_disk(self, wanted: Wanted, reclaimed_bytes: int) -> Unfit | None:
        """Look for room on the disk; where it is too little, models that are not wanted any more give theirs back first."""
        unfit = check_disk(wanted, reclaimed_bytes, self._room())
        if unfit is None:
            return None
        for model, record in list(self.records.items()):
            is_wanted = model in self._wanted or model in self._refused
            if machine.may_purge(record, (), wanted=is_wanted, running=self._serving.has_workers(model)):
                self._forget(model)
        return check_disk(wanted, reclaimed_bytes, self._room())

    def _note_refusal(self, refusal: Refusal, gen: int) -> None:
        record = self.records.get(refusal.model, ModelRecord(model=refusal.model))
        if machine.is_withdrawn(record, refusal):
            return
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
            self._serve_again(self._book.write(refused))
        self._book.reporter.event(EventKind.REFUSED, refused, code=refusal.code, reason=refusal.reason)

    # ---- the fetch

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """A word of the install child about a bundle."""
        record = self.records.get(packet.model)
        if record is None or record.phase not in (Phase.DOWNLOADING, Phase.VERIFYING):
            return
        match packet:
            case FetchProgress():
                self._moment(packet.model).progress_pct = packet.done_bytes * 100 // max(1, packet.total_bytes)
                if packet.verifying and record.phase is Phase.DOWNLOADING:
                    self._advance(record, InstallEvent.FETCHED)
                self._book.reporter.changed()
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
        room, old_bytes = self._room(), self._serving.rss_bytes(record.model)
        if record.strategy == Strategy.STOP_FIRST:
            old_bytes = 0  # decided before a restart of agentd: the old worker has been started again since
        plan = check_fit(info, room, old_bytes)
        if isinstance(plan, Unfit):
            self._unfit(record, plan)
            return
        if record.tries >= machine.MAX_STARTS:
            reason = f"started {record.tries} times without getting through its trial"
            self._fail(record, ErrorClass.CRASH, "trial.restarts", reason)
            return
        # counted on the disk before the version is started: a device that dies of it comes back wiser
        record = machine.tried(machine.advanced(record, InstallEvent.FITS, now_s=self._book.now_s()))
        record = self._book.write(msgspec.structs.replace(record, strategy=plan.value))
        ref = SlotRef(slot=record.installing, target=info.target, sha256=info.sha256, version=info.version)
        if plan is Strategy.STOP_FIRST:
            log.info("old worker stops first", extra={"model": record.model})
            self._serving.make_room(record.model, lambda: self._try_out(record, ref))
        else:
            self._try_out(record, ref)

    def _try_out(self, record: ModelRecord, ref: SlotRef) -> None:
        """Start the worker on trial, unless the request has gone while the old one left."""
        now = self.records[record.model]
        if (now.phase, now.wanted, now.tries) != (record.phase, record.wanted, record.tries):
            return
        try:
            self._serving.try_out(record.model, ref)
        except OSError as error:
            self._fail(record, ErrorClass.DISK, "trial.not_started", str(error))

    def on_trial_message(self, model: str, message: ToAgentd) -> None:
        """A word of the worker on trial."""
        record = self.records[model]
        match message:
            case Loaded():
                log.info("model loaded", extra={"model": model, "runtime": message.runtime})
            case Golden() if message.ok and record.phase is Phase.GOLDEN:
                self._on_golden(record, message)
            case Golden() if not message.ok:
                self._book.reporter.event(EventKind.GOLDEN_MISMATCH, record, code="trial.golden", reason=message.reason)
            case Ready() if record.phase is Phase.WARMING:
                self._switch(self._advance(record, InstallEvent.READY))
            case Failed():
                log.warning("trial failed", extra={"model": model, "reason": message.reason})
            case _:
                log.debug("unexpected word on trial", extra={"model": model})

    def _on_golden(self, record: ModelRecord, golden: Golden) -> None:
        """Its answers are right; latency and memory must be as declared."""
        info = self._slots.info(record.model, record.installing)
        broken = trial.over_declared(golden, info, self._limits) if info is not None else None
        if broken is not None:
            self._fail(record, broken.error_class, broken.code, broken.reason)
            return
        self._advance(record, InstallEvent.GOLDEN_OK)

    def on_trial_exit(self, model: str, how: str, failed: Failed | None) -> None:
        """The worker on trial ended: the install failed before the switch."""
        record = self.records[model]
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
        self._book.write(machine.switched(record, ref, now_s=self._book.now_s()))
        self._serving.promote(record.model)

    # ---- what serves

    def active_ref(self, model: str) -> SlotRef | None:
        """Return the slot that serves a model."""
        record = self.records.get(model)
        return record.active if record is not None else None

    def before_start(self, model: str) -> None:
        """Count the start of an active worker."""
        self._probation.before_start(model)

    def on_serving(self, model: str) -> None:
        """The active worker takes requests."""
        self._book.reporter.changed()

    def on_stats(self, model: str, sha256: str, stats: Stats) -> None:
        """A worker that serves, or drains, reported its figures."""
        self._probation.on_stats(model, sha256, stats)

    def on_active_golden(self, model: str, golden: Golden) -> None:
        """The serving worker answered golden vectors."""
        self._probation.on_active_golden(model, golden)

    def on_active_exit(self, model: str, how: str, failed: Failed | None) -> bool:
        """The serving worker ended unasked. Returns whether to start it again."""
        return self._probation.on_active_exit(model, how, failed)

    def modes(self) -> Mapping[str, machine.Mode]:
        """Return how each model does."""
        return self._probation.modes()

    def probation(self) -> dict[str, dict[str, int]]:
        """Return how far each new version on probation is, by model."""
        return self._probation.progress()

    def go_back(self, model: str, reason: str) -> ModelRecord:
        """Go back to the previous slot because an operator says so; see `ProbationMonitor.go_back`."""
        why = "an operator went back"
        return self._probation.go_back(
            model, reason, lambda record: self._withdraw(record, machine.WITHDRAWN_CODE, why)
        )

    def tick(self) -> None:
        """Look at the time: deadlines, trials, retries, what may be removed."""
        now_s = self._book.now_s()
        for model, record in list(self.records.items()):
            deadline = machine.phase_deadline_s(record)
            if deadline is not None and now_s >= deadline:
                self._fail(record, ErrorClass.DEADLINE, f"{record.phase}.deadline", f"{record.phase} took too long")
            elif self._is_orphan(record):
                reason = self._book.trouble or f"nothing works on it in phase {record.phase}"
                self._fail(record, ErrorClass.DISK, "install.interrupted", reason)
            elif record.phase not in machine.INSTALLING:
                replaced = isinstance(self._decide(record, self._wanted.get(model)), desired_diff.Wait)
                self._probation.look(record, replaced=replaced)
                self.reconcile(model)
        for model in self._wanted.keys() - self.records.keys():
            self.reconcile(model)
        self._purge()
        self._book.save_figures()

    def _is_orphan(self, record: ModelRecord) -> bool:
        """Whether an install is under way that nobody carries on: a record of its could not be written in the middle of a step."""
        if record.phase in (Phase.DOWNLOADING, Phase.VERIFYING):
            return not self._intake.is_fetching(record.model)
        if record.phase in (Phase.GOLDEN, Phase.WARMING):
            return not self._serving.has_trial(record.model)
        return record.phase in machine.INSTALLING  # preflight and switch are over before the loop goes on

    def _purge(self) -> None:
        """Remove the slots of models that are not wanted any more, once that is safe."""
        if not self._has_document:
            return
        for model, record in self.records.items():
            others = [other for name, other in self.records.items() if name != model]
            wanted = model in self._wanted or model in self._refused
            running = self._serving.has_workers(model)
            if machine.may_purge(record, others, wanted=wanted, running=running):
                self._forget(model)

    def _forget(self, model: str) -> None:
        if self._book.forget(model):
            log.info("slots removed", extra={"model": model})

    # ---- records

    def _unfit(self, record: ModelRecord, unfit: Unfit) -> None:
        self._fail(record, unfit.error_class, unfit.code, unfit.reason)

    def _fail(self, record: ModelRecord, error_class: ErrorClass, code: str, reason: str) -> None:
        self._intake.cancel(record.model)
        self._serving.stop_trial(record.model)
        moment = self._moment(record.model)
        delay = machine.RETRY_DELAYS_S[min(moment.retries, len(machine.RETRY_DELAYS_S) - 1)]
        moment.retries += 1
        moment.retry_at_s = self._book.now_s() + int(delay)
        log.warning("install failed", extra={"model": record.model, "code": code, "reason": reason})
        self._serve_again(self._book.write(machine.failed(record, error_class, code, reason)))

    def _serve_again(self, record: ModelRecord) -> None:
        """Start what serves again where it made room for a trial that did not come to its switch."""
        if record.active is not None and self._serving.made_room(record.model):
            self._serving.serve(record.model, record.active)

    def _advance(self, record: ModelRecord, event: InstallEvent) -> ModelRecord:
        return self._book.write(machine.advanced(record, event, now_s=self._book.now_s()))

    def _moment(self, model: str) -> _Moment:
        return self._moments.setdefault(model, _Moment())

    def close(self) -> None:
        """Put on the disk what is only in memory, if it can be written."""
        with contextlib.suppress(OSError):
            self._probation.close()
        self._book.close()
