"""The store of a simulated rollout: snapshots, and plans carried out as the server does, each effect checked. See `simulation`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

from edgefleet_protocol.ids import DeviceId, RolloutId
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    BandwidthBooked,
    DecisionMade,
    LeaseEnded,
    LeaseTaken,
    Offer,
    Plan,
    RampWindowUpdated,
    Revert,
    RolloutTransitioned,
    StageRunCreated,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    PaceFacts,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Strength,
    Whereabouts,
)
from edgefleet_server.rollout.state_machines import CELL_OPEN
from tests.server.rollout.simulated_checks import CheckedState
from tests.server.rollout.simulated_devices import Document, SimulatedDevice


class SimulatedStore(CheckedState):
    """Rows and documents."""

    def snapshot(self) -> Snapshot:
        """Return what the server would load."""
        is_running = self.state is RolloutState.RUNNING
        return Snapshot(
            id=RolloutId("r-1"),
            state=self.state,
            spec=self.spec,
            salt=self.salt,
            bundles=self.bundles,
            members=tuple(self.members.values()) if is_running else (),
            cells=tuple(self.cells[key] for key in sorted(self.cells)),
            assignments=tuple(self.assignments[key] for key in sorted(self.assignments)),
            reports={device: self._report(device) for device in self.assignments},
            pace=self._pace(),
        )

    def _pace(self) -> PaceFacts:
        by_site = Counter(lease.site for lease in self.leases.values())
        where = {device: Whereabouts(f"site-{len(device) % 2}-{device[-1]}", "UTC") for device in self.assignments}
        held = tuple(self.leases[device] for device in sorted(self.leases))
        return PaceFacts(tuple(self.minutes.values()), held, len(held), by_site, self.line_until, where)

    def _report(self, device: DeviceId) -> Report:
        told, document = self.devices[device].told, self.documents[device]
        known = self._reports.get(device)
        if known is None or known[0] is not told or known[1] is not document:
            wanted = "" if document.active is None else document.active.sha256
            known = self._reports[device] = (told, document, replace(told, wanted_by_server=wanted))
        return known[2]

    def carry(self, plan: Plan) -> None:
        """Do what a plan says, as the server's carrier does: rows in order, then each document at most once."""
        before = self.state
        wishes: dict[DeviceId, Offer | Revert] = {}
        for effect in plan.effects:
            self._carry_one(effect, wishes)
        self._check_way_back(plan)
        for device, wish in wishes.items():
            self._sign(device, wish, before)
        self._check_limits()

    def _carry_one(self, effect: Any, wishes: dict[DeviceId, Offer | Revert]) -> None:
        match effect:
            case RolloutTransitioned():
                self._check_edge("rollout", self.state, effect.before, effect.after)
                self.state, self.reason = effect.after, effect.reason
            case StageRunCreated():
                self._check((effect.cell.stage, effect.cell.stratum) not in self.cells, "a cell was made twice")
                self._keep_cell(effect.cell)
            case StageRunTransitioned():
                stored = self.cells[effect.cell.stage, effect.cell.stratum]
                self._check_edge("cell", stored.state, effect.before, effect.cell.state)
                self._check_order(stored, effect.cell)
                self._keep_cell(effect.cell)
            case StageRunUpdated():
                stored = self.cells[effect.cell.stage, effect.cell.stratum]
                self._check(stored.state is effect.cell.state, "a note changed a cell's state")
                self._keep_cell(effect.cell)
            case AssignmentCreated():
                self._check(effect.assignment.device not in self.assignments, "a device was assigned twice")
                previous = self.devices[effect.assignment.device].active
                self.assignments[effect.assignment.device] = effect.assignment.but(previous=previous)
                self._check_joiner(effect.assignment)
            case AssignmentTransitioned():
                stored_one = self.assignments[effect.assignment.device]
                self._check_edge("assignment", stored_one.state, effect.before, effect.assignment.state)
                self._keep(effect.assignment)
            case AssignmentUpdated():
                stored_one = self.assignments[effect.assignment.device]
                self._check(stored_one.state is effect.assignment.state, "a note changed an assignment's state")
                self._keep(effect.assignment)
            case Offer() | Revert():
                wishes[effect.device] = effect
            case DecisionMade():
                self._check_verdict(effect)
            case RampWindowUpdated():
                self.minutes[effect.minute.stage] = effect.minute
                self._check(effect.minute.offered <= effect.minute.per_min, "more offers than the rate allows")
            case LeaseTaken():
                self.leases[effect.lease.device] = effect.lease
            case LeaseEnded():
                del self.leases[effect.device]
            case BandwidthBooked():
                self.line_until = effect.until

    def _keep_cell(self, cell: StageRun) -> None:
        self.cells[cell.stage, cell.stratum] = cell

    def _keep(self, one: Assignment) -> None:
        self.assignments[one.device] = one.but(previous=self.assignments[one.device].previous)

    def _sign(self, device_id: DeviceId, wish: Offer | Revert, before: RolloutState) -> None:
        device, one = self.devices[device_id], self.assignments[device_id]
        if isinstance(wish, Offer):
            self._check(
                before is RolloutState.RUNNING and self.state is RolloutState.RUNNING, "offered while not running"
            )
            self._check(self.cells[one.stage, one.stratum].state is not StageState.PENDING, "offered before its stage")
            lane = sorted((c for c in self.cells.values() if c.stratum == one.stratum), key=lambda c: c.stage)
            is_open = [c.state in CELL_OPEN for c in lane].count(True) == 1
            is_let_through = lane[-1].state is StageState.PASSED and lane[-1].strength is Strength.OVERRIDE
            # who was away when its stage passed joins when it comes back, or finds its document when the rollout ends
            is_let_through |= lane[-1].state is StageState.PASSED and self.spec.recalls
            self._check(is_open or is_let_through, "offered while not exactly one stage is open")
            gen = self._write(device, self.bundles[one.stratum], one.attempt, is_rollout=True)
            self.assignments[device_id] = one.but(gen=gen or one.gen)
            return
        gen = self._write(device, one.previous, 1, is_rollout=False)
        if wish.is_rollback:
            done_at = one.back_done_at if gen else self.now
            self.assignments[device_id] = one.but(back_gen=gen or max(1, one.gen), back_done_at=done_at)

    def _write(self, device: SimulatedDevice, active: Bundle | None, attempt: int, *, is_rollout: bool) -> int:
        """Sign a document; return its gen, 0 for a device that gets none any more."""
        if device.is_revoked:
            return 0
        gen = self.documents[device.id].gen + 1
        self.documents[device.id] = Document(gen, active, attempt, is_rollout)
        self.at(timedelta(seconds=self.chance.uniform(0.1, 3)), lambda: device.receive(self))
        self.heard(device)
        return gen
