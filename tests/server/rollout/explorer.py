"""Every reachable combination of rollout, stage and assignment of a small fleet, through the shipped planner and commands.

A state is what the server stores, what each device said last, what its document names, and how long ago what happened, in hours:
every deadline of the spec is one hour, so a jump of an hour makes any of them due and no order of two is lost. From each state all
of these may happen next: a tick; a person's pause, resume, abort, promotion, skip, retry, approval, denial or undo; an hour; a device that
takes up its document, gets further, fails in one of its ways, goes back by itself, refuses, falls silent or is there again; another release
deployed over it; a device that joins. States that differ only in words, in counters that grow for ever, or in times long past are one.

Watched at every step:
- a transition starts from what is stored, is in its table, and happens once; what has ended moves along the named edges only;
- no device is offered the release beyond its cut, in a stage that has not opened, before an approval that the stage needs, twice in an
  attempt, or unless the rollout runs;
- a stage passes by its rule, counted anew from what devices really run, or on a person's word; never by a device that had failed;
- a device that failed is offered the release again on a person's word only, and its failure stays counted;
- a document lets the release answer no more than an open stage of its device lets it: nothing in a shadow, its share in a split; what
  runs beside ends with the rollout, and a device goes on only from one mode to the next;
- a rollout that a look does not change is over, or says what it waits for and what would move it;
- where the release was taken back, every device that took it up is told to go back, and those not heard to be back are named.
`main` explores `n` states, fleet after fleet. `exhausted` says which were explored whole, `combinations` how many of rollout, stages and
assignments were met in all, and `last_new_combination_at` after how many states none was new any more.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from edgefleet_server.rollout import second_try
from edgefleet_server.rollout.machines import IllegalTransitionError
from edgefleet_server.rollout.model import Plan, RolloutState, Snapshot
from edgefleet_server.rollout.planner import plan_tick
from edgefleet_server.rollout.waits import device_waits, rollout_waits
from edgefleet_sim import people
from tests.server.rollout.explored import HOUR, Document, Fleet, Ground, Node
from tests.server.rollout.explored_devices import may_say
from tests.server.rollout.explored_fleets import FLEETS
from tests.server.rollout.explored_keys import combination_of, key_of
from tests.server.rollout.explored_steps import BrokenInvariantError, Carrying

DRAWN: Final = 4
"""States of which the one of the rarest combination is gone on from."""
OVER: Final = frozenset(
    {RolloutState.FINISHED, RolloutState.ROLLED_BACK, RolloutState.SUPERSEDED, RolloutState.CANCELLED}
)
COMMANDS: Final = ("pause", "resume", "abort", "abort_rollback", "promote", "skip", "retry", "undo", "approve", "deny")


class Explorer(Ground):
    """Walks the states of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.seen: set[int] = set()
        self.combinations: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.newest_at = 0
        """How many states had been seen when the last new combination was met."""

    def explore(self, n: int, chance: random.Random) -> bool:
        """Visit `n` states, or all; return whether that was all. Raises BrokenInvariantError.

        Which one is gone on from is drawn: breadth first, `n` states would all be near the beginning. Of some that are drawn it is the one
        whose combination of rollout, stages and assignments is the rarest, so that those that few ways lead to are met too.
        """
        first = self.first()
        self.seen, open_nodes = {self.key(first)}, [(combination_of(first), first)]
        while open_nodes and len(self.seen) < n:
            for name, after in self.next(self._drawn(open_nodes, chance)):
                self.steps[name] += 1
                known, key = len(self.combinations), self.key(after)
                if key not in self.seen:
                    self.seen.add(key)
                    open_nodes.append((combination_of(after), after))
                    self.newest_at = len(self.seen) if len(self.combinations) > known else self.newest_at
        return not open_nodes

    def _drawn(self, nodes: list[tuple[str, Node]], chance: random.Random) -> Node:
        """Take out of a few that are drawn the one of the rarest combination."""
        drawn = min(
            (chance.randrange(len(nodes)) for _ in range(DRAWN)), key=lambda place: self.combinations[nodes[place][0]]
        )
        nodes[drawn], nodes[-1] = nodes[-1], nodes[drawn]
        return nodes.pop()[1]

    def key(self, node: Node) -> int:
        """Return what tells states apart; counts which combinations of states were met."""
        self.combinations[combination_of(node)] += 1
        return key_of(self, node)

    def carry(self, node: Node, step: str, plan: Plan) -> Node:
        """Return the state after a plan was carried out; check every effect of it."""
        return Carrying(self, node, step).carry(plan)

    # ---- what may happen

    def next(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Yield every state that may follow, with the name of the step."""
        snapshot = self.snapshot(node)
        ticked = plan_tick(snapshot, node.now)
        if not ticked.effects:
            self._tells_what_moves_it(snapshot, node)
        yield "tick", self.carry(node, "tick", ticked)
        yield "an hour", replace(node, now=node.now + HOUR)
        for command in COMMANDS:
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

    def _tells_what_moves_it(self, snapshot: Snapshot, node: Node) -> None:
        """A rollout in which a look changes nothing is over, or says what it waits for and what would move it."""
        waits = rollout_waits(snapshot, device_waits(snapshot, node.now), [(a, 1) for a in snapshot.assignments])
        if not (waits or node.state in OVER) or not all(one.reason and one.moves for one in waits):
            raise BrokenInvariantError(f"{self.fleet.name}: nothing says what it waits for: {waits}\n{node}")

    def _command(self, node: Node, command: str) -> Plan | None:
        snapshot, now = self.snapshot(node), node.now
        try:
            if command == "retry":
                made = second_try.plan_retry(snapshot, now, "a person", second_try.Choice(is_every=True))
            else:
                made = people.plan_of(command, snapshot, now)
        except IllegalTransitionError:
            return None
        return made if made.effects else None


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


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
            "last_new_combination_at": explorer.newest_at,
        }
    states = sum(one["states"] for one in found.values())
    is_enough = states >= n or all(one["exhausted"] for one in found.values())
    return {"ok": not broken and is_enough, "states": states, "fleets": found, "broken": broken}


if __name__ == "__main__":
    print(main(int(sys.argv[1]), 0))
