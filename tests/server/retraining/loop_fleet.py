"""A fleet whose drift is as a test says it is, and a runner: the retraining engine on real services, in a test's own time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import select

from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, PersonKind, Role
from edgefleet_server.alerting.active_alerts.model import AlertState
from edgefleet_server.alerting.active_alerts.tables import Alert, AlertDriftVerdict
from edgefleet_server.conversion.reports import store_report
from edgefleet_server.conversion.tables import JobRow
from tests.server.dashboard.fleet import Fleet
from tests.support.servers import PROFILE, ApiClient, ApiHouse, release_body

API = "/api/v1"
ROLLOUT = {"selector": "site=hall", "stages": [{"name": "all", "size": {"percent": 100}}]}


def person(
    house: ApiHouse, name: str, *roles: Role, model: str = "", kind: PersonKind = PersonKind.PERSON
) -> ApiClient:
    """Return a client of a person or a service of their own, over the whole fleet or of one model."""
    is_service = kind is PersonKind.SERVICE
    if is_service:
        house.parts.access.people.create(name, kind, by="test")
    scoped = [Grant(role, Scope(models=frozenset({model}))) for role in roles] if model else []
    made = house.parts.access.create_token(
        name, () if model else roles, by="test", person=name if is_service else "", scoped=scoped
    )
    return ApiClient(house.app, made.token)


def trigger(**changes: Any) -> dict[str, Any]:
    """Return the body of a trigger that is started by hand."""
    return {"name": "digits-drift", "model": "digits", "on": "hand", "approval": False, **changes}


class LoopFleet:
    """Devices at one site that run digits@1.0.0, an admin who is ann, and a runner of digits."""

    def __init__(self, folder: Path, devices: int = 0, **settings: Any) -> None:
        self.fleet = Fleet(folder, **settings)
        self.fleet.release("digits@1.0.0", PROFILE)
        self.house = self.fleet.house
        self.parts = self.house.parts
        self.admin = person(self.house, "ann", Role.ADMIN)
        self.runner = person(self.house, "runner", Role.PUBLISHER, model="digits", kind=PersonKind.SERVICE)
        self.devices = [self.fleet.device(f"cam{n}", labels={"site": "hall"}) for n in range(devices)]
        if devices:
            first = ReleaseRef.parse("digits@1.0.0")
            self.parts.fleet.deployer.deploy(first, selector="", device=None, dry_run=False, by="ann")
        for device in self.devices:
            device.report(Phase.COMMITTED)

    def tick(self, **delta: float) -> None:
        """Turn the clock, and let the engine of retraining look."""
        self.house.clock.turn(**delta)
        self.parts.retraining.engine.tick()

    def drifts(self, since: datetime | None = None, *, suppressed_by: str = "", rule: str = "drift_spread") -> int:
        """Let an alert about drift of digits on several devices fire; return its id."""
        now = self.house.clock.now()
        named = [str(one.id) for one in self.devices]
        signal = {
            "name": "mean", "where": "site", "place": "hall", "said": "mean moved by 0.8 standard deviations", "moved": 3, "of": 4,
            "devices": named,
        }  # fmt: skip
        with self.parts.db.session() as session:
            row = Alert(
                rule=rule, subject="model:digits", shown="digits", state=AlertState.FIRING.value, severity="warning",
                summary="mean drifts on 3 of 4 devices: site hall", value=3, threshold=2, group="model digits", since=since or now,
                seen_at=now, fired_at=since or now, suppressed_by=suppressed_by, acked_by="", ack_comment="", link="/models/digits/drift",
                evidence=["mean moved by 0.8 standard deviations"], devices=named, labels={"model": "digits", "version": "1.0.0"},
            )  # fmt: skip
            session.add(row)
            session.merge(AlertDriftVerdict(model="digits", version="1.0.0", judged_at=now, signals=[signal]))
            session.flush()
            return int(row.id or 0)

    def calms(self, alert: int, version: str) -> None:
        """Let an alert end, and judge a version: nothing drifts."""
        now = self.house.clock.now()
        with self.parts.db.session() as session:
            row = session.get(Alert, alert)
            assert row is not None
            row.state, row.resolved_at = AlertState.RESOLVED.value, now
            session.add(row)
            session.merge(AlertDriftVerdict(model="digits", version=version, judged_at=now, signals=[]))

    def make(self, **changes: Any) -> None:
        """Make a trigger as ann."""
        answer = self.admin.post(f"{API}/triggers", json=trigger(**changes))
        assert answer.status_code == 201, answer.text

    def runs(self) -> list[dict[str, Any]]:
        """Return all retrainings, oldest first."""
        return list(self.admin.get(f"{API}/retrainings", params={"sort": "id"}).json()["items"])

    def run(self) -> dict[str, Any]:
        """Return the one retraining."""
        (found,) = self.runs()
        return found

    def lease(self) -> dict[str, Any]:
        """Take the retraining that waits."""
        answer = self.runner.post(f"{API}/retrainings:lease", json={"model": "digits", "holder": "box"})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def publish(self, version: str, *, signs: bool = True, **lineage: str) -> str:
        """Publish a release of digits as the runner, and sign it."""
        data = f"model {version}".encode()
        self.house.put(data)
        body = release_body(data, version=version, lineage={"parent": "digits@1.0.0", **lineage})
        answer = self.runner.post(f"{API}/releases", json=body)
        assert answer.status_code in (200, 201), answer.text
        if signs:
            self.sign(version)
        return f"digits@{version}"

    def sign(self, version: str) -> None:
        """Sign a release and end its conversion, as the worker does."""
        ref = ReleaseRef.parse(f"digits@{version}")
        self.fleet._bundle(ref, ProfileName(PROFILE))
        self.parts.conversion.cancel(ref, "test")  # its jobs are over
        self.parts.registry.refresh_state(ref)

    def measure(self, version: str, **comparison: Any) -> None:
        """Let the conversion of a release have found this of it and its parent."""
        report = {"profiles": [], "comparison": {"metric": "top1", "value": 0.7, "n": 100, "given": 100, **comparison}}
        with self.parts.db.session() as session:
            row = session.exec(select(JobRow).where(JobRow.version == version)).first()
            assert row is not None
            row.report = store_report(self.parts.registry, report)
            session.add(row)

    def train(self, version: str = "2.0.0", **comparison: Any) -> dict[str, Any]:
        """Lease, publish and complete what waits; return it. comparison: what its conversion found next to its parent."""
        held = self.lease()
        run = held["retraining"]["id"]
        release = self.publish(version)
        if comparison:
            self.measure(version, **comparison)
        answer = self.runner.post(
            f"{API}/retrainings/{run}:complete", json={"lease": held["lease"], "release": release}
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def close(self) -> None:
        """Close the fleet."""
        self.fleet.close()
