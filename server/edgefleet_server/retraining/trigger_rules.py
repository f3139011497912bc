"""Whether a trigger starts a retraining now, or what holds it. Pure.

Rules, the first that holds decides:
1. A trigger that is switched off starts nothing.
2. Its cause must be there.
3. One retraining of a model at a time: a second one would train on what the first one is about to change.
4. Its cause must have lasted `lasting`. A schedule's cause is its moment: one that was held is left out, not made up for.
5. `cool_down` must have passed since it last started one by itself. Those by hand neither wait for it nor begin it.
6. At most `budget` retrainings began in any span of `budget_period`, also by hand, and whatever became of them.
Statistics are not judged here: the alerts that triggers look at bring theirs. Source: ADR 0135.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgefleet_server.retraining.model import TriggerOn


@dataclass(frozen=True, slots=True)
class TriggerTerms:
    """What a trigger says of when it fires."""

    on: TriggerOn
    enabled: bool
    lasting: timedelta
    cool_down: timedelta
    budget: int
    budget_period: timedelta


@dataclass(frozen=True, slots=True)
class CauseSeen:
    """A cause that is there. since: when it began; words: what it is."""

    since: datetime
    words: str


@dataclass(frozen=True, slots=True)
class TriggerHistory:
    """What a trigger has started. open_run: the retraining of its model that has not ended, "" = none.

    last_own_at: when it last started one by itself; made: when it started any, in any order, at least those of its budget's period.
    """

    open_run: str = ""
    last_own_at: datetime | None = None
    made: Sequence[datetime] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a retraining starts. words: why, or what holds it; until: how long that holds at least, None: not known."""

    fires: bool
    words: str
    until: datetime | None = None


def decide(terms: TriggerTerms, cause: CauseSeen | None, history: TriggerHistory, now: datetime) -> Decision:
    """Return whether a trigger starts a retraining by itself now."""
    if not terms.enabled:
        return Decision(False, "it is switched off")
    if terms.on is TriggerOn.HAND:
        return Decision(False, "it is started by hand only")
    if cause is None:
        return Decision(False, _WAITS[terms.on])
    if history.open_run:
        return _under_way(history)
    if terms.on is not TriggerOn.SCHEDULE and now - cause.since < terms.lasting:
        until = cause.since + terms.lasting
        return Decision(False, f"its cause has to last until {_moment(until)}: {cause.words}", until)
    if history.last_own_at is not None and now - history.last_own_at < terms.cool_down:
        until = history.last_own_at + terms.cool_down
        return Decision(False, f"it cools down until {_moment(until)}", until)
    return _by_budget(terms, history, now) or Decision(True, cause.words)


def may_start(terms: TriggerTerms, history: TriggerHistory, now: datetime) -> Decision:
    """Return whether a person may start a retraining of a trigger by hand now."""
    if not terms.enabled:
        return Decision(False, "it is switched off")
    if history.open_run:
        return _under_way(history)
    return _by_budget(terms, history, now) or Decision(True, "started by hand")


def used(terms: TriggerTerms, history: TriggerHistory, now: datetime) -> int:
    """Return how much of a budget is used now."""
    return sum(1 for one in history.made if now - one < terms.budget_period)


def _by_budget(terms: TriggerTerms, history: TriggerHistory, now: datetime) -> Decision | None:
    counted = sorted(one for one in history.made if now - one < terms.budget_period)
    if len(counted) < terms.budget:
        return None
    if terms.budget == 0:
        return Decision(False, "its budget is 0: it starts nothing")
    until = counted[-terms.budget] + terms.budget_period
    words = f"its budget is used: {len(counted)} of {terms.budget}, the next one from {_moment(until)}"
    return Decision(False, words, until)


def _under_way(history: TriggerHistory) -> Decision:
    return Decision(False, f"the retraining {history.open_run} of its model is under way")


_WAITS = {
    TriggerOn.DRIFT: "it waits for drift of its model on several devices",
    TriggerOn.ACCURACY: "it waits for an objective of its model's accuracy that burns its budget",
    TriggerOn.OBJECTIVE: "it waits for an objective that burns its budget",
    TriggerOn.SCHEDULE: "it waits for the next time of its schedule",
}


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
