"""Rules find the same of the devices that are read for them as of all devices, whatever state these are in (ADR 0165)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from edgefleet_protocol.messages import Phase
from edgefleet_server.alerting.alert_facts.facts_loader import FactsLoader, Records
from edgefleet_server.alerting.alert_rules.fleet_facts import Facts, Finding
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.fleet.inventory.device_health import DeviceHealth, DeviceHealthReader, DeviceNeeds
from edgefleet_server.fleet.tables import FleetDevice
from tests.server.alerting.watched_fleet import WatchedFleet

DEVICES = 40
SEEN = (
    "certificate_ends",
    "device_offline",
    "device_suspect",
    "disk_full",
    "error_share",
    "site_silent",
    "update_failed",
)


def _states(now: datetime) -> list[dict[str, Any]]:
    hour = timedelta(hours=1)
    return [
        {},
        {"is_online": False, "offline_since": now - hour},
        {"is_online": None, "offline_since": now - 2 * hour},
        {"is_online": None, "offline_since": None},
        {"cert_not_after": now + timedelta(days=3)},
        {"free_mb": 100},
        {"free_mb": 210},
        {"suspect_since": now, "suspect_reason": "its key was copied"},
        {"revoked_at": now, "is_online": False, "offline_since": now - hour},
    ]


def test_rules_find_the_same_as_of_all_devices(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, own = WatchedFleet(tmp_path / "server", database_url), col(FleetDevice.id)
    states = _states(fleet.house.clock.now())
    for number in range(DEVICES):
        site = f"s{number % 8}" if number % 5 else ""
        device = fleet.device(labels={"site": site} if site else {})
        if number % 6 == 0:
            device.runs("digits", Phase.FAILED)
        if number % 7 < 2:
            device.measures(errors=40 * (number % 7))
        # one site is silent
        state = states[1] if site == "s3" else states[number % len(states)]
        if state:
            with fleet.house.parts.db.session() as session:
                session.execute(update(FleetDevice).where(own == device.id).values(**state))
    seen: list[tuple[Facts, Mapping[str, float]]] = []
    load = FactsLoader.load

    def noted(self: FactsLoader, now: datetime, models: Records, thresholds: Mapping[str, float]) -> Facts:
        found = load(self, now, models, thresholds)
        seen.append((found, thresholds))
        monkeypatch.setattr(DeviceHealthReader, "devices", _all)
        seen.append((load(self, now, models, thresholds), thresholds))
        monkeypatch.setattr(DeviceHealthReader, "devices", devices)
        return found

    devices = DeviceHealthReader.devices

    def _all(self: DeviceHealthReader, _needs: DeviceNeeds | None = None) -> list[DeviceHealth]:
        return devices(self)

    monkeypatch.setattr(FactsLoader, "load", noted)
    fleet.run(minutes=1)
    assert len(seen) == 4
    for (some, thresholds), (every, _) in zip(seen[::2], seen[1::2], strict=True):
        assert some.live == len(every.devices) > len(some.devices) > 0
        assert _findings(some, thresholds) == _findings(every, thresholds)
    assert {name for name, found in _findings(*seen[-2]).items() if found} >= {*SEEN}
    fleet.house.close()


def _findings(facts: Facts, thresholds: Mapping[str, float]) -> dict[str, list[Finding]]:
    return {name: list(RULES[name].check(facts, limit)) for name, limit in thresholds.items()}
