"""The devices on which a release failed are those that the rules count as failed, on each kind of database."""

from __future__ import annotations

from itertools import product
from typing import Any

from sqlalchemy import insert

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import OFFLINE
from edgefleet_server.rollout.state_machines import stands_failed
from edgefleet_server.rollout.status.failures import FailureReader
from edgefleet_server.rollout.store import assignments
from edgefleet_server.rollout.store.tables import RolloutAssignment
from tests.server.rollout.fleet_sim import World


def test_failures_are_what_the_rules_call_so(any_world: World) -> None:
    rollout = "r-x"
    rows: list[dict[str, Any]] = [
        {
            "rollout_id": rollout, "device_id": f"d-{n:03d}", "stage": 0, "stratum": "p", "state": state.value, "error_class": kind,
            "reason": f"because of {kind}", "attempt": 1, "gen": 1, "is_joiner": False, "is_accepted": False, "back_gen": 0,
            "retries": 0, "unanswered_s": 0.0, "failed_before": "disk" if n % 2 else "",
        }
        for n, (state, kind) in enumerate(product(AssignmentState, ("", "crash", OFFLINE)))
    ]  # fmt: skip
    with any_world.house.db.session() as session:
        session.execute(insert(RolloutAssignment.__table__), rows)  # type: ignore[attr-defined]
    with any_world.house.db.read() as session:
        wanted = [one.device for one in assignments.assignments(session, rollout) if stands_failed(one)]
    reader = FailureReader(any_world.house.db)
    found, total = reader.failed(rollout, limit=1000)
    assert [one.device for one in found] == wanted
    assert total == len(wanted) > 5
    assert reader.failed(rollout, limit=2) == (found[:2], total)
    assert reader.failed("r-none", limit=2) == ([], 0)
