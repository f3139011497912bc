"""How questions about failures are answered in the simulation: the server checks a bundle, drawn devices check what they run.

Both take a while. A device that is away answers when it is back, and not at all once its check has expired. A drawn device that is to
run the release for its soak is heard of at the end of it: what it sends of its work meanwhile is not simulated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.analysis import decide, metrics, stage_gates
from edgefleet_server.rollout.commands.steer import ABORTED
from edgefleet_server.rollout.commands.undo import UNDONE
from edgefleet_server.rollout.controller.executor import CHECK_LIFE
from edgefleet_server.rollout.effects import CheckAsked, ConfirmationUpdated, Offer, Plan, StageRunTransitioned
from edgefleet_server.rollout.model import (
    GUARD_CLASSES,
    Answer,
    Assignment,
    Bundle,
    CheckEnd,
    Confirmation,
    OnFail,
    Proof,
    RolloutState,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.planner.stages import DENIED, NO_CANARY, UNANSWERED
from edgefleet_server.rollout.spec.model import Spec
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE, is_failure
from edgefleet_sim.device import Air, SimDevice
from edgefleet_sim.memory_database import SimDatabase
from edgefleet_sim.scenario import Scenario

FAILS_BY_OTHERS: Final = frozenset(
    {UNANSWERED, DENIED, NO_CANARY, ABORTED, UNDONE, metrics.QUALITY_BREACH, stage_gates.GATE_ROLLBACK}
)
"""The codes with which a stage fails by a person, other strata, what was measured or another program: no failure is asked for."""
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


# ---- what must hold


def about_words(
    plan: Plan, spec: Spec, state: RolloutState, ones: Mapping[DeviceId, Assignment], asked: Collection[Confirmation]
) -> Iterator[str]:
    """What is wrong with what a plan does on the word of devices. state: before it; ones, asked: after it."""
    drawn: dict[str, set[DeviceId]] = {}
    for one in asked:
        new = {draw.device for draw in one.draws if draw.is_new}
        if len(new) > 1:
            yield f"{len(new)} new devices were drawn for question {one.number} of {one.stratum}"
        if one.verdict is Verdict.OPEN:
            drawn[one.stratum] = new
    for effect in plan.effects:
        if isinstance(effect, Offer) and effect.device not in drawn.get(ones[effect.device].stratum, {effect.device}):
            yield f"{effect.device} was offered the release while a question was open in {ones[effect.device].stratum}"
        if isinstance(effect, StageRunTransitioned) and effect.cell.state is StageState.FAILED:
            yield from _about_failing(effect.cell, spec, state, ones, asked)


def _about_failing(
    run: StageRun, spec: Spec, state: RolloutState, ones: Mapping[DeviceId, Assignment], asked: Collection[Confirmation]
) -> Iterator[str]:
    is_trusted = spec.on_unconfirmed is OnFail.ROLLBACK and state in ROLLOUT_ACTIVE
    is_proved = any(one.verdict is Verdict.PROVED for one in asked)
    if run.population <= 1 or is_trusted or is_proved or run.code in FAILS_BY_OTHERS:
        return
    is_late = (
        run.code == decide.INCONCLUSIVE
    )  # for want of evidence, whatever other strata show: only their own word could hold it up
    failing: set[str] = {
        one.device
        for one in ones.values()
        if is_failure(one) and not one.is_accepted and (not is_late or one.stratum == run.stratum)
    }
    if not is_late:
        failing.update(draw.device for one in asked for draw in one.draws if draw.answer is Answer.FAILED)
    if len(failing) == 1 or (not failing and not is_late):
        yield f"stage {run.stage} of {run.stratum} failed ({run.code}) on the word of {sorted(failing)} alone"
