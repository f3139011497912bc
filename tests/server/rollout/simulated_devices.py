"""Devices of a simulated fleet: they read documents, install, fail in their way, and report. Seeded, in virtual time.

A device has what a real one has: the highest document it accepted, what it runs, what it ran before, and one report that says
where it stands. It hears of documents and is heard of only while it is online; a report may be lost, the next one has all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import HELD_CODE, ErrorClass, Phase
from edgefleet_server.rollout.model import Bundle, Report
from edgefleet_server.rollout.spec.model import Spec

TICK: Final = timedelta(seconds=2)
CHAIN: Final = (
    Phase.DOWNLOADING,
    Phase.VERIFYING,
    Phase.PREFLIGHT,
    Phase.GOLDEN,
    Phase.WARMING,
    Phase.SWITCHING,
    Phase.PROBATION,
    Phase.COMMITTED,
)
AT_INSTALL: Final = (ErrorClass.SIGNATURE, ErrorClass.GOLDEN, ErrorClass.LOAD, ErrorClass.INTERNAL, ErrorClass.MEMORY)
ON_PROBATION: Final = (ErrorClass.CRASH, ErrorClass.NONFINITE, ErrorClass.SLOW)


def bundle_of(version: str, profile: str) -> Bundle:
    """Return the bundle of a version for a profile."""
    name = f"digits/{version}/{profile}.bundle"
    return Bundle(name, Sha256(f"{version:x<8}{profile:0<56}"[:64]), 9)


class Kind(StrEnum):
    """How a device behaves."""

    FINE = "fine"
    SLOW = "slow"
    OFFLINE = "offline"
    LATE = "late"
    FLAPPING = "flapping"
    FAILS_INSTALL = "fails_install"
    FAILS_PROBATION = "fails_probation"
    DIES = "dies"
    REGRESSES = "regresses"
    REFUSES = "refuses"


GOOD: Final = {Kind.FINE: 1.0}


@dataclass(frozen=True)
class Scenario:
    """What happens to a rollout. mix: shares of device kinds. look: after so long a report is looked at.

    person: what they do each time the rollout waits for them; after that they abort it with a rollback.
    """

    seed: int
    mix: Mapping[Kind, float] = field(default_factory=lambda: GOOD)
    report_loss: float = 0.0
    look: timedelta = TICK
    joiners: int = 0
    leavers: int = 0
    deploys: int = 0
    pauses: int = 0
    person: tuple[str, ...] = ("abort", "abort_rollback")


@dataclass(frozen=True)
class Document:
    """What the server wants of a device. active: None = the model is dropped."""

    gen: int
    active: Bundle | None
    attempt: int = 1
    is_rollout: bool = False


class Surroundings(Protocol):
    """What a device needs of the world around it."""

    now: datetime
    report_loss: float
    spec: Spec

    def at(self, delay: timedelta, act: Callable[[], None]) -> None:
        """Call `act` after `delay`."""

    def document(self, device: DeviceId) -> Document:
        """Return the device's document as it is now."""

    def is_braked(self, stratum: ProfileName) -> bool:
        """Whether devices of a profile may not switch to the release now."""

    def heard(self, device: SimulatedDevice) -> None:
        """A report reached the server."""


class SimulatedDevice:
    """One device. active, committed (digests) and switched_at (by digest) are the truth, whatever the server knows."""

    def __init__(self, device: DeviceId, stratum: ProfileName, kind: Kind, old: Bundle, chance: random.Random) -> None:
        self.id = device
        self.stratum = stratum
        self.kind = kind
        self.active: Bundle | None = old
        self.previous: Bundle | None = None
        self.committed: set[str] = {old.sha256}
        self.switched_at: dict[str, datetime] = {}
        self.is_online = True
        self.is_revoked = False
        self.report = Report(phase=Phase.COMMITTED, active_sha256=old.sha256, is_online=True)
        self.told = self.report
        self._chance = chance
        self._document = Document(0, old)
        self._work = 0
        self._is_held = False

    @property
    def is_downloading(self) -> bool:
        """Whether it fetches the bundle of a rollout now, whatever the server knows."""
        wanted = self._document.active
        if not self.is_online or self.is_revoked or not self._document.is_rollout or wanted is None:
            return False
        is_here = any(one is not None and one.sha256 == wanted.sha256 for one in (self.active, self.previous))
        is_this_try = (
            self.report.wanted_sha256 == wanted.sha256
            and self.report.attempt == self._document.attempt
            and self.report.gen == self._document.gen
        )
        return not is_here and not (is_this_try and self.report.phase is not Phase.DOWNLOADING)

    # ---- being there

    def start(self, world: Surroundings) -> None:
        """Begin as this kind of device does."""
        self.told = replace(self.told, last_seen=world.now)
        if self.kind is Kind.OFFLINE:
            self._set_online(world, False)
        elif self.kind is Kind.LATE:
            self._set_online(world, False)
            away = world.spec.device.ack * self._chance.uniform(0.2, 1.6)
            world.at(away, lambda: self._set_online(world, True))
        elif self.kind is Kind.FLAPPING:
            self._flap(world, 20)

    def _flap(self, world: Surroundings, left: int) -> None:
        if left:
            self._set_online(world, not self.is_online)
            away = world.spec.device.verify * self._chance.uniform(0.05, 0.4)
            world.at(away, lambda: self._flap(world, left - 1))
        else:
            self._set_online(world, True)

    def _set_online(self, world: Surroundings, is_online: bool) -> None:
        self.is_online = is_online
        if is_online:
            self.receive(world)
            self._send(world, is_sure=True)
        else:
            self.told = replace(self.told, is_online=False)

    def revoke(self, world: Surroundings) -> None:
        """Take the device out of the fleet: it hears nothing any more."""
        self.is_revoked = True
        self.is_online = False
        self.told = replace(self.told, is_revoked=True, is_online=False)
        world.heard(self)

    # ---- documents

    def receive(self, world: Surroundings) -> None:
        """Read the newest document, when one can be read."""
        document = world.document(self.id)
        if not self.is_online or self.is_revoked or document.gen <= self._document.gen:
            return
        if self.kind is Kind.REFUSES and document.is_rollout:
            self._say(
                world, refused_gen=document.gen, refused_code="verify.expired", refused_reason="its clock is wrong"
            )
            return
        self._document = document
        self._work += 1
        self._is_held = False
        self._say(world, reported_gen=document.gen, gen=document.gen)
        self._begin(world, document)

    def _begin(self, world: Surroundings, document: Document) -> None:
        wanted = document.active
        if wanted is None:
            self.previous, self.active = self.active, None
            self._say(world, phase=Phase.IDLE, active_sha256="", wanted_sha256="", attempt=0)
        elif self.active is not None and wanted.sha256 == self.active.sha256 and wanted.sha256 in self.committed:
            self._say(world, phase=Phase.COMMITTED, wanted_sha256=wanted.sha256, attempt=document.attempt)
        elif self.previous is not None and wanted.sha256 == self.previous.sha256 and not document.is_rollout:
            self.active, self.previous = wanted, self.active
            self._say(
                world,
                phase=Phase.COMMITTED,
                active_sha256=wanted.sha256,
                wanted_sha256=wanted.sha256,
                attempt=document.attempt,
                error_class=None,
                reason="",
            )
        else:
            self._next(world, self._work, 0)

    # ---- installing

    def _next(self, world: Surroundings, work: int, place: int) -> None:
        limits = world.spec.device
        part = {Phase.DOWNLOADING: limits.download * 0.1, Phase.SWITCHING: limits.apply, Phase.COMMITTED: limits.verify}
        factor = self._chance.uniform(1.1, 1.5) if self.kind is Kind.SLOW else self._chance.uniform(0.02, 0.3)
        span = part.get(CHAIN[place], limits.apply * 0.1) * factor
        world.at(span, lambda: self._step(world, work, place))

    def _step(self, world: Surroundings, work: int, place: int) -> None:
        document = self._document
        if work != self._work or document.active is None or self.is_revoked:
            return  # another document came meanwhile
        phase, wanted = CHAIN[place], document.active
        if phase is Phase.SWITCHING and document.is_rollout and world.is_braked(self.stratum):
            self._hold(world, work, place)
            return
        failure = self._failure(phase) if document.is_rollout else None
        if failure is not None:
            self._fail(world, wanted, failure)
            return
        if phase is Phase.PROBATION:
            self.previous, self.active = self.active, wanted
            self.switched_at[wanted.sha256] = world.now
        if phase is Phase.COMMITTED:
            self.committed.add(wanted.sha256)
        active = "" if self.active is None else self.active.sha256
        self._say(
            world,
            phase=phase,
            active_sha256=active,
            wanted_sha256=wanted.sha256,
            attempt=document.attempt,
            error_class=None,
            error_code="",
            reason="",
        )
        if phase is Phase.PROBATION and self.kind is Kind.DIES and document.is_rollout:
            self._set_online(world, False)
        elif phase is Phase.COMMITTED:
            self._after(world, work)
        else:
            self._next(world, work, place + 1)

    def _hold(self, world: Surroundings, work: int, place: int) -> None:
        """Wait at the switch while the brake is on."""
        if not self._is_held:
            self._is_held = True
            self._say(world, phase=Phase.FAILED, error_code=HELD_CODE, error_class=None, reason="held by the server")
        world.at(timedelta(minutes=5), lambda: self._step(world, work, place))

    def _failure(self, phase: Phase) -> ErrorClass | None:
        if self.kind is Kind.FAILS_INSTALL and phase is Phase.WARMING:
            return self._chance.choice(AT_INSTALL)
        if self.kind is Kind.FAILS_PROBATION and phase is Phase.COMMITTED:
            return self._chance.choice(ON_PROBATION)
        return None

    def _fail(self, world: Surroundings, wanted: Bundle, failure: ErrorClass) -> None:
        """Give up on a release; one that had switched goes back to the other slot by itself."""
        self._work += 1
        has_switched = self.active is not None and self.active.sha256 == wanted.sha256
        if has_switched:
            self.active, self.previous = self.previous, None
        self._say(
            world,
            phase=Phase.ROLLED_BACK if has_switched else Phase.FAILED,
            active_sha256="" if self.active is None else self.active.sha256,
            wanted_sha256=wanted.sha256,
            attempt=self._document.attempt,
            error_class=failure,
            error_code=f"install.{failure}",
            reason=f"{failure} on {self.id}",
        )

    def _after(self, world: Surroundings, work: int) -> None:
        """What a device does with a release that it committed."""
        if self.kind is Kind.REGRESSES and self._document.is_rollout:
            wanted = self._document.active
            assert wanted is not None
            later = timedelta(minutes=self._chance.uniform(1, 600))
            world.at(later, lambda: self._fail(world, wanted, ErrorClass.CRASH) if work == self._work else None)

    # ---- reporting

    def _say(self, world: Surroundings, **changes: object) -> None:
        self.report = replace(self.report, **changes)  # type: ignore[arg-type]
        self._send(world)

    def _send(self, world: Surroundings, *, is_sure: bool = False) -> None:
        """Report; a lost report is sent again with the next beat."""
        if not self.is_online or self.is_revoked:
            return
        if not is_sure and self._chance.random() < world.report_loss:
            world.at(timedelta(minutes=self._chance.uniform(0.1, 20)), lambda: self._send(world))
            return
        self.told = replace(self.report, is_online=True, last_seen=world.now)
        world.heard(self)
