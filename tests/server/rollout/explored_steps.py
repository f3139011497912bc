"""One step of an explored fleet: a plan is carried out as the server does, and every effect of it is checked. See `explorer`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState, CandidatePhase, Phase
from edgefleet_server.rollout.analysis.confirmation import ALIVE
from edgefleet_server.rollout.analysis.model import Advance, KeepWaiting
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    CheckAsked,
    ConfirmationUpdated,
    DecisionMade,
    Offer,
    Plan,
    Revert,
    RolloutTransitioned,
    StageRunCreated,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import (
    Answer,
    Assignment,
    Bundle,
    CheckEnd,
    Confirmation,
    Report,
    RolloutState,
    StageState,
    Strength,
    Verdict,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_FINAL,
    ASSIGNMENT_TRANSITIONS,
    CELL_DONE,
    CELL_OPEN,
    FAILED_STATES,
    ROLLOUT_TRANSITIONS,
    ROLLOUT_WALKS,
    STAGE_TRANSITIONS,
    is_failure,
)
from edgefleet_sim.confirmers import about_words
from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.server.rollout.explored import Document, Ground, Node

_S = AssignmentState
_R = RolloutState
_EDGES: Final[Mapping[str, Set[tuple[object, object]]]] = {
    "rollout": {(a, b) for (a, _), b in ROLLOUT_TRANSITIONS.items()},
    "cell": {(a, b) for (a, _), b in STAGE_TRANSITIONS.items()},
    "assignment": {(a, b) for (a, _), b in ASSIGNMENT_TRANSITIONS.items()},
}
_ASKING: Final = ROLLOUT_WALKS | {_R.PAUSED, _R.FINISHED}
OUT_OF_END: Final = {
    (_S.HEALTHY, _S.REGRESSED),
    (_S.HEALTHY, _S.ROLLED_BACK),
    (_S.HEALTHY, _S.SUPERSEDED),
    (_S.REGRESSED, _S.ROLLED_BACK),
    *((failure, _S.ELIGIBLE) for failure in FAILED_STATES),
}
"""What may still become of a device that has an outcome."""
GOES_ON: Final = (_S.HEALTHY, _S.ELIGIBLE)
"""It is healthy beside what serves, and a later stage of another mode reaches it."""
OUT_OF_FINAL: Final = {
    (RolloutState.FINISHED, RolloutState.REGRESSED),
    (RolloutState.REGRESSED, RolloutState.ROLLING_BACK),
    (RolloutState.FINISHED, RolloutState.RUNNING),
}


class BrokenInvariantError(AssertionError):
    """A step that must never be; `trail` is how one gets there."""


class Carrying:
    """One plan being carried out and checked."""

    def __init__(self, ground: Ground, node: Node, step: str) -> None:
        self.ground = ground
        self.node = node
        self.step = step
        self.state, self.code, self.reason = node.state, node.code, node.reason
        self.cells = {(cell.stage, cell.stratum): cell for cell in node.cells}
        self.assignments = {one.device: one for one in node.assignments}
        self.documents = list(node.documents)
        self.confirmations = {(one.stratum, one.number): one for one in node.confirmations}
        self.checks = dict(node.checks)
        self.passed_by_rule: set[tuple[int, str]] = set()
        self.is_against = False
        """Whether this plan found that the evidence of devices that failed speaks against the release."""

    def carry(self, plan: Plan) -> Node:
        """Return the state after the plan. Raises BrokenInvariantError."""
        wishes: dict[DeviceId, Offer | Revert] = {}
        for effect in plan.effects:
            match effect:
                case RolloutTransitioned():
                    self._move_rollout(effect)
                case StageRunCreated():
                    self._check((effect.cell.stage, effect.cell.stratum) not in self.cells, "a cell was made twice")
                    self.cells[effect.cell.stage, effect.cell.stratum] = effect.cell
                case StageRunTransitioned() | StageRunUpdated():
                    self._move_cell(effect)
                case AssignmentCreated():
                    self._take_in(effect.assignment)
                case AssignmentTransitioned() | AssignmentUpdated():
                    self._move_assignment(effect)
                case Offer() | Revert():
                    wishes[effect.device] = effect
                case ConfirmationUpdated():
                    self._ask(effect.confirmation)
                case CheckAsked():
                    self._check(effect.task not in self.checks, "a device was asked twice")
                    self.checks[effect.task] = CheckEnd(state="queued")
                case DecisionMade():
                    if isinstance(effect.decision, Advance):
                        self._check_rule(effect)
                    elif not isinstance(effect.decision, KeepWaiting):
                        self.is_against = any(is_failure(one) for one in self.assignments.values())
        for device, wish in wishes.items():
            self._sign(device, wish)
        self._check_end()
        asked = tuple(self.confirmations[key] for key in sorted(self.confirmations))
        for problem in about_words(plan, self.ground.spec, self.node.state, self.assignments, asked):
            self._check(False, problem)
        for one in asked if self.step == "tick" and self.node.state in _ASKING else ():
            is_late = one.verdict is Verdict.OPEN and self.node.now >= one.deadline
            self._check(not is_late or one.stratum in self._failed_strata(), "a question was not answered in time")
        alive = {draw.task for one in asked if one.verdict in ALIVE for draw in one.draws if not draw.answer}
        return replace(
            self.node,
            state=self.state,
            code=self.code,
            reason=self.reason,
            cells=tuple(self.cells[key] for key in sorted(self.cells)),
            assignments=tuple(self.assignments[device] for device in sorted(self.assignments)),
            documents=tuple(self.documents),
            confirmations=asked,
            checks=tuple((task, end) for task, end in sorted(self.checks.items()) if task in alive),
        )

    def _check(self, holds: bool, words: str) -> None:
        if not holds:
            raise BrokenInvariantError(f"{self.ground.fleet.name}, {self.step}: {words}\n{self.node}")

    def _move_rollout(self, effect: RolloutTransitioned) -> None:
        self._check(effect.before is self.state, "the rollout moves from a state that it is not in")
        self._check((effect.before, effect.after) in _EDGES["rollout"], f"no edge {effect.before} -> {effect.after}")
        if effect.before in ROLLOUT_FINAL:
            self._check((effect.before, effect.after) in OUT_OF_FINAL, "a rollout that ended moved")
            by = "retry" if effect.after is RolloutState.RUNNING else "undo"
            is_late = self.step == "tick" and self.is_against and effect.before in (_R.FINISHED, _R.REGRESSED)
            is_said = self.step == by or (effect.before is _R.REGRESSED and self.step == "abort_rollback")
            self._check(is_late or is_said, "a rollout that ended moved by itself")
        self.state, self.code, self.reason = effect.after, effect.code, effect.reason

    def _move_cell(self, effect: StageRunTransitioned | StageRunUpdated) -> None:
        cell = effect.cell
        key = (cell.stage, cell.stratum)
        stored = self.cells[key]
        if isinstance(effect, StageRunUpdated):
            self._check(stored.state is cell.state, "a note changed a cell's state")
        else:
            self._check(effect.before is stored.state, "a cell moves from a state that it is not in")
            self._check((stored.state, cell.state) in _EDGES["cell"], f"no edge {stored.state} -> {cell.state}")
            has_turned = stored.state is StageState.PASSED and self.step == "tick" and self.is_against
            is_late = has_turned and self.node.state in (_R.FINISHED, _R.REGRESSED)
            self._check(stored.state not in CELL_DONE or is_late, "a cell that was done moved")
            if stored.state is StageState.PENDING:
                earlier = [one for one in self.cells.values() if one.stratum == cell.stratum and one.stage < cell.stage]
                is_next = all(one.state in (StageState.PASSED, StageState.SKIPPED) for one in earlier)
                is_left_out = self.step == "skip" and cell.state is StageState.SKIPPED
                self._check(is_next or is_left_out, "a stage opened before the one before it passed")
                is_grown = cell.cut >= max((one.cut for one in earlier), default=0)
                self._check(is_grown or is_left_out, "a cut fell")
            else:
                self._check(stored.cut == cell.cut, "the cut of an open stage changed")
            if cell.state is StageState.PASSED:
                is_said = self.step == "promote" and cell.strength is Strength.OVERRIDE
                self._check(is_said or key in self.passed_by_rule, "a stage passed without its rule")
        self.cells[key] = cell

    def _ask(self, one: Confirmation) -> None:
        """A question is opened once, and answered once: but one without an answer in time may still get one."""
        stored = self.confirmations.get((one.stratum, one.number))
        self._check(
            stored is not None or one.number == sum(key[0] == one.stratum for key in self.confirmations), "skipped"
        )
        is_answered = stored is not None and stored.verdict not in ALIVE
        self._check(not is_answered, "a question was answered twice")
        self.confirmations[one.stratum, one.number] = one

    def _take_in(self, one: Assignment) -> None:
        self._check(one.device not in self.assignments, "a device was assigned twice")
        self._check(one.state is _S.ELIGIBLE, "a device did not begin as eligible")
        self.assignments[one.device] = one.but(previous=self.ground.old[self.ground.place[one.device]])

    def _move_assignment(self, effect: AssignmentTransitioned | AssignmentUpdated) -> None:
        one = effect.assignment
        stored = self.assignments[one.device]
        self._check(not stored.failed_before or one.failed_before != "", "an earlier failure was forgotten")
        if isinstance(effect, AssignmentUpdated):
            self._check(stored.state is one.state, "a note changed an assignment's state")
        else:
            self._check(effect.before is stored.state, "an assignment moves from a state that it is not in")
            edge = (stored.state, one.state)
            self._check(edge in _EDGES["assignment"], f"no edge {stored.state} -> {one.state}")
            goes_on = edge == GOES_ON and one.stage > stored.stage
            may_move = stored.state not in ASSIGNMENT_FINAL or edge in OUT_OF_END or goes_on
            self._check(may_move, "an assignment that ended moved")
            if stored.state in FAILED_STATES and one.state is _S.ELIGIBLE:
                self._check(
                    self.step == "retry" and one.failed_before != "",
                    "a failure was tried again by itself, or forgotten",
                )
            expected = stored.attempt + (one.state is _S.OFFERED)
            self._check(one.attempt == expected, "an attempt was skipped or doubled")
            if one.state is _S.CANCELLED and self.state is RolloutState.ROLLING_BACK:
                place = self.ground.place[one.device]
                is_on_it = self.node.reports[place].active_sha256 == self.ground.new[place].sha256
                self._check(not is_on_it or one.back_done_at is not None, "was let go though it says that it runs it")
        if one.stage != stored.stage:
            modes = self.ground.modes
            is_on = one.stage > stored.stage and modes[one.stage] is not modes[stored.stage]
            self._check(is_on and one.state is _S.ELIGIBLE, f"went from stage {stored.stage} to {one.stage}")
        self.assignments[one.device] = one.but(previous=stored.previous)

    def _sign(self, device: DeviceId, wish: Offer | Revert) -> None:
        place, one = self.ground.place[device], self.assignments[device]
        before, shape = self.documents[place], self.ground.shapes[one.stage]
        gen, new = before.gen + 1, self.ground.new[place]
        if isinstance(wish, Offer):
            self._check_offer(one)
            if shape.mode is Mode.ACTIVE:
                self.documents[place] = Document(gen, new, one.attempt)
            else:
                self._check(before.bundle != new, "offered beside itself")
                self.documents[place] = replace(before, gen=gen, candidate=new, share=shape.share_pct)
            self._check_share(place, one)
            self.assignments[device] = one.but(gen=gen)
            return
        if wish.is_candidate:
            self._check(before.candidate == new, "ended beside what it did not begin")
            self.documents[place] = replace(before, gen=gen, candidate=None, share=0)
        else:
            self._check(before.bundle == new, "wrote over what somebody else deployed")
            is_late = wish.is_rollback and self.node.state is _R.FINISHED
            has_turned = one.stratum in self._failed_strata()
            self._check(not is_late or has_turned, "went back where no evidence had turned")
            self.documents[place] = Document(gen, one.previous)
        if wish.is_rollback:
            is_liar_alone = self.ground.fleet.liar not in (None, place) and not self._fails_elsewhere()
            self._check(not is_liar_alone, "another device than the one that lies goes back")
            self.assignments[device] = one.but(back_gen=gen)

    def _fails_elsewhere(self) -> bool:
        """Return whether another device than the liar failed: one that says nothing for an hour is lost, or late."""
        liar = self.ground.devices[self.ground.fleet.liar or 0]
        failing = {one.device for one in self.assignments.values() if is_failure(one)}
        drawn = (draw for one in self.confirmations.values() for draw in one.draws)
        return bool((failing | {draw.device for draw in drawn if draw.answer is Answer.FAILED}) - {liar})

    def _failed_strata(self) -> set[str]:
        return {cell.stratum for cell in self.cells.values() if cell.state is StageState.FAILED}

    def _check_share(self, place: int, one: Assignment) -> None:
        """A document lets the release answer no more than an open stage of its device lets it: a shadow nothing, a split its share."""
        document, value = self.documents[place], rank(self.ground.salt, one.device)
        shares = {Mode.ACTIVE: 100, Mode.SHADOW: 0}
        drawn_in = one.stage if one.device in self._drawn() else -1
        mine = (c for c in self.cells.values() if c.stratum == one.stratum)
        reached = (c for c in mine if value < c.cut or c.stage == drawn_in)
        opened = [self.ground.shapes[c.stage] for c in reached if c.state in CELL_OPEN or c.state is StageState.PASSED]
        most = max((shares.get(shape.mode, shape.share_pct) for shape in opened), default=0)
        answers = 100 if document.bundle == self.ground.new[place] else document.share
        self._check(answers <= most, f"lets the release answer {answers} % of the requests, at most {most} % may be")

    def _check_offer(self, one: Assignment) -> None:
        is_running = self.node.state in ROLLOUT_WALKS and self.state is RolloutState.RUNNING
        self._check(is_running, f"offered while {self.node.state}, {self.state}")
        lane = sorted((c for c in self.cells.values() if c.stratum == one.stratum), key=lambda cell: cell.stage)
        value = rank(self.ground.salt, one.device)
        begun = [cell for cell in lane if cell.state is not StageState.PENDING and cell.code != "skipped"]
        modes = self.ground.modes
        self._check(
            not begun or modes[begun[-1].stage] is modes[one.stage],
            "offered in another mode than the newest stage has",
        )
        alike = (cell for cell in begun if modes[cell.stage] is modes[one.stage])
        reaching = next((cell.stage for cell in alike if value < cell.cut), None)
        self._check(
            one.device in self._drawn() or reaching == one.stage,
            f"offered beyond its cut: stage {one.stage}, its rank says {reaching}",
        )
        self._check(not any(cell.state is StageState.FAILED for cell in lane), "offered in a stratum that failed")
        needs = self.ground.spec.stages[one.stage].approval is not None
        self._check(not needs or lane[one.stage].approved_by != "", "offered before somebody approved it")

    def _drawn(self) -> set[DeviceId]:
        """Return the devices that are offered the release because they were drawn."""
        return {draw.device for asked in self.confirmations.values() for draw in asked.draws if draw.is_new}

    def _check_rule(self, judged: DecisionMade) -> None:
        """Count the rule of small strata anew from the truth: what devices run, and since when."""
        facts, now = judged.facts, self.node.now
        counted = [
            one
            for one in self.assignments.values()
            if one.stratum == facts.stratum and one.stage <= facts.stage and not one.is_accepted
            if self.ground.modes[one.stage] is self.ground.modes[facts.stage]
        ]
        self._check(not any(one.failed_before for one in counted), "passed although a device of it had failed")
        part = [one for one in counted if one.state not in (_S.CANCELLED, _S.SUPERSEDED, _S.INCOMPATIBLE)]
        reached = [one for one in part if one.state is not _S.UNREACHABLE]
        spec = self.ground.spec
        proved = [
            one
            for one in reached
            if self._runs(one) and one.switched_at is not None and one.switched_at + spec.stages[one.stage].soak <= now
        ]
        self._check(proved == reached, f"passed with {len(proved)} proved of {len(reached)} devices")
        self._check(len(proved) >= min(2, facts.population), "passed on fewer devices than the rule asks for")
        self.passed_by_rule.add((facts.stage, facts.stratum))

    def _runs(self, one: Assignment) -> bool:
        place = self.ground.place[one.device]
        said = self.node.reports[place]
        if self.ground.modes[one.stage] is not Mode.ACTIVE:
            return _runs_beside(said, self.ground.new[place])
        if self.node.documents[place].bundle == self.ground.other[place]:
            return said.phase is not Phase.ROLLED_BACK  # it had run it for its soak when something else was deployed
        return said.active_sha256 == self.ground.new[place].sha256 and said.phase is Phase.COMMITTED

    def _check_end(self) -> None:
        """Whatever ends it ends its candidates; where it was taken back, nobody is told to run it, and who is not back is named."""
        if self.state is self.node.state or self.state not in ROLLOUT_FINAL:
            return
        self._check(self.reason != "", "ended without a reason")
        for one in self.assignments.values():
            place = self.ground.place[one.device]
            new, document, said = self.ground.new[place], self.documents[place], self.node.reports[place]
            self._check(document.candidate != new, f"{one.device} ({one.state}) is still told to run it beside")
            is_late = self.state is _R.FINISHED and self.node.state is _R.ROLLING_BACK
            is_back_here = is_late and one.stratum in self._failed_strata()
            if self.state not in (RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE) and not is_back_here:
                continue
            self._check(document.bundle != new, f"{one.device} ({one.state}) is still told to run it")
            is_on_it = said.active_sha256 == new.sha256 or _runs_beside(said, new)
            # who was never heard to take it up has no part in it any more, and is told to run something else
            if is_on_it and one.exposed_at is not None:
                is_named = one.reason.startswith(NOT_BACK) or document.bundle == self.ground.other[place]
                self._check(is_named, f"{one.device} ({one.state}) runs it and is not named: {one.reason!r}")


def _runs_beside(said: Report, new: Bundle) -> bool:
    return (said.candidate.sha256, said.candidate.state) == (new.sha256, CandidatePhase.RUNNING)
