"""What a device says of a candidate, in the words of an install: so one set of rules hears both. Pure.

- A candidate is healthy once it runs (or, with too little memory for two workers, is recorded and replayed). Its soak counts from
  the moment when it last began to run: one that is suspended shows nothing, and missing data never promotes.
- Waiting is no failure while the device says what it waits for; a failure of the candidate is one of the release.
- What cannot be said of a candidate is never said: it neither switches nor is on probation. One that was healthy and failed went back, so
  its failure counts also when it is heard after something else was deployed.
Source: ADR 0032, ADR 0035; `messages.CandidatePhase`.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState, CandidatePhase, ErrorClass, Phase
from edgefleet_server.rollout.model import Assignment, Report

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
_RESTS: Final = "candidate.rest"
"""A shadow that is compared in turns waits for the next turn: it has been compared before."""


def phase_of(state: str) -> CandidatePhase | None:
    """Return the phase that a device names, None for none and for a word of a later version."""
    return CandidatePhase(state) if state in set(CandidatePhase) else None


def runs_beside(report: Report, digest: str) -> bool:
    """Return whether the device says that it runs this bundle beside what serves."""
    return report.candidate.sha256 == digest and phase_of(report.candidate.state) in _RUNS


def as_install(report: Report, a: Assignment, digest: str) -> Report:
    """Return the report as if the candidate were installed as the active version. digest: of the release's bundle."""
    told = report.candidate
    phase = phase_of(told.state) if told.sha256 == digest else None
    common = replace(report, wanted_by_server=told.wanted_by_server)
    # an agent that has just begun tells of no candidate yet
    ran = a.state is AssignmentState.HEALTHY and not a.back_gen
    rests = phase is not None and told.code == _RESTS
    is_there = phase in _RUNS or rests or (ran and phase is not CandidatePhase.FAILED)
    if phase is None:
        active = digest if is_there else ""
        return replace(
            common, phase=Phase.IDLE, active_sha256=active, wanted_sha256="", error_class=None, error_code=""
        )
    return replace(
        common,
        phase=Phase.COMMITTED if is_there else Phase.ROLLED_BACK if ran else _PHASES[phase],
        active_sha256=digest if is_there else "",
        wanted_sha256=digest,
        attempt=a.attempt,
        gen=max(report.gen, report.reported_gen),
        error_class=_class_of(phase, told.code) if _PHASES[phase] is Phase.FAILED and not is_there else None,
        error_code=told.code,
        reason=told.reason,
    )


def soak_anew(a: Assignment, report: Report, digest: str, now: datetime) -> Assignment:
    """Return a healthy assignment whose soak stands still while its candidate is suspended, and begins anew when it runs."""
    if a.state is not AssignmentState.HEALTHY or a.back_gen:
        return a
    told = report.candidate
    phase = phase_of(told.state) if told.sha256 == digest else None
    runs = phase in _RUNS or (phase is not None and told.code == _RESTS)
    if runs and a.switched_at is None:
        return a.but(switched_at=now, reason="")
    if not runs and a.switched_at is not None and phase is not CandidatePhase.FAILED:
        return a.but(switched_at=None, reason=told.reason or "its candidate does not run just now")
    return a


def _class_of(phase: CandidatePhase, code: str) -> ErrorClass:
    """Return the class of a failure by its code (`candidate.crash`, `install.network`), internal where it names none."""
    if phase is CandidatePhase.SUSPENDED:
        return ErrorClass.MEMORY
    words = {member.value: member for member in ErrorClass}
    last = code.rpartition(".")[2]
    return words.get(last, ErrorClass.CRASH if last == "restarts" else ErrorClass.INTERNAL)
