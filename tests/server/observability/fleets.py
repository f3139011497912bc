"""A fleet in the database, made by a few statements: so many devices with groups, versions and failed updates."""

from datetime import timedelta

from sqlalchemy import insert
from sqlmodel import Session

from edgefleet_server.fleet.tables import FleetDevice, FleetGroup, FleetModelState
from edgefleet_server.registry.tables import ModelRow, ReleaseRow
from tests.support.servers import ApiHouse

MODELS = ("digits", "parts")
VERSIONS = ("1.0.0", "1.1.0")
SITES = 10


def make_fleet(house: ApiHouse, devices: int) -> None:
    """Add two models of two releases each, a group a site, and so many devices, a twentieth of which is away."""
    with house.parts.db.session() as session:
        _add_releases(house, session)
        now = house.clock.now()
        session.add_all(
            FleetGroup(name=f"site-{one}", selector=f"site=s{one}", created_at=now, created_by="test")
            for one in range(SITES)
        )
        session.flush()
        add_devices(house, session, 0, devices)


def add_devices(house: ApiHouse, session: Session, first: int, devices: int) -> None:
    """Add so many devices, with ids from a number on."""
    now = house.clock.now()
    every = range(first, first + devices)
    session.execute(insert(FleetDevice), [_device(house, one) for one in every])
    states = [
        {
            "device_id": f"dev-{one:06}", "model": MODELS[one % 2], "version": VERSIONS[one // 2 % 2], "active_target": "",
            "active_sha256": "", "phase": "committed", "assignment": "failed" if one % 50 == 7 else "healthy",
            "error_class": None, "changed_at": now,
        }
        for one in every
    ]  # fmt: skip
    session.execute(insert(FleetModelState), states)


def _add_releases(house: ApiHouse, session: Session) -> None:
    now = house.clock.now()
    session.add_all(ModelRow(name=model, created_at=now, created_by="test") for model in MODELS)
    session.flush()
    session.add_all(
        ReleaseRow(
            model=model, version=version, state="ready", source_sha256="0" * 64, identity="1" * 64, source={}, data={},
            options={}, profiles_reason="", lineage={}, created_at=now, created_by="test",
        )
        for model in MODELS
        for version in VERSIONS
    )  # fmt: skip
    session.flush()


def _device(house: ApiHouse, number: int) -> dict[str, object]:
    now = house.clock.now()
    is_away = number % 20 == 3
    return {
        "id": f"dev-{number:06}",
        "profile": ("generic-x86_64-ort", "rpi4-ort")[number % 2],
        "arch": "x86_64",
        "public_key": "",
        "labels": {"site": f"s{number % SITES}"},
        "facts": {},
        "enrolled_at": now,
        "cert_not_after": now + timedelta(days=5 if number % 100 == 9 else 60),
        "is_online": not is_away,
        "offline_since": now if is_away else None,
        "free_mb": 100 if number % 100 == 11 else 5000,
        "absences": [],
    }
