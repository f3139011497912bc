"""Life of one model's install, as a table and pure decisions. No I/O, no clock: facts in, values out.

Source: ADR 0004; docs/explanation/on-the-device.md.

1. A phase is written to disk before the work that belongs to it begins (`journal`), so every phase must be repeatable.
2. `TRANSITIONS` has a row per phase: where each event leads, and, in the column `recovery`, where a power cut leads.
3. Nothing before `SWITCHING` touches what serves. A fault before it ends in `FAILED` with the old version still serving.
4. A fault after it ends in `ROLLED_BACK`: the previous version serves again, or nothing when there was none.
5. The same digest is not tried again after a fault of its own (any but `TRANSIENT`, which counts too from the `MAX_BAD_TRIALS`th trial
   on, and any fault at all of a version that had been switched to) until a higher gen or another attempt asks for it.
   Nor does a device go from a proven version to one that is not: what a rollback left behind is no rollback target itself.
   Nor to a withdrawn release, as long as anything else verifies (`is_barred`, ADR 0114).
6. An install that is no longer wanted, or held, ends at once (`Withdraw`), and the phase tells of what serves: proven, on trial with
   the figures it had, or nothing. That is no failure and nothing is quarantined.
7. Every count that bounds a loop is in the record and raised before the act it counts.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from edgefleet_agent.install.records import ModelRecord, Quarantine, Refusal, SlotRef, Tally, Wanted
from edgefleet_protocol.messages import OVER_MEMORY_CODE, TRANSIENT, ErrorClass, Phase

MAX_STEPS = 64
"""Records one install may write. More means two phases chase each other."""
MAX_STARTS = 3
"""Starts of a version in trial, counted over reboots and kills of agentd as well."""
MAX_BAD_TRIALS = 3
"""Trials of one request that may fail for want of memory, disk or time before its digest is quarantined after all."""
MAX_QUARANTINED = 16
MAX_AGE_S = 86_400
"""A record whose phase began longer ago, or in the future, was written by another clock or before a long sleep."""

SLOTS = ("A", "B")


class InstallEvent(StrEnum):
    """What can happen to an install."""

    WANTED = "wanted"
    FETCHED = "fetched"
    VERIFIED = "verified"
    FITS = "fits"
    GOLDEN_OK = "golden_ok"
    READY = "ready"
    SWITCHED = "switched"
    SOAKED = "soaked"
    FAULT = "fault"
    WENT_BACK = "went_back"
    KEPT_PROVEN = "kept_proven"
    KEPT_UNPROVEN = "kept_unproven"
    DROPPED = "dropped"


class IllegalTransitionError(RuntimeError):
    """An event that the phase has no row for: a bug in the runner, never the world's fault."""


@dataclass(frozen=True, slots=True)
class Row:
    """One phase: `on` maps events to phases, `recovery` is the phase to resume in after a power cut."""

    on: Mapping[InstallEvent, Phase]
    recovery: Phase


_E = InstallEvent
_REST: Mapping[InstallEvent, Phase] = {
    _E.WANTED: Phase.DOWNLOADING,
    _E.DROPPED: Phase.IDLE,
    _E.FAULT: Phase.FAILED,
    _E.WENT_BACK: Phase.ROLLED_BACK,
    # a request for what serves is carried out by leaving it alone
    _E.KEPT_PROVEN: Phase.COMMITTED,
    _E.KEPT_UNPROVEN: Phase.PROBATION,
}


def _trial(event: InstallEvent, success: Phase) -> Mapping[InstallEvent, Phase]:
    # WANTED in the middle of an install: a newer document wants something else, the slot is simply written again
    return {
        event: success,
        _E.FAULT: Phase.FAILED,
        _E.WANTED: Phase.DOWNLOADING,
        _E.DROPPED: Phase.IDLE,
        _E.KEPT_PROVEN: Phase.COMMITTED,
        _E.KEPT_UNPROVEN: Phase.PROBATION,
    }


TRANSITIONS: Mapping[Phase, Row] = {
    Phase.IDLE: Row(_REST, Phase.IDLE),
    Phase.DOWNLOADING: Row(_trial(_E.FETCHED, Phase.VERIFYING), Phase.DOWNLOADING),
    # the leaf bitmap is full by now, so "downloading" again goes straight on to verifying
    Phase.VERIFYING: Row(_trial(_E.VERIFIED, Phase.PREFLIGHT), Phase.DOWNLOADING),
    Phase.PREFLIGHT: Row(_trial(_E.FITS, Phase.GOLDEN), Phase.PREFLIGHT),
    Phase.GOLDEN: Row(_trial(_E.GOLDEN_OK, Phase.WARMING), Phase.PREFLIGHT),
    Phase.WARMING: Row(_trial(_E.READY, Phase.SWITCHING), Phase.PREFLIGHT),
    # `active` still names the old slot in this phase: nothing was switched yet, so the trial is done again
    Phase.SWITCHING: Row(_trial(_E.SWITCHED, Phase.PROBATION), Phase.PREFLIGHT),
    Phase.PROBATION: Row(
        {
            _E.SOAKED: Phase.COMMITTED,
            _E.WENT_BACK: Phase.ROLLED_BACK,
            _E.WANTED: Phase.DOWNLOADING,
            _E.DROPPED: Phase.IDLE,
        },
        Phase.PROBATION,
    ),
    # a committed version may still fall into a crash loop: then back to the last known good, once
    Phase.COMMITTED: Row(
        {_E.WANTED: Phase.DOWNLOADING, _E.WENT_BACK: Phase.ROLLED_BACK, _E.DROPPED: Phase.IDLE}, Phase.COMMITTED
    ),
    Phase.ROLLED_BACK: Row(_REST, Phase.ROLLED_BACK),
    Phase.FAILED: Row(_REST, Phase.FAILED),
}

INSTALLING = frozenset(
    {
        Phase.DOWNLOADING,
        Phase.VERIFYING,
        Phase.PREFLIGHT,
        Phase.GOLDEN,
        Phase.WARMING,
        Phase.SWITCHING,
    }
)
"""Phases before the switch: the slot in `installing` is being made ready."""

ON_TRIAL = frozenset({Phase.GOLDEN, Phase.WARMING, Phase.SWITCHING})
"""Phases in which a worker runs the version that is not switched to yet."""

WITHDRAWN_CODE = "install.withdrawn"
TARGET_UNKNOWN_CODE = "install.target_unknown"
RELEASE_WITHDRAWN_CODE = "install.release_withdrawn"
LEFT_SIGNED_CODES = frozenset({TARGET_UNKNOWN_CODE, RELEASE_WITHDRAWN_CODE, "install.security_floor"})
"""Why a document may not name a release any more that was signed once."""
RESTARTS_CODES = frozenset({"trial.restarts", "serving.restarts"})
"""Verdicts on a version that was only started often. A hand on the plug can bring that about: it says nothing against the version."""
RETRY_DELAYS_S = (30.0, 120.0, 600.0, 3_600.0)


def step(phase: Phase, event: InstallEvent) -> Phase:
    """Return the phase after `event`. Raises IllegalTransitionError where the table has no entry."""
    try:
        return TRANSITIONS[phase].on[event]
    except KeyError:
        raise IllegalTransitionError(f"{event} cannot happen in phase {phase}") from None


def recovered(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record to go on from after a start of agentd. Pure; the caller writes it before acting.

    The time of a phase that cannot be right (`MAX_AGE_S`) starts again: a trial is never cut short, nor made endless, by a clock.
    """
    phase = TRANSITIONS[record.phase].recovery
    if phase in INSTALLING and not 0 <= now_s - record.phase_since_s <= MAX_AGE_S:
        record = msgspec.structs.replace(record, phase_since_s=now_s)
    seen = record.seen
    if record.active is not None and seen.sha256 != record.active.sha256:
        # a slot gave way, or the record is of an agent that kept no figures: then the phase's time is the trial's
        seen = _figures_of(record, record.active, record.phase_since_s)
        record = msgspec.structs.replace(record, served=None)
    if not is_proven(record) and not 0 <= now_s - seen.since_s <= MAX_AGE_S:
        seen = msgspec.structs.replace(seen, since_s=now_s)
    crashes_s = [min(at, now_s) for at in record.crashes_s]
    record = msgspec.structs.replace(record, seen=seen, crashes_s=crashes_s)
    if record.phase in INSTALLING and record.steps >= MAX_STEPS:
        return failed(record, ErrorClass.INTERNAL, "install.loop", "the install was begun again too often")
    return msgspec.structs.replace(record, phase=phase)


def is_proven(record: ModelRecord) -> bool:
    """Say whether what serves lived through its trial. The phase speaks for records of agents before `SlotRef.proven`."""
    return record.active is not None and (record.active.proven or record.phase is Phase.COMMITTED)


def is_on_trial(record: ModelRecord) -> bool:
    """Say whether what serves is to be judged: on probation, or never proven because its successor failed meanwhile."""
    if record.active is None:
        return False  # both slots were damaged
    return record.phase is Phase.PROBATION or (record.phase not in INSTALLING and not is_proven(record))


class Mode(StrEnum):
    """How a model does on this device, in one word for people and reports."""

    NONE = "none"
    """Nothing is wanted, or nothing was ever installed."""
    NORMAL = "normal"
    TRIAL = "trial"
    DEGRADED = "degraded"
    """What serves crashes again and again and there is nothing to go back to: it is started again, slowly, and said so."""
    SAFE = "safe"
    """Nothing whole is left to serve: only reports and repair go on."""


def mode(record: ModelRecord, *, crash_limit: int, crash_window_s: float, now_s: int) -> Mode:
    """Return how the model does. Pure."""
    if record.active is None:
        is_first = record.phase in INSTALLING and record.served is None
        return Mode.NONE if is_first or record.phase is Phase.IDLE else Mode.SAFE
    if sum(now_s - at < crash_window_s for at in record.crashes_s) >= crash_limit:
        return Mode.DEGRADED
    return Mode.TRIAL if is_on_trial(record) else Mode.NORMAL


def may_purge(record: ModelRecord, others: Iterable[ModelRecord], *, wanted: bool, running: bool) -> bool:
    """Say whether the slots of a model that is no longer wanted may be removed from the disk now.

    Not before the state that follows is safe: its record says that nothing serves, none of its workers runs any more, and no
    other model of the device is being installed or on its first trial.
    """
    if wanted or running or record.phase is not Phase.IDLE or record.active is not None:
        return False
    return not any(other.phase in INSTALLING or other.phase is Phase.PROBATION for other in others)


def is_same_try(record: ModelRecord, wanted: Wanted | None) -> bool:
    """Say whether the request is the one that was tried last; another attempt or a newer document asks for a new try at once."""
    last = record.wanted
    if last is None or wanted is None or last.sha256 != wanted.sha256:
        return False
    return last.attempt == wanted.attempt and record.gen >= wanted.gen


# ---- records after an event. All pure.


def begun(record: ModelRecord, wanted: Wanted, slot: str, *, now_s: int) -> ModelRecord:
    """Return the record of an install of `wanted` into `slot` that starts now."""
    previous = record.previous
    if previous is not None and previous.slot == slot and previous.sha256 != wanted.sha256:
        previous = None  # its slot is about to be written
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.WANTED),
        gen=wanted.gen,
        wanted=wanted,
        installing=slot,
        previous=previous,
        before=record.before if previous is not None else Tally(),
        tries=0,
        bad_trials=record.bad_trials if is_same_try(record, wanted) else 0,
        strategy="",
        steps=1,
        phase_since_s=now_s,
        error_class=None,
        error_code="",
        reason="",
    )


def advanced(record: ModelRecord, event: InstallEvent, *, now_s: int) -> ModelRecord:
    """Return the record after a success. Raises IllegalTransitionError; ends in FAILED when the install loops."""
    phase = step(record.phase, event)
    if record.steps + 1 > MAX_STEPS:
        return failed(record, ErrorClass.INTERNAL, "install.loop", "the install was begun again too often")
    return msgspec.structs.replace(record, phase=phase, steps=record.steps + 1, phase_since_s=now_s)


def switched(record: ModelRecord, active: SlotRef, *, now_s: int) -> ModelRecord:
    """Return the record that makes `active` the serving slot; the old one becomes the rollback target, unless it has nothing to offer."""
    moved = advanced(record, InstallEvent.SWITCHED, now_s=now_s)
    seen = Tally(sha256=active.sha256, since_s=now_s)
    if record.previous is not None and record.previous.sha256 == active.sha256 and record.previous.proven:
        # back to what was proven before: its figures go on, its short trial begins now
        active = msgspec.structs.replace(active, proven=True)
        seen = _figures_of(record, active, now_s)
    old = record.active
    previous = old if old is not None and old.slot != active.slot and (is_proven(record) or not active.proven) else None
    return msgspec.structs.replace(
        moved,
        active=active,
        previous=previous,
        served=record.wanted,
        installing="",
        starts=1,  # the worker that goes over from its test to serving
        crashes_s=[],
        seen=seen,
        before=record.seen if previous is not None else Tally(),
    )


def _figures_of(record: ModelRecord, ref: SlotRef, since_s: int) -> Tally:
    """Return the figures known of `ref`, for a trial that begins at `since_s`."""
    known = record.before if record.before.sha256 == ref.sha256 else Tally(sha256=ref.sha256)
    return msgspec.structs.replace(known, since_s=since_s)


def proven(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record after a good trial of what serves. Outside of a trial (its successor failed) only that is noted."""
    assert record.active is not None
    after = advanced(record, InstallEvent.SOAKED, now_s=now_s) if record.phase is Phase.PROBATION else record
    return msgspec.structs.replace(after, active=msgspec.structs.replace(record.active, proven=True))


def _kept(record: ModelRecord) -> InstallEvent:
    if record.active is None:
        return InstallEvent.DROPPED
    return InstallEvent.KEPT_PROVEN if is_proven(record) else InstallEvent.KEPT_UNPROVEN


def withdrawn(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record of an install that was stopped from outside before its switch. What serves is untouched."""
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, _kept(record)),
        wanted=record.served,
        gen=record.served.gen if record.served is not None else record.gen,
        installing="",
        phase_since_s=now_s,
        error_class=None,
        error_code="",
        reason="",
    )


def followed(record: ModelRecord, wanted: Wanted, *, now_s: int) -> ModelRecord:
    """Return the record that notes `wanted`, which is what serves or what is being installed; the same one when nothing is new.

    A rollback, or the fault of a digest that is quarantined, stays visible: a request without a rollout for what serves is mostly the
    server's answer to it. A rollout's request is an offer of its own, carried out as soon as it serves.
    """
    if record.phase in INSTALLING:
        return record if record.wanted == wanted else msgspec.structs.replace(record, wanted=wanted, gen=wanted.gen)
    is_lasting = record.phase is Phase.ROLLED_BACK or any(
        (entry.code, entry.reason) == (record.error_code, record.reason) for entry in record.quarantine
    )
    if record.phase in (Phase.COMMITTED, Phase.PROBATION) or (is_lasting and not wanted.rollout):
        if record.wanted == wanted == record.served:
            return record
        return msgspec.structs.replace(record, wanted=wanted, served=wanted, gen=wanted.gen)
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, _kept(record)),
        wanted=wanted,
        served=wanted,
        gen=wanted.gen,
        phase_since_s=now_s,
        error_class=None,
        error_code="",
        reason="",
    )


def failed(record: ModelRecord, error_class: ErrorClass, code: str, reason: str) -> ModelRecord:
    """Return the record of an install that ended before the switch. What serves is untouched."""
    bad_trials = record.bad_trials + (record.phase in ON_TRIAL)
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.FAULT),
        installing="",
        bad_trials=bad_trials,
        error_class=error_class,
        error_code=code,
        reason=reason,
        quarantine=_with_entry(
            record,
            record.wanted.sha256 if record.wanted else None,
            record.wanted.attempt if record.wanted else 1,
            error_class,
            code,
            reason,
            lasting=code == OVER_MEMORY_CODE or bad_trials >= MAX_BAD_TRIALS,
        ),
    )


def rolled_back(record: ModelRecord, error_class: ErrorClass, code: str, reason: str, *, now_s: int) -> ModelRecord:
    """Return the record of going back to the previous slot; with none, nothing serves. The failed digest is quarantined.

    wanted is then the request that brought the failed version.
    """
    bad, back = record.active, record.previous
    wanted = record.wanted
    if bad is not None and (wanted is None or wanted.sha256 != bad.sha256):
        wanted = record.served
    attempt = wanted.attempt if wanted is not None and bad is not None and wanted.sha256 == bad.sha256 else 1
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.WENT_BACK),
        wanted=wanted,
        gen=wanted.gen if wanted is not None else record.gen,
        served=None,
        active=back,
        previous=None,
        installing="",
        starts=0,
        crashes_s=[],
        phase_since_s=now_s,
        seen=_figures_of(record, back, now_s) if back is not None else Tally(),
        before=Tally(),
        error_class=error_class,
        error_code=code,
        reason=reason,
        quarantine=_with_entry(record, bad.sha256 if bad else None, attempt, error_class, code, reason, lasting=True),
    )


def dropped(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record of a model that is no longer wanted. Its slots stay on disk until it may be purged (`may_purge`)."""
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.DROPPED),
        active=None,
        previous=None,
        wanted=None,
        served=None,
        seen=Tally(),
        before=Tally(),
        starts=0,
        crashes_s=[],
        installing="",
        phase_since_s=now_s,
        error_class=None,
        error_code="",
        reason="",
    )


def tried(record: ModelRecord) -> ModelRecord:
    """Return the record with one more start of the version being installed; written before the start itself."""
    return msgspec.structs.replace(record, tries=record.tries + 1)


def lent(record: ModelRecord) -> ModelRecord:
    """Return the record whose idle slot is given to a candidate: there is no rollback target in it any more."""
    return msgspec.structs.replace(record, previous=None, before=Tally())


def phase_deadline_s(record: ModelRecord) -> int | None:
    """Return when the running phase must have ended, unix seconds; None for phases without a deadline."""
    wanted = record.wanted
    if wanted is None or record.phase not in INSTALLING:
        return None
    if record.phase is Phase.DOWNLOADING:
        return record.phase_since_s + wanted.download_s
    return record.phase_since_s + wanted.apply_s


def _with_entry(
    record: ModelRecord,
    sha256: str | None,
    attempt: int,
    error_class: ErrorClass,
    code: str,
    reason: str,
    *,
    lasting: bool,
) -> list[Quarantine]:
    """Return the quarantine with the digest that failed. lasting: also when the class speaks of the moment only."""
    if sha256 is None or (error_class in TRANSIENT and not lasting):
        return record.quarantine
    gen = max(record.gen, record.wanted.gen if record.wanted else 0)
    entry = Quarantine(sha256=sha256, gen=gen, attempt=attempt, error_class=error_class, code=code, reason=reason)
    others = [q for q in record.quarantine if q.sha256 != sha256]
    return [*others, entry][-MAX_QUARANTINED:]


def is_withdrawn(record: ModelRecord, refusal: Refusal) -> bool:
    """Return whether a refused release is what serves already, and only left the signed repository: it goes on, which is no failure."""
    if record.phase is not Phase.COMMITTED or record.active is None:
        return False
    return record.active.sha256 == refusal.sha256 and refusal.code in LEFT_SIGNED_CODES


def is_barred(record: ModelRecord, withdrawn: Container[str], code: str) -> bool:
    """Return whether the rollback target is a withdrawn release and something else is left that verifies. Pure.

    withdrawn: digests. code: why to go back. Something else is left when what serves is not withdrawn itself and did not fail its
    trial by a fault of its own. A damaged slot is not for this: its bytes verify no more (`Slots.surviving`).
    """
    previous, active = record.previous, record.active
    if previous is None or active is None or previous.sha256 not in withdrawn or active.sha256 in withdrawn:
        return False
    return is_proven(record) or code in RESTARTS_CODES
