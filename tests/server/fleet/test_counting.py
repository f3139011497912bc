"""What the database counts is what matching device by device gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from edgefleet_server.fleet.tables import FleetDevice, FleetModelState
from tests.server.fleet.house import PROFILE, START, House, TurnedClock

LABELS: tuple[dict[str, str], ...] = (
    {},
    {"env": "prod"},
    {"env": "prod", "site": "berlin"},
    {"env": "test", "edgefleet/pinned": "bench"},
    {"env": ""},
)
COUNTED = (
    "", "env=prod", "env!=prod", "env in (prod,test)", "env notin (prod,test)", "env", "!env", "env=", "edgefleet/pinned",
    f"profile={PROFILE}", "profile in (rpi,jet),env=prod", "arch!=armv7l", "id=d-03", "env=prod,site,!edgefleet/pinned",
    "free_mb>5", "status=online", "status!=unknown", "model.digits=1.0.0", "!model.digits", "group=canaries", "group!=canaries",
    "env>3",
)  # fmt: skip


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> Iterator[House]:
    """A house with 30 devices of three profiles, some labelled, some online, some with a model, one revoked; and a group of them."""
    made = House(database_url, tmp_path / "house", TurnedClock())
    with made.db.session() as session:
        for number in range(30):
            add(session, number)
    made.fleet.groups.create("canaries", "env=prod,site", "ann")
    yield made
    made.db.dispose()


def add(session: Session, number: int) -> None:
    session.add(
        FleetDevice(
            id=f"d-{number:02}", profile=(PROFILE, "rpi", "jet")[number % 3], arch="x86_64", public_key="",
            labels=LABELS[number % len(LABELS)], facts={}, enrolled_at=START, cert_not_after=START + timedelta(days=90),
            revoked_at=START if number == 5 else None, is_online=(None, True, False)[number % 4 % 3], free_mb=number,
        )
    )  # fmt: skip
    if number % 2:
        session.add(
            FleetModelState(
                device_id=f"d-{number:02}", model="digits", version=f"1.{number % 3}.0", phase="committed", assignment="healthy",
                changed_at=START,
            )
        )  # fmt: skip


def test_numbers_are_those_of_matching_each_device(house: House) -> None:
    for selector in COUNTED:
        found = house.fleet.offers.count_matching(selector, ["env"])
        told = Counter({(one.profile, one.values): one.devices for one in found})
        assert told or selector == "env>3", selector
        assert told == Counter(
            (one.profile, (one.labels.get("env"),)) for one in house.fleet.devices.population(selector)
        ), selector
