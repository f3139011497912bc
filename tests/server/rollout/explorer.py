"""Every reachable combination of rollout, stage and assignment of a small fleet, through the shipped planner and commands.

A state is what the server stores, what each device said last, what its document names, and how long ago what happened, in hours:
every deadline of the spec is one hour, so a jump of an hour makes any of them due and no order of two is lost. From each state all
of these may happen next: a tick; a person's pause, resume, abort, promotion, retry, approval, denial or undo; an hour; a device that takes
up its document, gets further, fails in one of its ways, goes back by itself, refuses, falls silent or is there again; another release
deployed over it; a device that joins. States that differ only in words, in counters that grow for ever, or in times long past are one.

Watched at every step:
- a transition starts from what is stored, is in its table, and happens once; what has ended moves along the named edges only;
- no device is offered the release beyond its cut, in a stage that has not opened, before an approval that the stage needs, twice in an
  attempt, or unless the rollout runs;
- a stage passes by its rule, counted anew from what devices really run, or on a person's word; never by a device that had failed;
- a device that failed is offered the release again on a person's word only, and its failure stays counted;
- where the release was taken back, every device that took it up is told to go back, and those not heard to be back are named.
`main` explores `n` states, fleet after fleet, the smallest to its end; `exhausted` says which were explored whole.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout import approving, control, second_try, undoing
from edgefleet_server.rollout.draft import NOT_BACK
from edgefleet_server.rollout.hearing import OVERWRITTEN
from edgefleet_server.rollout.machines import (
    ASSIGNMENT_FINAL,
    ASSIGNMENT_TRANSITIONS,
    CELL_DONE,
    FAILED_STATES,
    ROLLOUT_FINAL,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
    IllegalTransitionError,
)
from edgefleet_server.rollout.membership import rank
from edgefleet_server.rollout.model import (
    Advance,
    Assignment,
    AssignmentMade,
    AssignmentMoved,
    AssignmentNoted,
    Bundle,
    Cell,
    CellMade,
    CellMoved,
    CellNoted,
    GiveBack,
    Judged,
    Member,
    Offer,
    Plan,
    Report,
    RolloutMoved,
    RolloutState,
    Snapshot,
    StageState,
    Strength,
)
from edgefleet_server.rollout.planner import plan_tick
from edgefleet_server.rollout.shape import profile_of
from edgefleet_server.rollout.spec import parse_spec
from tests.server.rollout.simulated_devices import bundle_of

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
LONG_AGO: Final = 8
"""Hours after which nothing depends on how long ago something was: the longest wait is four times `verify`."""
NO_DOCUMENT: Final = (0, "", 0)
_S = AssignmentState
_EDGES: Final[Mapping[str, Set[tuple[object, object]]]] = {
    "rollout": {(a, b) for (a, _), b in ROLLOUT_TRANSITIONS.items()},
    "cell": {(a, b) for (a, _), b in STAGE_TRANSITIONS.items()},
    "assignment": {(a, b) for (a, _), b in ASSIGNMENT_TRANSITIONS.items()},
}
OUT_OF_END: Final = {
    (_S.HEALTHY, _S.REGRESSED),
    (_S.HEALTHY, _S.ROLLED_BACK),
    (_S.HEALTHY, _S.SUPERSEDED),
    (_S.REGRESSED, _S.ROLLED_BACK),
    *((failure, _S.ELIGIBLE) for failure in FAILED_STATES),
}
"""What may still become of a device that has an outcome."""
OUT_OF_FINAL: Final = {
    (RolloutState.FINISHED, RolloutState.REGRESSED),
    (RolloutState.REGRESSED, RolloutState.ROLLING_BACK),
    (RolloutState.FINISHED, RolloutState.RUNNING),
}
COMMANDS: Final = ("pause", "resume", "abort", "abort_rollback", "promote", "retry", "undo", "approve", "deny")
_WALKS: Final = (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL)


class BrokenInvariantError(AssertionError):
    """A step that must never be; `trail` is how one gets there."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a device's document names. gen: of the document; attempt: of the offer, 1 without a rollout."""

    gen: int
    bundle: Bundle | None
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One state of the whole. joined: how many of the fleet's devices are there."""

    now: datetime
    state: RolloutState
    reason: str
    cells: tuple[Cell, ...]
    assignments: tuple[Assignment, ...]
    reports: tuple[Report, ...]
    documents: tuple[Document, ...]
    joined: int


@dataclass(frozen=True)
class Fleet:
    """What is explored: devices by rank, a spec, and whether the last device joins late."""

    name: str
    strata: tuple[str, ...]
    stages: tuple[Mapping[str, Any], ...]
    on_fail: str = "rollback"
    late: int = 0


FLEETS: Final = (
    Fleet("one-device", ("rpi",), ({"name": "all", "size": {"percent": 100}, "soak": "1h"},)),
    Fleet("two-in-one-stage", ("rpi", "rpi"), ({"name": "all", "size": {"percent": 100}, "soak": "1h"},)),
    Fleet(
        "three-in-two-stages",
        ("rpi", "rpi", "rpi"),
        (
            {"name": "canary", "size": {"count": 2}, "soak": "1h"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
        ),
    ),
    Fleet(
        "approval-between-strata-of-a-label",
        ("rpi/site=a", "rpi/site=b"),
        (
            {"name": "first", "size": {"count": 1}, "soak": "0s"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h", "approval": {"role": "approver", "timeout": "1h"}},
        ),
    ),
    Fleet(
        "two-strata-and-a-joiner",
        ("rpi", "jet", "rpi"),
        (
            {"name": "first", "size": {"count": 1}, "soak": "0s"},
            {"name": "rest", "size": {"percent": 100}, "soak": "1h"},
        ),
        on_fail="pause",
        late=1,
    ),
)


class Explorer:
    """Walks the states of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.spec = parse_spec(
            {
                "release": "digits@1.2.0",
                "selector": "",
                "stages": [dict(stage) for stage in fleet.stages],
                "device": {f"{name}_deadline": "1h" for name in ("ack", "download", "apply", "verify")},
                "on_fail": fleet.on_fail,
                "on_inconclusive": {"after": "3h", "do": fleet.on_fail},
            }
        )
        self.salt = "explored"
        names = [DeviceId(f"d{number}") for number in range(len(fleet.strata))]
        self.devices = sorted(names, key=lambda one: rank(self.salt, one))
        self.place = {device: place for place, device in enumerate(self.devices)}
        self.members = tuple(
            Member(device, ProfileName(stratum)) for device, stratum in zip(self.devices, fleet.strata, strict=True)
        )
        self.bundles = {ProfileName(name): bundle_of("new", profile_of(name)) for name in fleet.strata}
        self.old = [bundle_of("old", profile_of(name)) for name in fleet.strata]
        self.new = [self.bundles[ProfileName(name)] for name in fleet.strata]
        self.other = [bundle_of("other", profile_of(name)) for name in fleet.strata]
        self.seen: set[int] = set()
        self.combinations: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()

    def first(self) -> Node:
        """Return the state in which the rollout was just made."""
        reports = tuple(Report(phase=Phase.COMMITTED, active_sha256=old.sha256, is_online=True) for old in self.old)
        documents = tuple(Document(0, old) for old in self.old)
        joined = len(self.devices) - self.fleet.late
        return Node(START, RolloutState.RUNNING, "started", (), (), reports, documents, joined)

    def explore(self, n: int, chance: random.Random) -> bool:
        """Visit `n` states, or all; return whether that was all. Raises BrokenInvariantError.

        Which one is gone on from is drawn: breadth first, `n` states would all be near the beginning.
        """
        open_nodes = [self.first()]
        self.seen = {self.key(open_nodes[0])}
        while open_nodes and len(self.seen) < n:
            drawn = chance.randrange(len(open_nodes))
            open_nodes[drawn], open_nodes[-1] = open_nodes[-1], open_nodes[drawn]
            for name, after in self.next(open_nodes.pop()):
                self.steps[name] += 1
                key = self.key(after)
                if key not in self.seen:
                    self.seen.add(key)
                    open_nodes.append(after)
        return not open_nodes

    # ---- what may happen

    def next(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Yield every state that may follow, with the name of the step."""
        yield "tick", self._carry(node, "tick", plan_tick(self.snapshot(node), node.now))
        yield "an hour", replace(node, now=node.now + HOUR)
        for command in COMMANDS:
            plan = self._command(node, command)
            if plan is not None:
                yield command, self._carry(node, command, plan)
        if node.joined < len(self.devices):
            yield "join", replace(node, joined=node.joined + 1)
        for place in range(node.joined):
            for name, report in self._reports(node, place):
                yield name, replace(node, reports=_with(node.reports, place, report))
            if node.documents[place].bundle != self.other[place]:
                over = Document(node.documents[place].gen + 1, self.other[place])
                yield "deployed over", replace(node, documents=_with(node.documents, place, over))

    def _command(self, node: Node, command: str) -> Plan | None:
        snapshot, now = self.snapshot(node), node.now
        try:
            match command:
                case "pause":
                    return control.plan_pause(snapshot, now, "a person")
                case "resume":
                    return control.plan_resume(snapshot, now, "a person")
                case "abort":
                    return control.plan_abort(snapshot, now, "a person", rollback=False)
                case "abort_rollback":
                    return control.plan_abort(snapshot, now, "a person", rollback=True)
                case "promote":
                    made = control.plan_promotion(snapshot, now, "a person", None)
                    return made if made.effects else None
                case "retry":
                    return second_try.plan_retry(snapshot, now, "a person", second_try.Choice(is_every=True))
                case "approve" | "deny":
                    return _answer(snapshot, command, now)
                case _:
                    return undoing.plan_reopening(snapshot, now, "a person")
        except IllegalTransitionError:
            return None

    def _reports(self, node: Node, place: int) -> Iterator[tuple[str, Report]]:
        """Yield what a device may say next, as an agent would: it takes the newest document, and goes on from there."""
        said, document, new = node.reports[place], node.documents[place], self.new[place]
        if not said.is_online:
            yield "back online", replace(said, is_online=True, last_seen=node.now)
            return
        said = replace(said, last_seen=node.now)
        if document.gen > max(said.reported_gen, said.refused_gen):
            yield "takes it up", self._taken_up(said, document)
            yield (
                "refuses",
                replace(said, refused_gen=document.gen, refused_code="verify.signature", refused_reason="x"),
            )
        if said.phase in (Phase.DOWNLOADING, Phase.SWITCHING):
            further = Phase.SWITCHING if said.phase is Phase.DOWNLOADING else Phase.PROBATION
            active = new.sha256 if further is Phase.PROBATION else said.active_sha256
            yield "further", replace(said, phase=further, active_sha256=active)
            yield "fails", _fault(said, Phase.FAILED, ErrorClass.GOLDEN)
            if said.error_class is None:
                yield "has trouble", _fault(said, said.phase, ErrorClass.DISK)
        if said.active_sha256 == new.sha256:
            back = replace(said, active_sha256=self.old[place].sha256)
            yield "goes back", _fault(back, Phase.ROLLED_BACK, ErrorClass.CRASH)
            if said.phase is Phase.PROBATION:
                yield "commits", replace(said, phase=Phase.COMMITTED)
                yield "silent", replace(said, is_online=False)

    def _taken_up(self, said: Report, document: Document) -> Report:
        bundle = document.bundle
        wanted = "" if bundle is None else bundle.sha256
        fresh = replace(
            said,
            reported_gen=document.gen,
            gen=document.gen,
            wanted_sha256=wanted,
            attempt=document.attempt,
            error_class=None,
            error_code="",
            reason="",
        )
        if wanted == said.active_sha256:
            keeps = said.phase if said.phase in (Phase.PROBATION, Phase.COMMITTED) else Phase.COMMITTED
            return replace(fresh, phase=keeps)
        if bundle is not None and bundle in self.new:
            return replace(fresh, phase=Phase.DOWNLOADING)
        return replace(fresh, phase=Phase.COMMITTED, active_sha256=wanted)

    # ---- the store

    def snapshot(self, node: Node) -> Snapshot:
        """Return what the server would load."""
        reports = {
            device: replace(node.reports[place], wanted_by_server="" if bundle is None else bundle.sha256)
            for place, device in enumerate(self.devices[: node.joined])
            for bundle in (node.documents[place].bundle,)
        }
        return Snapshot(
            id=RolloutId("r-1"),
            state=node.state,
            spec=self.spec,
            salt=self.salt,
            bundles=self.bundles,
            members=self.members[: node.joined] if node.state in _WALKS else (),
            cells=node.cells,
            assignments=node.assignments,
            reports=reports,
            reason=node.reason,
        )

    def _carry(self, node: Node, step: str, plan: Plan) -> Node:
        """Return the state after a plan was carried out; check every effect of it."""
        return _Carrying(self, node, step).carry(plan)

    # ---- one state, one key

    def key(self, node: Node) -> int:
        """Return what tells states apart; counts which combinations of states were met."""
        cells = tuple(self._cell(node, cell) for cell in node.cells)
        known = {self.place[one.device]: one for one in node.assignments}
        devices = tuple(self._device(node, place, known.get(place)) for place in range(len(self.devices)))
        stages = "+".join(sorted({cell.state.value for cell in node.cells}))
        states = "+".join(sorted({one.state.value for one in node.assignments}))
        self.combinations[f"{node.state.value}/{stages}/{states}"] += 1
        return hash((node.state, node.joined, cells, devices))

    def _cell(self, node: Node, cell: Cell) -> tuple[object, ...]:
        times = (_ago(node, cell.opened_at), _ago(node, cell.soak_until), _ago(node, cell.resumed_at))
        if cell.state in CELL_DONE:
            times = (None, None, None)
        asked = (cell.approved_by, _ago(node, cell.asked_at) if cell.state is StageState.PENDING else None)
        return (cell.stage, cell.stratum, cell.state, cell.cut, cell.code, cell.verdict, cell.strength, times, asked)

    def _device(self, node: Node, place: int, one: Assignment | None) -> tuple[object, ...]:
        said, document = node.reports[place], node.documents[place]
        gens = [document.gen, said.reported_gen, said.gen, said.refused_gen]
        tries = [document.attempt, said.attempt]
        told: tuple[object, ...] = ()
        if one is not None:
            gens += [one.gen, one.back_gen]
            tries += [one.attempt]
            words = (one.reason.startswith(NOT_BACK), one.reason == OVERWRITTEN, one.error_class)
            times = tuple(
                _ago(node, moment)
                for moment in (one.deadline, one.switched_at, one.back_at, one.entered_at if one.deadline else None)
            )
            marks = (
                one.is_joiner,
                one.is_accepted,
                one.exposed_at is not None,
                one.back_done_at is not None,
                one.failed_before,
            )
            told = (one.state, one.stage, words, times, marks)
        bundle = "" if document.bundle is None else document.bundle.target
        spoke = (said.phase, said.active_sha256, said.wanted_sha256, said.error_class, said.is_online)
        seen_at = _ago(node, said.last_seen) if said.phase is Phase.PROBATION else None
        return (told, bundle, spoke, seen_at, _in_order(gens), _in_order(tries))


class _Carrying:
    """One plan being carried out and checked."""

    def __init__(self, explorer: Explorer, node: Node, step: str) -> None:
        self.explorer = explorer
        self.node = node
        self.step = step
        self.state, self.reason = node.state, node.reason
        self.cells = {(cell.stage, cell.stratum): cell for cell in node.cells}
        self.assignments = {one.device: one for one in node.assignments}
        self.documents = list(node.documents)
        self.passed_by_rule: set[tuple[int, str]] = set()

    def carry(self, plan: Plan) -> Node:
        wishes: dict[DeviceId, Offer | GiveBack] = {}
        for effect in plan.effects:
            match effect:
                case RolloutMoved():
                    self._move_rollout(effect)
                case CellMade():
                    self._check((effect.cell.stage, effect.cell.stratum) not in self.cells, "a cell was made twice")
                    self.cells[effect.cell.stage, effect.cell.stratum] = effect.cell
                case CellMoved() | CellNoted():
                    self._move_cell(effect)
                case AssignmentMade():
                    self._take_in(effect.assignment)
                case AssignmentMoved() | AssignmentNoted():
                    self._move_assignment(effect)
                case Offer() | GiveBack():
                    wishes[effect.device] = effect
                case Judged():
                    if isinstance(effect.decision, Advance):
                        self._check_rule(effect)
        for device, wish in wishes.items():
            self._sign(device, wish)
        self._check_end()
        return replace(
            self.node,
            state=self.state,
            reason=self.reason,
            cells=tuple(self.cells[key] for key in sorted(self.cells)),
            assignments=tuple(self.assignments[device] for device in sorted(self.assignments)),
            documents=tuple(self.documents),
        )

    def _check(self, holds: bool, words: str) -> None:
        if not holds:
            raise BrokenInvariantError(f"{self.explorer.fleet.name}, {self.step}: {words}\n{self.node}")

    def _move_rollout(self, effect: RolloutMoved) -> None:
        self._check(effect.before is self.state, "the rollout moves from a state that it is not in")
        self._check((effect.before, effect.after) in _EDGES["rollout"], f"no edge {effect.before} -> {effect.after}")
        if effect.before in ROLLOUT_FINAL:
            self._check((effect.before, effect.after) in OUT_OF_FINAL, "a rollout that ended moved")
            by = "retry" if effect.after is RolloutState.RUNNING else "undo"
            self._check(self.step == by, "a rollout that ended moved by itself")
        self.state, self.reason = effect.after, effect.reason

    def _move_cell(self, effect: CellMoved | CellNoted) -> None:
        cell = effect.cell
        key = (cell.stage, cell.stratum)
        stored = self.cells[key]
        if isinstance(effect, CellNoted):
            self._check(stored.state is cell.state, "a note changed a cell's state")
        else:
            self._check(effect.before is stored.state, "a cell moves from a state that it is not in")
            self._check((stored.state, cell.state) in _EDGES["cell"], f"no edge {stored.state} -> {cell.state}")
            self._check(stored.state not in CELL_DONE, "a cell that was done moved")
            if stored.state is StageState.PENDING:
                earlier = [one for one in self.cells.values() if one.stratum == cell.stratum and one.stage < cell.stage]
                is_next = all(one.state in (StageState.PASSED, StageState.SKIPPED) for one in earlier)
                self._check(is_next, "a stage opened before the one before it passed")
                self._check(cell.cut >= max((one.cut for one in earlier), default=0), "a cut fell")
            else:
                self._check(stored.cut == cell.cut, "the cut of an open stage changed")
            if cell.state is StageState.PASSED:
                is_said = self.step == "promote" and cell.strength is Strength.OVERRIDE
                self._check(is_said or key in self.passed_by_rule, "a stage passed without its rule")
        self.cells[key] = cell

    def _take_in(self, one: Assignment) -> None:
        self._check(one.device not in self.assignments, "a device was assigned twice")
        self._check(one.state is _S.ELIGIBLE, "a device did not begin as eligible")
        self.assignments[one.device] = replace(one, previous=self.explorer.old[self.explorer.place[one.device]])

    def _move_assignment(self, effect: AssignmentMoved | AssignmentNoted) -> None:
        one = effect.assignment
        stored = self.assignments[one.device]
        self._check(not stored.failed_before or one.failed_before != "", "an earlier failure was forgotten")
        if isinstance(effect, AssignmentNoted):
            self._check(stored.state is one.state, "a note changed an assignment's state")
        else:
            self._check(effect.before is stored.state, "an assignment moves from a state that it is not in")
            edge = (stored.state, one.state)
            self._check(edge in _EDGES["assignment"], f"no edge {stored.state} -> {one.state}")
            self._check(stored.state not in ASSIGNMENT_FINAL or edge in OUT_OF_END, "an assignment that ended moved")
            if stored.state in FAILED_STATES and one.state is _S.ELIGIBLE:
                self._check(
                    self.step == "retry" and one.failed_before != "",
                    "a failure was tried again by itself, or forgotten",
                )
            expected = stored.attempt + (one.state is _S.OFFERED)
            self._check(one.attempt == expected, "an attempt was skipped or doubled")
            if one.state is _S.CANCELLED and self.state is RolloutState.ROLLING_BACK:
                place = self.explorer.place[one.device]
                is_on_it = self.node.reports[place].active_sha256 == self.explorer.new[place].sha256
                self._check(not is_on_it or one.back_done_at is not None, "was let go though it says that it runs it")
        self.assignments[one.device] = replace(one, previous=stored.previous)

    def _sign(self, device: DeviceId, wish: Offer | GiveBack) -> None:
        place, one = self.explorer.place[device], self.assignments[device]
        gen = self.documents[place].gen + 1
        if isinstance(wish, Offer):
            self._check_offer(one)
            self.documents[place] = Document(gen, self.explorer.new[place], one.attempt)
            self.assignments[device] = replace(one, gen=gen)
            return
        self._check(self.documents[place].bundle == self.explorer.new[place], "wrote over what somebody else deployed")
        self.documents[place] = Document(gen, one.previous)
        if wish.is_rollback:
            self.assignments[device] = replace(one, back_gen=gen)

    def _check_offer(self, one: Assignment) -> None:
        is_running = self.node.state in _WALKS and self.state is RolloutState.RUNNING
        self._check(is_running, f"offered while {self.node.state}, {self.state}")
        lane = sorted((c for c in self.cells.values() if c.stratum == one.stratum), key=lambda cell: cell.stage)
        value = rank(self.explorer.salt, one.device)
        reaching = next(
            (cell.stage for cell in lane if cell.state is not StageState.PENDING and value < cell.cut), None
        )
        self._check(reaching == one.stage, f"offered beyond its cut: stage {one.stage}, its rank says {reaching}")
        self._check(not any(cell.state is StageState.FAILED for cell in lane), "offered in a stratum that failed")
        needs = self.explorer.spec.stages[one.stage].shape.approval is not None
        self._check(not needs or lane[one.stage].approved_by != "", "offered before somebody approved it")

    def _check_rule(self, judged: Judged) -> None:
        """Count the rule of small strata anew from the truth: what devices run, and since when."""
        facts, now = judged.facts, self.node.now
        counted = [
            one
            for one in self.assignments.values()
            if one.stratum == facts.stratum and one.stage <= facts.stage and not one.is_accepted
        ]
        self._check(not any(one.failed_before for one in counted), "passed although a device of it had failed")
        part = [one for one in counted if one.state not in (_S.CANCELLED, _S.SUPERSEDED, _S.INCOMPATIBLE)]
        reached = [one for one in part if one.state is not _S.UNREACHABLE]
        spec = self.explorer.spec
        proved = [
            one
            for one in reached
            if self._runs(one) and one.switched_at is not None and one.switched_at + spec.stages[one.stage].soak <= now
        ]
        self._check(proved == reached, f"passed with {len(proved)} proved of {len(reached)} devices")
        self._check(len(proved) >= min(2, facts.population), "passed on fewer devices than the rule asks for")
        self.passed_by_rule.add((facts.stage, facts.stratum))

    def _runs(self, one: Assignment) -> bool:
        place = self.explorer.place[one.device]
        said = self.node.reports[place]
        if self.node.documents[place].bundle == self.explorer.other[place]:
            return said.phase is not Phase.ROLLED_BACK  # it had run it for its soak when something else was deployed
        return said.active_sha256 == self.explorer.new[place].sha256 and said.phase is Phase.COMMITTED

    def _check_end(self) -> None:
        """Where the whole rollout was taken back, nobody is told to run it, and who is not back is named."""
        if self.state is self.node.state or self.state not in (
            RolloutState.ROLLED_BACK,
            RolloutState.ROLLBACK_INCOMPLETE,
        ):
            return
        self._check(self.reason != "", "ended without a reason")
        for one in self.assignments.values():
            place = self.explorer.place[one.device]
            told, said = self.documents[place].bundle, self.node.reports[place]
            self._check(told != self.explorer.new[place], f"{one.device} ({one.state}) is still told to run it")
            is_on_it = said.active_sha256 == self.explorer.new[place].sha256
            # who was never heard to take it up has no part in it any more, and is told to run something else
            if is_on_it and one.exposed_at is not None:
                is_named = one.reason.startswith(NOT_BACK) or told == self.explorer.other[place]
                self._check(is_named, f"{one.device} ({one.state}) runs it and is not named: {one.reason!r}")


def _answer(snapshot: Snapshot, command: str, now: datetime) -> Plan | None:
    if not approving.waiting(snapshot.cells) or snapshot.state not in _WALKS:
        return None  # the service refuses it
    if command == "deny":
        return control.plan_denial(snapshot, now, "a person", None)
    return control.plan_approval(snapshot, now, "ann", "a person", None)


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _fault(said: Report, phase: Phase, error_class: ErrorClass) -> Report:
    return replace(said, phase=phase, error_class=error_class, error_code=f"x.{error_class}", reason="it failed")


def _ago(node: Node, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return max(-LONG_AGO, min(LONG_AGO, (node.now - moment) // HOUR))


def _in_order(numbers: list[int]) -> tuple[int, ...]:
    """Return numbers as their order: 0 stays 0, the smallest other is 1, and so on."""
    place = {number: at for at, number in enumerate(sorted({0, *numbers}))}
    return tuple(place[number] for number in numbers)


def main(n: int, seed: int) -> dict[str, Any]:
    """Explore `n` states of the fleets together, each as many as the ones before it left; return what was met."""
    chance = random.Random(seed)
    fleets = sorted(FLEETS, key=lambda fleet: len(fleet.strata))
    found: dict[str, Any] = {}
    left = n
    broken: list[str] = []
    for number, fleet in enumerate(fleets):
        explorer = Explorer(fleet)
        share = left // (len(fleets) - number)
        try:
            is_all = explorer.explore(share, chance)
        except (BrokenInvariantError, IllegalTransitionError) as error:
            broken.append(str(error)[:4000])
            is_all = False
        states = len(explorer.seen)
        left -= states
        found[fleet.name] = {
            "states": states,
            "exhausted": is_all,
            "steps": dict(explorer.steps.most_common()),
            "combinations": len(explorer.combinations),
        }
    states = sum(one["states"] for one in found.values())
    is_enough = states >= n or all(one["exhausted"] for one in found.values())
    return {"ok": not broken and is_enough, "states": states, "fleets": found, "broken": broken}


if __name__ == "__main__":
    print(main(int(sys.argv[1]), 0))
