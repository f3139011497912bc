"""Life of one model's install, as a table and pure decisions (`agent.md` §5.2, §5.3). No I/O, no clock: facts in, values out.

1. A phase is written to disk before the work that belongs to it begins (`journal`), so every phase must be repeatable.
2. `TRANSITIONS` has a row per phase: where each event leads, and, in the column `recovery`, where a power cut leads.
3. Nothing before `SWITCHING` touches what serves. A fault before it ends in `FAILED` with the old version still serving.
4. A fault after it ends in `ROLLED_BACK`: the previous version serves again, or nothing when there was none.
5. The same digest is not tried again after a fault of its own (any but `TRANSIENT`) until a higher gen or another attempt asks for it.
6. A proven version is never overwritten while what serves is not proven itself: a wish for yet another digest waits (`Wait`).
   - Nothing proven is at stake (first versions of a model): the wish is begun at once.
   - The wish is the proven previous version: back to its slot at once; its bytes are there, nothing is downloaded.
   - Else the trial of what serves ends sooner: healthy (serving, last golden check right, no crash in the window) for
     `replace_s`, it is committed and makes room. Faults roll it back as ever, which makes room too.
   - Neither within the `verify_s` of its own wish: it did not prove itself, so it is rolled back.
7. Every count that bounds a loop is in the record and raised before the act it counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from edgefleet_agent.install.records import ModelRecord, Quarantine, SlotRef, Wanted
from edgefleet_protocol.messages import ErrorClass, Phase

MAX_STEPS = 64
"""Records one install may write. More means two phases chase each other."""
MAX_STARTS = 3
"""Starts of a version in trial, counted over reboots and kills of agentd as well."""
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
    DROPPED = "dropped"


class IllegalTransitionError(RuntimeError):
    """An event that the phase has no row for: a bug in the runner, never the world's fault."""


@dataclass(frozen=True, slots=True)
class Row:
    """One phase: `on` maps events to phases, `recovery` is the phase to resume in after a power cut."""

    on: Mapping[InstallEvent, Phase]
    recovery: Phase


_E = InstallEvent
_REST: Mapping[InstallEvent, Phase] = {_E.WANTED: Phase.DOWNLOADING, _E.DROPPED: Phase.IDLE, _E.FAULT: Phase.FAILED}


def _trial(event: InstallEvent, success: Phase) -> Mapping[InstallEvent, Phase]:
    # WANTED in the middle of an install: a newer document wants something else, the slot is simply written again
    return {event: success, _E.FAULT: Phase.FAILED, _E.WANTED: Phase.DOWNLOADING, _E.DROPPED: Phase.IDLE}


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
            _E.FAULT: Phase.ROLLED_BACK,
            _E.WANTED: Phase.DOWNLOADING,
            _E.DROPPED: Phase.IDLE,
        },
        Phase.PROBATION,
    ),
    # a committed version may still fall into a crash loop: then back to the last known good, once
    Phase.COMMITTED: Row(
        {_E.WANTED: Phase.DOWNLOADING, _E.FAULT: Phase.ROLLED_BACK, _E.DROPPED: Phase.IDLE}, Phase.COMMITTED
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

TRANSIENT = frozenset({ErrorClass.NETWORK, ErrorClass.DISK, ErrorClass.MEMORY, ErrorClass.DEADLINE})
"""Classes that say something about the moment, not about the bundle: tried again later, never quarantined."""

RETRY_DELAYS_S = (30.0, 120.0, 600.0, 3_600.0)


def step(phase: Phase, event: InstallEvent) -> Phase:
    """Return the phase after `event`. Raises IllegalTransitionError where the table has no entry."""
    try:
        return TRANSITIONS[phase].on[event]
    except KeyError:
        raise IllegalTransitionError(f"{event} cannot happen in phase {phase}") from None


def recovered(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record to go on from after a start of agentd. Pure; the caller writes it before acting.

    The time of a phase that cannot be right (`MAX_AGE_S`) starts anew: a trial is never cut short, nor made endless, by a clock.
    """
    phase = TRANSITIONS[record.phase].recovery
    if (phase in INSTALLING or is_on_trial(record)) and not 0 <= now_s - record.phase_since_s <= MAX_AGE_S:
        record = msgspec.structs.replace(record, phase_since_s=now_s)
    if any(at > now_s for at in record.crashes_s):
        record = msgspec.structs.replace(record, crashes_s=[min(at, now_s) for at in record.crashes_s])
    if record.phase in INSTALLING and record.steps >= MAX_STEPS:
        return failed(record, ErrorClass.INTERNAL, "install.loop", "the install was begun again too often")
    return msgspec.structs.replace(record, phase=phase)


# ---- what to do about a wish


@dataclass(frozen=True, slots=True)
class Begin:
    """Install `wanted` into `slot`."""

    wanted: Wanted
    slot: str


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing to do now; `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The model is no longer wanted: stop serving it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """`wanted` may begin when the version that serves was proven or rolled back: until then its slot holds the way back."""

    wanted: Wanted


Decision = Begin | Stay | Wait | Drop


def decide(record: ModelRecord, wanted: Wanted | None, *, now_s: int, held: bool) -> Decision:
    """Return what to do when the verified document wants `wanted` for this model (None = nothing). Pure.

    held: a valid `hold` names this rollout or digest.
    """
    if wanted is None:
        return Stay("nothing is wanted") if record.phase is Phase.IDLE and record.active is None else Drop()
    busy = record.phase in INSTALLING
    if busy and record.wanted is not None and record.wanted.sha256 == wanted.sha256:
        return Stay("this install is running")
    if not busy and record.active is not None and record.active.sha256 == wanted.sha256:
        return Stay("it is what serves")
    if held:
        return Stay("held by the server")
    if wanted.not_before_s > now_s:
        return Stay("not yet")
    blocked = quarantined(record, wanted)
    if blocked is not None:
        return Stay(f"failed here before: {blocked.reason}")
    slot = idle_slot(record)
    return Wait(wanted) if _would_lose_proven(record, wanted, slot) else Begin(wanted, slot)


def is_proven(record: ModelRecord) -> bool:
    """Say whether what serves lived through its trial. The phase speaks for records of agents before `SlotRef.proven`."""
    return record.active is not None and (record.active.proven or record.phase is Phase.COMMITTED)


def is_on_trial(record: ModelRecord) -> bool:
    """Say whether what serves is to be judged: on probation, or never proven because its successor failed meanwhile."""
    if record.phase is Phase.PROBATION:
        return True
    return record.active is not None and record.phase not in INSTALLING and not is_proven(record)


def _would_lose_proven(record: ModelRecord, wanted: Wanted, slot: str) -> bool:
    previous = record.previous
    at_stake = previous is not None and previous.proven and previous.slot == slot and previous.sha256 != wanted.sha256
    return at_stake and not is_proven(record)


def quarantined(record: ModelRecord, wanted: Wanted) -> Quarantine | None:
    """Return the entry that forbids `wanted`, if its digest failed here for this or a higher gen and the same attempt."""
    for entry in record.quarantine:
        if entry.sha256 == wanted.sha256 and entry.gen >= wanted.gen and entry.attempt == wanted.attempt:
            return entry
    return None


def idle_slot(record: ModelRecord) -> str:
    """Return the slot that does not serve."""
    return "B" if record.active is not None and record.active.slot == "A" else "A"


# ---- records after an event. All pure.


def begun(record: ModelRecord, decision: Begin, *, now_s: int) -> ModelRecord:
    """Return the record of an install that starts now."""
    previous = record.previous
    if previous is not None and previous.slot == decision.slot and previous.sha256 != decision.wanted.sha256:
        previous = None  # its slot is about to be written
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.WANTED),
        gen=decision.wanted.gen,
        wanted=decision.wanted,
        installing=decision.slot,
        previous=previous,
        starts=0,
        crashes_s=[],
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
    """Return the record that makes `active` the serving slot; the old one becomes the way back."""
    moved = advanced(record, InstallEvent.SWITCHED, now_s=now_s)
    previous = record.active if record.active is not None and record.active.slot != active.slot else None
    if record.previous is not None and record.previous.sha256 == active.sha256:
        active = msgspec.structs.replace(active, proven=record.previous.proven)  # back to what was proven before
    return msgspec.structs.replace(moved, active=active, previous=previous, installing="", starts=0, crashes_s=[])


def proven(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record after a good trial of what serves. Outside of a trial (its successor failed) only that is noted."""
    assert record.active is not None
    after = advanced(record, InstallEvent.SOAKED, now_s=now_s) if record.phase is Phase.PROBATION else record
    return msgspec.structs.replace(after, active=msgspec.structs.replace(record.active, proven=True))


def failed(record: ModelRecord, error_class: ErrorClass, code: str, reason: str) -> ModelRecord:
    """Return the record of an install that ended before the switch. What serves is untouched."""
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.FAULT),
        installing="",
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
        ),
    )


def rolled_back(record: ModelRecord, error_class: ErrorClass, code: str, reason: str, *, now_s: int) -> ModelRecord:
    """Return the record of going back to the previous slot; with none, nothing serves. The failed digest is quarantined."""
    bad = record.active
    attempt = record.wanted.attempt if record.wanted and bad and record.wanted.sha256 == bad.sha256 else 1
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.FAULT),
        active=record.previous,
        previous=None,
        installing="",
        starts=0,
        crashes_s=[],
        phase_since_s=now_s,
        error_class=error_class,
        error_code=code,
        reason=reason,
        quarantine=_with_entry(record, bad.sha256 if bad else None, attempt, error_class, code, reason),
    )


def dropped(record: ModelRecord, *, now_s: int) -> ModelRecord:
    """Return the record of a model that is no longer wanted. Its slots stay on disk until they are needed."""
    return msgspec.structs.replace(
        record,
        phase=step(record.phase, InstallEvent.DROPPED),
        active=None,
        previous=None,
        wanted=None,
        installing="",
        phase_since_s=now_s,
        error_class=None,
        error_code="",
        reason="",
    )


def started(record: ModelRecord) -> ModelRecord:
    """Return the record with one more start counted; written before the start itself."""
    return msgspec.structs.replace(record, starts=record.starts + 1)


def crashed(record: ModelRecord, *, now_s: int, window_s: float) -> ModelRecord:
    """Return the record with one more crash, older ones than the window forgotten."""
    recent = [at for at in record.crashes_s if now_s - at < window_s]
    return msgspec.structs.replace(record, crashes_s=[*recent, now_s])


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version in trial is held to. replace_s: trial of a healthy version that another one is to replace."""

    crash_limit: int
    crash_window_s: float
    probation_s: float
    probation_min_s: float
    probation_inferences: int
    replace_s: float
    nonfinite_ratio: float
    error_ratio: float
    error_min_n: int


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """What was seen of a version since it began to serve. golden_ok: the last golden check in the serving worker passed."""

    serving: bool
    golden_ok: bool
    n: int
    errors: int
    nonfinite: int


@dataclass(frozen=True, slots=True)
class RollBack:
    """Go back, and why."""

    error_class: ErrorClass
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The trial is over and good."""


@dataclass(frozen=True, slots=True)
class KeepWatching:
    """Neither yet."""


def judge(
    record: ModelRecord, facts: TrialFacts, limits: Limits, *, now_s: int, replaced: bool = False
) -> RollBack | Commit | KeepWatching:
    """Return the verdict on the version that serves (`agent.md` §5.3). Missing data never commits. Pure.

    replaced: a wish for another version waits for this verdict (`Wait`).
    """
    recent = [at for at in record.crashes_s if now_s - at < limits.crash_window_s]
    if len(recent) >= limits.crash_limit:
        return RollBack(ErrorClass.CRASH, "trial.crash_loop", f"{len(recent)} crashes in {limits.crash_window_s:.0f} s")
    if not is_on_trial(record):
        return KeepWatching()
    if record.starts > MAX_STARTS + len(recent):
        return RollBack(
            ErrorClass.CRASH, "trial.restarts", f"started {record.starts} times without living through its trial"
        )
    if facts.n and facts.nonfinite > max(1.0, limits.nonfinite_ratio * facts.n):
        return RollBack(ErrorClass.NONFINITE, "trial.nonfinite", f"{facts.nonfinite} of {facts.n} answers not finite")
    if facts.n >= limits.error_min_n and facts.errors > limits.error_ratio * facts.n:
        return RollBack(ErrorClass.CRASH, "trial.errors", f"{facts.errors} of {facts.n} requests failed")
    age_s = now_s - record.phase_since_s
    enough = age_s >= limits.probation_s or (facts.n >= limits.probation_inferences and age_s >= limits.probation_min_s)
    enough = enough or (replaced and not recent and age_s >= limits.replace_s)
    if enough and facts.serving and facts.golden_ok:
        return Commit()
    if replaced and record.wanted is not None and age_s >= record.wanted.verify_s:
        return RollBack(ErrorClass.DEADLINE, "trial.unproven", f"not proven within {record.wanted.verify_s} s")
    return KeepWatching()


def phase_deadline_s(record: ModelRecord) -> int | None:
    """Return when the running phase must have ended, unix seconds; None for phases without a deadline."""
    wanted = record.wanted
    if wanted is None or record.phase not in INSTALLING:
        return None
    if record.phase is Phase.DOWNLOADING:
        return record.phase_since_s + wanted.download_s
    return record.phase_since_s + wanted.apply_s


def _with_entry(
    record: ModelRecord, sha256: str | None, attempt: int, error_class: ErrorClass, code: str, reason: str
) -> list[Quarantine]:
    if sha256 is None or error_class in TRANSIENT:
        return record.quarantine
    gen = max(record.gen, record.wanted.gen if record.wanted else 0)
    entry = Quarantine(sha256=sha256, gen=gen, attempt=attempt, error_class=error_class, code=code, reason=reason)
    others = [q for q in record.quarantine if q.sha256 != sha256]
    return [*others, entry][-MAX_QUARANTINED:]
