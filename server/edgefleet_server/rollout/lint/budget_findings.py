"""What the author of a spec should know of its budget gate: that there is such an objective, and how much is left now."""

from collections.abc import Iterator
from typing import Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.rollout.lint.findings import Finding
from edgefleet_server.rollout.ports import Budgets
from edgefleet_server.rollout.spec.model import Spec

BUDGET_UNKNOWN: Final = "budget_unknown"
BUDGET_OF_ANOTHER: Final = "budget_of_another_model"
BUDGET_LOW: Final = "budget_low"


def about_budget(spec: Spec, budgets: Budgets | None) -> Iterator[Finding]:
    """Yield what speaks against a rollout as its objective stands now."""
    gate = spec.gates.budget
    if gate is None:
        return
    advice = "set it with `edgectl slo set -f FILE`, or name one of `edgectl slo list`"
    try:
        found = None if budgets is None else budgets(gate.slo)
    except EdgefleetError as error:
        yield Finding("error", BUDGET_UNKNOWN, None, None, f"gates.budget: {error.message}", advice)
        return
    if found is None:
        yield Finding("error", BUDGET_UNKNOWN, None, None, "gates.budget: this server keeps no objectives", advice)
        return
    model = ReleaseRef.parse(spec.release).model
    if found.model != model:
        message = f"gates.budget: {gate.slo} is an objective of {found.model}, and {model} goes out"
        yield Finding("warning", BUDGET_OF_ANOTHER, None, None, message, f"name an objective of {model}, if it has one")
    if found.left is not None and found.left < gate.at_least:
        message = (
            f"gates.budget: {100 * found.left:.3g} % of the budget of {gate.slo} is left, at least "
            f"{100 * gate.at_least:.3g} % is asked: no stage opens before that"
        )
        next_step = "wait until bad events have left its window, lower at_least, or leave gates.budget out"
        yield Finding("warning", BUDGET_LOW, None, None, message, next_step)
