"""The way back is at least ten times as fast as the way there, newest first, and waits for no window, rate or limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Offer, Revert
from edgefleet_server.rollout.model import (
    FULL_CUT,
    Assignment,
    Bundle,
    Member,
    PaceFacts,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Whereabouts,
)
from edgefleet_server.rollout.planner.completion import BACK_FACTOR
from edgefleet_server.rollout.planner.document_state import BATCH, BATCH_SHARE
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROFILE = ProfileName("rpi")
DIGEST = Sha256("d" * 64)
DEVICES = BACK_FACTOR * BATCH + 100
EVERY = [{"size": {"percent": 100}}]
CLOSED = {
    "windows": [{"cron": "0 1 * * *", "duration": "1h", "tz": "UTC"}],
    "limits": {"concurrent_downloads": 1},
    "stages": [{**EVERY[0], "rate": {"start": "1/min", "factor": 1, "max": "1/min"}}],
}


def snapshot(state: RolloutState, assigned: AssignmentState, **spec: object) -> Snapshot:
    names = [DeviceId(f"d-{n:05}") for n in range(DEVICES)]
    is_there = assigned is AssignmentState.HEALTHY
    assignments = tuple(
        Assignment(
            name,
            0,
            PROFILE,
            assigned,
            attempt=int(is_there),
            gen=7 if is_there else 0,
            due_at=NOW,
            entered_at=NOW - timedelta(hours=1),
            exposed_at=NOW - timedelta(hours=2) + timedelta(seconds=n) if is_there else None,
            switched_at=NOW - timedelta(hours=1) if is_there else None,
        )
        for n, name in enumerate(names)
    )
    wanted = str(DIGEST) if is_there else ""
    report = Report(
        reported_gen=7, active_sha256=wanted, wanted_by_server=wanted, set_by="r", is_online=True, last_seen=NOW
    )
    return Snapshot(
        id=RolloutId("r"),
        state=state,
        spec=parse_spec({"release": "digits@1.1.0", "selector": "", "stages": EVERY, **spec}),
        salt="salt",
        bundles={PROFILE: Bundle("t", DIGEST, 9)},
        members=tuple(Member(name, PROFILE) for name in names),
        cells=(StageRun(0, PROFILE, StageState.EXPOSING, cut=FULL_CUT, population=DEVICES, opened_at=NOW),),
        assignments=assignments,
        reports=dict.fromkeys(names, report),
        pace=PaceFacts(where=dict.fromkeys(names, Whereabouts("lab", "UTC"))),
    )


def test_ten_documents_go_back_for_each_one_that_could_go_out() -> None:
    there = plan_tick(snapshot(RolloutState.RUNNING, AssignmentState.ELIGIBLE), NOW)
    back = plan_tick(snapshot(RolloutState.ROLLING_BACK, AssignmentState.HEALTHY), NOW)
    out = sum(isinstance(effect, Offer) for effect in there.effects)
    given = [effect.device for effect in back.effects if isinstance(effect, Revert)]
    assert (out, len(given)) == (int(DEVICES * BATCH_SHARE), DEVICES)
    assert len(given) >= 10 * out
    assert given == [f"d-{n:05}" for n in range(DEVICES - 1, -1, -1)], "newest exposed first"
    assert there.next_at == NOW, "the rest follows at once"


def test_nothing_that_holds_an_offer_holds_the_way_back() -> None:
    there = plan_tick(snapshot(RolloutState.RUNNING, AssignmentState.ELIGIBLE, **CLOSED), NOW)
    assert not any(isinstance(effect, Offer) for effect in there.effects)
    back = plan_tick(snapshot(RolloutState.ROLLING_BACK, AssignmentState.HEALTHY, **CLOSED), NOW)
    assert sum(isinstance(effect, Revert) for effect in back.effects) == DEVICES


def test_in_its_window_the_tightest_limit_lets_one_out() -> None:
    at_one = NOW.replace(hour=1)
    held = snapshot(RolloutState.RUNNING, AssignmentState.ELIGIBLE, **CLOSED)
    assert sum(isinstance(effect, Offer) for effect in plan_tick(held, at_one).effects) == 1
