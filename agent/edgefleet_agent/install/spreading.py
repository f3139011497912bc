"""When a device of many may begin to ask for a bundle that all of them were offered in one moment. Pure.

1. Its part of the document's `start_within_s` is a hash of device and digest: uniform over the fleet, the same after a restart.
2. It counts from when the device first accepted the wish, and is kept in `desired.ok`: documents signed anew meanwhile, and restarts
   of agentd, do not begin it again. Another attempt is another wish.
3. It is part of `download_s`: device and server come to the end of that in the same moment.
4. Who need not ask does not wait: the bundle is there. Nor does who tries again what failed here, nor who goes on with what was begun.
5. A clock that was turned never makes it longer than the span.
"""

from datetime import UTC, datetime

import msgspec

from edgefleet_agent.install.records import DesiredOk, ModelRecord, Wanted
from edgefleet_protocol.messages import Phase
from edgefleet_protocol.spread import start_after_s


def spread(accepted: DesiredOk, last: DesiredOk | None, now_s: int) -> DesiredOk:
    """Return the document with the start of each of its wishes. last: what was accepted before; now_s: unix seconds by the clock."""
    known = [] if last is None else [*last.wanted, *(wish.wanted for wish in last.candidates)]
    begun = {_key(one): one.start_s for one in known if one.start_within_s}

    def started(wanted: Wanted) -> Wanted:
        if not wanted.start_within_s:
            return wanted
        after_s = start_after_s(accepted.device, wanted.sha256, wanted.start_within_s)
        start_s = begun.get(_key(wanted), now_s + after_s)
        return msgspec.structs.replace(wanted, start_s=start_s, download_s=max(1, wanted.download_s - after_s))

    candidates = [msgspec.structs.replace(wish, wanted=started(wish.wanted)) for wish in accepted.candidates]
    return msgspec.structs.replace(
        accepted, wanted=[started(wanted) for wanted in accepted.wanted], candidates=candidates
    )


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
