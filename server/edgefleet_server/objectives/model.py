"""Values of objectives. Indicators and states are stored and public: never renamed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Indicator(StrEnum):
    """What an objective measures."""

    LATENCY = "latency_ms"
    SUCCESS = "success"
    AVAILABILITY = "availability"
    ANSWER_AGE = "answer_age_s"
    RELEASE_AGE = "release_age_days"
    ACCURACY = "accuracy"


class BudgetState(StrEnum):
    """How an objective stands, in one word."""

    OK = "ok"
    BURNING = "burning"
    SLOW_BURN = "slow_burn"
    SPENT = "spent"
    NO_DATA = "no_data"


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective: `target` of the events of an indicator are good, within `window_s` up to now.

    threshold: up to which value an event is good, None for a share. where: (site, profile or group, its name), all of which must hold.
    """

    name: str
    model: str
    indicator: Indicator
    target: float
    window_s: int
    threshold: float | None = None
    title: str = ""
    description: str = ""
    where: tuple[tuple[str, str], ...] = ()

    @property
    def allowed(self) -> float:
        """Return the share of events that may be bad."""
        return 1.0 - self.target


@dataclass(frozen=True)
class BurnView:
    """How fast the budget burns by one pair of windows. burn 1 = the budget lasts exactly the objective's window.

    factor: from which on both windows are too fast; state: calm, near, burning, or few (too few events failed to say so).
    bad, total: events of the long window. is_sure: more of them were bad than chance makes of a share that is allowed.
    """

    long_s: int
    short_s: int
    factor: float
    is_fast: bool
    long_burn: float | None
    short_burn: float | None
    bad: int
    total: int
    is_sure: bool
    state: str


@dataclass(frozen=True)
class SloView:
    """An objective as it is shown. says: what it asks, in a sentence. counted_at: the threshold that latencies are really
    counted at, in milliseconds; null for all other indicators.

    left: the part of the budget that is left, 1 = all of it, below 0 = more than all was used, null without events. good, total: events in
    the window; since: the first of them. burns: the fastest pair first.
    """

    name: str
    model: str
    title: str
    description: str
    indicator: Indicator
    says: str
    threshold: float | None
    counted_at: float | None
    target: float
    window_s: int
    where: Mapping[str, str]
    state: BudgetState
    left: float | None
    good: int
    total: int
    since: datetime | None
    looked_at: datetime
    burns: Sequence[BurnView]
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True)
class BudgetUse:
    """Events of an objective in one profile, site or version (`place`) in its window. share: of all bad events there were."""

    place: str
    name: str
    bad: int
    total: int
    share: float


@dataclass(frozen=True)
class BudgetPoint:
    """What was left of the budget at a moment, null without events in the window up to then; good, total: of the step that ended then."""

    at: datetime
    left: float | None
    good: int
    total: int


@dataclass(frozen=True)
class SloDetail:
    """An objective with its file and the history of its budget, oldest first."""

    slo: SloView
    document: Mapping[str, object]
    history: Sequence[BudgetPoint]
