"""A fleet whose clock is turned, whose devices come and go as real ones would, and whose rules are evaluated as the engine does."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import ModelState, Phase, Presence, State, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.contact_points.model import ContactView
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse

EVERY = timedelta(seconds=30)


class WatchedDevice:
    """One enrolled device that is online."""

    def __init__(self, fleet: "WatchedFleet", device_id: DeviceId, *, connects: bool) -> None:
        self.fleet = fleet
        self.id = device_id
        self.seq = 0
        if connects:
            self.back()

    def back(self) -> None:
        """Connect."""
        self._present(on=True)

    def gone(self) -> None:
        """Lose the connection: the broker sends the last will."""
        self._present(on=False)

    def _present(self, *, on: bool) -> None:
        presence = Presence(on=on, conn_id="c1", boot_id="b1", ts=0)
        self.fleet.house.parts.fleet.receiver.take_presence(self.id, presence)

    def runs(self, model: str, phase: Phase, **told: Any) -> None:
        """Say how far a model is."""
        self.says(models=[ModelState(model=model, phase=phase, gen=0, **told)])

    def says(self, models: Sequence[ModelState] = (), **facts: Any) -> None:
        """Send a state with these models and facts."""
        self.seq += 1
        state = State(
            device=self.id,
            gen=0,
            boot_id="b1",
            seq=self.seq,
            ts=0,
            models=list(models),
            agent_version="0.1.0",
            facts=facts,
        )
        self.fleet.house.parts.fleet.receiver.take_state(self.id, state)

    def measures(
        self,
        *,
        p95_ms: float = 5.0,
        n: int = 100,
        errors: int = 0,
        nonfinite: int = 0,
        length_s: int = 60,
        model: str = "digits",
    ) -> None:
        """Send one window of real requests."""
        self.seq += 1
        sketch = LatencySketch()
        for _ in range(n):
            sketch.add(p95_ms / 1000)
        now_s = int(self.fleet.house.clock.now().timestamp())
        window = Window(
            t0=now_s - length_s, length_s=length_s, model=model, lane="active", sha256="a" * 64, version="1.0.0", n=n,
            latency=sketch.packed(), errors=errors, nonfinite=nonfinite,
        )  # fmt: skip
        told = Telemetry(device=self.id, boot_id="b1", seq=self.seq, ts=now_s * 1000, windows=[window])
        self.fleet.house.parts.telemetry.ingest([told])


class WatchedFleet:
    """The services, a clock that is turned, and the engine of alerts."""

    def __init__(self, folder: Path, url: str | None = None, **settings: Any) -> None:
        self.house = ApiHouse(folder, url, **settings)
        self.alarm = self.house.parts.alarm
        self.alarm.engine.tick()

    def device(
        self, *, name: str = "", labels: Mapping[str, str] | None = None, connects: bool = True
    ) -> WatchedDevice:
        """Enrol a device."""
        fleet = self.house.parts.fleet
        claim = fleet.enrolment.create_claims(labels=labels, created_by="test", display_name=name)
        return WatchedDevice(
            self, fleet.enrolment.enroll(claim[0].token, KeyedDevice().csr(), FACTS).device_id, connects=connects
        )

    def known(self, device_id: DeviceId) -> WatchedDevice:
        """Return a device that was enrolled elsewhere, connected."""
        return WatchedDevice(self, device_id, connects=True)

    def contact(self, name: str, url: str, severity: Severity = Severity.WARNING, **more: Any) -> ContactView:
        """Make a contact point."""
        given: dict[str, Any] = {"selector": "", "sends_resolved": True} | more
        return self.alarm.contacts.create(
            name, self.alarm.contacts.look(url), severity, given.pop("selector"), "ann", **given
        )

    def queued(self, contact: ContactView) -> list[str]:
        """Return the subjects of all messages to a contact point, oldest first."""
        found, _ = self.alarm.contacts.deliveries(contact.id, before=None, limit=100)
        return [one.subject for one in reversed(found)]

    def run(self, **length: float) -> None:
        """Let time pass, with an evaluation every EVERY, as the engine would."""
        end = self.house.clock.now() + timedelta(**length)
        while self.house.clock.now() < end:
            self.house.clock.turn(seconds=EVERY.total_seconds())
            assert self.alarm.engine.tick()

    def open(self) -> dict[tuple[str, str], Any]:
        """Return the alerts that have not ended, by rule and subject."""
        from edgefleet_server.alerting.active_alerts.service import OPEN, AlertQuery

        found, _ = self.alarm.alerts.page(AlertQuery(OPEN), before=None, limit=500)
        return {(one.rule, one.subject): one for one in found}

    def open_devices(self) -> list[str]:
        """Return the devices of open alerts."""
        return sorted({device for one in self.open().values() for device in one.devices})

    def firing(self) -> list[tuple[str, str]]:
        """Return rule and subject of the alerts that fire and are not suppressed."""
        return sorted((one.rule, one.subject) for one in self.alarm.alerts.firing(500))

    def quiet(self) -> dict[tuple[str, str], str]:
        """Return what suppresses the alerts that are suppressed."""
        return {key: one.suppressed_by for key, one in self.open().items() if one.suppressed_by}
