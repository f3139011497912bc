"""Who may answer about a stage: somebody with the role who did not move the rollout on, and no service. Pure.

A person who made, resumed, retried or promoted a rollout, or left a stage out, is one of its makers, by person: another token of the same
person changes nothing. Refusing a stage, pausing and aborting only stop a release, and make nobody a maker. Source: ADR 0117.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_server.access.grants.grant_scope import EVERYTHING, Touched
from edgefleet_server.access.grants.scoped_caller import words
from edgefleet_server.access.model import PersonKind, Principal
from edgefleet_server.rollout.errors import NotApproverError, OwnApprovalError
from edgefleet_server.rollout.spec.model import Approval, StageSpec


@dataclass(frozen=True, slots=True)
class Makers:
    """Who moved a rollout on. people: their ids; created_by: the name of its first maker; names of people are never used again."""

    people: Sequence[str]
    created_by: str

    def has(self, caller: Principal) -> bool:
        """Return whether the caller is one of them."""
        return caller.person in self.people or caller.name == self.created_by


def with_maker(people: Sequence[str], person: str) -> list[str]:
    """Return the ids with one more; "" is nobody's."""
    return [*people, person] if person and person not in people else list(people)


def is_second_person(caller: Principal, makers: Makers) -> bool:
    """Return whether the caller is a person, and none of the makers."""
    return caller.kind is PersonKind.PERSON and bool(caller.person) and not makers.has(caller)


def refuse_unless_in_role(stage: StageSpec, caller: Principal, touched: Touched = EVERYTHING) -> None:
    """Raise NotApproverError unless the caller has the role that the stage's approval asks for, over all that the rollout touches."""
    role = (stage.approval or Approval()).role
    if not caller.may(role, touched):
        where = f" for {words(touched)}, by one grant alone," if caller.may_somewhere(role) else ""
        raise NotApproverError(
            f"the stage {stage.name} needs the role {role.value}{where} to open; {caller.name} has: {caller.said()}",
            next_step=f"ask someone who has it; an admin creates a token with `edgectl token create --name NAME --role {role.value}`",
        )


def refuse_unless_second_person(
    stage: StageSpec, caller: Principal, makers: Makers, touched: Touched = EVERYTHING
) -> None:
    """Raise NotApproverError unless a person with the role asks, OwnApprovalError when that person moved the rollout on."""
    refuse_unless_in_role(stage, caller, touched)
    role = (stage.approval or Approval()).role.value
    if caller.kind is not PersonKind.PERSON or not caller.person:
        what = "is a service" if caller.person else "has a token that belongs to nobody"
        raise NotApproverError(
            f"the stage {stage.name} opens on a person's word; {caller.name} {what}",
            next_step=f"ask a person with the role {role}; an admin adds one with `edgectl person add NAME`",
        )
    if makers.has(caller):
        raise OwnApprovalError(
            f"the stage {stage.name} needs a second person: {caller.name} made this rollout or moved it on",
            next_step=f"ask another person with the role {role}; an admin adds one with `edgectl person add NAME` and "
            f"`edgectl token create --name NAME --role {role}`",
        )
