"""What rollouts refuse."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgefleet_protocol.errors import EdgefleetError


class RolloutError(EdgefleetError):
    """Base of all refusals of this feature."""

    code = "rollout.failed"


class BadSpecError(RolloutError):
    """The spec of a rollout cannot be read. errors: each with `path` (`spec.stages[0].size`) and `message`."""

    code = "rollout.bad_spec"
    default_next_step = "correct the fields listed in `errors`"

    def __init__(self, message: str, *, errors: Iterable[Mapping[str, str]] = (), next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.errors: tuple[Mapping[str, Any], ...] = tuple(errors)


class LintError(RolloutError):
    """The spec can be read, but a stage could never be passed or something else in it cannot be met.

    findings: as in the plan, each with level, code, stage, stratum, message and next.
    """

    code = "rollout.lint"
    default_next_step = "correct what `errors` lists; `edgectl rollout lint` shows the whole plan"

    def __init__(self, message: str, *, findings: Iterable[Mapping[str, Any]] = (), next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.findings: tuple[Mapping[str, Any], ...] = tuple(findings)

    @property
    def errors(self) -> tuple[Mapping[str, Any], ...]:
        """The findings, as an answer carries them."""
        return self.findings


class RolloutUnknownError(RolloutError):
    """No rollout has this id."""

    code = "rollout.unknown"


class ActiveExistsError(RolloutError):
    """A rollout of the same model is under way on one of these devices."""

    code = "rollout.active_exists"


class IllegalStateError(RolloutError):
    """The rollout is not in a state in which this can be done."""

    code = "rollout.illegal_state"


class ReasonNeededError(RolloutError):
    """A promotion against the rules needs to say why."""

    code = "rollout.reason_needed"


class LeaseLostError(RolloutError):
    """Another server took the rollout over, because this one was silent too long; nothing was written."""

    code = "rollout.lease_lost"
