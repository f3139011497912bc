"""What must hold of a simulated rollout after each tick and at its end, counted from what devices really did. See `simulation`."""

from __future__ import annotations

from collections import Counter
from typing import Final

from edgefleet_protocol.ids import ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_protocol.rollout_states import ROLLOUT_FINAL
from edgefleet_server.rollout.analysis.model import Advance, Rule
from edgefleet_server.rollout.effects import DecisionMade, Plan, Revert
from edgefleet_server.rollout.model import Assignment, RolloutState, StageRun, StageState
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.intake import JOINER_SHARE
from edgefleet_server.rollout.planner.observe import OVERWRITTEN
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_TRANSITIONS,
    IN_FLIGHT,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
)
from tests.server.rollout.simulated_state import START, SimulatedState

_EDGES: Final = {
    table_name: {(before, after) for (before, _), after in table.items()}
    for table_name, table in (
        ("rollout", ROLLOUT_TRANSITIONS),
        ("cell", STAGE_TRANSITIONS),
        ("assignment", ASSIGNMENT_TRANSITIONS),
    )
}


class BrokenPromiseError(AssertionError):
    """The planner did what it must never do."""


class CheckedState(SimulatedState):
    """A state that notices what must never be."""

    def _check(self, holds: bool, words: str) -> None:
        if not holds:
            raise BrokenPromiseError(f"{words} (seed {self.scenario.seed}, {self.now - START} after the start)")

    def _check_edge(self, table: str, stored: object, before: object, after: object) -> None:
        self._check(stored is before, f"a {table} moves from {before}, but is {stored}")
        self._check((before, after) in _EDGES[table], f"a {table} moved from {before} to {after}")

    def _check_order(self, stored: StageRun, cell: StageRun) -> None:
        earlier = [c for c in self.cells.values() if c.stratum == cell.stratum and c.stage < cell.stage]
        if stored.state is StageState.PENDING:
            done = all(c.state in (StageState.PASSED, StageState.SKIPPED) for c in earlier)
            self._check(done, f"stage {cell.stage} of {cell.stratum} left pending before the one before it passed")
            self._check(cell.cut >= max((c.cut for c in earlier), default=0), "a cut fell")
        else:
            self._check(stored.cut == cell.cut, "the cut of an open stage changed")
        if cell.state is StageState.SKIPPED:
            known = [a for a in self.assignments.values() if a.stratum == cell.stratum]
            self._check(not any(a.gen for a in known if a.state in IN_FLIGHT), "skipped a stage with devices in it")

    def _check_limits(self) -> None:
        """No limit is exceeded, neither by leases nor by what devices really do, and nobody downloads without a lease."""
        limits = self.spec.limits
        if not limits.are_set:
            return
        busy = {device.id for device in self.devices.values() if device.is_downloading} & self.assignments.keys()
        if self.state not in ROLLOUT_FINAL:  # after the end those who were away come back when they like
            self._check(busy <= self.leases.keys(), f"{sorted(busy - self.leases.keys())} download without a lease")
        most = limits.concurrent_downloads
        self._check(most is None or len(self.leases) <= most, f"{len(self.leases)} leases")
        by_site = Counter(lease.site for lease in self.leases.values())
        most = limits.per_site
        self._check(most is None or max(by_site.values(), default=0) <= most, f"leases by site: {by_site}")

    def _check_verdict(self, judged: DecisionMade) -> None:
        """A promotion rests on devices that really run the release, whatever reports were lost."""
        self.verdicts[judged.decision.code] += 1
        if not isinstance(judged.decision, Advance):
            return
        facts = judged.facts
        stratum = ProfileName(facts.stratum)
        digest = self.bundles[stratum].sha256
        ran = sum(self._ran_past_soak(one, digest) for one in self.assignments.values() if one.stratum == stratum)
        self._check(facts.counts.healthy > 0, "promoted on nothing")
        self._check(facts.counts.healthy <= ran, "promoted on devices that never ran the release")
        if facts.rule is Rule.ALL_HEALTHY:
            self._check(facts.counts.failed == 0 and facts.counts.pending == 0, "promoted with devices not healthy")
            needed = min(2, facts.population)
            self._check(facts.counts.healthy >= needed, "promoted on fewer devices than the rule asks for")

    def _ran_past_soak(self, one: Assignment, digest: str) -> bool:
        device = self.devices[one.device]
        since = device.switched_at.get(digest)
        soak = self.spec.stages[one.stage].soak
        return digest in device.committed and since is not None and since + soak <= self.now

    def _check_joiner(self, one: Assignment) -> None:
        settled = (StageState.SOAKING, StageState.JUDGING)
        if not any(c.state in settled for c in self.cells.values() if c.stratum == one.stratum):
            return
        lane = [a for a in self.assignments.values() if a.stratum == one.stratum]
        flying = sum(a.is_joiner and (a.state in IN_FLIGHT or a.state is AssignmentState.ELIGIBLE) for a in lane)
        exposed = sum(a.exposed_at is not None for a in lane)
        self._check(flying <= max(1, exposed * JOINER_SHARE), f"{flying} joiners at once in a stage of {exposed}")

    def _check_way_back(self, plan: Plan) -> None:
        back = [self.assignments[e.device] for e in plan.effects if isinstance(e, Revert) and e.is_rollback]
        times = [one.exposed_at or one.offered_at or self.now for one in back]
        self._check(times == sorted(times, reverse=True), "not taken back newest exposed first")

    def _check_end(self) -> None:
        """Where the release was taken back nobody runs it who can be reached, but for those that are named."""
        if self.state is RolloutState.CANCELLED or self.state is RolloutState.SUPERSEDED:
            return
        failed = {c.stratum for c in self.cells.values() if c.state is StageState.FAILED}
        if self.state in (RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE):
            failed |= {a.stratum for a in self.assignments.values()}
        for one in self.assignments.values():
            device, bundle = self.devices[one.device], self.bundles.get(one.stratum)
            if one.stratum not in failed or bundle is None:
                continue
            wants = self.documents[one.device]
            self._check(
                not wants.is_rollout or device.is_revoked,
                f"{one.device} ({one.state}) is still told to run the release",
            )
            if device.active is not None and device.active.sha256 == bundle.sha256 and device.is_online:
                is_named = one.reason.startswith(NOT_BACK) or (
                    one.reason == OVERWRITTEN and wants.active is not None and wants.active.sha256 != bundle.sha256
                )
                self._check(is_named, f"{one.device} ({one.state}) still runs the release that was taken back")
