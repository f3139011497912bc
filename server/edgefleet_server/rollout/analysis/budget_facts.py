"""The budget gate: whether enough is left of an objective's error budget. Pure.

- A stage opens only while enough is left.
- Where too little is left while a stage is open, it stops for a person, once. After a person has gone on it is only held: it does not pass
  until enough is left again, or a person promotes it.
- An objective without events has used nothing of its budget. One that is not there says nothing, so nothing opens or passes on it.
What was left is part of the facts of a decision and is stored with it.
"""

from typing import Final

import msgspec

from edgefleet_server.rollout.model import Snapshot, StageRun

BUDGET_LOW: Final = "budget_low"
"""Code of what a stage waits for or was stopped by. Public, stable."""


class BudgetFact(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as a decision sees it. left: None without events; error: why nothing is known of it.

    is_answered: a person has gone on since the stage opened.
    """

    slo: str
    at_least: float
    left: float | None = None
    error: str = ""
    is_answered: bool = False

    @property
    def lack(self) -> str:
        """Return what is missing, "" when enough is left."""
        if self.error:
            return f"budget of {self.slo}: {self.error}"
        if self.left is None or self.left >= self.at_least:
            return ""
        return f"budget of {self.slo}: {_percent(self.left)} is left, at least {_percent(self.at_least)} is asked"


def budget_fact(snapshot: Snapshot, run: StageRun) -> BudgetFact | None:
    """Return the budget that a stage rests on, None without such a gate, and where nothing is decided so that nobody read it."""
    gate, known = snapshot.spec.gates.budget, snapshot.budget
    if gate is None or known is None:
        return None
    return BudgetFact(
        slo=gate.slo,
        at_least=gate.at_least,
        left=known.left,
        error=known.error,
        is_answered=run.resumed_at is not None,
    )


def lack_of(snapshot: Snapshot, run: StageRun) -> str:
    """Return why a stage may not open, "" when its budget allows it."""
    fact = budget_fact(snapshot, run)
    return "" if fact is None else fact.lack


def figures_of_budget(fact: BudgetFact | None) -> dict[str, float | int | str | None]:
    """Return what a decision's figures say of the budget."""
    if fact is None:
        return {}
    return {"budget.slo": fact.slo, "budget.left": fact.left, "budget.at_least": fact.at_least}


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
