"""Reads what is left of the error budget that a rollout's spec names."""

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.rollout.ports import Budgets
from edgefleet_server.rollout.spec.budget_gate import BudgetLeft
from edgefleet_server.rollout.spec.model import Spec


def budget_of(spec: Spec, budgets: Budgets | None) -> BudgetLeft | None:
    """Return the budget that a spec's gate names; None without such a gate."""
    gate = spec.gates.budget
    if gate is None:
        return None
    if budgets is None:
        return BudgetLeft(error="this server keeps no objectives")
    try:
        return BudgetLeft(budgets(gate.slo).left)
    except EdgefleetError as error:
        return BudgetLeft(error=error.message)
