"""Carries out what `rules` decides about candidates: brings bundles, starts and stops a `process`, reports. One per agent, all models.

1. A record is on the disk before the start, or the end, that it tells of; reports follow it.
2. Nothing here touches what serves: the active worker learns of a candidate from the routing table alone.
3. A candidate that ends is started again after a while; after `MAX_STARTS` without a steady run, or for a fault of its own at once, it
   has failed. That is reported, and nothing else happens.
4. Once a shadow had to be sequential it stays so until another candidate comes: a device at the edge of its memory must not swing.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from edgefleet_agent.candidate import rules
from edgefleet_agent.candidate.pressure import Pressure, Readings, weighed
from edgefleet_agent.candidate.process import CandidateContext, CandidateProcess
from edgefleet_agent.candidate.rules import CandidateRecord
from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install import machine
from edgefleet_agent.install.desired_diff import is_early
from edgefleet_agent.install.intake import Intake, Job
from edgefleet_agent.install.preflight import Room, Unfit, check_disk, check_fit
from edgefleet_agent.install.records import CandidateRequest, DesiredOk, HoldOk, ModelRecord, SlotInfo, Wanted
from edgefleet_agent.install.verifier_protocol import Fetched, FetchFailed, FetchProgress
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import ForAll, GetStats, ModelRoute, Stats
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import CandidatePhase, CandidateState, ErrorClass, EventKind, Window

RECORD_FILE = "candidate.msgpack"
UNDECLARED_FACTOR = 3
"""A bundle that declares no peak memory is taken to need this many times its size, and WORKER_BYTES."""
WORKER_BYTES = 48 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CandidateDeps:
    """What the manager needs of the rest of agentd. All are called in the loop.

    records: what serves. lend: the idle slot of a model is about to be overwritten, so it is no rollback target any more. event: tell the
    server once. changed: report soon. windows: tell these now, apart from the usual ones.
    """

    records: Callable[[], dict[str, ModelRecord]]
    lend: Callable[[str], None]
    event: Callable[[EventKind, str, str, str, str, str, ErrorClass | None], None]
    changed: Callable[[], None]
    windows: Callable[[list[Window]], None]
    room: Callable[[], Room]
    readings: Callable[[], Readings]


@dataclass(slots=True)
class _Candidate:
    """What is known of one model's candidate while agentd runs. bringing: digest that is being fetched, "" = none."""

    record: CandidateRecord
    lane: CandidateProcess
    request: CandidateRequest | None = None
    state: str = ""
    code: str = ""
    reason: str = ""
    is_checked: bool = False
    bringing: str = ""
    fits: str = ""
    pressure: Pressure = field(default_factory=Pressure)
    retries: int = 0
    retry_at_s: float = 0.0
    rested_since_s: float | None = None

    @property
    def model(self) -> str:
        return self.record.model


class CandidateController:
    """All models' candidates."""

    def __init__(self, context: CandidateContext, intake: Intake, clock: Clock, deps: CandidateDeps) -> None:
        self._context = context
        self._paths = context.paths
        self._slots = context.slots
        self._intake = intake
        self._options = context.options
        self._clock = clock
        self._now = clock.monotonic_s
        self._deps = deps
        self._all: dict[str, _Candidate] = {}
        self._wanted: dict[str, Wanted] = {}
        self._hold: HoldOk | None = None
        self._is_closed = False

    # ---- documents

    def apply(self, desired: DesiredOk) -> None:
        """Act on a verified document; after the installer did."""
        self._wanted = {wanted.model: wanted for wanted in desired.wanted}
        requests = {request.wanted.model: request for request in desired.candidates}
        refused = {refusal.model: refusal for refusal in desired.refused_candidates}
        for folder in self._known_folders():
            self._of(folder)
        for model in requests.keys() | refused.keys() | self._all.keys():
            one = self._of(model)
            if (
                one.request is None
                or model not in requests
                or one.request.wanted.sha256 != requests[model].wanted.sha256
            ):
                one.fits, one.retries, one.retry_at_s, one.rested_since_s = "", 0, 0.0, None
            one.request = requests.get(model)
            self.look(model)
            if model in refused:
                self._tell(one, CandidatePhase.FAILED, refused[model].code, refused[model].reason)
        self._forget()
        self._deps.changed()

    def _forget(self) -> None:
        for model in [name for name, one in self._all.items() if one.request is None and one.lane.is_empty]:
            del self._all[model]

    def hold(self, hold: HoldOk) -> None:
        """Remember the hold."""
        self._hold = hold
        self.tick()

    # ---- time

    def tick(self) -> None:
        """Look at everything again."""
        for model in list(self._all):
            self.look(model)
        self._forget()

    @property
    def is_busy(self) -> bool:
        """Whether a candidate is on its way, so that time matters now."""
        return any(one.state in ("downloading", "starting", "replaying", "measuring") for one in self._all.values())

    def look(self, model: str) -> None:
        """Compare one candidate with what is wanted, and act."""
        if self._is_closed:
            return
        one = self._of(model)
        record = self._deps.records().get(model)
        step = rules.decide(one.request, one.record, record, self._facts(one, record))
        match step:
            case rules.End():
                self._end(one)
            case rules.Stay():
                self._leave_off(one)
                self._tell(one, CandidatePhase(step.state), step.code, step.reason)
            case rules.Bring():
                self._bring(one, step.slot)
            case rules.Run():
                self._run(one)
            case rules.Record():
                self._record(one)
            case rules.Replay():
                if not one.lane.is_brief:
                    self._start(one, replay=True)
            case rules.Measure():
                if not one.lane.is_brief:
                    self._start(one)
        self._watch_steady(one)

    def _facts(self, one: _Candidate, record: ModelRecord | None) -> rules.Facts:
        if one.request is None:
            return rules.Facts(None, held=False, in_slot=False, fits="none")
        wanted, is_shadow = one.request.wanted, one.request.mode != "split"
        now_s, clock_s = self._now(), int(self._clock.now().timestamp())
        one.pressure = weighed(one.pressure, self._deps.readings(), self._options.limits, now_s=now_s, shadow=is_shadow)
        info = self._in_slot(one, wanted, record)
        fits = one.fits = self._fits(one, one.request, info)
        is_resting = one.rested_since_s is not None and now_s - one.rested_since_s < self._options.rest_s
        return rules.Facts(
            self._wanted.get(one.model),
            held=self._is_held(wanted),
            in_slot=info is not None,
            fits=fits,
            pressure=one.pressure.reasons,
            is_recorded=one.lane.is_recorded,
            is_resting=is_resting,
            retry_waits=one.lane.worker is None and now_s < one.retry_at_s,
            early_until_s=0 if one.bringing or not is_early(wanted, clock_s) else wanted.start_s,
        )

    def _fits(self, one: _Candidate, request: CandidateRequest, info: SlotInfo | None) -> str:
        """Return what memory allows, while it is still to be asked."""
        if info is None or one.lane.runs(request) or one.fits == "sequential":
            return one.fits or "live"
        room = self._deps.room()
        return rules.memory_fit(
            info.peak_memory_bytes or info.length * UNDECLARED_FACTOR + WORKER_BYTES,
            room.memory_available_bytes,
            room.memory_reserve_bytes,
            self._options.headroom_bytes,
            mode=self._options.shadow if request.mode == "shadow" else "auto",
        )

    def _in_slot(self, one: _Candidate, wanted: Wanted, record: ModelRecord | None) -> SlotInfo | None:
        """Return what is in the idle slot if it is the wanted bundle, read whole once in each life of agentd."""
        slot = rules.slot_for(wanted, record)
        info = self._slots.info(wanted.model, slot)
        if info is None or info.sha256 != wanted.sha256 or one.bringing:
            return None
        if not one.is_checked:
            if not self._slots.rehash(wanted.model, slot, wanted.sha256):
                return None
            one.is_checked = True
        return info

    def _is_held(self, wanted: Wanted) -> bool:
        hold = self._hold
        if hold is None or hold.expires_s <= int(self._clock.now().timestamp()):
            return False
        return wanted.sha256 in hold.digests or (wanted.rollout != "" and wanted.rollout in hold.rollouts)

    # ---- bringing

    def _bring(self, one: _Candidate, slot: str) -> None:
        assert one.request is not None
        wanted = one.request.wanted
        if one.bringing == wanted.sha256:
            return
        self._leave_off(one)
        old = self._slots.info(wanted.model, slot)
        unfit = check_disk(wanted, old.length if old is not None else 0, self._deps.room())
        if unfit is not None:
            self._failed(one, unfit.error_class, unfit.code, unfit.reason)
            return
        if wanted.model in self._deps.records():
            self._deps.lend(wanted.model)
        one.is_checked = False
        one.record = self._write(msgspec.structs.replace(one.record, sha256=wanted.sha256, slot=slot, starts=0))
        one.bringing = wanted.sha256
        self._tell(one, CandidatePhase.DOWNLOADING)
        self._intake.fetch(Job(wanted, slot))

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """A word of the install child about a bundle; those of the active version's install are not ours."""
        one = self._all.get(packet.model)
        if one is None or not one.bringing or one.request is None:
            return
        match packet:
            case Fetched():
                one.bringing = ""
                if packet.info.sha256 == one.request.wanted.sha256:
                    one.is_checked = True  # hashed just now
                unfit = check_fit(msgspec.structs.replace(packet.info, peak_memory_bytes=0), self._deps.room())
                if isinstance(unfit, Unfit) and unfit.error_class is ErrorClass.INCOMPATIBLE:
                    self._failed(one, unfit.error_class, unfit.code, unfit.reason)
                self.look(packet.model)
            case FetchFailed():
                one.bringing = ""
                self._failed(one, ErrorClass(packet.error_class), packet.code, packet.reason)

    # ---- running

    def _run(self, one: _Candidate) -> None:
        assert one.request is not None
        if one.lane.runs(one.request):
            one.lane.follow(one.request)
        else:
            self._start(one)

    def _start(self, one: _Candidate, *, replay: bool = False) -> None:
        assert one.request is not None
        wanted = one.request.wanted
        one.lane.stop()
        one.lane.stop_recording()
        if rules.is_worn_out(one.record, wanted):
            reason = f"started {one.record.starts} times without a steady run; last: {one.record.reason or 'cut off'}"
            self._failed(one, ErrorClass.CRASH, "candidate.restarts", reason)
            return
        slot = rules.slot_for(wanted, self._deps.records().get(wanted.model))
        info = self._slots.info(wanted.model, slot)
        assert info is not None  # by the decision that led here
        one.record = self._write(rules.started(one.record, wanted, slot))
        try:
            one.lane.start(one.request, slot, info.version, replay=replay)
        except OSError as error:
            self._failed(one, ErrorClass.DISK, "candidate.not_started", str(error))
            return
        is_measure = one.request.mode == "measure"
        brief = CandidatePhase.MEASURING if is_measure else CandidatePhase.REPLAYING
        self._tell(one, brief if replay or is_measure else CandidatePhase.STARTING)

    def _record(self, one: _Candidate) -> None:
        if not one.lane.is_recording:
            one.lane.drop_recording()
        one.lane.record()
        self._tell(one, CandidatePhase.RECORDING)

    def _on_exit(self, model: str, worker: Worker, how: str) -> None:
        one = self._all[model]
        if worker.failed is not None:
            failed = worker.failed
            self._failed(one, ErrorClass(failed.error_class), f"candidate.{failed.error_class}", failed.reason)
        elif worker.is_brief and how == "exit status 0":
            self._measured(one) if one.lane.measured else self._replayed(one)
        else:
            self._crashed(one, how)

    def _measured(self, one: _Candidate) -> None:
        assert one.request is not None
        wanted = one.request.wanted
        self._deps.windows(one.lane.measured)
        one.retries = 0
        one.record = self._write(
            msgspec.structs.replace(
                one.record, starts=0, measured_sha256=wanted.sha256, measured_attempt=wanted.attempt
            )
        )
        self.look(one.model)

    def _replayed(self, one: _Candidate) -> None:
        one.rested_since_s = self._now()
        one.retries = 0
        one.lane.drop_recording()
        one.record = self._write(msgspec.structs.replace(one.record, starts=0))
        self.look(one.model)

    def _crashed(self, one: _Candidate, how: str) -> None:
        one.record = self._write(
            msgspec.structs.replace(one.record, error_class=ErrorClass.CRASH, code="candidate.crash", reason=how)
        )
        self._retry_later(one)
        self._tell(one, CandidatePhase.WAITING, "candidate.crash", f"its worker ended: {how}")

    def _failed(self, one: _Candidate, error_class: ErrorClass, code: str, reason: str) -> None:
        assert one.request is not None
        self._leave_off(one)
        one.record = self._write(rules.failed(one.record, one.request.wanted, error_class, code, reason))
        self._retry_later(one)
        is_final = rules.has_failed(one.record, one.request.wanted)
        self._tell(one, CandidatePhase.FAILED if is_final else CandidatePhase.WAITING, code, reason)

    def _retry_later(self, one: _Candidate) -> None:
        one.retry_at_s = self._now() + rules.RETRY_S[min(one.retries, len(rules.RETRY_S) - 1)]
        one.retries += 1

    def _watch_steady(self, one: _Candidate) -> None:
        since_s = one.lane.ready_since_s
        if since_s is not None and self._now() - since_s >= rules.STEADY_S and one.record.starts:
            one.retries = 0
            one.record = self._write(
                msgspec.structs.replace(one.record, starts=0, error_class=None, code="", reason="")
            )

    # ---- stopping

    def _end(self, one: _Candidate) -> None:
        """Nothing is wanted any more: stop, and forget what was known. The bundle stays in its slot until that is needed."""
        model = one.model
        self._leave_off(one)
        self._paths.kept(model).unlink(missing_ok=True)
        path = self._paths.models / model / RECORD_FILE
        if path.exists():
            path.unlink(missing_ok=True)
            self._deps.event(EventKind.CANDIDATE, model, one.record.sha256, "ended", "candidate.ended", "", None)
        one.state = ""
        self._deps.changed()

    def _leave_off(self, one: _Candidate) -> None:
        """Stop what is going on, keep what is there."""
        if one.bringing:
            one.bringing = ""
            record = self._deps.records().get(one.model)
            if record is None or record.phase not in machine.INSTALLING:
                self._intake.cancel(one.model)
        one.lane.stop_recording()
        one.lane.stop()
        one.lane.drop_recording()

    def close(self) -> None:
        """End every worker and wait for that."""
        self._is_closed = True
        for one in self._all.values():
            one.lane.close()

    # ---- what others see

    def route(self, model: str, route: ModelRoute) -> ModelRoute:
        """Return the model's routes with its candidate."""
        one = self._all.get(model)
        return route if one is None or one.request is None else one.lane.route(route, one.request)

    def on_primary_stats(self, model: str, stats: Stats) -> None:
        """What the active worker says of copies that it had for a shadow."""
        one = self._all.get(model)
        if one is not None:
            one.lane.mirrored(stats)

    def ask_stats(self) -> None:
        """Ask every resident candidate for its figures."""
        self.send_to_all(GetStats())

    def send_to_all(self, message: GetStats | ForAll) -> int:
        """Tell something to every resident candidate; return to how many."""
        return sum(one.lane.tell(message) for one in self._all.values())

    def take_windows(self, t0: int, length_s: int) -> Iterator[Window]:
        """Yield each candidate's window and begin new ones. t0: unix seconds."""
        for one in self._all.values():
            window = one.lane.take_window(t0, length_s)
            if window is not None:
                yield window

    def pids(self) -> dict[str, int]:
        """Return the process ids of the candidates' workers by model."""
        return {m: one.lane.worker.pid for m, one in self._all.items() if one.lane.worker is not None}

    def states(self) -> dict[str, CandidateState]:
        """Return what is reported of all candidates, by model."""
        return {model: state for model in self._all if (state := self.state(model)) is not None}

    def state(self, model: str) -> CandidateState | None:
        """Return what is reported of a model's candidate."""
        one = self._all.get(model)
        if one is None or one.request is None or not one.state:
            return None
        request = one.request
        return CandidateState(
            target=request.wanted.target,
            sha256=request.wanted.sha256,
            mode=request.mode,
            state=one.state,
            share_pct=request.share_pct,
            code=one.code,
            reason=one.reason[:1000],
        )

    # ---- inside

    def _of(self, model: str) -> _Candidate:
        one = self._all.get(model)
        if one is None:
            lane = CandidateProcess(
                self._context,
                model,
                lambda: self._tell(self._all[model], CandidatePhase.RUNNING),
                lambda worker, how: self._on_exit(model, worker, how),
            )
            one = self._all[model] = _Candidate(self._read(model), lane)
        return one

    def _known_folders(self) -> list[str]:
        return [path.parent.name for path in self._paths.models.glob(f"*/{RECORD_FILE}")]

    def _read(self, model: str) -> CandidateRecord:
        try:
            found = read_record(CandidateRecord, self._paths.models / model / RECORD_FILE)
        except StateFileError as error:
            log.warning("candidate record unreadable", extra={"model": model, "reason": error.message})
            found = None
        return found or CandidateRecord(model=model)

    def _write(self, record: CandidateRecord) -> CandidateRecord:
        folder = self._paths.models / record.model
        if folder.is_dir():
            try:
                write_record(folder / RECORD_FILE, record)
            except OSError as error:  # a full disk: what serves goes on, and the count is kept in memory for now
                log.warning("candidate record not written", extra={"model": record.model, "reason": str(error)})
        return record

    def _tell(self, one: _Candidate, state: CandidatePhase, code: str = "", reason: str = "") -> None:
        if (one.state, one.code) == (state.value, code):
            one.reason = reason
            return
        one.state, one.code, one.reason = state.value, code, reason
        sha256 = one.request.wanted.sha256 if one.request is not None else ""
        error_class = one.record.error_class if state in (CandidatePhase.FAILED, CandidatePhase.WAITING) else None
        log.info("candidate", extra={"model": one.model, "state": state.value, "code": code, "reason": reason})
        self._deps.event(EventKind.CANDIDATE, one.model, sha256, state.value, code, reason, error_class)
        self._deps.changed()
