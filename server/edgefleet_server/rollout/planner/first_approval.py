"""Whether a rollout is approved before it offers anything, as devices under a protection rule demand (ADR 0118). Pure.

The approval of the first stage is the approval of the whole rollout (ADR 0034). It is given for each stratum; a stratum in which that stage
is left out has none.
"""

from collections.abc import Iterable
from typing import Final

from edgefleet_protocol.ids import ProfileName
from edgefleet_server.access.model import Role
from edgefleet_server.rollout.model import StageRun, StageState
from edgefleet_server.rollout.spec.model import Spec

APPROVING: Final = frozenset({Role.APPROVER, Role.ADMIN})
"""Roles whose approval counts: an operator, who makes rollouts, gives none."""


def asks_first(spec: Spec) -> bool:
    """Return whether the first stage of a rollout waits for an approval that counts."""
    wanted = spec.stages[0].approval
    return wanted is not None and wanted.role in APPROVING


def approvers(spec: Spec, runs: Iterable[StageRun]) -> dict[ProfileName, str]:
    """Return who approved the rollout, by stratum; strata in which nobody did are left out."""
    if not asks_first(spec):
        return {}
    return {run.stratum: run.approved_by for run in runs if run.stage == 0 and run.approved_by}


def left_out(runs: Iterable[StageRun]) -> frozenset[ProfileName]:
    """Return the strata in which the first stage was left out, so that nobody will be asked."""
    return frozenset(
        run.stratum for run in runs if run.stage == 0 and run.state is StageState.SKIPPED and not run.approved_by
    )
