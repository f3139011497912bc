"""What waits for a person, as `edgectl server check` lists it."""

from datetime import timedelta
from pathlib import Path

import pytest

from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError
from edgefleet_server.process.server_check import waiting_requests
from tests.server.access.known_identity import add_identity
from tests.server.dashboard.fleet import Fleet
from tests.server.fleet.house import FACTS, KeyedDevice


def test_devices_that_wait_are_listed_with_their_age(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    enrolment = fleet.parts.fleet.enrolment
    claim = enrolment.create_claims(approval=True, created_by="test")[0]
    with pytest.raises(ApprovalPendingError):
        enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
    away = fleet.device("away")
    away.ask_to_come_back()
    fleet.house.clock.turn(hours=2)
    add_identity(fleet.parts.db, "i-linked", "p-somebody")
    add_identity(fleet.parts.db, "i-waits")
    new, back, person = waiting_requests(fleet.parts)
    assert (person["what"], person["next"]) == ("person from corp", "edgectl identity link i-waits")
    assert (new["what"], new["next"]) == ("device to be enrolled", f"edgectl device approve {new['id']}")
    assert (back["what"], back["id"]) == ("device that comes back", away.id)
    assert new["age_s"] == back["age_s"] == timedelta(hours=2).total_seconds()
    fleet.close()
