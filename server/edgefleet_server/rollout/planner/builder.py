"""A tick in the making: a snapshot as the effects so far have changed it, and what every tick may do to it. Pure.

Its own module because the planner and a person's commands (`control`) share it. Rules:
- Every change of a state goes through a transition table and leaves one effect, so that its event is written once.
- What every device ran before is given back newest exposed first; who never took up the offer is simply withdrawn.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import (
    AssignmentTransitioned,
    AssignmentUpdated,
    Effect,
    Offer,
    Revert,
    RolloutTransitioned,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import Assignment, RolloutState, Snapshot, StageRun, StageState, VerdictKind
from edgefleet_server.rollout.planner.observe import (
    DEAF,
    OVERWRITTEN,
    REVOKED,
    Terms,
    hear,
    is_under_way,
    runs_beside,
    with_patience,
)
from edgefleet_server.rollout.spec.model import NO_WAY_BACK, Mode
from edgefleet_server.rollout.state_machines import (
    CELL_DONE,
    CELL_OPEN,
    IN_FLIGHT,
    ROLLOUT_ACTIVE,
    UNSWITCHED,
    AssignmentEvent,
    RolloutEvent,
    StageEvent,
    moved,
    step_rollout,
    step_stage,
)

BATCH: Final = 200
"""Documents that one tick signs for a rollout of up to 2,000 devices: a tick stays short, and the next one follows at once."""
BATCH_SHARE: Final = 0.1
"""Of a larger one a tick plans this share, since it looks at every device first; it is carried out in batches (`execution.batches`)."""
HUGE: Final = 20_000
"""One with more devices is planned whole, there and back: a look takes seconds of the processor there (ADR 0060)."""
BACK_FACTOR: Final = 10
"""A tick takes back so many times as it offers (docs/explanation/rollouts.md), unless it plans the whole rollout."""
LOOK_AGAIN: Final = timedelta(seconds=2)
LOOK_FOR_LATE: Final = timedelta(minutes=1)
NOT_BACK: Final = "not confirmed to be back"
_KEPT: Final = "it keeps the release (rollback_to: none)"


_S: Final = AssignmentState
_E: Final = AssignmentEvent


@dataclass(slots=True)
class StratumTrack:
    """The cells of one stratum in order of stage."""

    stratum: ProfileName
    cells: list[StageRun]

    @property
    def current(self) -> StageRun | None:
        """The first cell that is neither passed nor skipped; None when all are."""
        return next((cell for cell in self.cells if cell.state not in (StageState.PASSED, StageState.SKIPPED)), None)

    @property
    def offering(self) -> StageRun | None:
        """The cell whose devices are offered the release: the open one, or the last one when a person let it pass early."""
        cell = self.current
        if cell is None:
            return self.cells[-1] if self.cells[-1].state is StageState.PASSED else None
        return cell if cell.state in CELL_OPEN else None

    @property
    def has_failed(self) -> bool:
        return any(cell.state is StageState.FAILED for cell in self.cells)

    @property
    def has_ended(self) -> bool:
        return self.has_failed or all(cell.state in CELL_DONE for cell in self.cells)


class Draft:
    """One tick in the making: the snapshot as the effects so far have changed it."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.snapshot = snapshot
        self.now = now
        self.state = snapshot.state
        self.effects: list[Effect] = []
        self.assignments = {a.device: a for a in snapshot.assignments}
        self.cells = {(c.stratum, c.stage): c for c in snapshot.cells}
        self.is_cut_short = False
        self._modes = tuple(stage.shape.mode for stage in snapshot.spec.stages)
        self._known_terms: dict[tuple[ProfileName, int], Terms] = {}
        self._withdrawn: set[DeviceId] = set()
        self.told = snapshot.code, snapshot.reason
        """Why the rollout is in its state, as of this tick."""

    @property
    def batch(self) -> int:
        """Documents that this tick may sign."""
        return batch_for(max(len(self.snapshot.members), len(self.assignments)))

    def listen(self) -> None:
        """Move assignments by what devices said and by deadlines."""
        self._take_no_account_of_absence()
        for device, assignment in list(self.assignments.items()):
            report = self.snapshot.reports.get(device)
            patient = with_patience(assignment, self.snapshot.missed, self.now)
            if patient is not assignment:
                self._note(patient)
            after, steps = hear(patient, report, self._terms(patient), self.now)
            if after is not assignment:
                self.assignments[device] = after
                self.effects += steps

    def _take_no_account_of_absence(self) -> None:
        """Count the time in which the server was away as none of the time that stages may go without a verdict."""
        missed = self.snapshot.missed
        for cell in list(self.cells.values()):
            if missed > DEAF and cell.state in CELL_OPEN and cell.opened_at is not None:
                self.note_cell(replace(cell, resumed_at=(cell.resumed_at or cell.opened_at) + missed))

    def _terms(self, assignment: Assignment) -> Terms:
        """Return what a device is held to: the same for all of its stratum and stage."""
        known = self._known_terms.get((assignment.stratum, assignment.stage))
        if known is not None:
            return known
        spec = self.snapshot.spec
        bundle = self.snapshot.bundles.get(assignment.stratum)
        stage = spec.stages[assignment.stage]
        terms = Terms(bundle.sha256 if bundle is not None else "", spec.device, stage.soak, stage.shape.mode)
        self._known_terms[assignment.stratum, assignment.stage] = terms
        return terms

    def pause(self, code: str, reason: str) -> None:
        """Stop offering: what is not at its switch yet goes back to waiting."""
        self.move_rollout(RolloutEvent.PAUSE, code, reason)
        self.withdraw(reason="paused before its switch")

    def withdraw(self, reason: str) -> None:
        """Take back the offers of devices that are not at their switch yet."""
        for a in list(self.assignments.values()):
            if a.state in UNSWITCHED and not a.back_gen and self.asks_for_release(a):
                self.move(withdrawn(a, self.now, reason), a)
                self.effects.append(Revert(a.device, is_rollback=False, is_beside=self.is_beside(a)))
                self._withdrawn.add(a.device)

    def is_beside(self, a: Assignment) -> bool:
        """Whether the device's document names the release as a candidate beside what serves."""
        if a.device in self._withdrawn:
            return False
        report = self.snapshot.reports.get(a.device)
        return report is not None and report.candidate.wanted_by_server == self._terms(a).digest != ""

    def end_candidate(self, a: Assignment) -> None:
        """End the candidate of a device that the rollout leaves without having made the release the active version."""
        if self.is_beside(a):
            self.effects.append(Revert(a.device, is_rollback=False, is_beside=True))

    def take_back(self) -> None:
        """Write the former release back where a stratum failed (or everywhere, when the rollout goes back)."""
        failed = {lane.stratum for lane in self.lanes() if self._is_going_back(lane)}
        for a in list(self.assignments.values()):
            if a.stratum not in failed or a.state is not _S.ELIGIBLE:
                continue
            exposed_at = a.exposed_at or self.now
            if a.gen and self.is_beside(a):
                # it went on to a stage of another mode, or waits for its next try: what it runs beside ends below
                self.move(moved(a, _E.ACK, self.now, exposed_at=exposed_at), a)
            elif self._may_have_switched(a):
                late = moved(a, _E.ACK, self.now, exposed_at=exposed_at, back_gen=a.gen + 1, back_at=self.now)
                self.move(late, a)  # what it goes back to stands in its document since the offer was withdrawn
            else:
                self.end_candidate(a)
                self.move(moved(a, _E.CANCEL, self.now, reason="its stratum was stopped", ended_at=self.now), a)
        todo = [a for a in self.assignments.values() if a.stratum in failed and needs_giving_back(a)]
        todo.sort(key=lambda a: (a.exposed_at or a.offered_at or self.now, a.device), reverse=True)
        self.is_cut_short |= len(todo) > BACK_FACTOR * self.batch
        for a in todo[: BACK_FACTOR * self.batch]:
            self._give_back(a)
        for a in [a for a in self.assignments.values() if a.state is _S.UNREACHABLE and a.back_done_at is not None]:
            if a.back_gen and self._is_still_on_it(a):
                # it took the release up all the same: it must be heard to be back
                self._note(a.but(back_done_at=None))
        self._give_up_waiting()

    def _switched_after_all(self, a: Assignment) -> bool:
        """Whether a device whose offer was withdrawn runs the release, or runs it beside: it had begun when the pause reached it."""
        report = self.snapshot.reports.get(a.device)
        before = "" if a.previous is None else a.previous.sha256
        digest = self._terms(a).digest
        if report is None or a.gen == 0 or digest == before:
            return False
        return report.active_sha256 == digest or runs_beside(report, digest)

    def _is_still_on_it(self, a: Assignment) -> bool:
        """Whether a device runs the release, or may come to, although its document names what it ran before."""
        return self.asks_for_former(a) and self._may_be_on_it(a)

    def _may_have_switched(self, a: Assignment) -> bool:
        """Whether a device whose offer was withdrawn runs the release, or may come to: it took the offer up, and nothing since."""
        report = self.snapshot.reports.get(a.device)
        goes_on = a.exposed_at is not None and report is not None and report.reported_gen == a.gen > 0
        return self._may_be_on_it(a) or (goes_on and self.asks_for_former(a) and self._is_new_to(a))

    def _may_be_on_it(self, a: Assignment) -> bool:
        """Whether a device runs the release, or says that it is on its way to it: perhaps for an offer before its newest one."""
        report = self.snapshot.reports.get(a.device)
        before = "" if a.previous is None else a.previous.sha256
        is_coming = report is not None and is_under_way(report, self._terms(a).digest, before)
        return self._switched_after_all(a) or (a.gen > 0 and is_coming)

    def _is_new_to(self, a: Assignment) -> bool:
        if self.mode(a.stage) is not Mode.ACTIVE:
            # what runs beside may answer, too: it ends when the device knows that it is to
            return not self.is_beside(a)
        before = "" if a.previous is None else a.previous.sha256
        return self._terms(a).digest != before

    def asks_for_release(self, a: Assignment) -> bool:
        """Whether the device's document still names the release: what somebody else wrote over it is never touched."""
        report = self.snapshot.reports.get(a.device)
        return report is None or report.wanted_by_server == self._terms(a).digest or self.is_beside(a)

    def asks_for_former(self, a: Assignment) -> bool:
        """Whether the device's document names what it ran before, or will when this plan is carried out."""
        report = self.snapshot.reports.get(a.device)
        if report is None or a.previous is None:
            return False
        return a.device in self._withdrawn or report.wanted_by_server == a.previous.sha256

    def _give_back(self, a: Assignment) -> None:
        if not self.asks_for_release(a):
            if a.state not in IN_FLIGHT:  # those are superseded when their tick hears of it
                # one that was told before, and runs it still, must be heard to be back like any other
                is_on_it = self._is_still_on_it(a)
                done = a.but(back_gen=a.gen + 1, back_at=self.now, back_done_at=None if is_on_it else self.now)
                report = self.snapshot.reports.get(a.device)
                is_gone = report is not None and report.is_revoked
                why = REVOKED if is_gone else "" if is_on_it else OVERWRITTEN
                self._note(done.but(reason=a.reason or why))
            return
        is_beside = self.is_beside(a)
        to = None if is_beside or a.state in UNSWITCHED else self.snapshot.way_back.get(a.stratum)
        if reason := "" if is_beside or to is not None else self._why_kept(a):
            if reason is not _KEPT or a.state not in IN_FLIGHT:  # what is on its way may end first, since it stays
                self._note(a.but(back_gen=max(1, a.gen), back_at=self.now, reason=f"{NOT_BACK}: {reason}"))
            return
        self.effects.append(Revert(a.device, is_rollback=True, is_beside=is_beside, to=to))
        after = a.but(back_at=self.now)
        if a.state is _S.OFFERED and not self._may_be_on_it(a):
            reason = "its stratum was stopped before it took up its document"
            after = moved(
                after, _E.CANCEL, self.now, reason=reason, ended_at=self.now, back_done_at=self.now, deadline=None
            )
            self.move(after, a)
            return
        if a.state is _S.UNREACHABLE and not self._may_be_on_it(a):
            after = after.but(back_done_at=self.now)
        self._note(after)

    def _why_kept(self, a: Assignment) -> str:
        """Return why a device keeps the release although it is taken back, "" when it goes back."""
        if a.previous is not None and a.previous.sha256 == self._terms(a).digest:
            return "it ran this very release before, and nothing older is known"
        runs_it = a.state in (_S.APPLYING, _S.VERIFYING, _S.HEALTHY, _S.LOST)
        return _KEPT if runs_it and self.snapshot.spec.shape.rollback_to == NO_WAY_BACK else ""

    def _give_up_waiting(self) -> None:
        """Note which devices did not confirm in time that they went back.

        Each stays in the state that it was last heard in. `lost` would be a failure of the release, and count against it in other
        strata, although the server cut its way short; and no late word moves what is lost.
        """
        for a in list(self.assignments.values()):
            if a.back_at is None or a.back_done_at is not None or a.reason.startswith(NOT_BACK):
                continue
            if self.now >= a.back_at + self.snapshot.spec.device.ack:
                self._note(a.but(reason=f"{NOT_BACK}: {a.reason}" if a.reason else NOT_BACK, deadline=None))

    def _note(self, after: Assignment) -> None:
        self.assignments[after.device] = after
        self.effects.append(AssignmentUpdated(after))

    def end_if_over(self) -> None:
        """End the rollout when every lane has ended and what was taken back is settled."""
        lanes = self.lanes()
        if not all(lane.has_ended or self._is_going_back(lane) for lane in lanes) or self.is_cut_short:
            return
        if any(isinstance(effect, Offer) for effect in self.effects) or self._are_waiting():
            return  # a person let the last stage pass before its devices had their offers: these go out while it runs
        going_back = {lane.stratum for lane in lanes if self._is_going_back(lane)}
        owed = [a for a in self.assignments.values() if a.stratum in going_back]
        if any(needs_giving_back(a) for a in owed):
            return
        failed = [lane for lane in lanes if lane.has_failed]
        passed = [
            lane
            for lane in lanes
            if any(cell.state is StageState.PASSED for cell in lane.cells) and not lane.has_failed
        ]
        if failed and not passed and self.state is RolloutState.RUNNING:
            self.move_rollout(RolloutEvent.ROLL_BACK, *_why(failed))
        waiting = [a for a in owed if a.back_at is not None and a.back_done_at is None]
        if any(not a.reason.startswith(NOT_BACK) for a in waiting):
            return
        self._end(failed, passed, [a.device for a in waiting])

    def _are_waiting(self) -> bool:
        """Whether devices still wait for their turn in a stage that a person let pass, or are on their way on a second try."""
        going = [cell for lane in self.lanes() if (cell := lane.offering) is not None and not lane.has_failed]
        waiting = (a for cell in going for a in self.lane_assignments(cell))
        if self.state is not RolloutState.RUNNING:
            return False
        return any(a.state is _S.ELIGIBLE or (a.failed_before and a.state in IN_FLIGHT) for a in waiting)

    def _end(self, failed: Sequence[StratumTrack], passed: Sequence[StratumTrack], stuck: Sequence[DeviceId]) -> None:
        for a in self.assignments.values():
            if a.state not in (_S.OFFERED, _S.UNREACHABLE):
                self.end_candidate(a)
        code, reason = _why(failed)
        tail = f"; not confirmed to be back: {', '.join(sorted(stuck)[:20])}" if stuck else ""
        if self.state is RolloutState.ROLLING_BACK:
            event = RolloutEvent.ROLLBACK_STUCK if stuck else RolloutEvent.ROLLED_BACK
            if not failed:  # a person took back what had no open stage: theirs are the words
                code, reason = self.told
            self.move_rollout(event, code, reason + tail)
        elif not passed:
            self.move_rollout(RolloutEvent.CANCEL, "empty", "no device of the rollout was left to judge")
        elif failed:
            told = f"finished in {len(passed)} of {len(passed) + len(failed)} strata; {reason}{tail}"
            self.move_rollout(RolloutEvent.FINISH, "partial", told)
        else:
            self.move_rollout(RolloutEvent.FINISH, "finished", "every stage passed in every stratum")

    def next_look(self) -> datetime | None:
        """Return when to look again at the latest; None when nothing can happen any more."""
        if self.state in ROLLOUT_ACTIVE:
            return self.now if self.is_cut_short else self.now + LOOK_AGAIN
        # those who were away may still come back and take up their document: that is worth a line in the log
        late = any(a.state is _S.UNREACHABLE or a.state in IN_FLIGHT for a in self.assignments.values())
        return self.now + LOOK_FOR_LATE if late and self.state is RolloutState.FINISHED else None

    def lanes(self) -> list[StratumTrack]:
        return lanes_of(self.cells.values())

    def lane(self, stratum: ProfileName) -> StratumTrack:
        cells = [cell for (one, _), cell in self.cells.items() if one == stratum]
        return StratumTrack(stratum, sorted(cells, key=lambda cell: cell.stage))

    def lane_assignments(self, cell: StageRun) -> Iterator[Assignment]:
        stages = {stage for stage in range(cell.stage + 1) if self.mode(stage) is self.mode(cell.stage)}
        stratum = cell.stratum
        return (a for a in self.assignments.values() if a.stratum == stratum and a.stage in stages)

    def mode(self, stage: int) -> Mode:
        return self._modes[stage]

    def count_open(self, cell: StageRun) -> int:
        return sum(a.state in IN_FLIGHT or a.state is _S.ELIGIBLE for a in self.lane_assignments(cell))

    def _is_going_back(self, lane: StratumTrack) -> bool:
        return lane.has_failed or self.state is RolloutState.ROLLING_BACK

    def fail(self, cell: StageRun, code: str, reason: str) -> None:
        failed = replace(cell, verdict=VerdictKind.ROLL_BACK, code=code, reason=reason, ended_at=self.now)
        self.move_cell(failed, StageEvent.FAIL)

    def move(self, after: Assignment, before: Assignment) -> None:
        self.assignments[after.device] = after
        self.effects.append(AssignmentTransitioned(before.state, after))

    def move_cell(self, cell: StageRun, event: StageEvent) -> StageRun:
        before = cell.state
        after = replace(cell, state=step_stage(before, event))
        self.cells[cell.stratum, cell.stage] = after
        self.effects.append(StageRunTransitioned(before, after))
        return after

    def note_cell(self, cell: StageRun) -> None:
        self.cells[cell.stratum, cell.stage] = cell
        self.effects.append(StageRunUpdated(cell))

    def move_rollout(self, event: RolloutEvent, code: str, reason: str) -> None:
        before, self.state = self.state, step_rollout(self.state, event)
        self.effects.append(RolloutTransitioned(before, self.state, code, reason))


def batch_for(devices: int) -> int:
    """Return how many documents one tick may sign for a rollout of so many devices."""
    return devices if devices > HUGE else max(BATCH, int(devices * BATCH_SHARE))


def lanes_of(cells: Iterable[StageRun]) -> list[StratumTrack]:
    """Return the lanes of these cells, by stratum."""
    lanes: dict[ProfileName, list[StageRun]] = {}
    for cell in cells:
        lanes.setdefault(cell.stratum, []).append(cell)
    return [StratumTrack(stratum, sorted(lanes[stratum], key=lambda cell: cell.stage)) for stratum in sorted(lanes)]


def _why(failed: Sequence[StratumTrack]) -> tuple[str, str]:
    """Return the code and the words for what ended these lanes."""
    cells = [next(cell for cell in lane.cells if cell.state is StageState.FAILED) for lane in failed]
    reasons = "; ".join(f"{cell.stratum}: {cell.reason}" for cell in cells)
    return (cells[0].code if cells else ""), reasons


def withdrawn(assignment: Assignment, now: datetime, reason: str) -> Assignment:
    """Return an assignment whose offer was taken back before its device switched: it can be offered again."""
    return moved(assignment, _E.WITHDRAW, now, reason=reason, deadline=None, error_class="")


def needs_giving_back(assignment: Assignment) -> bool:
    """Return whether the device's document may still name the release because of this rollout."""
    is_out = assignment.state in (_S.ELIGIBLE, _S.INCOMPATIBLE, _S.SUPERSEDED, _S.CANCELLED)
    return assignment.gen > 0 and not assignment.back_gen and not is_out
