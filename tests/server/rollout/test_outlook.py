"""What a running rollout says that it does: a device that soaks is not healthy yet, and of no device nothing is counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.status.outlook import OutlookView, outlook

NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)
SOAK = timedelta(minutes=10)
PROFILE = ProfileName("rpi")
STAGES = [{"name": "canary", "size": {"count": 3}, "soak": "10m"}, {"name": "rest", "size": {"percent": 100}}]
_S = AssignmentState


def seen(state: StageState, *lots: Lot) -> OutlookView:
    spec = parse_spec({"release": "digits@1.1.0", "selector": "", "stages": STAGES})
    run = StageRun(0, PROFILE, state)
    found = outlook(Snapshot(RolloutId("r-1"), RolloutState.RUNNING, spec, "salt", {}, (), (run,), ()), lots, NOW)
    assert found is not None
    return found


def devices(n: int, state: AssignmentState, ran: timedelta | None = None, error: str = "") -> Lot:
    switched = None if ran is None else NOW - ran
    exposed = NOW - timedelta(hours=1)
    return Assignment(
        DeviceId("d"), 0, PROFILE, state, gen=1, exposed_at=exposed, switched_at=switched, error_class=error
    ), n


SOAKING, SOAKED = devices(12, _S.HEALTHY, SOAK / 2), devices(3, _S.HEALTHY, SOAK)


@pytest.mark.parametrize(
    ("state", "lots", "text"),
    [
        (StageState.SOAKING, (SOAKING,), "Soaking: 12 of 12"),
        (StageState.SOAKING, (SOAKING, SOAKED), "Soaking: 12 of 15, 3 healthy"),
        (StageState.SOAKING, (SOAKING, devices(1, _S.FAILED, error="crash")), "Soaking: 12 of 13, 1 failed"),
        (StageState.SOAKING, (devices(2, _S.HEALTHY),), "Soaking: 2 of 2"),  # a candidate that stands still
        (StageState.SOAKING, (), "Soaking"),
        (StageState.EXPOSING, (SOAKING, devices(2, _S.VERIFYING)), "Installing: 0 of 14 healthy, 12 soaking, 2 on probation"),
        (StageState.EXPOSING, (SOAKED, devices(5, _S.OFFERED)), "Installing: 3 of 8 healthy"),
        (StageState.JUDGING, (SOAKED,), "Soak over: 3 of 3 healthy"),
    ],
)  # fmt: skip
def test_what_soaks_is_not_called_healthy(state: StageState, lots: tuple[Lot, ...], text: str) -> None:
    assert seen(state, *lots).text == text


def test_each_device_is_counted_once() -> None:
    now = seen(StageState.SOAKING, SOAKING, SOAKED)
    assert (now.soaking, now.healthy, now.of) == (12, 3, 15)
