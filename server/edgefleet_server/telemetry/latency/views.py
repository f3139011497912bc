"""What the API and the pages say of why latency rose. The dataclasses are bodies of routes: their fields are public. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class LatencyRise:
    """When the 95th percentile rose, and from what to what. is_over: it fell again at `until`."""

    since: datetime
    until: datetime
    before_ms: float
    after_ms: float
    ratio: float
    is_over: bool


@dataclass(frozen=True)
class LatencyCause:
    """One thing that can be behind it. kind: release, throttling, load, processor, memory, disk, candidate, other_models, inputs,
    device_mix or network.

    verdict: likely, possible, unlikely (something speaks against it), unchanged, unknown (devices do not report it) or ruled_out.
    score: 0 … 1, for the order. before, after: its figure in `unit` (share, celsius, per_s, bytes), null where nothing says it.
    evidence, against: sentences for and against it.
    """

    kind: str
    verdict: str
    score: float
    title: str
    said: str
    unit: str
    before: float | None
    after: float | None
    evidence: Sequence[str]
    against: Sequence[str]


@dataclass(frozen=True)
class LatencyExplanation:
    """Why the latency of a model rose in a span of time. device: "" for all devices.

    state: rise, no_rise or no_data. where: device, part, profile, site, all or nowhere; place: which; slower of parts: how many of the
    compared devices, or cohorts of them, got slower. causes: the most likely first. next: what to do, "" where there is nothing to.
    """

    model: str
    device: str
    since: datetime
    until: datetime
    step_s: int
    state: str
    said: str
    rise: LatencyRise | None
    where: str
    place: str
    slower: int
    parts: int
    causes: Sequence[LatencyCause]
    next: str
