"""What the author of a spec should know of protection rules: which devices are under one, and that somebody has to approve. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from edgefleet_server.fleet.protection.model import Covered
from edgefleet_server.rollout.lint.findings import Finding
from edgefleet_server.rollout.planner.first_approval import asks_first
from edgefleet_server.rollout.spec.model import Spec

PROTECTED: Final = "protected"
PROTECTED_UNAPPROVED: Final = "protected_without_approval"


def about_protection(spec: Spec, covered: Sequence[Covered]) -> Iterator[Finding]:
    """Yield what protection rules say to a rollout. covered: the rules that its devices are under."""
    first = spec.stages[0]
    for one in covered:
        devices = f"1 device ({one.first})" if one.devices == 1 else f"{one.devices} devices (the first is {one.first})"
        if asks_first(spec):
            message = (
                f"the protection rule {one.rule} covers {devices}: the rollout begins once {first.name} is approved"
            )
            next_step = (
                "approve it when it waits: `edgectl rollout approve ID`; a stage that was left out is not approved"
            )
            yield Finding("warning", PROTECTED, 0, None, message, next_step)
            continue
        message = f"the protection rule {one.rule} covers {devices}: they take releases only by a rollout that is approved first"
        next_step = f"write `approval: {{role: approver}}` at the first stage, {first.name}, or leave these devices out"
        yield Finding("error", PROTECTED_UNAPPROVED, 0, None, message, next_step)
