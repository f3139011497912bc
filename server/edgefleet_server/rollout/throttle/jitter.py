"""Over how many seconds the devices of a stage begin to ask for the bundle that they are offered in one moment. Pure.

1. With `device.start_within` so many, always. Without it as many as the crowd needs at PER_S devices a second; a crowd of SMALL or less
   none, and none where a rate or limits spread the offers already.
2. The crowd of a stage is who is offered the release now, was within RECENT, or waits for nothing but the next look: a look offers
   a part of a large stage, and the looks after it come at once.
3. It is part of `download_deadline`, and by itself at most a quarter of that, and of the shortest window.
4. Who tries again after a failure does not wait for others: those are few, and had a wait of their own (`planner/auto_retry`).
What is taken back is never spread. Source: ADR 0064.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Effect, Offer
from edgefleet_server.rollout.model import Assignment, Lot
from edgefleet_server.rollout.spec.model import Spec

PER_S: Final = 200
"""Devices that begin a second: new connections with mutual TLS that one broker takes on two cores."""
SMALL: Final = 200
RECENT: Final = timedelta(minutes=1)
SHARE: Final = 4
"""What a spread may take by itself of a deadline or of a window: one part of so many."""


def spread_offers(
    effects: Sequence[Effect], assignments: Mapping[DeviceId, Assignment], spec: Spec, now: datetime
) -> Sequence[Effect]:
    """Return the effects of a tick with the span in each of its offers. assignments: as the tick leaves them."""
    stages = {assignments[effect.device].stage for effect in effects if isinstance(effect, Offer)}
    has_crowd = bool(stages) and len(assignments) > SMALL and spec.device.start_within is None
    crowds = _crowds(assignments, now) if has_crowd else {}
    spans = {stage: span for stage in stages if (span := within_s(spec, stage, crowds.get(stage, 0)))}
    if not spans:
        return effects
    return [
        _spread(effect, assignments[effect.device], spans) if isinstance(effect, Offer) else effect
        for effect in effects
    ]


def spans_of(spec: Spec, lots: Iterable[Lot]) -> dict[int, int]:
    """Return over how many seconds at most the devices of each stage begin, 0: at once. lots: of all devices, for what people see."""
    devices = Counter[int]()
    for a, n in lots:
        devices[a.stage] += n
    return {stage: within_s(spec, stage, n) for stage, n in devices.items()}


def within_s(spec: Spec, stage: int, crowd: int) -> int:
    """Return over how many seconds a crowd of a stage begins, 0: at once."""
    fixed = spec.device.start_within
    if fixed is not None:
        return int(fixed.total_seconds())
    is_spread = spec.stages[stage].rate is not None or spec.limits.are_set
    if is_spread or crowd <= SMALL:
        return 0
    most = min(spec.device.download, *(window.duration for window in spec.windows), timedelta.max) / SHARE
    return min(ceil(crowd / PER_S), int(most.total_seconds()))


def _crowds(assignments: Mapping[DeviceId, Assignment], now: datetime) -> dict[int, int]:
    since, eligible = now - RECENT, AssignmentState.ELIGIBLE
    return Counter(
        a.stage
        for a in assignments.values()
        if (
            (a.retry_at is None or a.retry_at <= now)
            if a.state is eligible
            else a.offered_at is not None and a.offered_at > since
        )
    )


def _spread(offer: Offer, a: Assignment, spans: Mapping[int, int]) -> Offer:
    is_new = a.state is AssignmentState.OFFERED and not a.retries and not a.failed_before
    return Offer(offer.device, spans[a.stage]) if is_new and a.stage in spans else offer
