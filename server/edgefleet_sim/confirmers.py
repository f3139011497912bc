"""How questions about failures are answered in the simulation: the server checks a bundle, drawn devices check what they run.

Both take a while. A device that is away answers when it is back, and not at all once its check has expired. A drawn device that is to
run the release for its soak is heard of at the end of it: what it sends of its work meanwhile is not simulated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.controller.executor import CHECK_LIFE
from edgefleet_server.rollout.effects import CheckAsked, ConfirmationUpdated, Plan
from edgefleet_server.rollout.model import GUARD_CLASSES, Bundle, CheckEnd, Confirmation, Proof
from edgefleet_sim.device import Air, SimDevice
from edgefleet_sim.memory_database import SimDatabase
from edgefleet_sim.scenario import Scenario

PROOF_S: Final = (1.0, 90.0)
ANSWER_S: Final = (1.0, 60.0)
"""How long a device that is there takes for its check, and how long it takes to look again when it is not."""
PASSED: Final = Proof(is_ok=True, what="bytes, metadata and golden vectors are as they were published")
FAILED: Final = Proof(is_ok=False, what="the golden vectors give other answers")


def bad_bundles(scenario: Scenario, bundles: Mapping[ProfileName, Bundle]) -> frozenset[str]:
    """Return the digests of bundles that fail the server's own check: where every device finds the bundle itself wrong, it is."""
    is_bad = scenario.bad >= 1 and set(scenario.classes) <= {kind.value for kind in GUARD_CLASSES}
    return frozenset(bundle.sha256 for bundle in bundles.values()) if is_bad else frozenset()


class Confirmers:
    """Answers what a plan asks. bad: digests of bundles that fail the server's own check; wake: called when an answer is there."""

    def __init__(
        self,
        rows: SimDatabase,
        devices: Mapping[DeviceId, SimDevice],
        bad: Collection[str],
        chance: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self._rows, self._devices = rows, devices
        self.bad = bad
        self._chance = chance
        self._wake = wake
        self._reminded: set[tuple[str, int, DeviceId]] = set()

    def follow(self, plan: Plan, air: Air) -> None:
        """Begin what a plan that was carried out asks for."""
        for effect in plan.effects:
            match effect:
                case CheckAsked():
                    self._check(effect, (air.now + CHECK_LIFE).timestamp(), air)
                case ConfirmationUpdated():
                    self._prove(effect.confirmation, air)
                    self._listen(effect.confirmation, air)
                case _:
                    pass

    def _prove(self, one: Confirmation, air: Air) -> None:
        key = one.stratum, one.number
        if not one.needs_proof or key in self._rows.proofs:
            return
        self._rows.proofs[key] = None

        def found() -> None:
            self._rows.proofs[key] = FAILED if one.sha256 in self.bad else PASSED
            self._wake()

        air.at(self._chance.uniform(*PROOF_S), found)

    def _check(self, asked: CheckAsked, until: float, air: Air) -> None:
        """Let a device answer when it is there; one that was taken out of the fleet gets no check."""
        device = self._devices[asked.device]
        if asked.device in self._rows.revoked:
            self._rows.checks[asked.task] = CheckEnd(state="cancelled")
        elif air.now.timestamp() >= until:
            self._rows.checks[asked.task] = CheckEnd(state="expired")
        else:
            end = device.checked(asked.sha256) if device.is_up and asked.task in self._rows.checks else None
            self._rows.checks[asked.task] = end or CheckEnd(state="queued")
            if end is None:
                air.at(self._chance.uniform(*ANSWER_S), lambda: self._check(asked, until, air))
                return
        self._wake()

    def _listen(self, one: Confirmation, air: Air) -> None:
        for draw in one.draws:
            key = one.stratum, one.number, draw.device
            known = self._rows.assignments.get(draw.device)
            if draw.task or key in self._reminded or known is None:
                continue
            self._reminded.add(key)
            soak_s = self._rows.spec.stages[known.stage].soak.total_seconds()
            air.at(soak_s + self._chance.uniform(*ANSWER_S), partial(self._devices[draw.device].again, air))
