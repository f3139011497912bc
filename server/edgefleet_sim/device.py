"""One simulated device: the shipped `desired_diff` decides, the shipped `machine` keeps its record; what hardware does is drawn.

Kept over a crash is what agentd keeps on disk: the record, the newest document it accepted, the hold. All else begins again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from edgefleet_agent.install import desired_diff, machine
from edgefleet_agent.install.desired_diff import spread_reason
from edgefleet_agent.install.records import ModelRecord, SlotRef, Wanted
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import HELD_CODE, SPREAD_CODE, TRANSIENT, ErrorClass, Phase
from edgefleet_protocol.verify import ExpiredError
from edgefleet_server.rollout.model import GUARD_CLASSES, Bundle, CheckEnd, Report
from edgefleet_sim.candidate import Candidate, SimCandidate, Surroundings
from edgefleet_sim.nature import Cry, Nature, with_cry, without_failure

SLOW: Final = (1.05, 1.6)
"""How many times its limit a phase takes on a slow device, from and to."""
BEFORE_SWITCH: Final = (ErrorClass.GOLDEN, ErrorClass.LOAD, ErrorClass.SIGNATURE, ErrorClass.INTERNAL)
_DONE: Final = {
    Phase.DOWNLOADING: machine.InstallEvent.FETCHED,
    Phase.VERIFYING: machine.InstallEvent.VERIFIED,
    Phase.PREFLIGHT: machine.InstallEvent.FITS,
    Phase.GOLDEN: machine.InstallEvent.GOLDEN_OK,
    Phase.WARMING: machine.InstallEvent.READY,
}


@dataclass(frozen=True, slots=True)
class Document:
    """A device's document. active: None = the model is dropped. rollout: "" = nobody's. candidate: what is to run next to it."""

    gen: int
    active: Bundle | None
    rollout: str = ""
    attempt: int = 1
    download_s: int = 3_600
    apply_s: int = 600
    verify_s: int = 600
    candidate: Candidate | None = None
    start_within_s: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """The hold: what must not be switched to."""

    seq: int = 0
    rollouts: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Said:
    """One report on the wire."""

    boot: int
    seq: int
    report: Report


class Air(Protocol):
    """What a device needs of the world."""

    @property
    def now(self) -> datetime:
        """The true time."""

    def at(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call `act` after so long."""

    def say(self, device: DeviceId, said: Said) -> None:
        """Send a report."""

    def connected(self, device: DeviceId) -> None:
        """A device's connection is there (again): the broker hands out what is retained."""

    def gone(self, device: DeviceId) -> None:
        """A device's connection broke."""

    def note(self, line: str) -> None:
        """Note a line of the story."""


class SimDevice:
    """One device. `record` is its disk; `ran` has since when it ran each digest that it committed, for the checks."""

    def __init__(
        self,
        device: DeviceId,
        stratum: ProfileName,
        old: Bundle | None,
        under_test: str,
        nature: Nature,
        chance: random.Random,
        beat_s: float = 900.0,
    ) -> None:
        self.id = device
        self.stratum = stratum
        self.nature = nature
        self.is_up = True
        self.is_dead = False
        self.document = Document(0, old)
        self.hold = Hold()
        self.switched_at: dict[str, datetime] = {}
        self.committed: set[str] = set() if old is None else {old.sha256}
        self.refused_gen = 0
        self.downloads = 0
        self.crashes = 0
        self._under_test = under_test
        self._chance = chance
        self._boot, self._seq = 1, 0
        self._work = 0
        self._retries = 0
        self._wanted = self._named(self.document)
        self._noted_start_s = 0
        self._beat_s = beat_s
        self._cry: Cry | None = None
        self._old = "" if old is None else old.sha256
        self.candidate_process = SimCandidate(nature, chance)
        self.record = ModelRecord(model="digits")
        if old is not None:
            ref = SlotRef(slot="A", target=old.target, sha256=old.sha256, version="old", proven=True)
            self.record = ModelRecord(model="digits", phase=Phase.COMMITTED, active=ref)

    # ---- being there

    def begin(self, air: Air) -> None:
        """Come up as this device does."""
        for start_s, back_s in self.nature.away_s:
            air.at(start_s, lambda: self._go_away(air))
            if back_s < math.inf:
                air.at(back_s, lambda: self._come_back(air))
        air.at(self._chance.uniform(0, self._beat_s), lambda: self._beat(air))
        for cry in () if self.nature.lie is None else self.nature.lie.cries:
            air.at(cry.at_s, partial(self._say, air, cry))
            if cry.for_s < math.inf:
                air.at(cry.at_s + cry.for_s, lambda: self._say(air, None))

    def _say(self, air: Air, cry: Cry | None) -> None:
        self._cry = cry
        self._send(air)

    def _beat(self, air: Air) -> None:
        self._send(air)
        if not self.is_dead:
            air.at(self._beat_s, lambda: self._beat(air))

    def _go_away(self, air: Air) -> None:
        self.is_up = False
        air.gone(self.id)

    def _come_back(self, air: Air) -> None:
        if not self.is_dead:
            self.is_up = True
            air.connected(self.id)
            if self._start_s and isinstance(self._decision(air), desired_diff.Begin):
                self._look(air)  # its part of the time was over while it was away
            self._send(air)

    def crash(self, air: Air) -> None:
        """Lose the power; come up again after a while with what is on disk."""
        if self.is_dead or not self.is_up:
            return
        self.crashes += 1
        self._work += 1
        self.is_up = False
        self.candidate_process.lost_power(air.now)
        air.gone(self.id)
        air.at(self._chance.uniform(5, 90), lambda: self._boot_up(air))

    def _boot_up(self, air: Air) -> None:
        if self.is_dead:
            return
        self.is_up = True
        self._boot, self._seq = self._boot + 1, 0
        self.record = machine.recovered(self.record, now_s=self._now_s(air))
        air.connected(self.id)
        self._look(air)
        self._send(air)

    def again(self, air: Air) -> None:
        """Say again what was lost on its way."""
        self._send(air)

    # ---- what the server sends

    def take(self, air: Air, document: Document) -> None:
        """Take a document: only a newer one counts."""
        if not self.is_up or document.gen <= max(self.document.gen, self.refused_gen):
            return
        if self.nature.refuses and (document.rollout or document.candidate is not None):
            self.refused_gen = document.gen
            self._send(air)
        else:
            self.document = document
            wanted = self._named(document)
            self._wanted = wanted and desired_diff.started(wanted, self._wanted, self.id, self._now_s(air))
            self._retries = 0
            self._look(air)
            self._send(air)

    def take_hold(self, air: Air, hold: Hold) -> None:
        """Take the hold document."""
        if self.is_up and hold.seq > self.hold.seq:
            self.hold = hold
            self._look(air)
            self._send(air)

    # ---- deciding and doing: the shipped rules

    @staticmethod
    def _named(document: Document) -> Wanted | None:
        """Return the request in a document as the child that verifies reads it."""
        active = document.active
        if active is None:
            return None
        return Wanted(
            model="digits",
            target=active.target,
            sha256=active.sha256,
            length=active.length,
            leaves="",
            gen=document.gen,
            rollout=document.rollout,
            attempt=document.attempt,
            download_s=document.download_s,
            apply_s=document.apply_s,
            verify_s=document.verify_s,
            start_within_s=document.start_within_s,
        )

    @property
    def _start_s(self) -> int:
        return 0 if self._wanted is None else self._wanted.start_s

    def _is_held(self, wanted: Wanted | None) -> bool:
        return wanted is not None and (wanted.rollout in self.hold.rollouts or wanted.sha256 in self.hold.digests)

    def _decision(self, air: Air) -> desired_diff.Decision:
        wanted = self._wanted
        return desired_diff.decide(self.record, wanted, now_s=self._now_s(air), held=self._is_held(wanted))

    def _look(self, air: Air) -> None:
        """Compare what is wanted with what there is, and begin what follows from it."""
        for _ in range(4):
            now_s, decision = self._now_s(air), self._decision(air)
            match decision:
                case desired_diff.Begin():
                    has_it = self.record.previous is not None and self.record.previous.sha256 == decision.wanted.sha256
                    self.downloads += not has_it
                    self.record = machine.begun(self.record, decision.wanted, decision.slot, now_s=now_s)
                    self.candidate_process.slot = ""
                case desired_diff.Withdraw():
                    self.record = machine.withdrawn(self.record, now_s=now_s)
                    continue
                case desired_diff.Follow():
                    self.record = machine.followed(self.record, decision.wanted, now_s=now_s)
                case desired_diff.Drop():
                    self.record = machine.dropped(self.record, now_s=now_s)
                case desired_diff.Stay() | desired_diff.Wait():
                    self._wait(air, decision)
            break
        self._look_at_candidate(air)
        self._go_on(air)

    def _wait(self, air: Air, decision: desired_diff.Decision) -> None:
        """Look again when the device's part of the time is over over which devices begin; nothing else is waited for by a clock."""
        if decision != desired_diff.SPREAD:
            return
        if self._noted_start_s != self._start_s:
            self._noted_start_s = self._start_s
            air.note(f"{self.id} waits {self._start_s - self._now_s(air)} s before it asks for the bundle")
        start_s = self._start_s
        air.at(start_s - self._now_s(air), lambda: self._start(air, start_s))

    def _start(self, air: Air, start_s: int) -> None:
        if self._start_s == start_s and not self.is_dead and self.is_up:
            self._look(air)
            self._send(air)

    def _look_at_candidate(self, air: Air) -> None:
        """Do the next thing about what runs next to what serves."""
        candidate = self.document.candidate
        if candidate is None and self.candidate_process.is_idle:
            return
        held = candidate is not None and (
            candidate.rollout in self.hold.rollouts or candidate.bundle.sha256 in self.hold.digests
        )
        around = Surroundings(
            lambda: air.now, self.record, self._wanted, held, air.at, lambda: self._candidate_again(air)
        )
        self.record = self.candidate_process.look(candidate, self.document.gen, around)

    def _candidate_again(self, air: Air) -> None:
        if not self.is_dead:
            self._look_at_candidate(air)
            self._send(air)

    def _go_on(self, air: Air) -> None:
        """Do the next thing of the phase that the record is in."""
        self._work += 1
        work, phase = self._work, self.record.phase
        wanted = self.record.wanted
        if wanted is None or (phase not in machine.INSTALLING and not machine.is_on_trial(self.record)):
            return
        limit_s = {Phase.DOWNLOADING: wanted.download_s}.get(phase, wanted.apply_s)
        if phase not in machine.INSTALLING:
            limit_s = wanted.verify_s
        part = self._chance.uniform(*SLOW) if self.nature.is_slow and self._is_under_test() else 0.0
        span_s = limit_s * (part or self._chance.uniform(0.01, 0.12))
        if part:  # it began when the phase did, also where it was without power since
            span_s = max(0.0, min(span_s, self.record.phase_since_s + SLOW[1] * limit_s - self._now_s(air)))
        air.at(span_s, lambda: self._step(air, work))

    def _is_under_test(self) -> bool:
        wanted = self.record.wanted
        return wanted is not None and wanted.sha256 == self._under_test

    def _step(self, air: Air, work: int) -> None:
        if work != self._work or self.is_dead:
            return
        now_s, record = self._now_s(air), self.record
        due_s = machine.phase_deadline_s(record)
        if due_s is not None and now_s >= due_s:
            self._failed(air, ErrorClass.DEADLINE)
            return
        fault = self.nature.fails if self._is_under_test() and not self.nature.late_s else None
        if record.phase in _DONE:
            if fault in BEFORE_SWITCH and record.phase is Phase.GOLDEN:
                self._failed(air, fault)
                return
            self.record = machine.advanced(record, _DONE[record.phase], now_s=now_s)
        elif record.phase is Phase.SWITCHING:
            self._switch(air, now_s)
            if self.is_dead:
                return
        elif machine.is_on_trial(record):
            assert record.active is not None, "a trial has something that serves"
            if fault is not None and fault not in BEFORE_SWITCH and record.active.sha256 == self._under_test:
                self._rolled_back(air, fault, now_s)
                return
            self.record = machine.proven(record, now_s=now_s)
            self.committed.add(record.active.sha256)
            air.note(f"{self.id} proved {record.active.version}")
            if self.nature.late_s and record.active.sha256 == self._under_test:
                air.at(self.nature.late_s, lambda: self._fail_late(air))
            self._look(air)
            self._send(air)
            return
        self._send(air)
        self._look(air)

    def _switch(self, air: Air, now_s: int) -> None:
        wanted = self.record.wanted
        assert wanted is not None, "an install has a wish"
        version = wanted.target.split("/")[1]
        ref = SlotRef(slot=self.record.installing, target=wanted.target, sha256=wanted.sha256, version=version)
        self.record = machine.switched(self.record, ref, now_s=now_s)
        self.switched_at[wanted.sha256] = air.now
        air.note(f"{self.id} switched to {version}")
        if self.nature.dies and self._is_under_test():
            self.is_dead, self.is_up = True, False
            air.note(f"{self.id} died")
            air.gone(self.id)

    def _failed(self, air: Air, fault: ErrorClass) -> None:
        self.record = machine.failed(self.record, fault, f"sim.{fault}", f"{fault} on {self.id}")
        air.note(f"{self.id} failed: {fault}")
        if fault in TRANSIENT:
            wait_s = machine.RETRY_DELAYS_S[min(self._retries, len(machine.RETRY_DELAYS_S) - 1)]
            self._retries += 1
            self._work += 1
            work = self._work
            air.at(wait_s, lambda: self._look(air) if work == self._work and not self.is_dead else None)
        self._send(air)

    def _rolled_back(self, air: Air, fault: ErrorClass, now_s: int) -> None:
        self.record = machine.rolled_back(self.record, fault, f"sim.{fault}", f"{fault} on {self.id}", now_s=now_s)
        air.note(f"{self.id} went back by itself: {fault}")
        self._look(air)
        self._send(air)

    def _fail_late(self, air: Air) -> None:
        """Crash with what was proven long ago, if that still serves and nothing else is being installed."""
        if self.active == self._under_test and self.record.phase is Phase.COMMITTED and not self.is_dead:
            self._rolled_back(air, self.nature.fails or ErrorClass.CRASH, self._now_s(air))

    def _now_s(self, air: Air) -> int:
        return self._local_s(air.now)

    def _local_s(self, now: datetime) -> int:
        return int((now + timedelta(seconds=self.nature.skew_s)).timestamp())

    def is_on_its_way(self, now: datetime) -> bool:
        """Whether it is busy with a phase of an install that may still end: a slow device outstays its deadline before it says so."""
        due_s, began_s = machine.phase_deadline_s(self.record), self.record.phase_since_s
        now_s = self._local_s(now)
        return due_s is not None and now_s <= began_s + SLOW[1] * (due_s - began_s)

    # ---- reporting

    @property
    def is_downloading(self) -> bool:
        """Whether it fetches the release under test now, whatever the server knows."""
        return self.is_up and self.record.phase is Phase.DOWNLOADING and self._is_under_test()

    @property
    def active(self) -> str:
        """Digest of what serves, "" for nothing."""
        return "" if self.record.active is None else self.record.active.sha256

    def _send(self, air: Air) -> None:
        if self.is_up and not self.is_dead:
            self._seq += 1
            air.say(self.id, Said(self._boot, self._seq, self._told(self._report(air))))

    def _told(self, honest: Report) -> Report:
        """Return what it says of what is so."""
        lie = self.nature.lie
        if lie is None:
            return honest
        if self._cry is not None:
            return with_cry(honest, self._cry.fails, self._under_test, self._old)
        return without_failure(honest, self._under_test) if lie.hides else honest

    def checked(self, digest: str) -> CheckEnd:
        """Return how its check of what serves ends."""
        lie, fails = self.nature.lie, self.nature.fails
        if lie is not None and lie.answers:
            return CheckEnd(state=lie.answers, code="check.golden" if lie.answers == "failed" else "")
        if self.active != digest:
            return CheckEnd(state="failed", code="check.not_here")
        is_bad = digest == self._under_test and fails in GUARD_CLASSES
        return CheckEnd(state="failed", code=f"check.{fails}") if is_bad else CheckEnd(state="done")

    def _report(self, air: Air) -> Report:
        record = self.record
        error_class, code, reason = record.error_class, record.error_code, record.reason
        wanted = self._wanted
        is_waiting = wanted is not None and self.active != wanted.sha256
        if is_waiting and self._is_held(wanted) and (not code or error_class in TRANSIENT):
            error_class, code, reason = ErrorClass.DEADLINE, HELD_CODE, desired_diff.HELD.reason
        elif is_waiting and self._decision(air) == desired_diff.SPREAD:
            error_class, code, reason = None, SPREAD_CODE, spread_reason(self._start_s)
        return Report(
            reported_gen=self.document.gen,
            phase=record.phase,
            active_sha256=self.active,
            previous_sha256="" if record.previous is None else record.previous.sha256,
            wanted_sha256="" if record.wanted is None else record.wanted.sha256,
            attempt=0 if record.wanted is None else record.wanted.attempt,
            gen=record.gen,
            error_class=error_class,
            error_code=code,
            reason=reason,
            refused_gen=self.refused_gen,
            refused_code=ExpiredError.code if self.refused_gen else "",
            refused_reason="its clock is wrong" if self.refused_gen else "",
            is_online=True,
            last_seen=air.now,
            candidate=self.candidate_process.reported,
        )


def silent(report: Report) -> Report:
    """Return what the server knows of a device whose connection broke."""
    return replace(report, is_online=False)
