"""Every reachable combination of rollout, stage and assignment of a small fleet, through the shipped planner and commands.

A state is what the server stores, what each device said last, what its document names, and how long ago what happened, in hours:
every deadline of the spec is one hour, so a jump of an hour makes any of them due and no order of two is lost. From each state all
of these may happen next: a tick; a person's pause, resume, abort, promotion, skip, retry, approval, denial or undo; an hour; a device that
takes up its document, gets further, fails in one of its ways, goes back by itself, refuses, falls silent or is there again, or lies;
another release deployed over it; a device that joins; an answer of a drawn device, or of the server itself, to a question about failures.
Whom the server draws is tried out, too. States in which the same may follow are one (`explored_keys`): that it does is watched too.

Watched at every step:
- a transition starts from what is stored, is in its table, and happens once; what has ended moves along the named edges only;
- no device is offered the release beyond its cut, in a stage that has not opened, before an approval that the stage needs, twice in an
  attempt, or unless the rollout runs;
- a stage passes by its rule, counted anew from what devices really run, or on a person's word; never by a device that had failed;
- a device that failed is offered the release again on a person's word only, and its failure stays counted;
- a document lets the release answer no more than an open stage of its device lets it: nothing in a shadow, its share in a split; what
  runs beside ends with the rollout, and a device goes on only from one mode to the next;
- a rollout that a look does not change is over, or says what it waits for and what would move it;
- one device alone takes the release back from no other: no stage of several devices fails on its failures, unless the server's own check
  of the bundle failed, and where it is the only one that fails or lies no other device goes back;
- while a question about failures is open, only the one device that was drawn for it is offered the release; each is answered
  in time;
- where the release was taken back, every device that took it up is told to go back, and those not heard to be back are named.
`main` explores the small fleets whole, and `n` states of the others, fleet after fleet. `exhausted` says which were explored whole,
`combinations` how many of rollout, stages and assignments were met in all, `last_new_combination_at` after how many states none was new
any more, and `compared` how many pairs of states that are taken for one were gone on from both.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import msgspec

from edgefleet_server.rollout.analysis.confirmation import ALIVE
from edgefleet_server.rollout.commands import retry
from edgefleet_server.rollout.effects import ConfirmationUpdated, Plan
from edgefleet_server.rollout.model import CheckEnd, Proof, RolloutState, Snapshot
from edgefleet_server.rollout.planner.tick import explain, plan_tick
from edgefleet_server.rollout.state_machines import IllegalTransitionError
from edgefleet_server.rollout.status.model import rollout_waits
from edgefleet_sim import operator
from tests.server.rollout.explored import HOUR, Document, Fleet, Ground, Node
from tests.server.rollout.explored_devices import may_say
from tests.server.rollout.explored_fleets import FLEETS
from tests.server.rollout.explored_keys import combination_of, key_of
from tests.server.rollout.explored_steps import BrokenInvariantError, Carrying

KEPT: Final = 1 / 200
"""How many of the states are kept to be compared with what is taken for them."""
FULL: Final = 1_000_000
"""From this count on, small fleets are explored whole."""
FAILED: Final = CheckEnd(state="failed", code="check.golden")
ENDS: Final = (
    ("a check passes", CheckEnd(state="done")),
    ("a check fails", FAILED),
    ("a check says nothing", CheckEnd(state="expired")),
)
OVER: Final = frozenset(
    {RolloutState.FINISHED, RolloutState.ROLLED_BACK, RolloutState.SUPERSEDED, RolloutState.CANCELLED}
)
SEEDS: Final = ("a", "b", "d", "j")
"""By which the server draws: with these each device of the small fleets is drawn first once."""
COMMANDS: Final = ("pause", "resume", "abort", "abort_rollback", "promote", "skip", "retry", "undo", "approve", "deny")


class Frontier:
    """States that are still to be gone on from, each combination in its turn."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._open: dict[str, list[Node]] = {}
        self._drawn: Counter[str] = Counter()
        self._turns: list[tuple[int, float, str]] = []
        """A heap: how often a combination had its turn, at random among those that had as many, the combination."""

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, node: Node) -> None:
        """Take a state in."""
        name = combination_of(node)
        nodes = self._open.setdefault(name, [])
        nodes.append(node)
        if len(nodes) == 1:
            self._line_up(name)

    def draw(self) -> Node:
        """Take out one of the states of the combination whose turn it is."""
        _, _, name = heapq.heappop(self._turns)
        nodes = self._open[name]
        place = self._chance.randrange(len(nodes))
        nodes[place], nodes[-1] = nodes[-1], nodes[place]
        node = nodes.pop()
        self._drawn[name] += 1
        if nodes:
            self._line_up(name)
        return node

    def _line_up(self, name: str) -> None:
        heapq.heappush(self._turns, (self._drawn[name], self._chance.random(), name))


class Explorer(Ground):
    """Walks the states of one fleet."""

    def __init__(self, fleet: Fleet, kept: float = KEPT) -> None:
        super().__init__(fleet)
        self._kept = kept
        self.seen: set[int] = set()
        self.combinations: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.kept: dict[int, Node] = {}
        """States of which another that is taken for the same is gone on from too, by key."""
        self.compared = 0
        self.newest_at = 0
        """How many states had been seen when the last new combination was met."""

    def explore(self, n: int, chance: random.Random) -> bool:
        """Visit `n` states, or all; return whether that was all. Raises BrokenInvariantError.

        Breadth first, `n` states would all be near the beginning. It goes on from each combination of rollout, stages and assignments as
        often as from any other, and from which of its states is drawn: so those that few ways lead to are met too.
        """
        first, frontier = self.first(), Frontier(chance)
        self.seen = {self.key(first)}
        frontier.add(first)
        while frontier and len(self.seen) < n:
            for name, after in self.next(frontier.draw()):
                self.steps[name] += 1
                known, key = len(self.combinations), self.key(after)
                if key in self.seen:
                    self._meet_again(key, after)
                    continue
                self.seen.add(key)
                frontier.add(after)
                self.newest_at = len(self.seen) if len(self.combinations) > known else self.newest_at
                if chance.random() < self._kept:
                    self.kept[key] = after
        return not frontier

    def _meet_again(self, key: int, node: Node) -> None:
        """Go on from a state and from the one that it is taken for: the same must follow."""
        kept = self.kept.get(key)
        if kept is None or kept == node:
            return
        self.compared += 1
        first, second = ({(name, key_of(self, after)) for name, after in self.next(one)} for one in (kept, node))
        if first != second:
            steps = sorted({name for name, _ in first ^ second})
            raise BrokenInvariantError(f"{self.fleet.name}: after {steps} these differ:\n{kept}\n{node}")

    def key(self, node: Node) -> int:
        """Return what tells states apart; counts which combinations of states were met."""
        self.combinations[combination_of(node)] += 1
        return key_of(self, node)

    def carry(self, node: Node, step: str, plan: Plan) -> Node:
        """Return the state after a plan was carried out; check every effect of it."""
        return Carrying(self, node, step).carry(plan)

    # ---- what may happen

    def next(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Yield every state that may follow, with the name of the step, but for steps that this fleet is explored without."""
        without = self.fleet.without
        return (
            step
            for step in self._steps(node, [one for one in COMMANDS if one not in without])
            if step[0] not in without
        )

    def _steps(self, node: Node, commands: list[str]) -> Iterator[tuple[str, Node]]:
        snapshot = self.snapshot(node, SEEDS[0])
        ticked = plan_tick(snapshot, node.now)
        if not ticked.effects:
            self._tells_what_moves_it(snapshot, node, ticked)
        yield "tick", self.carry(node, "tick", ticked)
        if has_drawn(ticked, node):
            for seed in SEEDS[1:]:
                yield "tick", self.carry(node, "tick", plan_tick(self.snapshot(node, seed), node.now))
        yield from answers(self, node)
        yield "an hour", replace(node, now=node.now + HOUR)
        for command in commands:
            plan = self._command(node, command)
            if plan is not None:
                yield command, self.carry(node, command, plan)
        if node.joined < len(self.devices):
            yield "join", replace(node, joined=node.joined + 1)
        for place in range(node.joined):
            for name, report in may_say(self, node, place):
                yield name, replace(node, reports=_with(node.reports, place, report))
            if node.documents[place].bundle != self.other[place]:
                over = Document(node.documents[place].gen + 1, self.other[place])
                yield "deployed over", replace(node, documents=_with(node.documents, place, over))

    def _tells_what_moves_it(self, snapshot: Snapshot, node: Node, ticked: Plan) -> None:
        """A rollout in which a look changes nothing is over, or says what it waits for and what would move it: what the look reports."""
        lots = [(a, 1) for a in snapshot.assignments]
        shown = explain(snapshot, node.now, lots)
        reported = {report.step: report.blocked for report in ticked.report}
        if reported.get("blockers.report", ()) != shown.blocked:
            raise BrokenInvariantError(f"{self.fleet.name}: shown is {shown.blocked}, reported {reported}\n{node}")
        held = {blocked.wait.code for blocked in reported.get("offers.make", ())}
        if not held <= {wait.code for wait in shown.waits.values()}:
            raise BrokenInvariantError(f"{self.fleet.name}: devices are held by {held}, shown is {shown.waits}\n{node}")
        waits = rollout_waits(shown, snapshot.state, lots)
        if not (waits or node.state in OVER) or not all(one.reason and one.moves for one in waits):
            raise BrokenInvariantError(f"{self.fleet.name}: nothing says what it waits for: {waits}\n{node}")

    def _command(self, node: Node, command: str) -> Plan | None:
        snapshot, now = self.snapshot(node), node.now
        try:
            if command == "retry":
                made = retry.plan_retry(snapshot, now, "a person", retry.Choice(is_every=True))
            else:
                made = operator.plan_of(command, snapshot, now)
        except IllegalTransitionError:
            return None
        return made if made.effects else None


def has_drawn(plan: Plan, node: Node) -> bool:
    """Return whether a plan opens a question: only then does the seed matter."""
    known = {(one.stratum, one.number) for one in node.confirmations}
    asked = (effect.confirmation for effect in plan.effects if isinstance(effect, ConfirmationUpdated))
    return any((one.stratum, one.number) not in known for one in asked)


def answers(ground: Ground, node: Node) -> Iterator[tuple[str, Node]]:
    """Yield what may be answered: a device ends its check in one of three ways, the server finds a bundle good or bad."""
    liar = None if ground.fleet.liar is None else ground.devices[ground.fleet.liar]
    asked = {draw.task: draw.device for one in node.confirmations for draw in one.draws}
    for place, (task, end) in enumerate(node.checks):
        for name, found in ENDS if end.state == "queued" else ():
            if liar in (None, asked[task]) or found != FAILED:
                yield name, replace(node, checks=_with(node.checks, place, (task, found)))
    for place, one in enumerate(node.confirmations):
        if one.verdict not in ALIVE or not one.needs_proof or one.proof is not None:
            continue
        for name, is_ok in (("the bundle is good", True), ("the bundle is bad", False)):
            if is_ok or liar is None:
                proved = msgspec.structs.replace(one, proof=Proof(is_ok=is_ok, what="checked"))
                yield name, replace(node, confirmations=_with(node.confirmations, place, proved))


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def main(n: int, seed: int) -> dict[str, Any]:
    """Explore small fleets whole, when `n` is a full count, and `n` states of the others together; return what was met.

    Which fleet is done is said on stderr: the small ones whole were not done after half an hour of processor time.
    """
    chance = random.Random(seed)
    small = [fleet for fleet in FLEETS if fleet.is_small and n >= FULL]
    others = sorted((fleet for fleet in FLEETS if fleet not in small), key=lambda fleet: len(fleet.strata))
    found = {fleet.name: explored(fleet, sys.maxsize, chance) for fleet in small}
    left = n
    for number, fleet in enumerate(others):
        found[fleet.name] = explored(fleet, left // (len(others) - number), chance)
        left -= found[fleet.name]["states"]
    broken = [one["broken"] for one in found.values() if one["broken"]]
    is_whole = all(found[fleet.name]["exhausted"] for fleet in small)
    is_enough = left <= 0 or all(one["exhausted"] for one in found.values())
    states = sum(one["states"] for one in found.values())
    return {"ok": not broken and is_whole and is_enough, "states": states, "fleets": found, "broken": broken}


def explored(fleet: Fleet, n: int, chance: random.Random) -> dict[str, Any]:
    """Explore `n` states of one fleet and return what is said of it."""
    explorer = Explorer(fleet)
    broken, is_all = "", False
    try:
        is_all = explorer.explore(n, chance)
    except (BrokenInvariantError, IllegalTransitionError) as error:
        broken = str(error)[:4000]
    sys.stderr.write(f"{fleet.name}: {len(explorer.seen)} states{', all there are' if is_all else ''}\n")
    return {
        "states": len(explorer.seen),
        "exhausted": is_all,
        "steps": dict(explorer.steps.most_common()),
        "compared": explorer.compared,
        "combinations": len(explorer.combinations),
        "last_new_combination_at": explorer.newest_at,
        "broken": broken,
    }


if __name__ == "__main__":
    print(main(int(sys.argv[1]), 0))
