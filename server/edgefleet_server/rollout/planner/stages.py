"""What a tick does about the form of a rollout: who may be in a stage, who goes on from beside to active, who must approve.

Its own module because the planner says how a stage is walked through, and this says when it may begin and with whom. Pure.
Source: docs/reference/rollout-spec.md; ADR 0034, 0035.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import Pause, RollBack
from edgefleet_server.rollout.effects import AssignmentCreated, AssignmentUpdated, DecisionMade, Offer
from edgefleet_server.rollout.model import Assignment, Member, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner import approvals
from edgefleet_server.rollout.planner.builder import Draft, StratumTrack, withdrawn
from edgefleet_server.rollout.spec.model import OnFail
from edgefleet_server.rollout.state_machines import UNSWITCHED, AssignmentEvent, RolloutEvent, StageEvent, moved

OPENED: Final = "opened"
"""The code of a stage that opens. One that is opened only to fail, because it can no longer open, has the code of why it fails."""
NO_CANARY: Final = "no_canary"
_S: Final = AssignmentState
_E: Final = AssignmentEvent


class ShapedDraft(Draft):
    """A tick that heeds the form of its rollout."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        super().__init__(snapshot, now)
        self._barred: dict[int, frozenset[DeviceId]] = {}
        self._pinned = {m.device: m.pinned for m in snapshot.members if m.pinned}

    # ---- who

    def barred(self, stage: int) -> frozenset[DeviceId]:
        """Return the devices that may not be in a stage."""
        known = self._barred.get(stage)
        if known is None:
            known = self._barred[stage] = frozenset(m.device for m in self.snapshot.members if stage in m.barred)
        return known

    def reach(self, ranks: dict[DeviceId, int], stage: int) -> dict[DeviceId, int]:
        """Return the ranks of those who may be in a stage or belong to the rollout already."""
        barred = self.barred(stage)
        if not barred:
            return ranks
        return {device: value for device, value in ranks.items() if device not in barred or device in self.assignments}

    def cut_before(self, lane: StratumTrack, stage: int) -> int:
        """Return the highest cut of the stages that take from the same devices: sizes only grow among those."""
        stages = self.snapshot.spec.stages
        match = stages[stage].shape.match
        return max((one.cut for one in lane.cells if stages[one.stage].shape.match == match), default=0)

    def stage_for(self, lane: StratumTrack, cell: StageRun, device: DeviceId, value: int) -> int:
        """Return the stage to which a device below the cut of `cell` belongs: the first one of its mode that takes it."""
        mode = self.mode(cell.stage)
        return next(
            one.stage
            for one in lane.cells
            if one.stage == cell.stage
            or (value < one.cut and self.mode(one.stage) is mode and device not in self.barred(one.stage))
        )

    def set_pinned_aside(self) -> None:
        """Say of each device that is pinned why it takes no part."""
        for member in self.snapshot.members:
            if member.pinned and member.device not in self.assignments:
                self.set_aside(member, _E.CANCEL, f"pinned: {member.pinned}")

    def set_aside(self, member: Member, event: AssignmentEvent, reason: str) -> None:
        """Make an assignment that takes no part, with its reason."""
        fresh = Assignment(member.device, 0, member.stratum, _S.ELIGIBLE, entered_at=self.now)
        self.assignments[member.device] = fresh
        self.effects.append(AssignmentCreated(fresh))
        self.move(moved(fresh, event, self.now, reason=reason, ended_at=self.now), fresh)

    def let_go(self, waiting: Iterable[Assignment], strata: dict[DeviceId, ProfileName]) -> None:
        """Take out who waits for an offer and no longer belongs: it no longer matches, was pinned, or has another stratum."""
        pinned = self._pinned
        for a in [a for a in waiting if a.state is _S.ELIGIBLE]:
            stratum = strata.get(a.device)
            if stratum == a.stratum and a.device not in pinned:
                continue
            what = "stratum" if "/" in a.stratum else "profile"
            reason = "no longer matches the selector" if stratum is None else f"its {what} is {stratum} now"
            if a.device in pinned:
                reason = f"pinned: {pinned[a.device]}"
            self.end_candidate(a)
            self.move(moved(a, _E.CANCEL, self.now, reason=reason, ended_at=self.now), a)

    def bring_on(self, cell: StageRun, ranks: dict[DeviceId, int]) -> None:
        """Take devices that run the release beside the active version into a stage of another mode that reaches them."""
        mode = self.mode(cell.stage)
        for a in [a for a in self.assignments.values() if a.stratum == cell.stratum and a.stage < cell.stage]:
            is_due = self.mode(a.stage) is not mode and ranks.get(a.device, cell.cut) < cell.cut
            if not is_due or a.back_gen or a.device in self.barred(cell.stage):
                continue
            fresh: dict[str, Any] = {
                "stage": cell.stage,
                "exposed_at": None,
                "switched_at": None,
                "ended_at": None,
                "is_joiner": False,
                "due_at": self.now,
                "retries": 0,
                "retry_at": None,
                "unanswered_s": 0.0,
            }
            if a.state in (_S.HEALTHY, _S.UNREACHABLE):
                self.move(moved(a, _E.GO_ON, self.now, reason="", error_class="", **fresh), a)
            elif a.state in UNSWITCHED:
                self.move(withdrawn(a, self.now, "").but(**fresh), a)
            elif a.state is _S.ELIGIBLE:
                on = a.but(**fresh)
                self.assignments[a.device] = on
                self.effects.append(AssignmentUpdated(on))

    # ---- when

    def leave_queue(self) -> None:
        """Begin when no older rollout is before this one any more."""
        if not self.snapshot.behind:
            self.move_rollout(RolloutEvent.START, "started", "no older rollout is before it any more")

    def is_let_in(self, lane: StratumTrack, cell: StageRun) -> bool:
        """Return whether a stage may open; where it needs somebody's word, ask for it, and act on silence and on bad news."""
        wanted = self.snapshot.spec.stages[cell.stage].shape.approval
        if wanted is None or cell.approved_by:
            return True
        if cell.asked_at is None:
            self.note_cell(approvals.asked(cell, wanted, self.now))
        elif self._is_stopped(lane, cell):
            return False
        elif approvals.is_late(cell, wanted, self.now):
            reason = approvals.late_reason(self.snapshot.spec, cell)
            if self.snapshot.spec.on_inconclusive.do is OnFail.PAUSE:
                self.note_cell(approvals.unasked(cell, approvals.UNANSWERED, reason))
                self.pause(approvals.UNANSWERED, f"{cell.stratum}: {reason}")
            else:
                self.fail_unopened(cell, approvals.UNANSWERED, reason)
        return False

    def _is_stopped(self, lane: StratumTrack, cell: StageRun) -> bool:
        """Act on what the devices of the stage before say meanwhile; return whether it spoke against the release."""
        before = next((one for one in lane.cells if one.stage == cell.stage - 1), None)
        if before is None or before.state is not StageState.PASSED:
            return False
        facts = facts_of(self.snapshot, before, self.assignments.values(), self.now)
        decision = decide.decide(
            msgspec.structs.replace(facts, open_for_s=0.0)
        )  # only silence of a person lasts too long
        match decision:
            case Pause():
                self.note_cell(approvals.unasked(cell, decision.code, decision.reason))
                self.pause(decision.code, f"{cell.stratum}: {decision.reason}")
            case RollBack():
                self.fail_unopened(cell, decision.code, decision.reason)
            case _:
                return False
        self.effects.append(DecisionMade(msgspec.structs.replace(facts, open_for_s=0.0), decision))
        return True

    def fail_unopened(self, cell: StageRun, code: str, reason: str) -> None:
        """Fail a stage that waits: nothing was offered in it, and what the stages before it offered is taken back."""
        cut = self.cut_before(self.lane(cell.stratum), cell.stage)  # it reaches nobody new
        digest = self.digest_of(cell.stratum)
        opened = replace(cell, cut=cut, code=code, reason=reason, opened_at=self.now, digest=digest)
        self.fail(self.move_cell(opened, StageEvent.OPEN), code, reason)

    def digest_of(self, stratum: ProfileName) -> str:
        bundle = self.snapshot.bundles.get(stratum)
        return "" if bundle is None else bundle.sha256

    def move_cell(self, cell: StageRun, event: StageEvent) -> StageRun:
        self.go_on()
        return super().move_cell(cell, event)

    def go_on(self) -> None:
        """Run again: of a rollout that waits for an approval something moves."""
        if self.state is RolloutState.AWAITING_APPROVAL:
            self.move_rollout(RolloutEvent.START, approvals.APPROVED, "a stage may open, or has ended")

    def wait_if_idle(self) -> None:
        """Say that the rollout waits for an approval when nothing else of it moves."""
        lanes = [lane for lane in self.lanes() if not lane.has_ended]
        cells = [lane.current for lane in lanes if lane.current is not None]
        waiting = approvals.waiting(cells)
        is_idle = all(cell.state is StageState.PENDING for cell in cells)
        if not waiting or not is_idle or self.state is not RolloutState.RUNNING:
            return
        if any(isinstance(effect, Offer) for effect in self.effects):
            return
        names = {self.snapshot.spec.stages[cell.stage].name: cell.reason for cell in waiting}
        told = "; ".join(f"{name} {reason}" for name, reason in names.items())
        self.move_rollout(RolloutEvent.ASK_APPROVAL, approvals.AWAITING, told)
