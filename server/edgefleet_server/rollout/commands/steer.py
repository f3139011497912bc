"""What a person may ask of a rollout: pause, resume, abort, promote. Pure: a snapshot and the time in, effects out.

Its own module because these follow a command, not a tick. The reason is the person's; who they are, the service writes.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.assignments import is_failure
from edgefleet_server.rollout.effects import AssignmentUpdated, Plan, Revert
from edgefleet_server.rollout.model import RolloutState, Snapshot, StageState, Strength, VerdictKind
from edgefleet_server.rollout.planner import approvals
from edgefleet_server.rollout.planner.builder import needs_giving_back
from edgefleet_server.rollout.planner.stages import ShapedDraft
from edgefleet_server.rollout.spec.model import OnFail
from edgefleet_server.rollout.state_machines import (
    CELL_OPEN,
    IN_FLIGHT,
    ROLLOUT_WALKS,
    AssignmentEvent,
    IllegalTransitionError,
    RolloutEvent,
    StageEvent,
    moved,
)

_S: Final = AssignmentState
_E: Final = AssignmentEvent
_STARTED: Final = CELL_OPEN | {StageState.HELD}
_WALKS_ON: Final = ROLLOUT_WALKS | {RolloutState.PAUSED}


def plan_pause(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what a person's pause does. Raises IllegalTransitionError unless the rollout runs."""
    work = _Control(snapshot, now)
    work.pause("paused", reason)
    return Plan(tuple(work.effects), work.next_look())


def plan_resume(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what a person's resume does: held stages are judged again. Raises IllegalTransitionError unless it is paused."""
    work = _Control(snapshot, now)
    work.resume(reason)
    return Plan(tuple(work.effects), now)


def plan_abort(snapshot: Snapshot, now: datetime, reason: str, *, rollback: bool) -> Plan:
    """Return what a person's abort does. Raises IllegalTransitionError when the rollout has ended.

    rollback: what every device ran before is given back; else what has switched stays, and the rest is withdrawn.
    """
    work = _Control(snapshot, now)
    work.abort(reason, rollback=rollback)
    return Plan(tuple(work.effects), now)


def plan_promotion(snapshot: Snapshot, now: datetime, reason: str, stratum: str | None) -> Plan:
    """Return what a person's promotion does: the open stage of one stratum (None: of all) passes on their word.

    Failures so far are accepted: they are no evidence any more. A rollout that was paused goes on. Raises
    IllegalTransitionError when it has ended. Without an open stage the plan is empty.
    """
    work = _Control(snapshot, now)
    work.promote(reason, stratum)
    return Plan(tuple(work.effects), now)


def plan_skip(snapshot: Snapshot, now: datetime, reason: str, stage: int, stratum: str | None) -> Plan:
    """Return what leaves a stage out that has not opened, in one stratum (None: in all): its devices belong to the next one.

    Raises IllegalTransitionError for the last stage, and when the rollout does not run. Where it has opened the plan is empty.
    """
    work = _Control(snapshot, now)
    work.skip(reason, stage, stratum)
    return Plan(tuple(work.effects), now)


def plan_supersede(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what a newer rollout does to this one: what has switched stays, and the rest is withdrawn.

    Raises IllegalTransitionError when it has ended.
    """
    work = _Control(snapshot, now)
    work.leave("superseded", reason, RolloutEvent.SUPERSEDE, _E.SUPERSEDE)
    return Plan(tuple(work.effects), now)


def plan_approval(snapshot: Snapshot, now: datetime, by: str, reason: str, stratum: str | None) -> Plan:
    """Return what an approval does: the stages that wait for it (of one stratum, or of all) may open. Empty when none waits."""
    work = _Control(snapshot, now)
    for cell in approvals.waiting(work.cells.values(), stratum):
        work.note_cell(approvals.approved(cell, by, reason))
    return Plan(tuple(work.effects), now)


def plan_denial(snapshot: Snapshot, now: datetime, reason: str, stratum: str | None) -> Plan:
    """Return what a denial does: the stages that wait fail, or with `on_fail: pause` the rollout is paused. Empty when none waits.

    Where nothing was offered yet there is nothing to take back: the rollout is cancelled.
    """
    work = _Control(snapshot, now)
    work.deny(reason, stratum)
    return Plan(tuple(work.effects), now)


class _Control(ShapedDraft):
    """What a person asks for."""

    def deny(self, reason: str, stratum: str | None) -> None:
        """Act on a no."""
        cells = approvals.waiting(self.cells.values(), stratum)
        if cells and not any(a.gen for a in self.assignments.values()) and len(cells) == len(self.lanes()):
            self.leave(approvals.DENIED, reason, RolloutEvent.CANCEL, _E.CANCEL)
            return
        for cell in cells:
            if self.snapshot.spec.on_fail is OnFail.PAUSE:
                self.note_cell(approvals.unasked(cell, approvals.DENIED, reason))
            else:
                self.fail_unopened(cell, approvals.DENIED, reason)
        if cells and self.snapshot.spec.on_fail is OnFail.PAUSE:
            self.pause(approvals.DENIED, reason)

    def resume(self, reason: str) -> None:
        """Go on: held stages are open again, and withdrawn devices will be offered the release anew."""
        self.move_rollout(RolloutEvent.RESUME, "resumed", reason)
        for cell in list(self.cells.values()):
            if cell.state is StageState.HELD:
                released = replace(cell, resumed_at=self.now, verdict=None, code="resumed", reason=reason)
                self.move_cell(released, StageEvent.RELEASE)
            elif cell.state in (StageState.SOAKING, StageState.JUDGING):
                self.move_cell(replace(cell, resumed_at=self.now, code="resumed", reason=reason), StageEvent.UNSETTLED)
            elif cell.state is StageState.EXPOSING:
                self.note_cell(replace(cell, resumed_at=self.now))  # the pause is no time without a verdict
            elif approvals.waits(cell):
                self.note_cell(approvals.unasked(cell, "resumed", reason))  # nobody was to answer meanwhile

    def abort(self, reason: str, *, rollback: bool) -> None:
        """End the rollout at a person's word."""
        if not rollback:
            self.leave("aborted", reason, RolloutEvent.CANCEL, _E.CANCEL)
            return
        for cell in list(self.cells.values()):
            if cell.state in _STARTED:
                self.fail(cell, "aborted", reason)
        self.move_rollout(RolloutEvent.ROLL_BACK, "aborted", reason)

    def leave(self, word: str, reason: str, event: RolloutEvent, outcome: AssignmentEvent) -> None:
        """End the rollout where it stands: what serves the release keeps it, everything else is withdrawn."""
        for cell in list(self.cells.values()):
            if cell.state in _STARTED and cell.state is not StageState.HELD:
                self.move_cell(replace(cell, code=word, reason=reason), StageEvent.HOLD)
        self.move_rollout(event, word, reason)
        self.withdraw(reason=f"{word} before its switch")
        self._withdraw_from_absent(word, outcome)
        for a in list(self.assignments.values()):
            if a.state not in IN_FLIGHT:
                self.end_candidate(a)
            if a.state is _S.ELIGIBLE or a.state in IN_FLIGHT:
                told = f"{word}; the device keeps the release" if a.state in IN_FLIGHT else f"{word} before its switch"
                if a.back_gen:
                    told = f"{word} while it was being taken back"
                self.move(moved(a, outcome, self.now, reason=told, ended_at=self.now, deadline=None), a)

    def _withdraw_from_absent(self, word: str, outcome: AssignmentEvent) -> None:
        """Take back the offers of devices out of reach: else one that returns after the brake let go would still follow them."""
        for a in list(self.assignments.values()):
            if a.state is _S.UNREACHABLE and needs_giving_back(a):
                if self.asks_for_release(a):
                    self.effects.append(Revert(a.device, is_rollback=False, is_beside=self.is_beside(a)))
                told = f"{word} before it took up its document"
                self.move(moved(a, outcome, self.now, reason=told, ended_at=self.now, deadline=None), a)

    def skip(self, reason: str, stage: int, stratum: str | None) -> None:
        """Leave out a stage that has not opened."""
        if self.state not in _WALKS_ON:
            raise IllegalTransitionError(f"no stage is left out of a rollout that is {self.state}")
        if stage == len(self.snapshot.spec.stages) - 1:
            raise IllegalTransitionError("the last stage is the one that all others lead to")
        for cell in list(self.cells.values()):
            if cell.stage == stage and cell.state is StageState.PENDING and stratum in (None, cell.stratum):
                left_out = replace(cell, code="skipped", reason=reason, strength=Strength.OVERRIDE, ended_at=self.now)
                self.move_cell(left_out, StageEvent.SKIP)
        has_asked = bool(approvals.waiting(self.cells.values()))
        if self.state is RolloutState.AWAITING_APPROVAL and not has_asked:
            self.move_rollout(RolloutEvent.START, "skipped", reason)

    def promote(self, reason: str, stratum: str | None) -> None:
        """Let open stages pass at a person's word."""
        if self.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
            raise IllegalTransitionError(f"no stage passes in a rollout that is {self.state}")
        chosen = [cell for cell in self.cells.values() if (cell.state in _STARTED) and stratum in (None, cell.stratum)]
        if chosen and self.state is RolloutState.PAUSED:
            self.resume(reason)
        for cell in [self.cells[cell.stratum, cell.stage] for cell in chosen]:
            for a in [a for a in self.lane_assignments(cell) if is_failure(a) and not a.is_accepted]:
                accepted = a.but(is_accepted=True)
                self.assignments[a.device] = accepted
                self.effects.append(AssignmentUpdated(accepted))
            passed = replace(
                cell,
                verdict=VerdictKind.ADVANCE,
                code="promoted",
                reason=reason,
                strength=Strength.OVERRIDE,
                bound="",
                ended_at=self.now,
            )
            self.move_cell(passed, StageEvent.PASS)
