"""What to do about the candidate of a model: compares the request with what serves and with what the device can bear. Pure.

1. A candidate lives in the slot that does not serve. It gets that slot only when what serves is proven, so that the rollback target it
   takes the place of is needed no more; an install of the active version always has precedence.
2. A digest that failed here is not tried again until a newer document or another attempt asks for it.
3. A measurement needs no active version, and may be of the active one; it is made once for each attempt.
4. Split needs a resident worker. A shadow is resident where memory allows, else it is recorded and replayed (`Record`, `Replay`).
5. Every count that bounds a loop is in the record and raised before the start it counts.
"""

from dataclasses import dataclass

import msgspec

from edgefleet_agent.install import machine
from edgefleet_agent.install.desired_diff import idle_slot, spread_reason
from edgefleet_agent.install.records import CandidateRequest, ModelRecord, Wanted
from edgefleet_protocol.messages import CANDIDATE_RESTS_CODE, HELD_CODE, SPREAD_CODE, TRANSIENT, ErrorClass

RECORD_VERSION = 1
MAX_STARTS = 5
"""Starts of one candidate without a steady run between them, counted over reboots and kills of agentd as well."""
STEADY_S = 60.0
RETRY_S = (5.0, 30.0, 120.0, 600.0)


class CandidateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`candidate.msgpack`: what agentd must remember of a candidate across a power cut.

    sha256, slot: the bundle and where it is or is being brought. starts: raised before each start, forgotten after a steady run.
    measured_…: what was measured last. failed_…: the digest that failed here and for which document; code, reason and error_class say why.
    """

    v: int = RECORD_VERSION
    model: str
    sha256: str = ""
    slot: str = ""
    starts: int = 0
    failed_sha256: str = ""
    failed_gen: int = 0
    failed_attempt: int = 0
    measured_sha256: str = ""
    measured_attempt: int = 0
    error_class: ErrorClass | None = None
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds now. held: a hold names the candidate. in_slot: its verified bundle is in its slot. fits: see `memory_fit`.

    early_until_s: it waits until then so that not all devices ask for it at once, unix seconds; 0: it does not.
    pressure: reasons to suspend it. is_recorded: a recording waits to be replayed. is_resting: the last replay is not long ago.
    """

    wanted_active: Wanted | None
    held: bool
    in_slot: bool
    fits: str
    pressure: tuple[str, ...] = ()
    is_recorded: bool = False
    is_resting: bool = False
    retry_waits: bool = False
    early_until_s: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """No candidate is wanted: stop and forget."""


@dataclass(frozen=True, slots=True)
class Stay:
    """Do not run it now. state: a `CandidatePhase`."""

    state: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bring:
    """Fetch the bundle into the slot."""

    slot: str


@dataclass(frozen=True, slots=True)
class Run:
    """Have a worker for the candidate."""


@dataclass(frozen=True, slots=True)
class Record:
    """Have the active worker record what it answers."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Have a child compare the recording, and end."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Have a child run it on its golden inputs, and end."""


Step = End | Stay | Bring | Run | Record | Replay | Measure


def decide(request: CandidateRequest | None, mine: CandidateRecord, record: ModelRecord | None, facts: Facts) -> Step:  # noqa: PLR0911
    """Return what to do now. mine: of this model's candidate. record: of what serves."""
    if request is None:
        return End()
    wanted = request.wanted
    if request.mode == "measure":
        return _measure(wanted, mine, record, facts)
    if record is None or record.active is None:
        return Stay("waiting", "candidate.no_active", "no version of the model serves here yet")
    if record.active.sha256 == wanted.sha256:
        return Stay("waiting", "candidate.is_active", "the candidate is what serves")
    if record.phase in machine.INSTALLING:
        return Stay("waiting", "candidate.install", "the active version is being installed")
    if facts.wanted_active is not None and facts.wanted_active.sha256 != record.active.sha256:
        return Stay("waiting", "candidate.install", "another version is wanted as the active one")
    if not machine.is_proven(record) or machine.is_on_trial(record):
        return Stay("waiting", "candidate.trial", "what serves is on trial; its way back is in the other slot")
    if has_failed(mine, wanted):
        return Stay("failed", mine.code, mine.reason)
    if facts.held:
        return Stay("waiting", HELD_CODE, "held by the server")
    if facts.retry_waits:
        return Stay("waiting", mine.code or "candidate.retry", mine.reason or "it is tried again soon")
    if not facts.in_slot:
        return _early(facts) or Bring(idle_slot(record))
    if facts.pressure:
        what = ", ".join(facts.pressure)
        return Stay("suspended", f"candidate.{facts.pressure[0]}", f"suspended under pressure: {what}")
    return _way(request, facts)


def _measure(wanted: Wanted, mine: CandidateRecord, record: ModelRecord | None, facts: Facts) -> Step:
    if (mine.measured_sha256, mine.measured_attempt) == (wanted.sha256, wanted.attempt):
        return Stay("measured", "", "")
    if record is not None and (record.phase in machine.INSTALLING or machine.is_on_trial(record)):
        return Stay("waiting", "candidate.install", "the active version is being installed or on trial")
    if has_failed(mine, wanted):
        return Stay("failed", mine.code, mine.reason)
    if facts.held:
        return Stay("waiting", HELD_CODE, "held by the server")
    if facts.retry_waits:
        return Stay("waiting", mine.code or "candidate.retry", mine.reason or "it is tried again soon")
    if not facts.in_slot:
        return _early(facts) or Bring(slot_for(wanted, record))
    if facts.pressure:
        return Stay("suspended", f"candidate.{facts.pressure[0]}", "not measured under pressure")
    if facts.fits == "none":
        return Stay("suspended", "candidate.memory", "there is not enough free memory for a second worker")
    return Measure()


def _early(facts: Facts) -> Stay | None:
    if not facts.early_until_s:
        return None
    return Stay("waiting", SPREAD_CODE, spread_reason(facts.early_until_s))


def slot_for(wanted: Wanted, record: ModelRecord | None) -> str:
    """Return where a candidate is, or is to be brought: the slot that does not serve, or the one that holds it as the active one."""
    if record is None:
        return "A"
    if record.active is not None and record.active.sha256 == wanted.sha256:
        return record.active.slot
    return idle_slot(record)


def _way(request: CandidateRequest, facts: Facts) -> Step:
    if facts.fits == "live":
        return Run()
    if request.mode == "split" or facts.fits == "none":
        return Stay("suspended", "candidate.memory", "there is not enough free memory for a second worker")
    if facts.is_recorded:
        return Replay()
    if facts.is_resting:
        return Stay("waiting", CANDIDATE_RESTS_CODE, "the last recording was compared; the next one is made later")
    return Record()


def memory_fit(need_bytes: int, available_bytes: int, reserve_bytes: int, headroom_bytes: int, *, mode: str) -> str:
    """Return "live", "sequential" or "none". mode: auto, or what the settings insist on. available_bytes: -1 = unknown."""
    if mode == "sequential":
        return "sequential"
    if mode == "live" or available_bytes < 0 or available_bytes >= need_bytes + reserve_bytes + headroom_bytes:
        return "live"
    return "sequential" if available_bytes >= need_bytes + reserve_bytes else "none"


def has_failed(mine: CandidateRecord, wanted: Wanted) -> bool:
    """Say whether this digest failed here for this or a newer document and the same attempt."""
    is_same = mine.failed_sha256 == wanted.sha256 and mine.failed_attempt == wanted.attempt
    return is_same and mine.failed_gen >= wanted.gen


def failed(mine: CandidateRecord, wanted: Wanted, error_class: ErrorClass, code: str, reason: str) -> CandidateRecord:
    """Return the record of a failure. What says something about the moment only is tried again, the rest is not."""
    after = msgspec.structs.replace(mine, error_class=error_class, code=code, reason=reason)
    if error_class in TRANSIENT:
        return after
    return msgspec.structs.replace(
        after, failed_sha256=wanted.sha256, failed_gen=wanted.gen, failed_attempt=wanted.attempt
    )


def started(mine: CandidateRecord, wanted: Wanted, slot: str) -> CandidateRecord:
    """Return the record of one more start, to be written before it; of another bundle the count begins again."""
    starts = mine.starts + 1 if mine.sha256 == wanted.sha256 else 1
    return msgspec.structs.replace(mine, sha256=wanted.sha256, slot=slot, starts=starts)


def is_worn_out(mine: CandidateRecord, wanted: Wanted) -> bool:
    """Say whether it was started too often without a steady run."""
    return mine.sha256 == wanted.sha256 and mine.starts >= MAX_STARTS
