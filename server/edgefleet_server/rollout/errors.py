"""What rollouts refuse."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from edgefleet_protocol.errors import EdgefleetError


class FindingFields(Protocol):
    """What a finding of the lint has. stage: its index, or None when it is about the whole spec."""

    @property
    def level(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def stage(self) -> int | None: ...
    @property
    def stratum(self) -> str | None: ...
    @property
    def message(self) -> str: ...
    @property
    def next(self) -> str: ...


def _s(count: int) -> str:
    return "" if count == 1 else "s"


class RolloutError(EdgefleetError):
    """Base of all refusals of this feature."""

    code = "rollout.failed"


class BadSpecError(RolloutError):
    """The spec of a rollout cannot be read. errors: each mistake, with `path` (`spec.stages[0].size`) and `message`."""

    code = "rollout.bad_spec"
    default_next_step = "correct the fields listed in `errors`"

    def __init__(self, *, errors: Sequence[Mapping[str, str]], next_step: str = "") -> None:
        first = (
            ": ".join(errors[0][key] for key in ("path", "message") if errors[0].get(key)) if errors else "it is empty"
        )
        super().__init__(
            f"the spec has {len(errors)} invalid field{_s(len(errors))}; first: {first}", next_step=next_step
        )
        self.errors: list[dict[str, Any]] = [dict(error) for error in errors]


class LintError(RolloutError):
    """The spec can be read, but the fleet cannot meet it. errors: all findings, the errors among them first."""

    code = "rollout.lint"
    default_next_step = "correct what `errors` lists; `edgectl rollout lint -f FILE` shows it with the whole plan"

    def __init__(self, findings: Iterable[FindingFields], *, next_step: str = "") -> None:
        ordered = sorted(findings, key=lambda finding: finding.level != "error")
        count = sum(finding.level == "error" for finding in ordered)
        first = ordered[0].message if ordered else "no finding was given"
        super().__init__(f"lint found {count} error{_s(count)} in this rollout; first: {first}", next_step=next_step)
        self.errors: list[dict[str, Any]] = [
            {name: getattr(finding, name) for name in ("level", "code", "stage", "stratum", "message", "next")}
            for finding in ordered
        ]


class RolloutUnknownError(RolloutError):
    """No rollout has this id."""

    code = "rollout.unknown"


class ActiveExistsError(RolloutError):
    """Another open rollout of the model has one of these devices."""

    code = "rollout.active_exists"


class IllegalStateError(RolloutError):
    """The state of the rollout does not allow this."""

    code = "rollout.illegal_state"


class ReasonNeededError(RolloutError):
    """A promotion against the rules needs a reason."""

    code = "rollout.reason_needed"


class NothingToUndoError(RolloutError):
    """No device of the model has a release to go back to."""

    code = "rollout.nothing_to_undo"


class StrategyUnknownError(RolloutError):
    """No strategy has this name."""

    code = "rollout.strategy_unknown"


class NoExperimentError(RolloutError):
    """No stage of the rollout runs its release as a candidate."""

    code = "rollout.experiment_unknown"


class NotApproverError(RolloutError):
    """The caller lacks the role that the stage's approval requires, or is no person."""

    code = "rollout.not_approver"


class OwnApprovalError(RolloutError):
    """The caller made the rollout or moved it on, so another person has to approve its stages."""

    code = "rollout.own_approval_forbidden"
