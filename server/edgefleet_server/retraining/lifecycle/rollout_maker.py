"""Waits for the release that a training brought, and makes its rollout: from the spec that was there when the retraining began, in the
name of the person who made its trigger, with the rights that this person has now.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef, RolloutId
from edgefleet_server.access.errors import ForbiddenError
from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.access.grants.scoped_caller import words
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.registry.model import ReleaseState
from edgefleet_server.retraining.model import RunTrouble
from edgefleet_server.retraining.run_maker import RunMaker
from edgefleet_server.retraining.run_steps import RunEvent
from edgefleet_server.retraining.tables import RetrainingRun
from edgefleet_server.retraining.trigger_book import touched_of, with_release
from edgefleet_server.rollout.errors import ActiveExistsError
from edgefleet_terms.parent_verdict import ParentComparison, comparison_text
from edgefleet_terms.rollout_states import RolloutState, is_final, shown_state

SIGNED: Final = (ReleaseState.READY, ReleaseState.PARTIAL)
ENDED: Final = (ReleaseState.FAILED, ReleaseState.CANCELLED)
Compared = Callable[[ReleaseRef], ParentComparison]
"""How a release does next to its parent, as its conversion measured it."""
Rights = Callable[[str], Principal | None]
"""A person's id -> what they may do now; None: they are disabled, or unknown."""


class Releases(Protocol):
    """What is needed of the registry."""

    def release(self, ref: ReleaseRef) -> Any:
        """Return a release. Raises ReleaseUnknownError."""
        ...


class Rollouts(Protocol):
    """What is needed of rollouts."""

    reader: Any

    def create(self, document: Any, by: str, person: str = "", allows: Callable[[Touched], object] = ...) -> RolloutId:
        """Start a rollout."""
        ...


class RolloutMaker:
    """Takes a retraining from its release to the end of its rollout. Calls block; writes join the caller's transaction."""

    def __init__(
        self, maker: RunMaker, releases: Releases, compared: Compared, rollouts: Rollouts, rights: Rights
    ) -> None:
        """Wire the parts."""
        self._maker = maker
        self._releases = releases
        self._compared = compared
        self._rollouts = rollouts
        self._rights = rights

    def await_signature(self, session: Session, row: RetrainingRun) -> str | None:
        """Go on once the release is signed; return what a locked retraining waits for, None once it has gone on."""
        try:
            found = self._releases.release(ReleaseRef.parse(row.release))
        except EdgefleetError as error:
            return self._fail(session, row, error)
        if found.withdrawn is not None:
            why = f"{row.release} was withdrawn by {found.withdrawn.by}: {found.withdrawn.reason}"
            return self._fail_with(session, row, RunTrouble("release.withdrawn", why, "train again, or start another"))
        if found.state in ENDED:
            reason = next((job.reason for job in found.jobs if job.reason), f"it is {found.state}")
            next_step = f"see its report: `edgectl release show {row.release}`"
            return self._fail_with(session, row, RunTrouble(f"release.{found.state}", reason, next_step))
        if found.state is ReleaseState.UNSIGNED:
            return f"{row.release} waits for the signatures of its model's team"
        if found.state not in SIGNED or not found.bundles:
            return f"{row.release} is converted and signed"
        began = row.began_at or row.created_at
        if any(one.signed_at < began for one in found.bundles):
            why = f"{row.release} was signed before this training began"
            return self._fail_with(session, row, RunTrouble("retraining.release_bad", why))
        compared = self._compared(found.ref)
        if compared.is_worse:
            says = f"{row.release} is worse than its parent, so no device gets it: {comparison_text(compared)}"
            self._maker.move(session, row, RunEvent.FOUND_WORSE, says)
            return None
        if row.plan["rollout"] is None:
            self._maker.move(session, row, RunEvent.PUBLISHED, f"{row.release} is published; no rollout was asked for")
            return None
        return self._roll_out(session, row)

    def follow(self, session: Session, row: RetrainingRun) -> str | None:
        """End a locked retraining with its rollout; return what it waits for, None once it has ended."""
        try:
            found = self._rollouts.reader.rollout(row.rollout)
        except EdgefleetError as error:
            return self._fail(session, row, error)
        state = shown_state(found.state)
        if not is_final(found.state):
            return f"its rollout {row.rollout} is {state}" + (f": {found.reason}" if found.reason else "")
        if found.state == RolloutState.FINISHED:
            where = "in part of its devices" if found.is_partial else "on all its devices"
            self._maker.move(session, row, RunEvent.ROLLED_OUT, f"{row.release} was rolled out {where}")
        else:
            says = f"its rollout {row.rollout} is {state}" + (f": {found.reason}" if found.reason else "")
            self._maker.move(session, row, RunEvent.ROLLOUT_STOPPED, says)
        return None

    def _roll_out(self, session: Session, row: RetrainingRun) -> str | None:
        try:
            maker = self._maker_of(row)
            with session.begin_nested():
                spec = with_release(row.plan["rollout"], row.release)
                made = self._rollouts.create(
                    spec, maker.name, maker.person, lambda touched: _check(maker, Role.OPERATOR, touched)
                )
        except ActiveExistsError as error:
            return f"its rollout waits: {error.message}"
        except EdgefleetError as error:
            return self._fail(session, row, error)
        row.rollout = str(made)
        self._maker.move(
            session, row, RunEvent.ROLLOUT_MADE, f"its rollout {made} was made in the name of {maker.name}"
        )
        return None

    def _maker_of(self, row: RetrainingRun) -> Principal:
        """Return the person in whose name the rollout is made. Raises ForbiddenError when they may not do that now."""
        maker = self._rights(row.maker)
        if maker is None:
            maker = Principal("", row.maker_name, frozenset())
        of_model = Touched(frozenset({row.model}), None)
        _check(maker, Role.PUBLISHER, of_model)
        touched = touched_of(row.model, row.plan["rollout"])
        if touched is not None:
            _check(maker, Role.OPERATOR, touched)
        return maker

    def _fail(self, session: Session, row: RetrainingRun, error: EdgefleetError) -> str | None:
        return self._fail_with(session, row, RunTrouble(error.code, error.message, error.next_step))

    def _fail_with(self, session: Session, row: RetrainingRun, trouble: RunTrouble) -> str | None:
        self._maker.fail(session, row, trouble)
        return None


def _check(maker: Principal, role: Role, touched: Touched) -> None:
    """Raise ForbiddenError when the person in whose name a rollout is made has not the role over what it touches."""
    if not maker.may(role, touched):
        raise ForbiddenError(
            f"its rollout is made in the name of {maker.name}, who needs the role {role} for {words(touched)} and has: {maker.said()}",
            next_step="let a person who has it change the trigger: it acts in that person's name then; then start it again",
        )
