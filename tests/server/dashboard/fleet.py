"""A fleet for page tests: real services and a clock that stands; devices say what real ones would, through the same calls."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.blocks import LEAF_BYTES, leaf_index
from edgefleet_protocol.desired import Desired, decode_desired
from edgefleet_protocol.ids import DeviceId, ProfileName, ReleaseRef, target_path
from edgefleet_protocol.messages import (
    ErrorClass,
    Event,
    EventKind,
    ModelState,
    Phase,
    Presence,
    State,
    Telemetry,
    Window,
)
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.enrolment.model import DeviceIdentity
from edgefleet_server.fleet.errors import ReadmissionPendingError
from edgefleet_server.fleet.tables import FleetDevice
from edgefleet_server.registry.model import BundleView, Publication, SourceFile
from edgefleet_server.rollout.controller.controller import RolloutController
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse

ORT = "generic-x86_64-ort"
LITERT = "generic-x86_64-litert"
NONFINITE = "31 of 240 answers were not finite (12.9 %, at most 1 %)"


class Device:
    """One enrolled device."""

    def __init__(self, fleet: "Fleet", device_id: DeviceId) -> None:
        self.fleet = fleet
        self.id = device_id
        self.seq = 0
        self.previous = ""

    def connect(self, *, on: bool = True) -> None:
        """Appear, or go."""
        presence = Presence(on=on, conn_id="c1", boot_id="b1", ts=0)
        self.fleet.parts.fleet.receiver.take_presence(self.id, presence)

    def ask_to_come_back(self, days: int = 45) -> None:
        """Ask for a certificate so many days after the end of the last one, which is too late for the rule."""
        parts = self.fleet.parts
        with parts.db.session() as session:
            row = session.get(FleetDevice, self.id)
            assert row is not None
            row.cert_not_after = self.fleet.house.clock.now() - timedelta(days=days)
        caller = DeviceIdentity(self.id, ProfileName(row.profile), row.public_key)
        with pytest.raises(ReadmissionPendingError):
            parts.fleet.enrolment.renew(caller, KeyedDevice().csr())

    def desired(self) -> Desired:
        """Return the device's newest document."""
        signed = self.fleet.parts.fleet.documents.of_device(self.id)
        assert signed is not None
        return decode_desired(base64.b64decode(json.loads(signed.envelope)["payload"]))

    def report(self, phase: Phase, *, model: str = "digits", facts: dict[str, Any] | None = None, **told: Any) -> None:
        """Say how far the wanted bundle of a model got. It is active from PROBATION on, else what was active stays so."""
        document = self.desired()
        wanted = document.models[model].active
        assert wanted is not None
        is_active = phase in (Phase.PROBATION, Phase.COMMITTED)
        active = wanted.target if is_active else self.previous
        other = self.previous if is_active and self.previous != active else ""
        state = ModelState(
            model=model,
            phase=phase,
            active_target=active,
            active_sha256=self.fleet.digests.get(active, ""),
            previous_target=other,
            previous_sha256=self.fleet.digests.get(other, ""),
            wanted_sha256=wanted.sha256,
            attempt=wanted.attempt,
            gen=document.gen,
            slot="a" if self.seq % 2 else "b",
            serving=bool(active),
            rollout=wanted.rollout or "",
            **told,
        )
        if phase is Phase.COMMITTED:
            self.previous = active
        self.say(document.gen, [state], facts=facts or {})
        self.event(phase, wanted.target, **{k: v for k, v in told.items() if k in ("error_class", "reason")})

    def say(self, gen: int, models: list[ModelState], **told: Any) -> None:
        """Send a whole state."""
        self.seq += 1
        state = State(
            device=self.id, gen=gen, boot_id="b1", seq=self.seq, ts=0, models=models, agent_version="0.1.0", **told
        )
        self.fleet.parts.fleet.receiver.take_state(self.id, state)

    def event(self, phase: Phase, target: str, **told: Any) -> None:
        """Send one event."""
        ts = int(self.fleet.house.clock.now().timestamp() * 1000)
        event = Event(
            device=self.id, boot_id="b1", seq=self.seq, ts=ts, kind=EventKind.PHASE, model="digits", target=target,
            phase=phase, **told,
        )  # fmt: skip
        self.fleet.parts.fleet.receiver.take_events([event])

    def measure(self, version: str = "1.1.0") -> None:
        """Send one telemetry window of a version."""
        sketch = LatencySketch()
        for n in range(240):
            sketch.add(0.004 + n / 50_000)
        window = Window(
            t0=int(self.fleet.house.clock.now().timestamp()), length_s=60, model="digits", lane="active", sha256="a" * 64,
            version=version, n=240, errors=1, nonfinite=31, latency=sketch.packed(),
        )  # fmt: skip
        message = Telemetry(device=self.id, boot_id="b1", seq=self.seq, ts=window.t0 * 1000, windows=[window])
        self.fleet.parts.telemetry.ingest([message])


class Fleet:
    """The server, its devices, and browsers that look at it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.house = ApiHouse(folder, **settings)
        self.parts = self.house.parts
        self.engine = RolloutController(
            self.parts.db, self.parts.fleet, self.parts.rollout, self.parts.clock, self.parts.settings.instance
        )
        self.digests: dict[str, str] = {}
        self.by_id: dict[str, Device] = {}

    def close(self) -> None:
        """Close the database."""
        self.house.close()

    def release(self, ref: str, *profiles: str) -> None:
        """Publish a release and sign a bundle of it for each profile, as the conversion worker does."""
        parsed, registry = ReleaseRef.parse(ref), self.parts.registry
        source = registry.put_blob_bytes(ref.encode())
        names = tuple(ProfileName(name) for name in profiles)
        file = SourceFile("model.onnx", source, len(ref))
        registry.publish(Publication(parsed, "file", (file,), names, (), {}, {}), "test")
        for profile in names:
            self._bundle(parsed, profile)

    def _bundle(self, ref: ReleaseRef, profile: ProfileName) -> None:
        registry, data = self.parts.registry, f"{ref} for {profile}".encode()
        target = target_path(ref.model, ref.version, profile)
        with self.parts.db.session():
            sha256, leaves = registry.put_blob_bytes(data), registry.put_blob_bytes(leaf_index(data))
            named = {"model": ref.model, "version": ref.version, "profile": profile}
            custom = {"leaves": leaves, "leaf_bytes": LEAF_BYTES, **named}
            self.parts.signing.add_target(target, len(data), sha256, custom)
            registry.accept_bundle(
                BundleView(
                    ref=ref,
                    profile=profile,
                    target=target,
                    sha256=sha256,
                    length=len(data),
                    leaves=leaves,
                    runtime="ort",
                    precision="fp32",
                    signed_at=self.parts.clock.now(),
                    report={},
                )
            )
        self.digests[target] = sha256

    def device(self, name: str, profile: str = ORT, labels: Mapping[str, str] | None = None) -> Device:
        """Enrol a device and connect it."""
        claim = self.parts.fleet.enrolment.create_claims(
            labels=labels, profile=profile, name_prefix=name, created_by="test"
        )
        enrolled = self.parts.fleet.enrolment.enroll(claim[0].token, KeyedDevice().csr(), FACTS)
        device = Device(self, enrolled.device_id)
        device.connect()
        self.by_id[device.id] = device
        return device

    def rollout(self, **spec: Any) -> str:
        """Start a rollout and tick it once."""
        started = str(self.parts.rollout.create(spec, "ann"))
        self.tick()
        return started

    def last_in(self, rollout: str, stratum: str) -> str:
        """Return a device of a stratum that belongs to the last stage of a rollout."""
        strata = self.parts.rollout.plan_of(rollout).stages[-1].strata
        return next(str(one.devices[0].device) for one in strata if one.stratum == stratum)

    def offered(self, rollout: str, devices: Sequence[Device]) -> list[Device]:
        """Return those devices whose document now comes from a rollout."""
        wanted = {device.id: device.desired().models.get("digits") for device in devices}
        return [
            one for one in devices if (m := wanted[one.id]) and m.active is not None and m.active.rollout == rollout
        ]

    def tick(self, **later: float) -> None:
        """Let time pass, then let the engine look at every rollout."""
        self.house.clock.turn(**later)
        self.engine.tick(is_woken=True)

    def browser(self, *roles: Role) -> TestClient:
        """Return a browser that follows no redirect; signed in when roles are given."""
        browser = TestClient(
            self.house.app, base_url="http://fleet.test", raise_server_exceptions=False, follow_redirects=False
        )
        if roles:
            answer = browser.post("/login", data={"token": self.house.token(*roles)})
            assert answer.status_code == 303, answer.text
        return browser


STAGES = [
    {"name": "canary", "size": {"count": 2}, "soak": "30s"},
    {"name": "half", "size": {"percent": 50}, "soak": "1m"},
    {"name": "rest", "size": {"percent": 100}, "soak": "0s"},
]


def small(fleet: Fleet, count: int = 4) -> list[Device]:
    """Return devices that run 1.0.0 while 1.1.0 is published."""
    for version in ("1.0.0", "1.1.0"):
        fleet.release(f"digits@{version}", ORT)
    devices = [fleet.device(f"cam{n}", labels={"site": "hall"}) for n in range(count)]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    for device in devices:
        device.report(Phase.COMMITTED)
    return devices


def state_of(fleet: Fleet, rollout: str) -> str:
    """Return the state of a rollout, as the API has it."""
    return fleet.parts.rollout.reader.rollout(rollout).state


def staged(fleet: Fleet) -> tuple[str, str]:
    """Build a fleet of ten after one good rollout and a bad one that was stopped on its canary; return the ids of both.

    One device of the last stage is offline all the time, device late joins while that stage runs.
    """
    for ref, profiles in {"digits@1.0.0": (ORT, LITERT), "digits@1.1.0": (ORT, LITERT), "digits@1.2.0": (ORT,)}.items():
        fleet.release(ref, *profiles)
    devices = [
        fleet.device(f"cam{n}", ORT if n < 6 else LITERT, {"site": "hall" if n % 2 else "yard"}) for n in range(9)
    ]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    for device in devices:
        fleet.tick(seconds=3)
        device.report(Phase.COMMITTED)
    good = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES, device={"ack_deadline": "3m"})
    away = fleet.last_in(good, ORT)
    devices = [device for device in devices if device.id != away]
    fleet.by_id[away].connect(on=False)
    for _ in range(20):
        follow(fleet, devices)
        now = fleet.parts.rollout.reader.rollout(good)
        if now.state == "finished":
            break
        if now.stage == "rest" and len(devices) == 8:
            devices.append(fleet.device("late", ORT, {"site": "yard"}))
    bad = fleet.rollout(
        release="digits@1.2.0", selector=f"profile={ORT},id!={away}", stages=STAGES, on_unconfirmed="rollback"
    )
    first = fleet.offered(bad, devices)[0]
    for phase in (Phase.DOWNLOADING, Phase.PROBATION):
        first.report(phase)
        fleet.tick(seconds=4)
    first.measure()
    first.report(
        Phase.ROLLED_BACK, error_class=ErrorClass.NONFINITE, reason=NONFINITE, error_code="probation.nonfinite"
    )
    fleet.tick(seconds=2)
    fleet.tick(seconds=2)
    return good, bad


def follow(fleet: Fleet, devices: Sequence[Device]) -> None:
    """Let each device do what its document says, then let time pass."""
    for device in devices:
        wanted = device.desired().models.get("digits")
        if wanted is not None and wanted.active is not None and wanted.active.target != device.previous:
            for phase in (Phase.DOWNLOADING, Phase.PROBATION, Phase.COMMITTED):
                device.report(phase)
                fleet.tick(seconds=2)
    fleet.tick(seconds=31)
