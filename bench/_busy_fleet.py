"""What happens in the fleet of `fleet_page`, so that pages about it are full: models with versions, roll-ups, signals, a rollout, alerts.

The model `digits` has three versions with bundles for each profile; devices run the first two (`fleet_page`), a rollout brings the
third to the first of them. Its figures of two days are roll-ups as the real writer makes them; each device counted signals by the
reference of its bundle in the last hours, those of one site moved. MODELS more models are published and run nowhere. How many devices
were online was sampled all that time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import charts, fleet_page  # noqa: E402
from tests.server.dashboard.fleet import Fleet  # noqa: E402
from tests.server.dashboard.shelf import shelve  # noqa: E402
from tests.server.telemetry.drifting import counted, reference  # noqa: E402

from edgefleet_protocol.drift.histogram import pack  # noqa: E402
from edgefleet_protocol.drift.reference import MEMBER, basis_of, write_reference  # noqa: E402
from edgefleet_server.alerting.active_alerts.model import AlertState  # noqa: E402
from edgefleet_server.alerting.active_alerts.tables import Alert  # noqa: E402
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity  # noqa: E402
from edgefleet_server.fleet.tables import FleetSample  # noqa: E402
from edgefleet_server.telemetry.signals.model import Scale  # noqa: E402
from edgefleet_server.telemetry.signals.tables import DriftBucket  # noqa: E402

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
MODELS = 40
ALERTS = 400
HOURS = 3
SHAPES = 64
DAYS = 2
STAGES = [
    {"name": "canary", "size": {"count": 100}, "soak": "1h"},
    {"name": "half", "size": {"percent": 50}, "soak": "1h"},
    {"name": "rest", "size": {"percent": 100}, "soak": "0s"},
]


def fill(fleet: Fleet, devices: int) -> str:
    """Write all of it; return the id of the rollout."""
    made = reference(20_000)
    for version in VERSIONS:
        shelve(fleet, f"digits@{version}", *fleet_page.PROFILES, members={MEMBER: write_reference(made)})
    for number in range(MODELS):
        shelve(fleet, f"model-{number:02}@1.0.0", fleet_page.PROFILES[0])
    fleet_page.seed(fleet.parts, devices, fleet.digests)
    parts, now = fleet.parts, fleet.parts.clock.now()
    bundles = {version: fleet.digests[fleet_page.target_of(version, 0)] for version in VERSIONS[:2]}
    charts.write_rollups(
        parts,
        devices,
        [("digits", version, sha256) for version, sha256 in bundles.items()],
        charts.cohorts_of(fleet_page.PROFILES, fleet_page.SITES, [("prod",)]),
        {scale: timedelta(days=DAYS) for scale in (900, 3_600, 86_400)},
    )
    samples = [counted(made, 150, seed) for seed in range(SHAPES)]
    moved = [counted(made, 150, seed, shift={"temperature": 1.0}) for seed in range(SHAPES)]
    packed = [pack(one) for one in (*samples, *moved)]
    basis = basis_of(made).hex()
    with parts.db.session() as session:
        connection = session.connection()
        for start in range(0, devices, fleet_page.ROWS):
            numbers = range(start, min(devices, start + fleet_page.ROWS))
            connection.execute(insert(DriftBucket), list(_buckets(fleet.digests, numbers, packed, basis, now)))
        connection.execute(insert(FleetSample), list(_samples(devices, now)))
        connection.execute(insert(Alert), [_alert(number, now) for number in range(min(ALERTS, devices))])
    rollout = str(parts.rollout.create({"release": "digits@1.2.0", "selector": "", "stages": STAGES}, "ann"))
    for _ in range(3):
        fleet.engine.tick(is_woken=True)
    return rollout


def _buckets(
    digests: Mapping[str, str], numbers: Sequence[int], packed: Sequence[bytes], basis: str, now: datetime
) -> Iterator[dict[str, Any]]:
    length_s = Scale.HOUR.seconds
    newest = int(now.timestamp()) // length_s * length_s
    for number in numbers:
        is_moved = fleet_page.site_of(number) == fleet_page.SITES[0]
        for hour in range(HOURS):
            yield {
                "device_id": fleet_page.device_id(number),
                "sha256": digests[fleet_page.running_target(number)],
                "basis": basis,
                "scale_s": length_s,
                "at": datetime.fromtimestamp(newest - hour * length_s, now.tzinfo),
                "covered_s": length_s,
                "signals": packed[(number + hour) % SHAPES + SHAPES * is_moved],
            }


def _samples(devices: int, now: datetime) -> Iterator[dict[str, int]]:
    """Yield the steps of a minute and of 15 in which the fleet was sampled once a minute; now and then fewer devices were online."""
    for length_s in (60, 900):
        newest = int(now.timestamp()) // length_s
        for step in range(newest - DAYS * 86_400 // length_s, newest):
            samples = length_s // 60
            online = devices * (90 + step % 7) // 100
            yield {
                "scale_s": length_s, "at": step * length_s, "samples": samples, "online": samples * online,
                "devices": samples * devices, "drifting": samples * (online // 50), "drift_devices": samples * online,
            }  # fmt: skip


def _alert(number: int, now: datetime) -> dict[str, Any]:
    device, since = fleet_page.device_id(number), now - timedelta(minutes=5 + number)
    is_open = number % 4 != 3
    return {
        "rule": "device_offline", "subject": device, "shown": device, "group": fleet_page.site_of(number),
        "state": (AlertState.FIRING if is_open else AlertState.RESOLVED).value, "severity": Severity.WARNING.value,
        "summary": f"{device} has been offline for {5 + number} minutes", "value": 5.0 + number, "threshold": 10.0,
        "since": since, "seen_at": now, "fired_at": since, "resolved_at": None if is_open else now,
        "suppressed_by": "", "acked_by": "", "ack_comment": "", "link": f"/devices/{device}", "evidence": [],
        "devices": [device], "labels": {"device": device},
    }  # fmt: skip
