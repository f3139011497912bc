"""What one tick of a rollout does: a snapshot and the time in, effects out. Pure; proposes and changes nothing itself.

The machine, in the order of a tick:
1. Reports and deadlines move assignments (`observe`), whatever the rollout's state.
2. A running rollout walks each stratum (its lane) on: opens the next stage, takes in joiners, offers, judges.
3. A failed stratum is taken back: what every device ran before is written into its document, newest exposed first.
4. The rollout ends when every lane has ended and, where something was taken back, that is confirmed or given up.
Effects may be applied twice without harm only through the fence of the engine: they are differences, not goals.
Source: docs/explanation/rollouts.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.early_failure import doubt
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import Advance, KeepWaiting, Pause, RollBack
from edgefleet_server.rollout.analysis.webhook_gates import GATE_OPENING, facts_of_gates, waits_to_open
from edgefleet_server.rollout.assignments import OUTSIDE, soak_end
from edgefleet_server.rollout.bucketing import cut_of, rank, shares
from edgefleet_server.rollout.effects import AssignmentCreated, DecisionMade, Offer, Plan, StageRunCreated
from edgefleet_server.rollout.model import Assignment, Member, RolloutState, Snapshot, StageRun, StageState, VerdictKind
from edgefleet_server.rollout.planner.bake import next_late_look, reopen_if_bad, tell_anew
from edgefleet_server.rollout.planner.builder import LOOK_AGAIN, StratumTrack
from edgefleet_server.rollout.planner.recall import Paced
from edgefleet_server.rollout.planner.stages import NO_CANARY, OPENED
from edgefleet_server.rollout.spec.model import profile_of
from edgefleet_server.rollout.state_machines import (
    CELL_OPEN,
    EXPOSED_STATES,
    IN_FLIGHT,
    ROLLOUT_WALKS,
    AssignmentEvent,
    StageEvent,
    moved,
)
from edgefleet_server.rollout.throttle.jitter import spread_offers

JOINER_SHARE: Final = 0.1
_MOVING: Final = frozenset({RolloutState.RUNNING, RolloutState.ROLLING_BACK})
_GIVES_BACK: Final = _MOVING | {RolloutState.PAUSED, RolloutState.AWAITING_APPROVAL}
"""Waiting stops offers, not the way back of a stratum that failed."""
_S: Final = AssignmentState
_E: Final = AssignmentEvent


def plan_tick(snapshot: Snapshot, now: datetime) -> Plan:
    """Return what is to be done about a rollout now."""
    work = _Walk(snapshot, now)
    work.listen()
    if snapshot.state is RolloutState.VALIDATING:
        work.leave_queue()  # who belongs to it is looked up once it runs: the next tick begins
        return Plan(tuple(work.effects), now if work.effects else work.next_look())
    if snapshot.state in ROLLOUT_WALKS:
        work.make_cells()
        work.recall()
        work.walk_lanes()
        work.offer_to_absent()
        work.wait_if_idle()
    if work.state is RolloutState.PAUSED:
        work.withdraw(reason="paused before its switch")  # also who was out of reach and takes its document up just now
    if snapshot.state is RolloutState.FINISHED:
        reopen_if_bad(work)
    elif snapshot.state is RolloutState.REGRESSED:
        tell_anew(work)
    if work.state in _GIVES_BACK:
        work.take_back()
    if work.state in _MOVING:
        work.end_if_over()
    work.end_leases()
    next_at = next_late_look(work) or work.next_look()
    effects = tuple(spread_offers(work.effects, work.assignments, snapshot.spec, now))
    return Plan(effects, now + LOOK_AGAIN if next_at is None and work.has_leases() else next_at)


class _Walk(Paced):
    """A tick of a running rollout."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        super().__init__(snapshot, now)
        self._left_to_offer = self.batch
        self._known_ranks: dict[ProfileName, dict[DeviceId, int]] = {}
        self._doubts: dict[ProfileName, str] = {}
        self._stratum_now = {m.device: m.stratum for m in snapshot.members}

    def make_cells(self) -> None:
        """Make the cells of strata that are new: at the start all of them, later those of joiners."""
        if self._runs_for_retries():
            return
        self.set_pinned_aside()
        strata = {m.stratum for m in self._fresh_members() if m.stratum in self.snapshot.bundles}
        for stratum in sorted(strata - {stratum for stratum, _ in self.cells}):
            for index in range(len(self.snapshot.spec.stages)):
                cell = StageRun(index, stratum, StageState.PENDING)
                self.cells[stratum, index] = cell
                self.effects.append(StageRunCreated(cell))
        self._set_unfit_aside()

    def _runs_for_retries(self) -> bool:
        """Whether all its stages are over and it runs only for devices that are tried again: it takes in nobody new."""
        is_over = bool(self.cells) and all(lane.has_ended for lane in self.lanes())
        return is_over and any(a.failed_before for a in self.assignments.values())

    def _fresh_members(self) -> Iterator[Member]:
        """Yield the members that nothing was said of yet: who was set aside or taken out, or has another stratum, stays so."""
        return (m for m in self.snapshot.members if m.device not in self.assignments)

    def _set_unfit_aside(self) -> None:
        """Say of each device for whose profile there is no bundle that it cannot take part."""
        for member in self.snapshot.members:
            if member.stratum not in self.snapshot.bundles and member.device not in self.assignments:
                self.set_aside(member, _E.UNFIT, f"the release has no bundle for profile {profile_of(member.stratum)}")

    def walk_lanes(self) -> None:
        """Walk every stratum on as far as it goes now, and only then offer: a verdict of this tick stops offers of this tick."""
        strata = [lane.stratum for lane in self.lanes()]
        for stratum in strata:
            while self.state in ROLLOUT_WALKS and self._advance(self.lane(stratum)):
                pass
        for stratum in strata:
            cell = self.lane(stratum).offering
            if self.state in ROLLOUT_WALKS and cell is not None:
                self._offer(cell)

    def _advance(self, lane: StratumTrack) -> bool:
        """Do what the lane's current cell needs; return whether the lane may go on to its next cell at once."""
        cell = lane.current
        if cell is None or lane.has_failed or cell.state is StageState.HELD:
            return False
        if cell.state is StageState.PENDING:
            if cell.asked_at is None and self._waits_for_gate(cell):  # whose word was asked for waits for that only
                return False
            cell = self._open(lane, cell)
            if cell.state not in CELL_OPEN:
                return cell.state is StageState.SKIPPED
        self._take_in(lane, cell)
        cell = self._settle(cell)
        return self._judge(cell)

    def _waits_for_gate(self, cell: StageRun) -> bool:
        """Whether a webhook gate does not let the stage open yet; the cell's code says so, and that is when the gate is asked."""
        gates = self.snapshot.spec.stages[cell.stage].gates
        answers = self.snapshot.answers.get((cell.stage, cell.stratum), {})
        waits = waits_to_open(facts_of_gates(gates, answers, self.now))
        if waits and (cell.code, cell.reason) != (GATE_OPENING, waits):
            self.note_cell(replace(cell, code=GATE_OPENING, reason=waits))
        return bool(waits)

    def _open(self, lane: StratumTrack, cell: StageRun) -> StageRun:
        """Fix the cell's cut and open it; a cell without any device to look at follows the other strata."""
        cut = self._cut(lane, cell)
        digest, reach = self.snapshot.bundles[cell.stratum].sha256, self._reach(cell)
        opened = replace(cell, cut=cut, population=len(reach), digest=digest, opened_at=self.now)
        if self._is_empty(lane, cell, cut):
            return self._follow_the_others(opened, cell)
        if not self.is_let_in(lane, cell):
            return self.cells[cell.stratum, cell.stage]
        reason = f"opened for {opened.population} devices"
        new = sum(value < cut and device not in self.assignments for device, value in reach.items())
        intake = self._count_taken_in(cell.stratum) + new
        return self.move_cell(replace(opened, code=OPENED, reason=reason, intake=intake), StageEvent.OPEN)

    def _count_taken_in(self, stratum: ProfileName) -> int:
        """Return how many devices of a stratum stages have taken in that opened for them."""
        return sum(a.stratum == stratum and not a.is_joiner for a in self.assignments.values())

    def _cut(self, lane: StratumTrack, cell: StageRun) -> int:
        previous = self.cut_before(lane, cell.stage)
        size = self.snapshot.spec.stages[cell.stage].size
        share = self._share(cell) if size.count_total else None
        return cut_of(size, sorted(self._reach(cell).values()), previous, share)

    def _is_empty(self, lane: StratumTrack, cell: StageRun, cut: int) -> bool:
        """Whether the stage would look at no device of this stratum, neither at new ones nor at those of earlier stages."""
        mode = self.mode(cell.stage)
        has_some = any(
            a.stratum == lane.stratum and a.state not in OUTSIDE and self.mode(a.stage) is mode
            for a in self.assignments.values()
        )
        return not has_some and not any(value < cut for value in self._reach(cell).values())

    def _follow_the_others(self, opened: StageRun, cell: StageRun) -> StageRun:
        """Skip an empty cell once its stage passed elsewhere: a stratum without a canary must not run ahead of the canary."""
        stage = self.snapshot.spec.stages[cell.stage].name
        others = [one for one in self.lanes() if one.stratum != cell.stratum]
        same = [(one, one.cells[cell.stage]) for one in others]
        if any(there.state is StageState.PASSED for _, there in same):
            reason = f"no device of this stratum belongs to {stage}; it passed in another stratum"
            return self.move_cell(replace(opened, code="empty", reason=reason, ended_at=self.now), StageEvent.SKIP)
        if any(self._may_still_pass(one, there) for one, there in same):
            waits = f"no device of this stratum belongs to {stage}; waits for it to pass in another stratum"
            if cell.reason != waits:
                self.note_cell(replace(cell, code="waits_for_others", reason=waits))
            return self.cells[cell.stratum, cell.stage]
        if any(one.has_failed for one in others):
            reason = f"{stage} passed in no stratum, and this one has no device in it"
            failing = self.move_cell(replace(opened, code=NO_CANARY, reason=reason), StageEvent.OPEN)
            self.fail(failing, NO_CANARY, reason)
            return self.cells[cell.stratum, cell.stage]
        reason = f"no device of any stratum belongs to {stage}"
        return self.move_cell(replace(opened, code="empty", reason=reason, ended_at=self.now), StageEvent.SKIP)

    def _may_still_pass(self, lane: StratumTrack, cell: StageRun) -> bool:
        if lane.has_failed or cell.state is StageState.SKIPPED:
            return False
        return cell.state is not StageState.PENDING or not self._is_empty(lane, cell, self._cut(lane, cell))

    def _share(self, cell: StageRun) -> int:
        populations = {lane.stratum: len(self._reach(lane.cells[cell.stage])) for lane in self.lanes()}
        count = self.snapshot.spec.stages[cell.stage].size.count
        assert count is not None, "the spec allows count_total with a count only"
        return shares(count, populations).get(cell.stratum, 0)

    def _take_in(self, lane: StratumTrack, cell: StageRun) -> None:
        """Assign the members below the cut; once all of a stage have answered these are joiners, a few at a time."""
        ranks = self._reach(cell)
        new = sorted(
            (d for d, value in ranks.items() if value < cell.cut and d not in self.assignments), key=ranks.__getitem__
        )
        self.bring_on(cell, ranks)
        left = self._left_from_opening(cell) if new else 0
        for place, device in enumerate(new[: self._room_for_joiners(cell)]):
            stage = self.stage_for(lane, cell, device, ranks[device])
            assignment = Assignment(
                device=device,
                stage=stage,
                stratum=cell.stratum,
                state=_S.ELIGIBLE,
                is_joiner=place >= left,
                previous=self.snapshot.running.get(device),
                entered_at=self.now,
                due_at=self.now,
            )
            self.assignments[device] = assignment
            self.effects.append(AssignmentCreated(assignment))
        self._let_go(cell)

    def _left_from_opening(self, cell: StageRun) -> int:
        """Return how many of those that the stage opened for are not taken in: all of them when it opens, some after an interruption."""
        if cell.state is not StageState.EXPOSING:
            return 0
        return max(0, cell.intake - self._count_taken_in(cell.stratum))

    def _let_go(self, cell: StageRun) -> None:
        """Take out who waits for an offer and no longer matches the selector."""
        self.let_go(self.lane_assignments(cell), self._stratum_now)

    def _room_for_joiners(self, cell: StageRun) -> int | None:
        if cell.state is StageState.EXPOSING:
            return None
        lane = list(self.lane_assignments(cell))
        exposed = sum(a.state in EXPOSED_STATES for a in lane)
        flying = sum(a.is_joiner and (a.state in IN_FLIGHT or a.state is _S.ELIGIBLE) for a in lane)
        return max(0, max(1, int(exposed * JOINER_SHARE)) - flying)

    def _offer(self, cell: StageRun) -> None:
        """Offer the release to those who wait for it and whose turn it is, lowest rank first."""
        self._let_go(cell)
        if self._doubts.get(cell.stratum):
            return
        waiting = [a for a in self.lane_assignments(cell) if a.state is _S.ELIGIBLE]
        ranks = {a.device: rank(self.snapshot.salt, a.device) for a in waiting}
        for a in sorted(waiting, key=lambda a: ranks[a.device]):
            if self.ledger.is_spent(cell.stage):
                return
            if self._left_to_offer == 0:
                self.is_cut_short = True
                return
            if not self.take_turn(a, cell):
                continue
            self._left_to_offer -= 1
            self.go_on()
            after = moved(
                a,
                _E.OFFER,
                self.now,
                attempt=a.attempt + 1,
                offered_at=self.now,
                deadline=self.now + self.time_to_answer(a),
                reason="",
                error_class="",
                retry_at=None,
            )
            self.move(after, a)
            self.effects.append(Offer(a.device))

    def _settle(self, cell: StageRun) -> StageRun:
        """Tell exposing, soaking and judging apart: what the stage waits for."""
        lane = list(self.lane_assignments(cell))
        if cell.state is StageState.EXPOSING:
            if self.count_open(cell):
                return cell
            ends = [soak_end(self.snapshot, a, self.now) for a in lane if a.state is _S.HEALTHY]
            soak_until = max(ends, default=self.now)
            settled = replace(cell, soak_until=soak_until, code="soaking", reason="every device has answered")
            cell = self.move_cell(settled, StageEvent.SETTLED)
        if cell.state is StageState.SOAKING and cell.soak_until is not None and self.now >= cell.soak_until:
            cell = self.move_cell(replace(cell, code="judging", reason="the soak is over"), StageEvent.SOAKED)
        return cell

    def _judge(self, cell: StageRun) -> bool:
        """Decide about an open cell; return whether the lane may go on."""
        facts = facts_of(self.snapshot, cell, self.assignments.values(), self.now)
        self._doubts[cell.stratum] = doubt(facts)
        decision = decide.decide(facts)
        match decision:
            case Advance() if self._is_last(cell) and self.count_open(cell):
                # nothing is opened by it, so nothing is lost by watching the rest of the devices arrive
                waits = f"enough is known to pass; {self.count_open(cell)} devices are still on their way"
                if (cell.code, cell.reason) != ("finishing", waits):
                    self.note_cell(replace(cell, verdict=VerdictKind.HOLD, code="finishing", reason=waits))
            case Advance():
                self.effects.append(DecisionMade(facts, decision))
                passed = replace(
                    cell,
                    verdict=VerdictKind.ADVANCE,
                    code=decision.code,
                    reason=decision.reason,
                    strength=decision.strength,
                    bound=decision.bound,
                    ended_at=self.now,
                )
                self.move_cell(passed, StageEvent.PASS)
                return True
            case KeepWaiting():
                if (decision.code, decision.reason) != (cell.code, cell.reason):
                    if cell.code != decision.code or cell.verdict is None:
                        self.effects.append(DecisionMade(facts, decision))
                    self.note_cell(replace(cell, verdict=VerdictKind.HOLD, code=decision.code, reason=decision.reason))
            case Pause():
                self.effects.append(DecisionMade(facts, decision))
                held = replace(cell, verdict=VerdictKind.PAUSE, code=decision.code, reason=decision.reason)
                self.move_cell(held, StageEvent.HOLD)
                self.pause(decision.code, f"{cell.stratum}: {decision.reason}")
            case RollBack():
                self.effects.append(DecisionMade(facts, decision))
                self.fail(cell, decision.code, decision.reason)
                if decision.pooled:
                    self._fail_the_others(cell, decision)
        return False

    def _fail_the_others(self, cause: StageRun, decision: RollBack) -> None:
        for lane in self.lanes():
            current = next(
                (cell for cell in lane.cells if cell.state in CELL_OPEN or cell.state is StageState.HELD), None
            )
            if lane.stratum != cause.stratum and current is not None:
                self.fail(current, decision.code, f"all strata stop: {decision.reason}")

    def _is_last(self, cell: StageRun) -> bool:
        return cell.stage == len(self.snapshot.spec.stages) - 1

    def _reach(self, cell: StageRun) -> dict[DeviceId, int]:
        return self.reach(self._ranks(cell.stratum), cell.stage)

    def _ranks(self, stratum: ProfileName) -> dict[DeviceId, int]:
        """Return the ranks of a stratum's devices.

        Who takes part stays one of them, also when the selector (`model.x=1.0.0`) no longer matches: else stages would be
        percentages of what is left.
        """
        known = self._known_ranks.get(stratum)
        if known is None:
            devices = {m.device for m in self._fresh_members() if m.stratum == stratum}
            devices |= {a.device for a in self.assignments.values() if a.stratum == stratum and a.state not in OUTSIDE}
            known = self._known_ranks[stratum] = {device: rank(self.snapshot.salt, device) for device in devices}
        return known
