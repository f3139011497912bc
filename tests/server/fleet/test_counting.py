"""What the database counts is what matching device by device gives; what it cannot count it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from edgefleet_server.fleet.tables import FleetDevice
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
)  # fmt: skip
UNCOUNTED = ("free_mb>5", "status=online", "model.digits=1.0.0", "group=canaries", "env>3")


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> Iterator[House]:
    """A house with 30 devices of three profiles, some labelled, one revoked."""
    made = House(database_url, tmp_path / "house", TurnedClock())
    with made.db.session() as session:
        for number in range(30):
            add(session, number)
    yield made
    made.db.dispose()


def add(session: Session, number: int) -> None:
    session.add(
        FleetDevice(
            id=f"d-{number:02}", profile=(PROFILE, "rpi", "jet")[number % 3], arch="x86_64", public_key="",
            labels=LABELS[number % len(LABELS)], facts={}, enrolled_at=START, cert_not_after=START + timedelta(days=90),
            revoked_at=START if number == 5 else None,
        )
    )  # fmt: skip


def test_numbers_are_those_of_matching_each_device(house: House) -> None:
    for selector in COUNTED:
        found = house.fleet.offers.count_matching(selector, ["env"])
        assert found is not None, selector
        told = Counter({(one.profile, one.values): one.devices for one in found})
        assert told == Counter((one.profile, (one.labels.get("env"),)) for one in house.fleet.population(selector)), (
            selector
        )


def test_what_one_statement_cannot_count_is_not_counted(house: House) -> None:
    assert [house.fleet.offers.count_matching(selector) for selector in UNCOUNTED] == [None] * len(UNCOUNTED)
