"""Simulated devices: the reporting side of a real one, without bytes. And a world of them around the real services.

A device takes the signed documents that the server wrote for it (signature, kind, addressee and gen are checked as an agent does),
walks through the phases of an install one step at a time, and answers with real `State` messages. It draws nothing and reads no
clock: what it does follows from its habits alone.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE, Desired, Hold, Ref, decode_desired, decode_hold
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import DeviceId, ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Event, EventKind, ModelState, Phase, Presence, State
from edgefleet_protocol.verify import PublicKey, verify_envelope
from edgefleet_server.fleet.desired.tasks import CHECK
from edgefleet_server.rollout.controller.controller import RolloutController
from edgefleet_server.rollout.model import GUARD_CLASSES, Confirmation, Proof
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.status.decision_views import DecisionView
from edgefleet_server.rollout.status.devices import RolloutDevice
from edgefleet_server.rollout.status.reader import RolloutView
from edgefleet_server.rollout.store import confirmation_rows, rollouts
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice, TurnedClock
from tests.server.rollout.reporting import Reports

SMALL: Final = "generic-x86_64-ort-small"
MODEL: Final = "digits"
INSTALL: Final = (
    Phase.DOWNLOADING,
    Phase.VERIFYING,
    Phase.PREFLIGHT,
    Phase.GOLDEN,
    Phase.WARMING,
    Phase.SWITCHING,
    Phase.PROBATION,
    Phase.COMMITTED,
)
SOUND: Final = Proof(is_ok=True, what="the stored bytes, and the metadata that names them")
BACK: Final = (Phase.SWITCHING, Phase.PROBATION, Phase.COMMITTED)
_UNSWITCHED: Final = frozenset(INSTALL[:5])


@dataclass(frozen=True)
class Habit:
    """What a device does with one release. fails_at: the phase that it does not get through; silent_at: the phase that is
    the last one it tells of; stays_at: the phase that never ends, while it goes on reporting. ignores_checks: it never answers them."""

    fails_at: Phase | None = None
    error_class: ErrorClass = ErrorClass.CRASH
    code: str = ""
    reason: str = ""
    silent_at: Phase | None = None
    stays_at: Phase | None = None
    ignores_checks: bool = False

    @property
    def check_code(self) -> str:
        """The code with which a check fails, "" when it does not."""
        is_wrong = self.fails_at is not None and self.error_class in GUARD_CLASSES
        return f"check.{self.error_class.value}" if is_wrong else ""


class SimDevice:
    """One device. habits: by version of the release."""

    def __init__(self, device: DeviceId, key: PublicKey, model: str = MODEL) -> None:
        self.id = device
        self.model = model
        self.habits: dict[str, Habit] = {}
        self.gens: list[int] = []
        """Every gen that it was sent, in order."""
        self.downloads = 0
        """Installs that began with a download."""
        self.is_away = False
        self.gen = 0
        self.active: Ref | None = None
        self.previous: Ref | None = None
        self.wanted: Ref | None = None
        self.refuses: tuple[str, str] | None = None
        """Code and reason of a refusal of every document that comes from now on."""
        self._key = key
        self._hold = Hold(seq=0, expires=datetime.max)
        self._phase = Phase.IDLE
        self._steps: tuple[Phase, ...] = ()
        self._error: tuple[ErrorClass | None, str, str] = (None, "", "")
        self._wanted_gen = 0
        self._refused = (0, "", "")
        self._boots = itertools.count(1)
        self._boot_id = "boot-0"
        self._seq = self._asked = 0
        self._last: State | None = None
        self._is_mute = False
        self._checks: dict[str, str] = {}
        self._asked_checks: set[str] = set()

    # ---- what the server sends

    def take_hold(self, envelope: bytes) -> None:
        """Take the brake; an install that it names stops before its switch."""
        hold = decode_hold(verify_envelope(envelope, HOLD_TYPE, [self._key]))
        if hold.seq > self._hold.seq:
            self._hold = hold

    def take_desired(self, envelope: bytes) -> None:
        """Take a document: a newer one replaces the wish, a foreign or older one is ignored."""
        document: Desired = decode_desired(verify_envelope(envelope, DESIRED_TYPE, [self._key]))
        assert document.device == self.id, "a document of another device came here"
        self.gens.append(document.gen)
        if document.gen <= self.gen or self._is_mute:
            return
        if self.refuses is not None:
            self._refused = (document.gen, *self.refuses)
            return
        self.gen, self._refused = document.gen, (0, "", "")
        for task in document.tasks:
            if task.kind == CHECK and task.id not in self._asked_checks:
                self._asked_checks.add(task.id)
                self._checks[task.id] = task.args["sha256"]
        wish = document.models.get(self.model)
        self._follow(None if wish is None else wish.active, document.gen)

    def _follow(self, ref: Ref | None, gen: int) -> None:
        before, self.wanted = self.wanted, ref
        self._wanted_gen = gen
        if ref is None:
            self.active, self._phase, self._steps, self._error = None, Phase.IDLE, (), (None, "", "")
            return
        if before is not None and (before.sha256, before.attempt) == (ref.sha256, ref.attempt):
            return
        self._error = (None, "", "")
        if self.active is not None and self.active.sha256 == ref.sha256:
            self._steps = ()
            if self._phase is not Phase.PROBATION:
                self._phase = Phase.COMMITTED
            else:
                self._steps = (Phase.COMMITTED,)
            return
        is_here = self.previous is not None and self.previous.sha256 == ref.sha256
        self._steps = BACK if is_here else INSTALL
        self.downloads += not is_here

    # ---- what it does

    @property
    def is_held(self) -> bool:
        """Whether the brake names what it wants and has not switched to."""
        wanted = self.wanted
        names = wanted is not None and (wanted.rollout in self._hold.rollouts or wanted.sha256 in self._hold.digests)
        return (
            names and bool(self._steps) and (self._phase in _UNSWITCHED or self._steps[0] in (*BACK[:1], *INSTALL[:1]))
        )

    @property
    def running(self) -> str:
        """The version that it runs, "" for none."""
        return "" if self.active is None else self.active.target.split("/")[1]

    @property
    def is_busy(self) -> bool:
        """Whether an install is going on."""
        return bool(self._steps)

    def step(self) -> bool:
        """Do the next thing; return whether anything changed."""
        if not self._steps or self.is_held or self._is_mute or self.wanted is None:
            return False
        phase, habit = self._steps[0], self.habits.get(self.wanted.target.split("/")[1], Habit())
        if habit.silent_at is self._phase:
            self._is_mute = True
            return False
        if habit.stays_at is self._phase:
            return False
        if habit.fails_at is phase:
            self._fail(phase, habit)
            return True
        self._phase, self._steps = phase, self._steps[1:]
        if phase is Phase.SWITCHING:
            self.previous, self.active = self.active, self.wanted
        return True

    def _fail(self, phase: Phase, habit: Habit) -> None:
        self._error = (
            habit.error_class,
            habit.code or f"install.{habit.error_class}",
            habit.reason or "it failed here",
        )
        self._steps = ()
        if phase in BACK[1:]:
            self.active, self.previous = self.previous, self.active
            self._phase = Phase.ROLLED_BACK
        else:
            self._phase = Phase.FAILED

    def regress(self, error_class: ErrorClass = ErrorClass.NONFINITE, reason: str = "it went bad") -> None:
        """Go back to the other slot by itself, long after all seemed well."""
        self.active, self.previous = self.previous, self.active
        self._phase, self._error, self._steps = Phase.ROLLED_BACK, (error_class, "trial.bad", reason), ()

    def awake(self) -> None:
        """Speak again after falling silent; it forgot nothing."""
        self._is_mute = False
        self.reboot()

    def reboot(self) -> None:
        """Begin to count reports anew."""
        self._boot_id, self._seq = f"boot-{next(self._boots)}", 0

    # ---- what it says

    def answers(self) -> list[Event]:
        """Return how the checks that it was asked for came out, each once."""
        told = [] if self.habits.get(self.running, Habit()).ignores_checks else list(self._checks.items())
        return [self._answer(task, self._checks.pop(task)) for task, _ in told]

    def _answer(self, task: str, sha256: str) -> Event:
        runs_it = self.active is not None and self.active.sha256 == sha256
        code = self.habits.get(self.running, Habit()).check_code if runs_it else "check.not_here"
        self._seq += 1
        return Event(
            device=self.id,
            boot_id=self._boot_id,
            seq=self._seq,
            ts=self._seq,
            kind=EventKind.TASK,
            code=code,
            detail={"task": task, "state": "failed" if code else "done"},
        )

    @property
    def speaks(self) -> bool:
        """Whether the server hears of it."""
        return not self._is_mute and not self.is_away

    def news(self) -> State:
        """Return the next report; the last one of this method where nothing but its number would differ."""
        state, last = self.state(), self._last
        is_next = last is not None and self._seq == self._asked + 1
        self._asked = self._seq
        if last is None or not is_next or msgspec.structs.replace(state, seq=last.seq, ts=last.ts) != last:
            self._last = last = state
        return last

    def state(self) -> State:
        """Return the next report."""
        self._seq += 1
        error_class, code, reason = self._error
        if self.is_held:
            error_class, code, reason = ErrorClass.DEADLINE, "install.held", "held by the server before the switch"
        refused_gen, refused_code, refused_reason = self._refused
        active, previous, wanted = self.active, self.previous, self.wanted
        model = ModelState(
            model=self.model,
            phase=self._phase,
            active_target=active.target if active else "",
            active_sha256=active.sha256 if active else "",
            previous_target=previous.target if previous else "",
            previous_sha256=previous.sha256 if previous else "",
            wanted_sha256=wanted.sha256 if wanted else "",
            attempt=wanted.attempt if wanted else 0,
            gen=self._wanted_gen,
            error_class=error_class,
            error_code=code,
            reason=reason,
            serving=active is not None,
            rollout=(wanted.rollout or "") if wanted else "",
        )
        return State(
            device=self.id,
            gen=self.gen,
            boot_id=self._boot_id,
            seq=self._seq,
            ts=self._seq,
            models=[] if model.phase is Phase.IDLE else [model],
            refused_gen=refused_gen,
            refused_code=refused_code,
            refused_reason=refused_reason,
        )


@dataclass
class World:
    """The services on one database, an engine, and devices that report when told to."""

    house: House
    devices: dict[DeviceId, SimDevice] = field(default_factory=dict)
    habits: dict[str, Habit] = field(default_factory=dict)
    proof: Proof | None = SOUND
    """What the server's own check of a bundle finds; None: it does not end."""

    def __post_init__(self) -> None:
        house = self.house
        self.clock: TurnedClock = house.clock
        self.fleet = house.fleet
        self.reports = Reports(house)
        self.service = RolloutService(house.db, house.fleet, house.registry, house.clock, house.telemetry)
        self.engine = self.replica("main")

    def replica(self, owner: str) -> RolloutController:
        """Return one more engine on the same database."""
        return RolloutController(self.house.db, self.house.fleet, self.service, self.clock, owner)

    # ---- making

    def release(self, version: str, *profiles: str) -> ReleaseRef:
        """Publish a release with a bundle for each profile."""
        chosen = profiles or (PROFILE,)
        bundles = {profile: f"{version} for {profile}".encode() for profile in chosen}
        return self.house.release(f"{MODEL}@{version}", bundles=bundles)

    def enrol(self, count: int, profile: str = PROFILE, **labels: str) -> list[SimDevice]:
        """Enrol devices, in one transaction, which is a quarter cheaper; they are online and run nothing."""
        key = self.house.signing.director_key()
        with self.house.db.session():
            claim = self.fleet.enrolment.create_claims(uses=count, profile=profile, labels=labels)[0]
            made = [self.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS) for _ in range(count)]
            fresh = [SimDevice(one.device_id, key) for one in made]
            for one in fresh:
                self.presence(one, on=True)
        self.devices |= {one.id: one for one in fresh}
        return fresh

    def presence(self, device: SimDevice, *, on: bool) -> None:
        """Say that a device is there, or not."""
        self.fleet.receiver.take_presence(device.id, Presence(on=on, conn_id="c", boot_id="b", ts=0))

    def settle(self, version: str, *profiles: str) -> ReleaseRef:
        """Publish a release, deploy it everywhere and let every device install it."""
        ref = self.release(version, *profiles)
        self.fleet.deployer.deploy(ref, selector="")
        for _ in range(len(INSTALL) + 2):
            self.step()
        assert {one.running for one in self.devices.values()} == {version}
        return ref

    def create(self, release: str = f"{MODEL}@1.1.0", by: str = "ann", **spec: Any) -> str:
        """Start a rollout: one, half, the rest, without a soak, unless told otherwise."""
        return str(self.service.create(spec_of(release, **spec), by))

    # ---- going on

    def step(self, devices: Iterable[SimDevice] | None = None) -> None:
        """Let every device that is there take its documents, do one step and report."""
        hold = self.fleet.hold.envelope()
        documents = {one.device: one for one in self.fleet.documents.all_desired()}
        for device in list(self.devices.values() if devices is None else devices):
            if not device.speaks:
                continue
            if hold is not None:
                device.take_hold(hold)
            signed = documents.get(device.id)
            if signed is None:
                continue
            if signed.gen > (device.gens[-1] if device.gens else 0):
                device.take_desired(signed.envelope)
            device.habits = {**self.habits, **device.habits}
            device.step()
            if device.speaks:
                self.reports.hand_in(device, signed.gen)
            if device.speaks and (answers := device.answers()):
                self.fleet.receiver.take_events(answers)

        self.reports.hear()

    def report(self, device: SimDevice) -> None:
        """Hand in one report, the last one once more when nothing changed; a document that the server answers with is taken."""
        self.reports.hand_in(device)

    def tick(self) -> int:
        """Let the engine look because devices reported."""
        return self.engine.tick(is_woken=True)

    def prove(self) -> None:
        """Check bundles that devices speak against, as a worker does that has the time."""
        if self.proof is None:
            return
        with self.house.db.session() as session:
            while (due := confirmation_rows.claim(session, self.clock.now())) is not None:
                confirmation_rows.note(session, due, self.proof)

    def go(self, rounds: int = 1, *, seconds: float = 1.0) -> None:
        """Let devices and engine go on by turns while the time passes."""
        for _ in range(rounds):
            self.step()
            self.tick()
            self.prove()
            self.clock.turn(seconds=seconds)

    def go_until(self, fact: Callable[[], Any], *, seconds: float = 1.0, rounds: int = 300) -> None:
        """Go on until something is so."""
        for _ in range(rounds):
            if fact():
                return
            self.go(seconds=seconds)
        raise AssertionError(f"did not happen in {rounds} rounds: {self.told()}")

    def go_until_state(self, rollout: str, *states: str, seconds: float = 1.0, rounds: int = 300) -> RolloutView:
        """Go on until a rollout is in one of these states."""
        self.go_until(lambda: self._state(rollout) in states, seconds=seconds, rounds=rounds)
        return self.view(rollout)

    # ---- looking

    def _state(self, rollout: str) -> str:
        with self.house.db.read() as session:
            return rollouts.rollout(session, rollout).state

    def view(self, rollout: str) -> RolloutView:
        """Return a rollout as people see it."""
        return self.service.reader.rollout(rollout)

    def member(self, rollout: str, device: SimDevice) -> RolloutDevice:
        """Return a device of a rollout."""
        return self.members(rollout)[device.id]

    def members(self, rollout: str) -> dict[DeviceId, RolloutDevice]:
        """Return the devices of a rollout by id."""
        return {DeviceId(one.device): one for one in self.service.reader.devices(rollout)}

    def states(self, rollout: str) -> dict[str, int]:
        """Return how many devices of a rollout are in which state."""
        found: dict[str, int] = {}
        for one in self.service.reader.devices(rollout):
            found[one.state] = found.get(one.state, 0) + 1
        return found

    def decisions(self, rollout: str) -> list[DecisionView]:
        """Return decisions, newest first."""
        return self.service.reader.decisions(rollout)

    def events(self, rollout: str) -> list[Mapping[str, Any]]:
        """Return the details of a rollout's events, oldest first, each with its kind and device."""
        rows, _ = self.fleet.feed.page(rollout=rollout, limit=100_000)
        return [{"kind": row.kind, "device": row.device, "id": row.id, **row.detail} for row in reversed(rows)]

    def asked(self, rollout: str) -> list[Confirmation]:
        """Return whether failures are confirmed: every question, in order of stratum and number."""
        with self.house.db.read() as session:
            return list(confirmation_rows.of_rollout(session, rollout))

    def exposed(self, rollout: str) -> list[SimDevice]:
        """Return the devices that took the release up, in order of id."""
        return [self.devices[d] for d, one in self.members(rollout).items() if one.exposed_at is not None]

    def wants(self, device: SimDevice) -> str:
        """Return the version that a device's document asks for, "" for none."""
        signed = self.fleet.documents.of_device(device.id)
        assert signed is not None
        payload = verify_envelope(signed.envelope, DESIRED_TYPE, [self.house.signing.director_key()])
        wish = decode_desired(payload).models.get(MODEL)
        return "" if wish is None or wish.active is None else wish.active.target.split("/")[1]

    def told(self) -> str:
        """Return what is going on, for a failed test."""
        rollouts = self.service.reader.rollouts(limit=5)
        return "; ".join(f"{one.release} {one.state}: {one.reason} {self.states(one.id)}" for one in rollouts)


def make_world(url: str, folder: Path) -> World:
    """Return an empty world on a database."""
    return World(House(url, folder, TurnedClock()))


def spec_of(release: str = f"{MODEL}@1.1.0", **fields: Any) -> dict[str, Any]:
    """Return a spec: one, half, the rest, without a soak, unless told otherwise."""
    stages: Sequence[Mapping[str, Any]] = (
        {"name": "canary", "size": {"count": 2}, "soak": "0s"},
        {"name": "half", "size": {"percent": 50, "min": 2}, "soak": "0s"},
        {"name": "rest", "size": {"percent": 100}, "soak": "0s"},
    )
    return {"release": release, "selector": "", "stages": [dict(stage) for stage in stages]} | fields


def stages(*sizes: Any, soak: str = "0s") -> list[dict[str, Any]]:
    """Return stages of these sizes: a number is a count, text like "50%" a percentage."""
    found = []
    for index, size in enumerate(sizes):
        written = {"count": size} if isinstance(size, int) else {"percent": float(str(size).rstrip("%"))}
        found.append({"name": f"s{index}", "size": written, "soak": soak})
    return found


def later(now: datetime, **delta: float) -> datetime:
    """Return a moment after another."""
    return now + timedelta(**delta)


def digest_of(version: str, profile: str = PROFILE) -> str:
    """Return the digest of the bundle that `World.release` makes."""
    return sha256_hex(f"{version} for {profile}".encode())


def with_habit(habit: Habit, **changes: Any) -> Habit:
    """Return a habit with some of it changed."""
    return replace(habit, **changes)
