"""What to do about a wish: compares what a verified document wants with what the device has. Pure.

1. Work is begun only for what neither serves nor is being installed, is not held, not quarantined, and whose time has come: not
   before `not_before`, and where many devices were offered it at once, not before this one's part of the span (`spreading`).
2. An install under way that is not wanted any more, or held, is withdrawn; what is switched is never touched by a hold.
3. A proven version is never overwritten while what serves is not proven itself: a wish for yet another digest waits (`Wait`).
   - Nothing proven is at stake (first versions of a model): the wish is begun at once.
   - The wish is the proven previous version: back to its slot at once; its bytes are there, nothing is downloaded.
   - Else the trial of what serves ends sooner: healthy (serving, last golden check right, no crash in the window) for
     `replace_s`, it is committed and makes room. Faults roll it back as ever, which makes room too.
   - Neither within the `verify_s` of its own wish: it did not prove itself, so it is rolled back.
"""

from dataclasses import dataclass

from edgefleet_agent.install.machine import HELD_CODE, INSTALLING, WITHDRAWN_CODE, is_proven
from edgefleet_agent.install.records import ModelRecord, Quarantine, Wanted
from edgefleet_agent.install.spreading import must_wait
from edgefleet_protocol.messages import Phase


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
    """`wanted` is what serves, or what is being installed: only the wish is noted."""

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
    """`wanted` may begin when the version that serves was proven or rolled back: until then its slot holds the way back."""

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
    """Return what to do about a wish for something else than what serves."""
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
