"""Carries out what `rules` decides about candidates: brings bundles, runs workers, keeps figures. One per agent, all models.

1. A record is on the disk before the start, or the end, that it tells of; reports follow it.
2. Nothing here touches what serves: the active worker is told of a candidate by the routing table alone.
3. A candidate that ends is started again after a while; after `MAX_STARTS` without a steady run, or for a fault of its own at once, it
   has failed. That is told, and nothing else happens.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgefleet_agent.candidate import rules
from edgefleet_agent.candidate.figures import LaneSums
from edgefleet_agent.candidate.pressure import Pressure, PressureLimits, Readings, weighed
from edgefleet_agent.candidate.rules import CandidateRecord
from edgefleet_agent.durable import read_record, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.child_protocol import Fetched, FetchFailed, FetchProgress
from edgefleet_agent.install.intake import Intake, Job
from edgefleet_agent.install.preflight import Room, check_disk, check_fit
from edgefleet_agent.install.records import CandidateWish, DesiredOk, HoldOk, ModelRecord, SlotInfo, SlotRef, Wanted
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.loop import Loop
from edgefleet_agent.paths import StatePaths, worker_socket
from edgefleet_agent.worker.protocol import (
    Failed,
    GetStats,
    LaneRoute,
    ModelRoute,
    Ready,
    Stats,
    ToAgentd,
)
from edgefleet_agent.workers import Beside, Worker, WorkerOptions
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import CandidatePhase, CandidateState, ErrorClass, EventKind, Window

RECORD_FILE = "candidate.msgpack"
LANE = "candidate"
UNDECLARED_FACTOR = 3
"""A bundle that declares no peak memory is taken to need this many times its size, and WORKER_BYTES."""
WORKER_BYTES = 48 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CandidateOptions:
    """Settings of candidates; see `settings.AgentSettings`."""

    shadow: str
    keep_inputs: bool
    samples: int
    max_bytes: int
    record_s: float
    rest_s: float
    headroom_bytes: int
    limits: PressureLimits


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the manager needs of the rest of agentd. All are called in the loop.

    records: what serves. lend: the idle slot of a model is about to be overwritten, so it is no way back any more. event: tell the
    server once. changed: report soon. routes: write the routing table anew.
    """

    records: Callable[[], dict[str, ModelRecord]]
    lend: Callable[[str], None]
    event: Callable[[EventKind, str, str, str, str, str, ErrorClass | None], None]
    changed: Callable[[], None]
    routes: Callable[[], None]
    room: Callable[[], Room]
    readings: Callable[[], Readings]


@dataclass(slots=True)
class _Candidate:
    """What is known of one model's candidate while agentd runs."""

    record: CandidateRecord
    wish: CandidateWish | None = None
    state: str = ""
    code: str = ""
    reason: str = ""
    is_checked: bool = False
    bringing: str = ""
    worker: Worker | None = None
    worker_wish: CandidateWish | None = None
    leaving: list[Worker] = field(default_factory=list)
    ready_since_s: float | None = None
    pressure: Pressure = Pressure()
    retries: int = 0
    retry_at_s: float = 0.0
    is_recording: bool = False
    recording_since_s: float = 0.0
    rested_since_s: float | None = None
    sums: LaneSums | None = None


class Candidates:
    """All models' candidates."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        loop: Loop,
        paths: StatePaths,
        slots: Slots,
        intake: Intake,
        worker_options: WorkerOptions,
        options: CandidateOptions,
        clock: Clock,
        neighbours: Neighbours,
    ) -> None:
        self._loop = loop
        self._paths = paths
        self._slots = slots
        self._intake = intake
        self._worker_options = worker_options
        self._options = options
        self._clock = clock
        self._now = clock.monotonic_s
        self._near = neighbours
        self._all: dict[str, _Candidate] = {}
        self._wanted: dict[str, Wanted] = {}
        self._hold: HoldOk | None = None
        self._is_closed = False

    # ---- documents

    def apply(self, desired: DesiredOk) -> None:
        """Act on a verified document; after the installer did."""
        self._wanted = {wanted.model: wanted for wanted in desired.wanted}
        wishes = {wish.wanted.model: wish for wish in desired.candidates}
        refused = {refusal.model: refusal for refusal in desired.refused_candidates}
        for folder in self._known_folders():
            self._of(folder)
        for model in wishes.keys() | self._all.keys() | refused.keys():
            if model in wishes or model in self._all:
                self._of(model).wish = wishes.get(model)
            if model in refused:
                one, refusal = self._of(model), refused[model]
                self._tell(one, CandidatePhase.FAILED, refusal.code, refusal.reason)
            self.look(model)
        for model in [name for name, one in self._all.items() if one.wish is None and not self._has_worker(one)]:
            if model not in refused:
                del self._all[model]
        self._near.changed()

    def hold(self, hold: HoldOk) -> None:
        """Remember the brake."""
        self._hold = hold
        self.tick()

    # ---- time

    def tick(self) -> None:
        """Look at everything again."""
        for model in list(self._all):
            self.look(model)

    @property
    def is_busy(self) -> bool:
        """Whether a candidate is on its way, so that time matters now."""
        return any(one.state in ("downloading", "starting", "replaying") for one in self._all.values())

    def look(self, model: str) -> None:
        """Compare one candidate with what is wanted, and act."""
        if self._is_closed:
            return
        one = self._of(model)
        record = self._near.records().get(model)
        step = rules.decide(one.wish, one.record, record, self._facts(one, record))
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
                self._start_recording(one)
            case rules.Replay():
                self._replay(one)
        self._watch_steady(one)

    def _facts(self, one: _Candidate, record: ModelRecord | None) -> rules.Facts:
        if one.wish is None:
            return rules.Facts(None, held=False, in_slot=False, fits="none")
        wanted, is_shadow = one.wish.wanted, one.wish.mode == "shadow"
        now_s = self._now()
        one.pressure = weighed(one.pressure, self._near.readings(), self._options.limits, now_s=now_s, shadow=is_shadow)
        info = self._in_slot(one, wanted, record)
        room = self._near.room()
        fits = "live"
        if info is not None and not self._runs(one):
            need = info.peak_memory_bytes or info.length * UNDECLARED_FACTOR + WORKER_BYTES
            fits = rules.memory_fit(
                need,
                room.memory_available_bytes,
                room.memory_reserve_bytes,
                self._options.headroom_bytes,
                mode=self._options.shadow if is_shadow else "auto",
            )
        elif one.worker is not None and one.worker.replays:
            fits = "sequential"
        is_resting = one.rested_since_s is not None and now_s - one.rested_since_s < self._options.rest_s
        return rules.Facts(
            self._wanted.get(one.record.model),
            held=self._is_held(wanted),
            in_slot=info is not None,
            fits=fits,
            pressure=one.pressure.reasons,
            is_recorded=self._is_recorded(one),
            is_resting=is_resting,
            retry_waits=one.worker is None and now_s < one.retry_at_s,
        )

    def _in_slot(self, one: _Candidate, wanted: Wanted, record: ModelRecord | None) -> SlotInfo | None:
        """Return what is in the idle slot if it is the wanted bundle, read whole once in each life of agentd."""
        if record is None or record.active is None:
            return None
        slot = rules.idle_slot(record)
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
        assert one.wish is not None
        wanted = one.wish.wanted
        if one.bringing == wanted.sha256:
            return
        self._leave_off(one)
        old = self._slots.info(wanted.model, slot)
        unfit = check_disk(wanted, old.length if old is not None else 0, self._near.room())
        if unfit is not None:
            self._failed(one, unfit.error_class, unfit.code, unfit.reason)
            return
        self._near.lend(wanted.model)
        one.is_checked = False
        one.record = self._write(msgspec.structs.replace(one.record, sha256=wanted.sha256, slot=slot, starts=0))
        one.bringing = wanted.sha256
        self._tell(one, CandidatePhase.DOWNLOADING)
        self._intake.fetch(Job(wanted, slot))

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """A word of the install child about a bundle; those of the active version's install are not ours."""
        one = self._all.get(packet.model)
        if one is None or not one.bringing or one.wish is None:
            return
        match packet:
            case Fetched():
                one.bringing = ""
                if packet.info.sha256 == one.wish.wanted.sha256:
                    one.is_checked = True  # hashed just now
                unfit = check_fit(msgspec.structs.replace(packet.info, peak_memory_bytes=0), self._near.room())
                if unfit is not None and unfit.error_class is ErrorClass.INCOMPATIBLE:
                    self._failed(one, unfit.error_class, unfit.code, unfit.reason)
                self.look(packet.model)
            case FetchFailed():
                one.bringing = ""
                self._failed(one, ErrorClass(packet.error_class), packet.code, packet.reason)

    # ---- running

    def _run(self, one: _Candidate) -> None:
        assert one.wish is not None
        if self._runs(one):
            if one.worker_wish != one.wish:  # share or salt: the same worker under another table
                one.worker_wish = one.wish
                self._near.routes()
            return
        self._stop_recording(one)
        self._start(one, replay=False)

    def _runs(self, one: _Candidate) -> bool:
        """Whether a resident worker of the wanted bundle in the wanted mode is there."""
        worker, had, wish = one.worker, one.worker_wish, one.wish
        return (
            worker is not None
            and not worker.replays
            and had is not None
            and wish is not None
            and (had.wanted.sha256, had.mode) == (wish.wanted.sha256, wish.mode)
        )

    def _replay(self, one: _Candidate) -> None:
        if one.worker is not None and one.worker.replays:
            return
        self._stop_recording(one)
        self._start(one, replay=True)

    def _start(self, one: _Candidate, *, replay: bool) -> None:
        assert one.wish is not None
        wanted = one.wish.wanted
        self._stop_worker(one)
        if rules.is_worn_out(one.record, wanted):
            reason = f"started {one.record.starts} times without a steady run; last: {one.record.reason or 'cut off'}"
            self._failed(one, ErrorClass.CRASH, "candidate.restarts", reason)
            return
        info = self._slots.info(wanted.model, rules.idle_slot(self._near.records()[wanted.model]))
        if info is None:
            return
        slot = rules.idle_slot(self._near.records()[wanted.model])
        one.record = self._write(rules.started(one.record, wanted, slot))
        is_shadow = one.wish.mode == "shadow"
        beside = Beside(
            lane=LANE,
            background=is_shadow,
            mirror_path=str(self._mirror_path(wanted.model, slot)) if is_shadow and not replay else "",
            replay_path=str(self._paths.recording(wanted.model)) if replay else "",
            kept_path=str(self._paths.kept(wanted.model)) if is_shadow else "",
            keep_inputs=self._options.keep_inputs,
        )
        ref = SlotRef(slot=slot, target=wanted.target, sha256=wanted.sha256, version=info.version)
        try:
            fd = self._slots.open(wanted.model, slot)
            one.worker = Worker(
                self._loop, self._worker_options, wanted.model, ref, fd, self._on_message, self._on_exit, beside
            )
        except OSError as error:
            self._failed(one, ErrorClass.DISK, "candidate.not_started", str(error))
            return
        one.worker_wish = one.wish
        if one.sums is None or one.sums.sha256 != wanted.sha256:
            one.sums = LaneSums(wanted.sha256, info.version)
        self._tell(one, CandidatePhase.REPLAYING if replay else CandidatePhase.STARTING)

    def _on_message(self, worker: Worker, message: ToAgentd) -> None:
        one = self._all.get(worker.model)
        if one is None:
            return
        if isinstance(message, Stats) and one.sums is not None and one.sums.sha256 == worker.ref.sha256:
            one.sums.add(message, worker)
        if worker is not one.worker:
            return
        if isinstance(message, Ready):
            worker.state = "serving"
            one.ready_since_s = self._now()
            self._tell(one, CandidatePhase.RUNNING)
            self._near.routes()

    def _on_exit(self, worker: Worker, how: str) -> None:
        one = self._all.get(worker.model)
        if one is None:
            return
        if worker in one.leaving:
            one.leaving.remove(worker)
            return
        if worker is not one.worker:
            return
        one.worker = None
        one.ready_since_s = None
        self._near.routes()
        if worker.replays and how == "exit status 0":
            self._replayed(one)
            return
        if one.sums is not None:
            one.sums.crashes += 1
        failed: Failed | None = worker.failed
        if failed is not None:
            self._failed(one, ErrorClass(failed.error_class), f"candidate.{failed.error_class}", failed.reason)
        else:
            self._crashed(one, how)

    def _crashed(self, one: _Candidate, how: str) -> None:
        one.record = self._write(
            msgspec.structs.replace(one.record, error_class=ErrorClass.CRASH, code="candidate.crash", reason=how)
        )
        self._retry_later(one)
        self._tell(one, CandidatePhase.WAITING, "candidate.crash", f"its worker ended: {how}")

    def _failed(self, one: _Candidate, error_class: ErrorClass, code: str, reason: str) -> None:
        assert one.wish is not None
        self._leave_off(one)
        one.record = self._write(rules.failed(one.record, one.wish.wanted, error_class, code, reason))
        self._retry_later(one)
        is_final = rules.has_failed(one.record, one.wish.wanted)
        self._tell(one, CandidatePhase.FAILED if is_final else CandidatePhase.WAITING, code, reason)

    def _retry_later(self, one: _Candidate) -> None:
        one.retry_at_s = self._now() + rules.RETRY_S[min(one.retries, len(rules.RETRY_S) - 1)]
        one.retries += 1

    def _watch_steady(self, one: _Candidate) -> None:
        since_s = one.ready_since_s
        if since_s is not None and self._now() - since_s >= rules.STEADY_S and one.record.starts:
            one.retries = 0
            one.record = self._write(
                msgspec.structs.replace(one.record, starts=0, error_class=None, code="", reason="")
            )

    # ---- sequential

    def _start_recording(self, one: _Candidate) -> None:
        if self._runs(one):
            return
        path = self._paths.recording(one.record.model)
        if not one.is_recording:
            path.unlink(missing_ok=True)
            one.is_recording, one.recording_since_s = True, self._now()
            self._tell(one, CandidatePhase.RECORDING)
            self._near.routes()
        elif self._now() - one.recording_since_s >= self._options.record_s:
            part = path.with_name(path.name + ".part")
            one.recording_since_s = self._now()
            self._stop_recording(one)
            if part.is_file() and part.stat().st_size:
                part.replace(path)

    def _stop_recording(self, one: _Candidate) -> None:
        if one.is_recording:
            one.is_recording = False
            self._near.routes()

    def _is_recorded(self, one: _Candidate) -> bool:
        return self._paths.recording(one.record.model).is_file()

    def _replayed(self, one: _Candidate) -> None:
        one.rested_since_s = self._now()
        one.retries = 0
        self._paths.recording(one.record.model).unlink(missing_ok=True)
        one.record = self._write(msgspec.structs.replace(one.record, starts=0))
        self.look(one.record.model)

    # ---- stopping

    def _end(self, one: _Candidate) -> None:
        """Nothing is wanted any more: stop, and forget what was known. The bundle stays in its slot until that is needed."""
        model = one.record.model
        self._leave_off(one)
        self._paths.kept(model).unlink(missing_ok=True)
        path = self._paths.models / model / RECORD_FILE
        if path.exists():
            path.unlink(missing_ok=True)
            self._near.event(EventKind.CANDIDATE, model, one.record.sha256, "ended", "candidate.ended", "", None)
        one.state = ""
        self._near.changed()

    def _leave_off(self, one: _Candidate) -> None:
        """Stop what is going on, keep what is there."""
        if one.bringing:
            one.bringing = ""
            record = self._near.records().get(one.record.model)
            if record is None or record.phase not in rules.machine.INSTALLING:
                self._intake.cancel(one.record.model)
        self._stop_recording(one)
        if not self._is_closed:
            for suffix in ("", ".part"):
                Path(f"{self._paths.recording(one.record.model)}{suffix}").unlink(missing_ok=True)
        self._stop_worker(one)

    def _stop_worker(self, one: _Candidate) -> None:
        worker, one.worker = one.worker, None
        one.ready_since_s = None
        if worker is None:
            return
        one.leaving.append(worker)
        was_split = one.worker_wish is not None and one.worker_wish.mode == "split"
        self._near.routes()  # first: nobody is sent there any more
        if worker.state == "serving" and was_split:
            worker.drain()
        elif worker.state == "serving":
            worker.drain(2.0)
        else:
            worker.kill()

    def close(self) -> None:
        """End every worker and wait for that."""
        self._is_closed = True
        for one in self._all.values():
            for worker in [one.worker, *one.leaving]:
                if worker is not None:
                    worker.abandon()
            one.worker = None
            one.leaving.clear()
            for suffix in ("", ".part"):
                Path(f"{self._paths.recording(one.record.model)}{suffix}").unlink(missing_ok=True)

    # ---- what others see

    def route(self, model: str, route: ModelRoute) -> ModelRoute:
        """Return the model's routes with its candidate."""
        one = self._all.get(model)
        if one is None or one.wish is None:
            return route
        wish = one.wish
        if one.is_recording:
            recording = str(self._paths.recording(model))
            return msgspec.structs.replace(
                route,
                mode="shadow",
                recording=recording,
                record_samples=self._options.samples,
                record_bytes=self._options.max_bytes,
            )
        worker = one.worker
        if worker is None or worker.state != "serving" or worker.replays:
            return route
        mirror = str(self._mirror_path(model, worker.ref.slot)) if wish.mode == "shadow" else ""
        lane = LaneRoute(str(worker.socket_path), worker.ref.version, worker.ref.sha256, worker.ref.slot, mirror=mirror)
        return msgspec.structs.replace(
            route,
            lanes={**route.lanes, LANE: lane},
            mode="shadow" if wish.mode == "shadow" else "split",
            share_pct=wish.share_pct,
            salt=wish.salt,
        )

    def on_primary_stats(self, model: str, stats: Stats) -> None:
        """What the active worker says of copies that it had for a shadow."""
        one = self._all.get(model)
        if one is not None and one.sums is not None:
            one.sums.mirrored(stats.mirrored, stats.mirror_dropped)

    def ask_stats(self) -> None:
        """Ask every resident candidate for its figures."""
        for one in self._all.values():
            if one.worker is not None and one.worker.state == "serving":
                one.worker.send(GetStats())

    def take_windows(self, t0: int, length_s: int) -> Iterator[Window]:
        """Yield each candidate's window and begin new ones. t0: unix seconds."""
        for model, one in self._all.items():
            if one.sums is not None:
                yield one.sums.closed(model, LANE, t0, length_s)
                one.sums = LaneSums(one.sums.sha256, one.sums.version) if self._has_worker(one) else None

    def pids(self) -> dict[str, int]:
        """Return the process ids of the candidates' workers by model."""
        return {model: one.worker.pid for model, one in self._all.items() if one.worker is not None}

    def state(self, model: str) -> CandidateState | None:
        """Return what is reported of a model's candidate."""
        one = self._all.get(model)
        if one is None or one.wish is None or not one.state:
            return None
        wish = one.wish
        return CandidateState(
            target=wish.wanted.target,
            sha256=wish.wanted.sha256,
            mode=wish.mode,
            state=one.state,
            share_pct=wish.share_pct,
            code=one.code,
            reason=one.reason[:1000],
        )

    # ---- inside

    def _of(self, model: str) -> _Candidate:
        one = self._all.get(model)
        if one is None:
            one = self._all[model] = _Candidate(self._read(model))
        return one

    @staticmethod
    def _has_worker(one: _Candidate) -> bool:
        return one.worker is not None or bool(one.leaving)

    def _known_folders(self) -> list[str]:
        return [path.parent.name for path in self._paths.models.glob(f"*/{RECORD_FILE}")]

    def _mirror_path(self, model: str, slot: str) -> Path:
        return worker_socket(self._paths.sockets(), model, "mirror", slot)

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
        sha256 = one.wish.wanted.sha256 if one.wish is not None else ""
        error_class = one.record.error_class if state in (CandidatePhase.FAILED, CandidatePhase.WAITING) else None
        log.info("candidate", extra={"model": one.record.model, "state": state.value, "code": code, "reason": reason})
        self._near.event(EventKind.CANDIDATE, one.record.model, sha256, state.value, code, reason, error_class)
        self._near.changed()
