"""What a person can do to a rollout from `edgectl top`, each with the command that does the same. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgefleet_cli.core import api
from edgefleet_cli.core.structs import Body
from edgefleet_cli.rollout.render import REGRESSED, is_final
from edgefleet_cli.rollout.stage_pipeline import tally


@dataclass(frozen=True, slots=True)
class Action:
    """One act. effect: what it does, in a sentence; needs_reason: it is refused without one."""

    name: str
    verb: str
    effect: str
    flags: str = ""
    rollback: bool = False
    needs_reason: bool = False
    is_danger: bool = False

    def command(self, rollout: api.rollout.Rollout, reason: str) -> str:
        """Return the same as a command."""
        flags = f" {self.flags}" if self.flags else ""
        said = f" --reason {shlex.quote(reason)}" if reason else " --reason R" if self.needs_reason else ""
        return f"edgectl rollout {self.verb} {rollout.id}{flags}{said}"

    def body(self, reason: str) -> Body:
        """Return the body of the request."""
        if self.verb in {"approve", "deny"}:
            return api.rollout.AnswerIn(reason=reason)
        return (
            api.rollout.CommandIn(reason=reason, rollback=True)
            if self.rollback
            else api.rollout.CommandIn(reason=reason)
        )

    def question(self, rollout: api.rollout.Rollout) -> str:
        """Return what is asked before it is done."""
        return f"{self.name} {rollout.release} ({rollout.id}; {tally(rollout) or 'no device has it'})?"


PAUSE: Final = Action("Pause", "pause", "Devices that have not switched yet wait; the others keep what they run.")
RESUME: Final = Action("Resume", "resume", "It goes on where it stands.")
PROMOTE: Final = Action(
    "Promote",
    "promote",
    "The open stage passes without waiting for evidence; failures so far are accepted.",
    needs_reason=True,
)
APPROVE: Final = Action("Approve", "approve", "The stages that wait for an approval open.")
DENY: Final = Action(
    "Deny",
    "deny",
    "The stages that wait for an approval do not open; devices roll back.",
    needs_reason=True,
    is_danger=True,
)
ROLL_BACK: Final = Action(
    "Roll back", "abort", "The rollout ends; devices go back to what they ran before.", flags="--rollback", rollback=True,
    is_danger=True,
)  # fmt: skip


def actions_of(rollout: api.rollout.Rollout) -> Mapping[str, Action]:
    """Return what can be done to a rollout now, by the key that does it in `edgectl top`."""
    if rollout.state == REGRESSED:
        return {"x": ROLL_BACK}
    if is_final(rollout):
        return {}
    if rollout.state == "awaiting_approval":
        return {"a": APPROVE, "p": PAUSE, "x": DENY}
    if rollout.state == "paused":
        return {"p": RESUME, "n": PROMOTE, "x": ROLL_BACK}
    return {"p": PAUSE, "n": PROMOTE, "x": ROLL_BACK}
