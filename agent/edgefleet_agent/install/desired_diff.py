"""What to do about a request: compares what a verified document wants with what the device has. Pure.

1. Work is begun only for what neither serves nor is being installed, is not held, not quarantined, and whose time has come: not
   before `not_before`, nor before its part of the span over which devices begin (rule 4).
2. An install under way that is not wanted any more, or held, is withdrawn; what is switched is never touched by a hold.
3. A proven version is never overwritten while what serves is not proven itself: a request for yet another digest waits (`Wait`).
   - Nothing proven is at stake (first versions of a model): the request is begun at once.
   - The request is for the proven previous version: back to its slot at once; its bytes are there, nothing is downloaded.
   - Else the trial of what serves ends sooner: healthy (serving, last golden check right, no crash in the window) for
     `replace_s`, it is committed and makes room. Faults roll it back as ever, which makes room too.
   - Neither within the `verify_s` of its own request: it did not prove itself, so it is rolled back.
4. A device's part of `start_within_s` counts from when it first accepted the request, kept in `desired.ok`: new signings and restarts do
   not begin it again. It is part of `download_s`: device and server come to its end in the same moment. A device with the bundle does not
   wait, nor who tries again what failed here; a clock that was turned never makes it longer than the span (ADR 0064).
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from edgefleet_agent.install.machine import INSTALLING, WITHDRAWN_CODE, is_proven
from edgefleet_agent.install.records import DesiredOk, ModelRecord, Quarantine, Wanted
from edgefleet_protocol.digest import start_after_s
from edgefleet_protocol.messages import HELD_CODE, Phase


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
class Follow:
    """`wanted` is what serves, or what is being installed: only the request is noted."""

    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The install under way must not go on: stop it, keep what serves, then decide again."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The model is no longer wanted: stop serving it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """`wanted` may begin when the version that serves was proven or rolled back: until then its slot holds the rollback target."""

    wanted: Wanted


Decision = Begin | Stay | Follow | Withdraw | Wait | Drop

HELD = Stay("held by the server before the switch")
SPREAD = Stay("waits for its part of the time over which devices begin")


def decide(record: ModelRecord, wanted: Wanted | None, *, now_s: int, held: bool, in_slot: bool = False) -> Decision:
    """Return what to do when the verified document wants `wanted` for this model (None = nothing). Pure.

    held: a valid `hold` names this rollout or digest. in_slot: the idle slot holds the whole bundle.
    """
    if wanted is None:
        return Stay("nothing is wanted") if record.phase is Phase.IDLE and record.active is None else Drop()
    serves = record.active is not None and record.active.sha256 == wanted.sha256
    if record.phase not in INSTALLING:
        return Follow(wanted) if serves else _toward(record, wanted, now_s, held, in_slot)
    if serves:
        return Withdraw(WITHDRAWN_CODE, "what serves is wanted again")
    is_this = record.wanted is not None and record.wanted.sha256 == wanted.sha256
    if is_this and not held:
        return Follow(wanted)
    decision = _toward(record, wanted, now_s, held, in_slot)
    if isinstance(decision, Stay):
        return Withdraw(HELD_CODE if held else WITHDRAWN_CODE, decision.reason)
    return decision


def _toward(record: ModelRecord, wanted: Wanted, now_s: int, held: bool, in_slot: bool) -> Begin | Stay | Wait:
    """Return what to do about a request for something else than what serves."""
    if held:
        return HELD
    if wanted.not_before_s > now_s:
        return Stay("not yet")
    blocked = quarantined(record, wanted)
    if blocked is not None:
        return Stay(f"failed here before: {blocked.reason}")
    if must_wait(record, wanted, now_s=now_s, in_slot=in_slot):
        return SPREAD
    slot = idle_slot(record)
    return Wait(wanted) if _would_lose_proven(record, wanted, slot) else Begin(wanted, slot)


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


def spread(accepted: DesiredOk, last: DesiredOk | None, now_s: int) -> DesiredOk:
    """Return the document with the start of each of its requests. last: what was accepted before; now_s: unix seconds by the clock."""
    known = [] if last is None else [*last.wanted, *(request.wanted for request in last.candidates)]
    before = {_key(one): one for one in known}

    def begun(wanted: Wanted) -> Wanted:
        return started(wanted, before.get(_key(wanted)), accepted.device, now_s)

    candidates = [msgspec.structs.replace(request, wanted=begun(request.wanted)) for request in accepted.candidates]
    return msgspec.structs.replace(accepted, wanted=[begun(one) for one in accepted.wanted], candidates=candidates)


def started(wanted: Wanted, before: Wanted | None, device: str, now_s: int) -> Wanted:
    """Return a request with its start: that of the one before, where it is the same request."""
    if not wanted.start_within_s:
        return wanted
    after_s = start_after_s(device, wanted.sha256, wanted.start_within_s)
    is_known = before is not None and before.start_within_s and _key(before) == _key(wanted)
    start_s = before.start_s if before is not None and is_known else now_s + after_s
    return msgspec.structs.replace(wanted, start_s=start_s, download_s=max(1, wanted.download_s - after_s))


def _key(wanted: Wanted) -> tuple[str, str, str, int]:
    return wanted.model, wanted.sha256, wanted.rollout, wanted.attempt


def is_early(wanted: Wanted, now_s: int) -> bool:
    """Say whether the device's own part of the span is not over yet. now_s: unix seconds by the clock."""
    return 0 < wanted.start_s - now_s <= wanted.start_within_s


def spread_reason(until_s: int) -> str:
    """Return why nothing moves yet, for people. until_s: unix seconds."""
    until = datetime.fromtimestamp(until_s, UTC)
    return f"waits until {until:%Y-%m-%d %H:%M:%SZ} before it asks for the bundle, so that not all devices do at once"


def must_wait(record: ModelRecord, wanted: Wanted, *, now_s: int, in_slot: bool) -> bool:
    """Say whether a new install of `wanted` waits. in_slot: the idle slot holds the bundle, so nobody is asked for it."""
    if in_slot or not is_early(wanted, now_s):
        return False
    has_failed = record.phase in (Phase.FAILED, Phase.ROLLED_BACK)
    return not (has_failed and record.wanted is not None and record.wanted.sha256 == wanted.sha256)
