"""The budget gate of a spec: what has to be left of an objective's error budget before devices get a release. Pure."""

from dataclasses import dataclass
from typing import Annotated, Final

from edgefleet_server.rollout.spec import fields
from edgefleet_server.rollout.spec.parts import Advice, part

AT_LEAST: Final = 0.25
_SLO: Final = "[a-z0-9][a-z0-9-]{0,62}"


@part("BudgetGateIn")
class BudgetGate:
    """An objective, and which part of its error budget has to be left: 0.25 is a quarter."""

    slo: Annotated[str, fields.named(_SLO), Advice("name the objective: `edgectl slo list` shows all")]
    at_least: Annotated[float, fields.share(1)] = AT_LEAST


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """What is left of an error budget: None without events. error: why nothing is known of it."""

    left: float | None = None
    error: str = ""
