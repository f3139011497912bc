"""What a simulated device runs next to what serves: the shipped `candidate.rules` decide, what hardware does is drawn.

Kept over a crash is what agentd keeps on disk: the record of the candidate and its bundle in the idle slot. All else begins again.
A candidate that crashes is not started again. A device that is tight lacks the memory for it three times, each time for a while.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_agent.candidate import rules
from edgefleet_agent.install import machine
from edgefleet_agent.install.records import CandidateRequest, ModelRecord, Wanted
from edgefleet_protocol.messages import CandidatePhase, ErrorClass
from edgefleet_server.rollout.model import NO_CANDIDATE, Bundle, CandidateReport
from edgefleet_sim.nature import Nature

AT_START: Final = (ErrorClass.GOLDEN, ErrorClass.LOAD, ErrorClass.SIGNATURE, ErrorClass.INTERNAL)
"""Classes with which a bundle never gets to run; with the others it runs for a while first."""
FAILS_WITHIN_S: Final = 400.0
RESTS: Final = 3
RESTS_S: Final = (60.0, 1_200.0)
"""How long a tight device has no memory for it, and has it again, from and to."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle that a document names next to the active one. mode: shadow or split; share_pct: of the requests, 0 in a shadow."""

    bundle: Bundle
    mode: str
    share_pct: int
    salt: str
    rollout: str
    attempt: int
    download_s: int
    apply_s: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a look needs. active: what the document wants to serve; later: call after so long; again: look and report once more."""

    clock: Callable[[], datetime]
    record: ModelRecord
    active: Wanted | None
    held: bool
    later: Callable[[float, Callable[[], None]], None]
    again: Callable[[], None]


class SimCandidate:
    """One device's candidate. reported: what it reports; since: since when it runs, None while it does not; first: when it first did."""

    def __init__(self, nature: Nature, chance: random.Random) -> None:
        self.reported = NO_CANDIDATE
        self.slot = ""
        self.since: datetime | None = None
        self.first: datetime | None = None
        self._mine = rules.CandidateRecord(model="digits")
        self._candidate: Candidate | None = None
        self._gen = 0
        self._longest = timedelta()
        self._nature, self._chance = nature, chance
        self._work = 0
        self.rests = 0
        self._is_pressed = False

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing next to what serves, and was nothing."""
        return self.reported == NO_CANDIDATE and self.since is None

    def share_pct(self) -> int:
        """Return how much of the requests the candidate answers now, in percent."""
        if self.since is None or self._candidate is None or self._candidate.mode != "split":
            return 0
        return self._candidate.share_pct

    def ran(self, now: datetime) -> timedelta:
        """Return how long it ran at the longest without a pause."""
        return max(self._longest, now - self.since if self.since is not None else timedelta())

    def lost_power(self, now: datetime) -> None:
        """Forget what is in memory only."""
        self._stop(now)
        self.reported = NO_CANDIDATE

    def look(self, candidate: Candidate | None, gen: int, around: Surroundings) -> ModelRecord:
        """Do what the shipped rules say; return the record of what serves, whose idle slot may be lent by it."""
        self._candidate, self._gen = candidate, gen
        request = None if candidate is None else _request(candidate, gen)
        has_it = candidate is not None and self.slot == candidate.bundle.sha256
        pressure = ("memory",) if self._is_pressed else ()
        facts = rules.Facts(around.active, held=around.held, in_slot=has_it, fits="live", pressure=pressure)
        match rules.decide(request, self._mine, around.record, facts):
            case rules.End():
                self._stop(around.clock())
                self.reported = NO_CANDIDATE
                self._mine = rules.CandidateRecord(model="digits")
            case rules.Stay() as stay if request is not None:
                self._stop(around.clock())
                self.reported = CandidateReport(request.wanted.sha256, stay.state, stay.code, stay.reason)
            case rules.Bring() if candidate is not None:
                if not self._is(candidate, CandidatePhase.DOWNLOADING):
                    self._enter(candidate, CandidatePhase.DOWNLOADING, around, candidate.download_s)
                return machine.lent(around.record)
            case rules.Run() if candidate is not None and request is not None:
                if not self._is(candidate, CandidatePhase.STARTING) and not self._is(candidate, CandidatePhase.RUNNING):
                    self._mine = rules.started(self._mine, request.wanted, "B")
                    self._enter(candidate, CandidatePhase.STARTING, around, candidate.apply_s)
            case _:
                pass
        return around.record

    # ---- one thing after the other

    def _is(self, candidate: Candidate, phase: CandidatePhase) -> bool:
        return (self.reported.sha256, self.reported.state) == (candidate.bundle.sha256, phase.value)

    def _enter(self, candidate: Candidate, phase: CandidatePhase, around: Surroundings, limit_s: int) -> None:
        self._stop(around.clock())
        self.reported = CandidateReport(candidate.bundle.sha256, phase.value)
        work = self._work
        span_s = limit_s * (
            self._chance.uniform(1.05, 1.6) if self._nature.is_slow else self._chance.uniform(0.01, 0.12)
        )
        around.later(span_s, lambda: self._done(candidate, phase, around) if work == self._work else None)

    def _done(self, candidate: Candidate, phase: CandidatePhase, around: Surroundings) -> None:
        if phase is CandidatePhase.DOWNLOADING:
            self.slot = candidate.bundle.sha256
        elif self._nature.fails in AT_START and not self._nature.late_s:
            self._failed(candidate, around)
        else:
            self.reported = CandidateReport(candidate.bundle.sha256, CandidatePhase.RUNNING.value)
            self._begin(candidate, around)
        around.again()

    def _begin(self, candidate: Candidate, around: Surroundings) -> None:
        self.since = around.clock()
        self.first = self.first or self.since
        work = self._work
        if self._nature.fails is not None:
            span_s = self._chance.uniform(1.0, self._nature.late_s or FAILS_WITHIN_S)
            around.later(span_s, lambda: self._crash(candidate, around) if work == self._work else None)
        if self._nature.is_tight and self.rests < RESTS:
            around.later(self._chance.uniform(*RESTS_S), lambda: self._rest(around) if work == self._work else None)

    def _rest(self, around: Surroundings) -> None:
        self.rests += 1
        self._is_pressed = True
        around.later(self._chance.uniform(*RESTS_S), lambda: self._go_on(around))
        around.again()

    def _go_on(self, around: Surroundings) -> None:
        self._is_pressed = False
        around.again()

    def _crash(self, candidate: Candidate, around: Surroundings) -> None:
        self._failed(candidate, around)
        around.again()

    def _failed(self, candidate: Candidate, around: Surroundings) -> None:
        fails = self._nature.fails
        assert fails is not None, "something failed"
        self._stop(around.clock())
        reason = f"{fails} beside what serves"
        wanted = _request(candidate, self._gen).wanted
        self._mine = rules.failed(self._mine, wanted, fails, f"candidate.{fails}", reason)

    def _stop(self, now: datetime) -> None:
        """End what is under way, and what runs."""
        self._work += 1
        self._longest, self.since = self.ran(now), None


def _request(candidate: Candidate, gen: int) -> CandidateRequest:
    bundle = candidate.bundle
    wanted = Wanted(
        model="digits",
        target=bundle.target,
        sha256=bundle.sha256,
        length=bundle.length,
        leaves="",
        gen=gen,
        rollout=candidate.rollout,
        attempt=candidate.attempt,
        download_s=candidate.download_s,
        apply_s=candidate.apply_s,
    )
    return CandidateRequest(wanted=wanted, mode=candidate.mode, share_pct=candidate.share_pct, salt=candidate.salt)
