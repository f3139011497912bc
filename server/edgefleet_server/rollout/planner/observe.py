"""What a device's report and the passing of time mean for its assignment. Pure.

The one place where reports of devices become states of the server. Rules:
- A report counts for the attempt that was offered: same digest and attempt, or a document at least as new as the offer.
- It counts only for the rollout that wrote the device's present document: an older one of the same release does not hear it. A
  device that went back while something newer set its document is neither a failure nor proof in a rollout that is still open.
- States only move forward; a report that is behind changes nothing, so duplicates and reordering are harmless.
- `network disk memory deadline` say something about the moment: the device tries again by itself until its deadline.
- `install.held` means that a hold of ours stopped the device: nothing began.
- Silence is judged by deadlines: never taken up = unreachable, taken up and then silent = lost. A device on probation is lost
  only when it is not heard of either; one that is there but never gets through its probation failed.
- A server that was away observed nobody: what ran out meanwhile runs out later, so that devices can reach it first.
Of a candidate (ADR 0032, ADR 0035):
- A candidate is healthy once it runs (or, with too little memory for two workers, is recorded and replayed). Its soak counts
  from the moment when it last began to run: one that is suspended shows nothing, and missing data never promotes.
- Waiting is no failure while the device says what it waits for; a failure of the candidate is one of the release.
- A candidate neither switches nor is on probation. One that was healthy and failed went back.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import ProfileName, RolloutId
from edgefleet_protocol.messages import (
    CANDIDATE_RESTS_CODE,
    HELD_CODE,
    OLD_HOLD_CODE,
    TRANSIENT,
    AssignmentState,
    CandidatePhase,
    ErrorClass,
    Phase,
    assignment_of,
)
from edgefleet_protocol.verify import OldGenerationError, SignatureError, WrongDeviceError, WrongTypeError
from edgefleet_server.rollout.effects import AssignmentTransitioned, AssignmentUpdated, StepReport
from edgefleet_server.rollout.model import LOST, Assignment, Report, Snapshot, has_written
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.spec.model import DeviceTerms, Mode
from edgefleet_server.rollout.state_machines import (
    CELL_OPEN,
    CHAIN,
    CHAIN_EVENTS,
    IN_FLIGHT,
    ROLLOUT_ACTIVE,
    AssignmentEvent,
    moved,
)

TAKEN_BACK: Final = "taken back by the server"

REVOKED: Final = "the device was taken out of the fleet"

OVERWRITTEN: Final = "another release was set on the device meanwhile"

TAKEN_OVER: Final = "a deployment or another rollout set this release on the device meanwhile"

PROBATION_FACTOR: Final = 4
"""A device that is there may be on probation for so many times `verify`."""

DEAF: Final = timedelta(minutes=1)
"""A server that made no pass for longer than this was away, not busy."""

RETURN: Final = timedelta(minutes=6)
"""So long devices may take to find a server again that was away: they wait up to 5 min between two tries."""

_FORGED: Final = frozenset({SignatureError.code, WrongTypeError.code, WrongDeviceError.code})
"""Refusals of a whole document that mean forgery, not a wrong clock."""

_NO_FAILURES: Final = frozenset({OldGenerationError.code, OLD_HOLD_CODE})
"""The first is answered with a new document; the second is not about the document: older agents report both in the same place."""

_S: Final = AssignmentState

_E: Final = AssignmentEvent

_RANK: Final = {state: rank for rank, state in enumerate(CHAIN)}

_LISTENING: Final = frozenset(CHAIN[1:]) | {_S.UNREACHABLE}

Steps = list[AssignmentTransitioned | AssignmentUpdated]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a device is held to. digest: sha256 of the release's bundle for its profile; mode: of its stage; is_over: the rollout ended."""

    digest: str
    limits: DeviceTerms
    soak: timedelta
    rollout: RolloutId
    mode: Mode = Mode.ACTIVE
    is_over: bool = False


def reports(plan: PlanBuilder) -> StepReport | None:
    """Move assignments by what devices reported and by deadlines."""
    before = len(plan.effects)
    _discount_absence(plan)
    known: dict[tuple[ProfileName, int], Terms] = {}
    missed, now = plan.snapshot.missed, plan.now
    for device, assignment in list(plan.assignments.items()):
        patient = with_patience(assignment, missed, now)
        if patient is not assignment:
            plan.update_assignment(patient)
        key = patient.stratum, patient.stage
        terms = known.get(key) or known.setdefault(key, terms_of(plan.snapshot, patient))
        after, steps = observe(patient, plan.snapshot.reports.get(device), terms, now)
        if after is not assignment:
            plan.assignments[device] = after
            plan.emit(*steps)
    changes = len(plan.effects) - before
    return StepReport("observe.reports", f"{changes} changes by reports and deadlines") if changes else None


def _discount_absence(plan: PlanBuilder) -> None:
    """Count the time in which the server was away as none of the time that stages may go without a verdict."""
    missed = plan.snapshot.missed
    for run in list(plan.stage_runs.values()):
        if missed > DEAF and run.state in CELL_OPEN and run.opened_at is not None:
            plan.update_stage_run(replace(run, resumed_at=(run.resumed_at or run.opened_at) + missed))


def terms_of(snapshot: Snapshot, a: Assignment) -> Terms:
    """Return what a device is held to: the same for all of its stratum and stage."""
    bundle = snapshot.bundles.get(a.stratum)
    stage = snapshot.spec.stages[a.stage]
    digest = bundle.sha256 if bundle is not None else ""
    is_over = snapshot.state not in ROLLOUT_ACTIVE
    return Terms(digest, snapshot.spec.device, stage.soak, snapshot.id, stage.mode, is_over)


def observe(assignment: Assignment, report: Report | None, terms: Terms, now: datetime) -> tuple[Assignment, Steps]:
    """Return the assignment after a report and the time, and each step on the way.

    report: None when the device never said anything.
    """
    steps: Steps = []
    if report is not None and terms.mode is not Mode.ACTIVE:
        assignment, report = _take_candidate(assignment, report, terms.digest, now, steps)
    if report is not None:
        assignment = _take_report(assignment, report, terms, now, steps)
        assignment = _confirm_back(assignment, report, terms.digest, now, steps)
    if assignment.state in IN_FLIGHT and not assignment.back_gen:
        assignment = _take_time(assignment, report, terms.limits, now, steps)
    return assignment, steps


def _take_candidate(
    a: Assignment, report: Report, digest: str, now: datetime, steps: Steps
) -> tuple[Assignment, Report]:
    """Return the assignment with its soak as the candidate's state has it, and the report as one of an install."""
    soaking = restart_soak(a, report, digest, now)
    if soaking != a:
        steps.append(AssignmentUpdated(soaking))
    return soaking, as_install(report, soaking, digest)


def is_under_way(report: Report, digest: str, before: str) -> bool:
    """Return whether a device says that it may yet come to run this bundle, whichever offer it heard of.

    digest: of the release's bundle; before: of what the device ran when it was first offered it.
    """
    if report.candidate.sha256 == digest and phase_of(report.candidate.state) is not CandidatePhase.FAILED:
        return True
    return report.wanted_sha256 == digest != before and not _is_settled(report)


def _is_settled(report: Report) -> bool:
    """Whether a device has ended what it wants, well or badly; after trouble of the moment it tries again."""
    has_failed = report.phase is Phase.FAILED and report.error_class not in TRANSIENT
    return has_failed or report.phase in (Phase.COMMITTED, Phase.ROLLED_BACK)


def with_patience(assignment: Assignment, missed: timedelta, now: datetime) -> Assignment:
    """Return the assignment with time to speak again, when the server was away for `missed`: what it did not observe is no silence."""
    if missed <= DEAF or assignment.state not in IN_FLIGHT or assignment.deadline is None:
        return assignment
    return assignment.but(deadline=max(assignment.deadline, now + min(RETURN, 2 * missed)))


def _take_report(a: Assignment, report: Report, terms: Terms, now: datetime, steps: Steps) -> Assignment:
    digest, limits = terms.digest, terms.limits
    if a.state not in _LISTENING or a.back_gen:
        return a
    if report.is_revoked:
        if a.state in (_S.HEALTHY, _S.UNREACHABLE):
            return a
        return _step(a, _E.CANCEL, now, steps, reason=REVOKED, ended_at=now, deadline=None)
    if not has_written(terms.rollout, a, digest, report):
        is_proof = (
            a.state is _S.HEALTHY
            and _has_soaked(a, terms, now)
            and (terms.is_over or not _went_back(a, report, digest))
        )
        if is_proof or a.state is _S.UNREACHABLE:
            return a
        reason = TAKEN_OVER if report.wanted_by_server == digest else OVERWRITTEN
        return _step(a, _E.SUPERSEDE, now, steps, reason=reason, ended_at=now, deadline=None)
    if a.state is _S.HEALTHY:
        return _regressed(a, report, digest, now, steps)
    if report.reported_gen < a.gen:
        is_refused = report.refused_gen >= a.gen and report.refused_code not in _NO_FAILURES
        return _refused(a, report, now, steps) if a.state in IN_FLIGHT and is_refused else a
    if a.state in (_S.OFFERED, _S.UNREACHABLE):
        a = _forward(a, _S.ACKED, report, limits, now, steps)  # whatever else it reports: it took up its document
    failure = _failure(a, report, digest)
    if failure is not None:
        return _failed(a, report, failure, now, steps)
    a = _forward(a, _reached(a, report, digest), report, limits, now, steps)
    return (
        a if a.state is _S.HEALTHY else _with_trouble(a, report, steps)
    )  # one report may be about a step and about trouble


def _has_soaked(a: Assignment, terms: Terms, now: datetime) -> bool:
    return a.switched_at is not None and now >= a.switched_at + terms.soak


def _reached(a: Assignment, report: Report, digest: str) -> AssignmentState:
    """Return how far a report says that the device got with this attempt; it has taken up the document."""
    runs_it = report.active_sha256 == digest
    if runs_it and report.phase in (Phase.PROBATION, Phase.COMMITTED):
        return assignment_of(report.phase)  # also when it ran before the offer: then there is nothing to install
    is_this_try = report.wanted_sha256 == digest and report.attempt == a.attempt
    if not is_this_try or report.phase is None or report.phase in (Phase.FAILED, Phase.ROLLED_BACK, Phase.COMMITTED):
        return _S.ACKED
    reached = assignment_of(report.phase)
    return reached if reached in _RANK else _S.ACKED


def _failure(a: Assignment, report: Report, digest: str) -> AssignmentEvent | None:
    """Return the event of a failure that counts, None when there is none (yet)."""
    if report.error_code == HELD_CODE:
        return None
    if report.phase is Phase.FAILED and report.error_class is ErrorClass.SIGNATURE and report.gen >= a.gen:
        return _E.FAIL  # the document was accepted, but not the bundle it names: the device never got to wanting it
    if report.wanted_sha256 != digest or report.attempt != a.attempt:
        return None
    if report.phase is Phase.ROLLED_BACK:
        return _E.ROLL_BACK_LOCAL
    if report.phase is Phase.FAILED and report.error_class not in TRANSIENT:
        return _E.FAIL
    return None


def _failed(a: Assignment, report: Report, event: AssignmentEvent, now: datetime, steps: Steps) -> Assignment:
    error_class = report.error_class.value if report.error_class is not None else ErrorClass.INTERNAL.value
    reason = report.reason or report.error_code or "the device gives no reason"
    exposed_at = a.exposed_at or now
    return _step(
        a, event, now, steps, error_class=error_class, reason=reason, exposed_at=exposed_at, ended_at=now, deadline=None
    )


def _refused(a: Assignment, report: Report, now: datetime, steps: Steps) -> Assignment:
    is_forged = report.refused_code in _FORGED
    error_class = ErrorClass.SIGNATURE if is_forged else ErrorClass.INTERNAL
    reason = f"the device refuses its document ({report.refused_code}): {report.refused_reason}"
    return _step(
        a,
        _E.FAIL,
        now,
        steps,
        error_class=error_class.value,
        reason=reason,
        exposed_at=a.exposed_at or now,
        ended_at=now,
        deadline=None,
    )


def _regressed(a: Assignment, report: Report, digest: str, now: datetime, steps: Steps) -> Assignment:
    """A device that was healthy no longer runs the release, or says that it went back, though its document still asks for it."""
    if report.active_sha256 == digest or report.reported_gen < a.gen:
        return a
    if _is_on_its_way(report, digest) and not _went_back(a, report, digest):
        return a
    error_class = report.error_class.value if report.error_class is not None else ErrorClass.INTERNAL.value
    reason = report.reason or "it no longer runs the release"
    return _step(a, _E.REGRESS, now, steps, error_class=error_class, reason=reason, ended_at=now, deadline=None)


def _went_back(a: Assignment, report: Report, digest: str) -> bool:
    return report.phase is Phase.ROLLED_BACK and report.wanted_sha256 == digest and report.attempt == a.attempt


def _is_on_its_way(report: Report, digest: str) -> bool:
    """Whether the device runs something else because it is only coming (back) to the release: from a later one that was taken back."""
    return report.active_sha256 != "" and (report.wanted_sha256 != digest or not _is_settled(report))


def _forward(
    a: Assignment, target: AssignmentState, report: Report, limits: DeviceTerms, now: datetime, steps: Steps
) -> Assignment:
    if _RANK[target] <= _RANK.get(a.state, 0):
        return _with_trouble(a, report, steps)
    switched_at = a.switched_at
    if _RANK[target] >= _RANK[_S.VERIFYING] and switched_at is None:  # while it is applying, the old one still runs
        switched_at = now
    return _step(
        a,
        CHAIN_EVENTS[target],
        now,
        steps,
        exposed_at=a.exposed_at or now,
        switched_at=switched_at,
        ended_at=now if target is _S.HEALTHY else None,
        deadline=_deadline(a, target, limits, now),
        error_class="",
        reason="",
    )


def _with_trouble(a: Assignment, report: Report, steps: Steps) -> Assignment:
    """Note why the device is not getting on, while it goes on trying."""
    is_trouble = report.phase is Phase.FAILED and report.error_class in TRANSIENT and report.attempt == a.attempt
    reason = report.reason if is_trouble and report.error_code != HELD_CODE else a.reason
    error_class = report.error_class.value if is_trouble and report.error_class is not None else a.error_class
    if report.error_code == HELD_CODE:
        reason, error_class = "stopped by a hold before its switch", ""
    if (reason, error_class) == (a.reason, a.error_class):
        return a
    noted = a.but(reason=reason, error_class=error_class)
    steps.append(AssignmentUpdated(noted))
    return noted


def _deadline(a: Assignment, target: AssignmentState, limits: DeviceTerms, now: datetime) -> datetime | None:
    if target is _S.HEALTHY:
        return None
    if target in (_S.ACKED, _S.DOWNLOADING):
        fresh = a.state in (_S.OFFERED, _S.UNREACHABLE)
        return now + limits.download if fresh or a.deadline is None else a.deadline
    if target in (_S.STAGED, _S.PARITY_OK):
        return a.deadline if a.state is _S.STAGED and a.deadline is not None else now + limits.apply
    return a.deadline if a.state is _S.APPLYING and a.deadline is not None else now + limits.verify


def _take_time(a: Assignment, report: Report | None, limits: DeviceTerms, now: datetime, steps: Steps) -> Assignment:
    if a.deadline is None or now < a.deadline:
        return a
    if a.state is _S.OFFERED:
        reason = f"did not take up its document within {_duration(limits.ack)}"
        return _step(a, _E.MISS, now, steps, reason=reason, ended_at=now, deadline=None)
    if a.error_class:  # it said why it cannot get on
        reason = f"{a.reason} (still so at its deadline)"
        return _step(a, _E.FAIL, now, steps, reason=reason, ended_at=now, deadline=None)
    if a.state is _S.VERIFYING:
        return _take_probation_time(a, report, limits, now, steps)
    where = "began to switch" if a.state is _S.APPLYING else f"got as far as {a.state.value}"
    if report is not None and report.is_online:
        silent = "nothing until its deadline"
    else:
        heard_at = report.last_seen if report is not None else None
        last_at = max(moment for moment in (a.entered_at, heard_at, a.offered_at) if moment)
        silent = f"silent for {_duration(now - last_at)}"
    reason = f"{where}, then {silent}"
    return _step(a, _E.LOSE, now, steps, error_class=LOST, reason=reason, ended_at=now, deadline=None)


def _take_probation_time(
    a: Assignment, report: Report | None, limits: DeviceTerms, now: datetime, steps: Steps
) -> Assignment:
    assert a.deadline is not None
    began = a.switched_at or a.deadline - limits.verify
    if report is not None and report.is_online:
        if now < began + PROBATION_FACTOR * limits.verify:
            return a
        reason = f"there, but on probation for more than {_duration(PROBATION_FACTOR * limits.verify)}"
        return _step(
            a, _E.FAIL, now, steps, error_class=ErrorClass.DEADLINE.value, reason=reason, ended_at=now, deadline=None
        )
    heard_at = report.last_seen if report is not None and report.last_seen is not None else began
    if now < max(began, heard_at) + limits.verify:
        return a
    reason = f"switched, then silent for {_duration(now - max(began, heard_at))}"
    return _step(a, _E.LOSE, now, steps, error_class=LOST, reason=reason, ended_at=now, deadline=None)


def _confirm_back(a: Assignment, report: Report, digest: str, now: datetime, steps: Steps) -> Assignment:
    """Note that a device whose release was taken back no longer runs it."""
    if not a.back_gen or a.back_done_at is not None:
        return a
    if a.state in IN_FLIGHT and _failure(a, report, digest) is _E.ROLL_BACK_LOCAL:
        a = _failed(a, report, _E.ROLL_BACK_LOCAL, now, steps)  # it found out by itself at the same time
    if report.is_revoked:
        done = a.but(back_done_at=now)
    elif report.reported_gen >= a.back_gen and report.active_sha256 != digest:
        done = a.but(back_done_at=now, deadline=None)
    else:
        return a
    if done.state not in _RANK and done.state is not _S.REGRESSED:
        steps.append(AssignmentUpdated(done))
        return done
    if done.state in (_S.ELIGIBLE, _S.OFFERED):
        return _step(done, _E.CANCEL, now, steps, reason=done.reason or TAKEN_BACK, ended_at=now)
    # what troubled it on its way is no failure any more, unless the release had failed there before
    error_class = done.error_class if done.state is _S.REGRESSED else ""
    reason = done.reason or TAKEN_BACK
    return _step(done, _E.ROLL_BACK_REMOTE, now, steps, reason=reason, error_class=error_class, ended_at=now)


def _step(a: Assignment, event: AssignmentEvent, now: datetime, steps: Steps, **changes: object) -> Assignment:
    after = moved(a, event, now, **changes)
    steps.append(AssignmentTransitioned(a.state, after))
    return after


def _duration(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


_RUNS: Final = frozenset({CandidatePhase.RUNNING, CandidatePhase.RECORDING, CandidatePhase.REPLAYING})

_PHASES: Final = {
    CandidatePhase.WAITING: Phase.IDLE,
    CandidatePhase.DOWNLOADING: Phase.DOWNLOADING,
    CandidatePhase.STARTING: Phase.WARMING,
    **dict.fromkeys(_RUNS, Phase.COMMITTED),
    CandidatePhase.SUSPENDED: Phase.FAILED,
    CandidatePhase.FAILED: Phase.FAILED,
    CandidatePhase.MEASURING: Phase.IDLE,
    CandidatePhase.MEASURED: Phase.IDLE,
}
"""Total over CandidatePhase. A suspension is trouble of the moment (`memory`), as a full disk is for an install."""


def phase_of(state: str) -> CandidatePhase | None:
    """Return the phase that a device names, None for none and for one of a later version."""
    return CandidatePhase(state) if state in set(CandidatePhase) else None


def runs_candidate(report: Report, digest: str) -> bool:
    """Return whether the device reports that it runs this bundle as a candidate."""
    return report.candidate.sha256 == digest and phase_of(report.candidate.state) in _RUNS


def as_install(report: Report, a: Assignment, digest: str) -> Report:
    """Return the report as if the candidate were installed as the active version. digest: of the release's bundle."""
    candidate = report.candidate
    phase = phase_of(candidate.state) if candidate.sha256 == digest else None
    # an agent that has just begun reports no candidate yet
    ran = a.state is AssignmentState.HEALTHY and not a.back_gen
    rests = phase is not None and candidate.code == CANDIDATE_RESTS_CODE
    is_there = phase in _RUNS or rests or (ran and phase is not CandidatePhase.FAILED)
    if phase is None:
        active = digest if is_there else ""
        return replace(
            report,
            wanted_by_server=candidate.wanted_by_server,
            set_by=candidate.set_by,
            phase=Phase.IDLE,
            active_sha256=active,
            wanted_sha256="",
            error_class=None,
            error_code="",
        )
    return replace(
        report,
        wanted_by_server=candidate.wanted_by_server,
        set_by=candidate.set_by,
        phase=Phase.COMMITTED if is_there else Phase.ROLLED_BACK if ran else _PHASES[phase],
        active_sha256=digest if is_there else "",
        wanted_sha256=digest,
        attempt=a.attempt,
        gen=max(report.gen, report.reported_gen),
        error_class=_class_of(phase, candidate.code) if _PHASES[phase] is Phase.FAILED and not is_there else None,
        error_code=candidate.code,
        reason=candidate.reason,
    )


def restart_soak(a: Assignment, report: Report, digest: str, now: datetime) -> Assignment:
    """Return a healthy assignment whose soak stands still while its candidate is suspended, and begins again when it runs."""
    if a.state is not AssignmentState.HEALTHY or a.back_gen:
        return a
    candidate = report.candidate
    phase = phase_of(candidate.state) if candidate.sha256 == digest else None
    runs = phase in _RUNS or (phase is not None and candidate.code == CANDIDATE_RESTS_CODE)
    if runs and a.switched_at is None:
        return a.but(switched_at=now, reason="")
    if not runs and a.switched_at is not None and phase is not CandidatePhase.FAILED:
        return a.but(switched_at=None, reason=candidate.reason or "its candidate does not run just now")
    return a


def _class_of(phase: CandidatePhase, code: str) -> ErrorClass:
    """Return the class of a failure by its code (`candidate.crash`, `install.network`), internal where it names none."""
    if phase is CandidatePhase.SUSPENDED:
        return ErrorClass.MEMORY
    classes = {member.value: member for member in ErrorClass}
    last = code.rpartition(".")[2]
    return classes.get(last, ErrorClass.CRASH if last == "restarts" else ErrorClass.INTERNAL)
