"""From a cause to the end of the rollout: the engine on real services."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.messages import Phase, Sample
from edgefleet_server.access.model import Role
from edgefleet_server.retraining.errors import LaunchError
from edgefleet_server.retraining.lifecycle.engine import MAX_LAUNCHES
from edgefleet_server.retraining.model import LauncherKind, LaunchOrder, RetrainingView
from tests.server.retraining.loop_fleet import API, ROLLOUT, LoopFleet, person


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopFleet]:
    made = LoopFleet(tmp_path / "server")
    yield made
    made.close()


@pytest.fixture
def cameras(tmp_path: Path) -> Iterator[LoopFleet]:
    made = LoopFleet(tmp_path / "server", devices=3)
    yield made
    made.close()


def test_the_whole_loop_from_drift_to_promoted_and_the_drift_is_gone(cameras: LoopFleet) -> None:
    loop = cameras
    loop.admin.put(f"{API}/capture-key", json={"public_key": "09" + "0" * 62})
    data = {"most": 30, "devices": 2, "wait_s": 60, "reasons": ["random", "flag"]}
    loop.make(on="drift", approval=True, rollout=ROLLOUT, data=data, lasting_s=60)
    loop.tick(seconds=1)
    assert "waits for drift" in loop.admin.get(f"{API}/triggers/digits-drift").json()["says"]
    alert = loop.drifts()
    loop.tick(seconds=30)
    assert (loop.runs(), "has to last" in loop.admin.get(f"{API}/triggers/digits-drift").json()["says"]) == ([], True)
    loop.tick(seconds=31)
    run = loop.run()
    assert (run["state"], run["parent"], run["created_by"]) == (
        "awaiting_approval",
        "digits@1.0.0",
        "trigger digits-drift",
    )
    assert (run["cause"]["alert"], run["cause"]["signals"][0]["name"]) == (alert, "mean")
    path = f"{API}/retrainings/{run['id']}"
    assert loop.admin.post(f"{path}:approve", json={}).status_code == 403, "ann made the trigger"
    assert person(loop.house, "sue", Role.APPROVER).post(f"{path}:approve", json={}).status_code == 200
    loop.tick(seconds=1)
    asked = [one for one in loop.devices if any(task.kind == "capture" for task in one.desired().tasks)]
    assert (loop.run()["state"], loop.run()["collected"]["asked"], len(asked)) == ("collecting", 2, 2)
    assert {task.args["limit"] for one in asked for task in one.desired().tasks} == {
        7
    }  # 30 by two devices and two reasons
    loop.tick(seconds=60)
    assert (loop.run()["state"], "nothing to train on" in loop.run()["says"]) == ("collecting", True), loop.run()[
        "says"
    ]
    captured(loop, 0)
    loop.tick(seconds=1)
    assert (loop.run()["state"], loop.run()["collected"]["records"]) == ("queued", 1)
    assert loop.train()["state"] == "converting"
    loop.tick(seconds=1)
    run = loop.run()
    assert (run["state"], run["release"]) == ("rolling_out", "digits@2.0.0"), run
    made = loop.parts.rollout.reader.rollout(run["rollout"])
    assert (made.created_by, made.release) == ("ann", "digits@2.0.0")
    for _ in range(8):
        loop.fleet.tick(seconds=30)
        for device in loop.devices:
            wanted = device.desired().models["digits"].active
            if wanted is not None and wanted.rollout:
                device.report(Phase.COMMITTED)
        loop.tick(seconds=1)
    run = loop.run()
    assert (run["state"], run["drift_after"]["state"]) == ("promoted", "waiting"), run["says"]
    loop.tick(hours=1)
    assert loop.run()["drift_after"]["words"] == "the alert that started it fires still"
    loop.calms(alert, "2.0.0")
    loop.tick(seconds=1)
    assert loop.run()["drift_after"]["state"] == "gone"
    kinds = {
        one["type"].rpartition(".")[2]
        for one in loop.admin.get(f"{API}/events", params={"kind": "retraining"}).json()["items"]
    }
    assert kinds == {
        "awaiting_approval", "collecting", "queued", "training", "converting", "rolling_out", "promoted", "drift_gone",
    }  # fmt: skip


def test_what_says_nothing_starts_nothing(loop: LoopFleet) -> None:
    loop.make(on="drift", rollout=None)
    loop.drifts(suppressed_by="maintenance")
    loop.tick(hours=1)
    assert loop.runs() == []
    loop.drifts(rule="drift")  # of one device
    loop.tick(hours=1)
    assert loop.runs() == []


def test_a_trigger_fires_no_more_often_than_it_says_and_one_model_is_retrained_once_at_a_time(loop: LoopFleet) -> None:
    loop.make(on="drift", cool_down_s=3600, budget=2)
    loop.make(name="other", on="drift")
    loop.drifts()
    for _ in range(3):
        loop.tick(minutes=1)
    assert len(loop.runs()) == 1
    loop.admin.patch(f"{API}/triggers/other", json={"enabled": False})
    for expected in (1, 1, 2, 2, 2):
        for run in loop.runs():
            loop.admin.post(f"{API}/retrainings/{run['id']}:cancel", json={})
        loop.tick(minutes=25)
        assert len(loop.runs()) == expected
    for run in loop.runs():
        loop.admin.post(f"{API}/retrainings/{run['id']}:cancel", json={})
    loop.tick(hours=2)
    assert "its budget is used" in loop.admin.get(f"{API}/triggers/digits-drift").json()["says"]


def test_a_schedule_fires_at_its_times_and_makes_up_for_none(loop: LoopFleet) -> None:
    loop.make(on="schedule", schedule="0 3 * * *", cool_down_s=0, tz="Europe/Berlin")  # it is 12:00 UTC
    assert loop.admin.get(f"{API}/triggers/digits-drift").json()["next_at"] == "2026-11-26T02:00:00Z"
    loop.tick(hours=13, minutes=59)
    assert loop.runs() == []
    loop.tick(minutes=2)
    first = loop.run()
    assert first["cause"]["on"] == "schedule"
    loop.tick(days=3)  # it is under way for days: the times in between are left out
    loop.admin.post(f"{API}/retrainings/{first['id']}:cancel", json={})
    loop.tick(minutes=1)
    assert len(loop.runs()) == 1
    loop.tick(days=1)
    assert len(loop.runs()) == 2


def test_records_are_collected_until_all_have_answered_and_given_out_as_they_came(cameras: LoopFleet) -> None:
    loop = cameras
    loop.admin.put(f"{API}/capture-key", json={"public_key": "09" + "0" * 62})
    alert = loop.drifts()
    loop.make(data={"wait_s": 86_400, "devices": 3, "most": 9})
    run = loop.admin.post(f"{API}/triggers/digits-drift:start", json={"reason": "fog"}).json()
    assert (run["cause"]["on"], run["cause"]["alert"], len(run["cause"]["devices"])) == ("hand", alert, 3)
    loop.tick(seconds=1)
    for number in range(len(loop.devices)):
        captured(loop, number, records=2)
        loop.tick(seconds=1)
    found = loop.run()
    assert (found["state"], found["collected"]) == ("queued", {"asked": 3, "answered": 3, "records": 6}), found["says"]
    path, seen, cursor = f"{API}/retrainings/{run['id']}/captures", [], None
    while True:
        page = loop.runner.get(path, params={"limit": 4, **({"cursor": cursor} if cursor else {})}).json()
        seen += [(one["device"], one["id"], base64.b64decode(one["sealed"]).decode()) for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    order = sorted(
        (str(device.id), f"r{seq}", f"{n}/{seq}") for n, device in enumerate(loop.devices) for seq in range(2)
    )
    assert (seen, page["total"]) == (order, 6)


def captured(loop: LoopFleet, number: int, records: int = 1) -> None:
    """Let a device send what it was asked for first."""
    device = loop.devices[number]
    task = next(one for one in device.desired().tasks if one.kind == "capture")
    samples = [
        Sample(
            device=device.id, boot_id="b", seq=seq, ts=0, task=task.id, left=records - 1 - seq, record=f"r{seq}", model="digits",
            reason="random", label=3, trace_id=f"t{seq}", taken=1_764_000_000_000, sealed=f"{number}/{seq}".encode(),
        )
        for seq in range(records)
    ]  # fmt: skip
    loop.parts.telemetry.ingest_samples(samples)


def test_nothing_is_trained_while_no_device_has_answered_and_that_ends(cameras: LoopFleet) -> None:
    loop = cameras
    loop.admin.put(f"{API}/capture-key", json={"public_key": "09" + "0" * 62})
    loop.drifts()
    loop.make(data={"wait_s": 60})
    loop.admin.post(f"{API}/triggers/digits-drift:start", json={})
    loop.tick(seconds=1)
    loop.tick(minutes=59)
    assert (loop.run()["state"], "no record has come" in loop.run()["says"]) == ("collecting", True)
    loop.tick(minutes=2)
    found = loop.run()
    assert (found["state"], found["error"]["code"]) == ("failed", "retraining.no_records")
    loop.make(name="own-data", data={"wait_s": 0})
    loop.admin.post(f"{API}/triggers/own-data:start", json={})
    loop.tick(seconds=1)
    loop.tick(seconds=1)
    assert loop.runs()[-1]["state"] == "queued", "who waits for no records trains without them"


def test_a_server_that_dies_in_a_step_leaves_the_retraining_as_it_was(
    cameras: LoopFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = cameras
    loop.make(rollout=ROLLOUT)
    to_queue(loop)
    loop.train()
    move = loop.parts.retraining.maker.move

    def dies(*given: Any, **named: Any) -> None:
        move(*given, **named)
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(type(loop.parts.retraining.maker), "move", lambda _self, *given, **named: dies(*given, **named))
    loop.tick(seconds=1)
    assert (loop.run()["state"], loop.run()["rollout"]) == ("converting", "")
    assert loop.parts.rollout.reader.rollouts(limit=5) == []
    monkeypatch.undo()
    loop.tick(seconds=1)
    assert loop.run()["state"] == "rolling_out"
    assert len(loop.parts.rollout.reader.rollouts(limit=5)) == 1


def to_queue(loop: LoopFleet) -> dict[str, Any]:
    """Start a retraining by hand, and let it get as far as the queue."""
    assert loop.admin.post(f"{API}/triggers/digits-drift:start", json={}).status_code == 201
    loop.tick(seconds=1)
    run = loop.runs()[-1]
    assert run["state"] == "queued", run["says"]
    return run


def test_nobody_s_rights_outlive_them(loop: LoopFleet) -> None:
    loop.make()
    max_ = person(loop.house, "max", Role.PUBLISHER, Role.OPERATOR)
    assert max_.patch(f"{API}/triggers/digits-drift", json={"rollout": ROLLOUT}).status_code == 200
    to_queue(loop)
    loop.train()
    people = loop.parts.access.people
    ann = loop.parts.access.authenticate(loop.parts.access.create_token("ann", [Role.ADMIN], by="test").token)
    people.disable("max", ann)
    loop.tick(seconds=1)
    run = loop.run()
    assert (run["state"], run["error"]["code"], run["rollout"]) == ("failed", "access.forbidden", "")
    assert "in the name of max" in run["error"]["why"]
    assert loop.parts.rollout.reader.rollouts(limit=5) == []


def test_a_release_that_cannot_be_rolled_out_ends_it(loop: LoopFleet) -> None:
    loop.make()
    to_queue(loop)
    held = loop.lease()
    path = f"{API}/retrainings/{held['retraining']['id']}"
    release = loop.publish("2.0.0", signs=False)
    loop.runner.post(f"{path}:complete", json={"lease": held["lease"], "release": release})
    loop.tick(minutes=1)
    assert (loop.run()["state"], "converted and signed" in loop.run()["says"]) == ("converting", True)
    loop.admin.post(f"{API}/releases/{release}:cancel")
    loop.tick(minutes=1)
    assert (loop.run()["state"], loop.run()["error"]["code"]) == ("failed", "release.cancelled")
    to_queue(loop)
    loop.train("2.1.0")
    loop.tick(seconds=1)
    assert (loop.runs()[-1]["state"], loop.runs()[-1]["drift_after"]) == ("published", None)


def test_a_release_that_is_proven_worse_than_its_parent_reaches_no_device(cameras: LoopFleet) -> None:
    loop = cameras
    loop.make(rollout=ROLLOUT)
    to_queue(loop)
    loop.train(parent=0.9, gain=-0.2, low=-0.3, high=-0.1)
    loop.tick(seconds=1)
    run = loop.run()
    assert (run["state"], run["rollout"]) == ("stopped", "")
    assert "digits@2.0.0 is worse than its parent, so no device gets it: 70 % right, its parent 90 %" in run["says"]
    assert "20.0 points worse (10.0 to 30.0 at 95 %), on 100 labelled evaluation samples" in run["says"]
    loop.admin.post(f"{API}/triggers/digits-drift:start", json={})
    loop.tick(seconds=1)
    loop.train("2.1.0", parent=0.75, gain=-0.05, low=-0.11, high=0.01)
    loop.tick(seconds=1)
    assert loop.runs()[-1]["state"] == "rolling_out", "what may be chance is for shadow and canary to judge"


def test_what_nobody_does_says_so_and_ends(loop: LoopFleet) -> None:
    loop.make(budget=10)
    to_queue(loop)
    loop.tick(minutes=11)
    assert "no runner has asked" in loop.run()["says"]
    loop.tick(days=8)
    assert (loop.run()["state"], loop.run()["ended_at"] is not None) == ("expired", True)
    to_queue(loop)
    held = loop.lease()
    path = f"{API}/retrainings/{held['retraining']['id']}"
    loop.tick(seconds=121)
    assert loop.runs()[-1]["state"] == "queued", "its runner died"
    held = loop.lease()
    for _ in range(7):
        for _ in range(31):
            loop.house.clock.turn(seconds=119)
            loop.runner.post(f"{path}:renew", json={"lease": held["lease"]})
        loop.tick(seconds=1)
    assert loop.runs()[-1]["state"] == "expired", "it renews for ever"


class Called:
    """A launcher that notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, LaunchOrder]] = []
        self.fails = False

    def check(self, order: LaunchOrder) -> None:
        """Take any settings."""

    def launch(self, run: RetrainingView, trigger: LaunchOrder) -> str:
        """Note the call."""
        self.calls.append((run.id, trigger))
        if self.fails:
            raise LaunchError("it answered 503")
        return "started"


def test_a_launcher_is_called_and_its_training_has_a_deadline(loop: LoopFleet) -> None:
    called = Called()
    loop.parts.retraining.launchers[LauncherKind.WEBHOOK] = called  # type: ignore[index]  # the one mapping that all parts have
    launcher = {"kind": "webhook", "settings": {"url": "https://x"}, "secret": "s3cret", "deadline_s": 600}
    loop.make(launcher=launcher, budget=9)
    assert loop.admin.get(f"{API}/triggers/digits-drift").json()["launcher"]["has_secret"]
    assert "s3cret" not in loop.admin.get(f"{API}/triggers").text
    assert loop.admin.post(f"{API}/triggers/digits-drift:start", json={}).status_code == 201
    loop.tick(seconds=1)
    run = loop.run()
    assert run["state"] == "training", run["says"]
    assert [(one, order.secret, order.deadline_s) for one, order in called.calls] == [(run["id"], "s3cret", 600)]
    release = loop.publish("2.0.0")
    path = f"{API}/retrainings/{run['id']}"
    assert loop.runner.post(f"{path}:complete", json={"release": release}).json()["state"] == "converting"
    loop.tick(seconds=1)
    assert loop.run()["state"] == "published"
    loop.admin.post(f"{API}/triggers/digits-drift:start", json={})
    loop.tick(seconds=1)
    loop.tick(seconds=601)
    assert loop.runs()[-1]["state"] == "expired"
    called.fails = True
    loop.admin.post(f"{API}/triggers/digits-drift:start", json={})
    for _ in range(MAX_LAUNCHES + 1):
        loop.tick(minutes=3)
    assert (loop.runs()[-1]["state"], loop.runs()[-1]["error"]["why"]) == ("failed", "it answered 503")
    assert len(called.calls) == 2 + MAX_LAUNCHES
    # a secret goes to no other address than the one that it was given for
    moved = {**launcher, "settings": {"url": "https://y"}, "secret": None}
    changed = loop.admin.patch(f"{API}/triggers/digits-drift", json={"launcher": moved}).json()
    assert changed["launcher"]["has_secret"] is False
