"""Whether others confirm a failure before it takes a release back from them. Pure; `planner.confirmations` asks and draws.

Nothing that a device sends proves a failure, and no single device may take a release back from others. So a failure that a plain rule would
act on opens a question in its stratum, and offers there rest until it is answered:
1. The server draws up to three devices after the report, by randomness that no device knows: of all others of the stratum that have the
   release and are there, whatever became of it. Where there are none, of other strata: they run another bundle, so they confirm a failure
   and never speak against one. Else one that has not got the release. Of three devices in a stratum one is drawn, of two the other one,
   if it has the release; a lone device speaks for itself.
2. `signature` and `golden`: the server checks the bundle itself. If that fails it is proved, and the release is taken back everywhere.
   Drawn devices verify the bundle, or run its golden vectors. What the server's check and they refute makes the reporter a suspect.
3. Everything else: drawn devices run the release for the soak of their stage. That they are healthy refutes nothing.
4. Two drawn devices that fail confirm it; one does where only one was drawn. What is confirmed in one stratum is confirmed where the
   same was reported, and where a drawn device failed. Enough healthy ones leave it a failure like any other. A device that falls
   silent confirms nothing but silence: it may be its line.
5. Without an answer in time the stratum waits for a person. An answer that comes later still counts.
Source: docs/explanation/rollouts.md; ADR 0087.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import TRANSIENT, AssignmentState
from edgefleet_server.rollout.analysis.model import WordFacts
from edgefleet_server.rollout.model import (
    GUARD_CLASSES,
    LOST,
    OFFLINE,
    Answer,
    Assignment,
    CheckEnd,
    Confirmation,
    Draw,
    How,
    OnFail,
    RolloutState,
    Snapshot,
    StageRun,
    Verdict,
)
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.state_machines import OUTSIDE, class_of, soak_end, stands_failed

MOST_DRAWN: Final = 3
ENOUGH: Final = 2
ALIVE: Final = frozenset({Verdict.OPEN, Verdict.TIMED_OUT})
"""Answers still count."""
STANDING: Final = frozenset({Verdict.CONFIRMED, Verdict.PROVED})
_CHECK_FAILED: Final = frozenset(f"check.{kind.value}" for kind in GUARD_CLASSES)
_SAYS_NOTHING: Final = frozenset({*(kind.value for kind in TRANSIENT), OFFLINE})
_S: Final = AssignmentState

# ---- what a decision knows


def words_of(snapshot: Snapshot, cell: StageRun, failing: Iterable[Assignment]) -> WordFacts:
    """Return what is known of the failures in a stratum that a plain rule may act on. failing: those that count."""
    devices = {a.device: class_of(a) for a in failing}
    known = asked_about(snapshot)
    mine = [one for one in snapshot.confirmations if _is_about(one, cell.stratum, devices)]
    newest = max(mine, key=lambda one: (one.verdict in STANDING, one.opened_at, one.number), default=None)
    is_over = snapshot.state in (RolloutState.FINISHED, RolloutState.REGRESSED)
    facts = WordFacts(
        fresh=_fresh({device: kind for device, kind in devices.items() if device not in known}, snapshot.sites),
        acts_alone=snapshot.spec.on_unconfirmed is OnFail.ROLLBACK and not is_over,
        is_over=is_over,
    )
    if newest is None:
        return facts
    went_on = cell.resumed_at is not None and newest.closed_at is not None and cell.resumed_at >= newest.closed_at
    return msgspec.structs.replace(
        facts,
        verdict=newest.verdict.value,
        code=newest.code,
        error_class=newest.error_class,
        drawn=len(newest.draws) - newest.count(Answer.GONE),
        failed=newest.count(Answer.FAILED),
        healthy=newest.count(Answer.HEALTHY),
        need=needed(newest),
        proof=newest.proof.what if newest.proof is not None else "",
        is_answered=went_on,
    )


def asked_about(snapshot: Snapshot) -> frozenset[DeviceId]:
    """Return the devices whose failures open no question: there is or was one about them, or they are suspects."""
    words = (device for one in snapshot.confirmations for device in one.words)
    return snapshot.suspects.union(words, *(failed_draws(one) for one in snapshot.confirmations))


def failed_draws(one: Confirmation) -> list[DeviceId]:
    """Return the drawn devices on which the release failed."""
    return [draw.device for draw in one.draws if draw.answer is Answer.FAILED]


def _is_about(one: Confirmation, stratum: str, failing: Mapping[DeviceId, str]) -> bool:
    """Return whether a question is about failures of a stratum: of its own, or one of another that a device of it has confirmed."""
    if one.stratum == stratum:
        return not failing.keys().isdisjoint(one.words)
    return one.verdict in STANDING and not failing.keys().isdisjoint(failed_draws(one))


def _fresh(classes: Mapping[DeviceId, str], sites: Mapping[DeviceId, str]) -> dict[str, int]:
    """Return failures by class; those that fell silent at one site count once, since a site may be cut off."""
    found = Counter(kind for kind in classes.values() if kind != LOST)
    lost = {sites.get(device) or device for device, kind in classes.items() if kind == LOST}
    if lost:
        found[LOST] = len(lost)
    return dict(sorted(found.items()))


# ---- asking


def how_to_confirm(error_class: str, mode: Mode) -> How:
    """Return how a failure is confirmed. A candidate does not serve, so it can only be watched."""
    if mode is Mode.ACTIVE and error_class in GUARD_CLASSES:
        return How.FETCH if error_class == GUARD_CLASSES[0] else How.VECTORS
    return How.SOAK


def most_drawn(population: int) -> int:
    """Return how many devices of a stratum may be drawn: of three one, of two the other one."""
    return 1 if population <= MOST_DRAWN else MOST_DRAWN


def needed(one: Confirmation) -> int:
    """Return how many drawn devices must fail."""
    there = len(one.draws) - one.count(Answer.GONE)
    return max(1, min(ENOUGH, there))


@dataclass(frozen=True, slots=True)
class Pool:
    """Whom the server may draw. own: devices of the stratum that took the release up, failed or not; elsewhere: those of other strata.

    new: devices that may be offered it; away: own ones that are offline; serving: those that serve it and can be asked to check it.
    """

    own: Collection[DeviceId]
    elsewhere: Collection[DeviceId] = ()
    new: Collection[DeviceId] = ()
    away: Collection[DeviceId] = ()
    serving: Collection[DeviceId] = ()


def drawn(one: Confirmation, pool: Pool, now: datetime) -> tuple[Confirmation, list[Draw]]:
    """Return the question with as many devices drawn as it may have, and the new draws."""
    # other devices with the same failure confirm it; but that many fell silent may have one cause, which is not the release
    known = {*(draw.device for draw in one.draws), *(one.words if one.error_class == LOST else one.words[:1])}
    there = len(one.draws) - one.count(Answer.GONE)

    def some(of: Collection[DeviceId], most: int, *, is_new: bool = False) -> list[Draw]:
        chosen = sorted(set(of) - known, key=_order(one.seed))[: max(0, most)]
        return [Draw(device=device, at=now, is_new=is_new) for device in chosen]

    fresh = some(pool.own, one.most - there)
    if not there:
        has_new = any(draw.is_new for draw in one.draws)
        fresh = fresh or some(pool.elsewhere, one.most) or some(pool.new, 0 if has_new else 1, is_new=True)
        fresh = fresh or some(pool.away, one.most)
    if one.needs_proof:
        fresh = [
            msgspec.structs.replace(x, task=_task(one.seed, x.device)) if x.device in pool.serving else x for x in fresh
        ]
    return (msgspec.structs.replace(one, draws=[*one.draws, *fresh]) if fresh else one), fresh


def _order(seed: str) -> Callable[[str], bytes]:
    return lambda device: hashlib.sha256(f"{seed}/{device}".encode()).digest()


def _task(seed: str, device: str) -> str:
    """Return the id of a task; nobody who does not know the seed can say it before it is asked for."""
    return "t-" + hashlib.sha256(f"{seed}:{device}".encode()).hexdigest()[:16]


# ---- hearing


def heard(one: Confirmation, snapshot: Snapshot, devices: Mapping[DeviceId, Assignment], now: datetime) -> Confirmation:
    """Return the question with what drawn devices show by now. devices: assignments whose documents are the rollout's own."""
    draws = [
        msgspec.structs.replace(draw, answer=_answer(one, draw, snapshot, devices.get(draw.device), now))
        if draw.answer is Answer.NONE
        else draw
        for draw in one.draws
    ]
    return one if draws == one.draws else msgspec.structs.replace(one, draws=draws)


def _answer(one: Confirmation, draw: Draw, snapshot: Snapshot, a: Assignment | None, now: datetime) -> Answer:
    if a is None or a.state in OUTSIDE or a.state is _S.UNREACHABLE or a.back_gen:
        return Answer.GONE
    if stands_failed(a):
        says_nothing = _SAYS_NOTHING if one.error_class == LOST else _SAYS_NOTHING | {LOST}
        return Answer.GONE if class_of(a) in says_nothing else Answer.FAILED
    if one.how is How.SOAK:
        answer = _after_soak(draw, snapshot, a, now)
        return Answer.GONE if answer is Answer.HEALTHY and a.stratum != one.stratum else answer
    if draw.task:
        return _checked(snapshot.checks.get(draw.task))
    return Answer.HEALTHY if a.state is _S.HEALTHY else Answer.NONE


def _after_soak(draw: Draw, snapshot: Snapshot, a: Assignment, now: datetime) -> Answer:
    """A whole soak must follow the draw, and the device must have been heard of since."""
    until = max(soak_end(snapshot, a, now), draw.at + snapshot.spec.stages[a.stage].soak)
    report = snapshot.reports.get(a.device)
    was_heard = report is not None and report.last_seen is not None and report.last_seen >= draw.at
    is_through = a.state is _S.HEALTHY and now >= until and now > draw.at
    return Answer.HEALTHY if is_through and was_heard else Answer.NONE


def _checked(end: CheckEnd | None) -> Answer:
    match end:
        case CheckEnd(state="done"):
            return Answer.HEALTHY
        case CheckEnd(state="failed", code=code) if code in _CHECK_FAILED:
            return Answer.FAILED
        case CheckEnd(state="failed" | "expired" | "cancelled"):
            return Answer.GONE  # it cannot check, or something else serves there: that says nothing about the release
        case _:
            return Answer.NONE


# ---- the answer


def judged(one: Confirmation, now: datetime, *, can_draw: bool) -> Confirmation:
    """Return the question with its verdict. can_draw: more devices may yet be drawn."""
    if one.verdict not in ALIVE:
        return one
    verdict = _verdict(one, now, can_draw=can_draw)
    if verdict is one.verdict:
        return one
    return msgspec.structs.replace(one, verdict=verdict, closed_at=None if verdict is Verdict.OPEN else now)


def _verdict(one: Confirmation, now: datetime, *, can_draw: bool) -> Verdict:
    if one.proof is not None and one.proof.is_ok is False:
        return Verdict.PROVED
    there, need = len(one.draws) - one.count(Answer.GONE), needed(one)
    if one.count(Answer.FAILED) >= need and there:
        return Verdict.CONFIRMED
    is_proof_due = one.needs_proof and one.proof is None
    if there and one.count(Answer.HEALTHY) > there - need and not is_proof_due:
        is_proved_false = one.needs_proof and one.proof is not None and one.proof.is_ok is True
        return Verdict.REFUTED if is_proved_false else Verdict.UNCONFIRMED
    nobody = not there and not can_draw and not is_proof_due
    return Verdict.TIMED_OUT if nobody or now >= one.deadline else one.verdict


def time_to_confirm(snapshot: Snapshot, stage: int, how: How, *, installs: bool) -> timedelta:
    """Return how long drawn devices have to answer. installs: some of them do not serve the release yet."""
    limits = snapshot.spec.device
    soak = snapshot.spec.stages[stage].soak if how is How.SOAK else timedelta()
    return limits.verify + soak + (limits.download + limits.apply if installs else timedelta())


def sequence(confirmations: Iterable[Confirmation], stratum: str) -> Sequence[Confirmation]:
    """Return the questions of a stratum in order."""
    return sorted((one for one in confirmations if one.stratum == stratum), key=lambda one: one.number)
