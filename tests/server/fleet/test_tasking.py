"""Tasks of a device: asked through its signed document, told by its events, ended by its result, on each kind of database."""

import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.desired import Desired, decode_desired
from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.desired import tasks as desired_tasks
from edgefleet_server.fleet.desired.model import TaskOrder, TaskState, TaskView
from edgefleet_server.fleet.desired.tasks import KEPT, MAX_OPEN, MAX_RESULT_BYTES
from edgefleet_server.fleet.errors import (
    BadTaskError,
    DeviceRevokedError,
    DeviceUnknownError,
    TaskOverError,
    TaskResultMissingError,
    TaskResultTooLargeError,
    TaskUnknownError,
    TooManyTasksError,
)
from tests.server.fleet.apps import Operators, device_client
from tests.server.fleet.house import House, KeyedDevice


def document(house: House, device: KeyedDevice) -> Desired:
    """Return what the device's newest signed document says."""
    signed = house.fleet.documents.of_device(device.id)
    assert signed is not None
    return decode_desired(base64.b64decode(json.loads(signed.envelope)["payload"]))


def told(house: House, device: KeyedDevice, task: TaskView, state: str, seq: int, **fields: Any) -> None:
    """Let the device tell how far it is."""
    detail = {"task": task.id, "task_kind": task.kind, "state": state}
    event = Event(device=device.id, boot_id="b", seq=seq, ts=0, kind=EventKind.TASK, detail=detail, **fields)
    house.fleet.receiver.take_events([event])


def test_from_wish_to_result(any_house: House) -> None:
    house, tasks = any_house, any_house.fleet.tasks
    device = house.device()
    task = tasks.create(device.id, TaskOrder("logs", {"lines": 5}), "ada")
    (named,) = document(house, device).tasks
    assert (named.id, named.kind, named.args, named.until) == (task.id, "logs", {"lines": 5}, task.until)
    assert document(house, device).gen == task.gen

    for seq, state in enumerate(("accepted", "running", "accepted"), 1):
        told(house, device, task, state, seq)
    assert tasks.task(device.id, task.id).state is TaskState.RUNNING
    told(house, device, task, "done", 4)
    assert tasks.task(device.id, task.id).state is TaskState.RUNNING, "done without the result is not done"

    done = tasks.take_result(device.id, task.id, b"line\n")
    assert (done.state, done.result_bytes) == (TaskState.DONE, 5)
    assert tasks.result(device.id, task.id) == ("text/plain", b"line\n")
    assert tasks.take_result(device.id, task.id, b"line\n") == done, "sent again it changes nothing"
    with pytest.raises(TaskOverError):
        tasks.take_result(device.id, task.id, b"other")
    told(house, device, task, "failed", 5, code="late")
    assert tasks.task(device.id, task.id).state is TaskState.DONE

    gen = document(house, device).gen
    assert [t.id for t in document(house, device).tasks] == [task.id], "what is over is no reason to sign"
    house.fleet.desired.resign(device.id)
    assert document(house, device).tasks == []
    assert document(house, device).gen == gen + 1
    house.clock.turn(days=KEPT.days + 1)
    assert tasks.prune(house.clock.now()) == 1
    with pytest.raises(TaskResultMissingError):
        tasks.result(device.id, task.id)


def test_a_restart_has_no_result_and_is_done_by_its_word(house: House) -> None:
    device, tasks = house.device(), house.fleet.tasks
    task = tasks.create(device.id, TaskOrder("restart", {"what": "agent"}), "ada")
    told(house, device, task, "done", 1)
    assert tasks.task(device.id, task.id).state is TaskState.DONE
    with pytest.raises(BadTaskError):
        tasks.take_result(device.id, task.id, b"x")


def check_of(sha256: str = "ab" * 32, **args: Any) -> TaskOrder:
    """Return the order to prove again what serves."""
    return TaskOrder("check", {"model": "digits", "sha256": sha256, **args})


def test_a_check_is_asked_once_under_the_id_of_its_asker(any_house: House) -> None:
    house, tasks = any_house, any_house.fleet.tasks
    device, other = house.device(), house.device()
    ids = [f"t-{n:016x}" for n in range(3)]
    first = tasks.create(device.id, check_of(), "rollout r-1", ids[0])
    signed = document(house, device)
    assert [(t.id, t.kind, t.args) for t in signed.tasks] == [(ids[0], "check", dict(check_of().args))]
    again = tasks.create(device.id, check_of(), "rollout r-1", ids[0])
    assert (again.id, again.created_at, document(house, device).gen) == (ids[0], first.created_at, signed.gen)
    for device_id, order in (
        (other.id, check_of()),
        (device.id, check_of("cd" * 32)),
        (device.id, TaskOrder("diag", {})),
    ):
        with pytest.raises(BadTaskError):
            tasks.create(device_id, order, "rollout r-1", ids[0])

    tasks.create(other.id, check_of(), "rollout r-1", ids[1])
    told(house, device, first, "failed", 1, code="check.golden", reason="vector 3, output y: value")
    found = tasks.answers([*ids, "t-nobody"])
    assert {name: (one.device, one.state, one.code) for name, one in found.items()} == {
        ids[0]: (device.id, TaskState.FAILED, "check.golden"),
        ids[1]: (other.id, TaskState.QUEUED, ""),
    }
    assert tasks.create(device.id, check_of(), "rollout r-1", ids[0]).state is TaskState.FAILED, "not asked once more"
    house.clock.turn(hours=2)
    assert tasks.answers([ids[1]])[ids[1]].state is TaskState.EXPIRED
    assert tasks.answers([]) == {}


@pytest.mark.parametrize("task_id", ["t-1", "t-" + "A" * 16, "x-" + "0" * 16, "t-" + "0" * 17])
def test_an_id_that_is_none_is_refused(house: House, task_id: str) -> None:
    with pytest.raises(BadTaskError, match="16 hex digits"):
        house.fleet.tasks.create(house.device().id, check_of(), "rollout r-1", task_id)


@pytest.mark.parametrize("order", [check_of(what="agent"), check_of("short"), TaskOrder("check", {"model": "../x"})])
def test_a_check_names_a_model_and_a_digest(house: House, order: TaskOrder) -> None:
    device = house.device()
    with pytest.raises(BadTaskError):
        house.fleet.tasks.create(device.id, order, "rollout r-1")
    assert document(house, device).tasks == []


def test_a_task_whose_time_is_over_is_named_no_more(house: House) -> None:
    device, tasks = house.device(), house.fleet.tasks
    task = tasks.create(device.id, TaskOrder("diag", {}), "ada")
    house.clock.turn(hours=2)
    assert tasks.task(device.id, task.id).state is TaskState.EXPIRED
    house.fleet.desired.resign(device.id)
    assert document(house, device).tasks == []
    with pytest.raises(TaskOverError):
        tasks.take_result(device.id, task.id, b"x")


def test_models_and_tasks_stay_apart_in_the_document(house: House) -> None:
    device, tasks = house.device(), house.fleet.tasks
    ref = house.release("digits@1.0.0", bundles={"generic-x86_64-ort": b"bundle"})
    house.fleet.deployer.deploy(ref, selector="")
    first = tasks.create(device.id, TaskOrder("diag", {}), "ada")
    second = tasks.create(device.id, TaskOrder("logs", {}), "ada")
    assert list(document(house, device).models) == ["digits"]
    assert [t.id for t in document(house, device).tasks] == [first.id, second.id]
    told(house, device, first, "failed", 1, code="agent.disk", reason="no room")
    assert tasks.task(device.id, first.id).reason == "no room"
    ref = house.release("digits@1.1.0", bundles={"generic-x86_64-ort": b"another"})
    house.fleet.deployer.deploy(ref, selector="")
    assert [t.id for t in document(house, device).tasks] == [second.id]


def test_what_is_refused(house: House) -> None:
    device, other, tasks = house.device(), house.device(), house.fleet.tasks
    with pytest.raises(DeviceUnknownError):
        tasks.create("d-nobody", TaskOrder("diag", {}), "ada")
    for kind, args in (("diag", {"lines": 1}), ("restart", {"what": "worker"}), ("restart", {"model": "m"})):
        with pytest.raises(BadTaskError):
            tasks.create(device.id, TaskOrder(kind, args), "ada")
    made = [tasks.create(device.id, TaskOrder("logs", {}), "ada") for _ in range(MAX_OPEN)]
    with pytest.raises(TooManyTasksError):
        tasks.create(device.id, TaskOrder("logs", {}), "ada")
    with pytest.raises(TaskResultTooLargeError):
        tasks.take_result(device.id, made[0].id, b"x" * (MAX_RESULT_BYTES + 1))
    with pytest.raises(TaskUnknownError):
        tasks.take_result(other.id, made[0].id, b"another device's task")
    told(house, other, made[0], "done", 1)
    assert tasks.task(device.id, made[0].id).state is TaskState.QUEUED, "another device's word counts for nothing"
    house.fleet.revocation.revoke(other.id)
    with pytest.raises(DeviceRevokedError):
        tasks.create(other.id, TaskOrder("diag", {}), "ada")


def test_over_http_with_roles_and_audit(house: House) -> None:
    device = house.device()
    operators = Operators(house)
    operator, viewer = operators.as_role(Role.OPERATOR), operators.as_role(Role.VIEWER)
    path = f"devices/{device.id}/tasks"
    assert viewer.post(path, json={"kind": "diag"}).status_code == 403
    assert operator.post(path, json={"kind": "measure"}).status_code == 422
    assert operator.post(path, json={"kind": "diag", "lines": 1}).status_code == 422
    made = operator.post(path, json={"kind": "diag", "ttl_s": 60})
    assert made.status_code == 201, made.text
    task = made.json()
    assert viewer.get(path).json()["items"][0]["id"] == task["id"]

    result = f"tasks/{task['id']}/result"
    client: TestClient = device_client(house)
    assert client.put(result, content=b"x").status_code == 401
    headers = {"authorization": f"Bearer {device.token(house.clock.now())}"}
    assert client.put(result, content=b"x" * (MAX_RESULT_BYTES + 1), headers=headers).status_code == 413
    headers = {"authorization": f"Bearer {device.token(house.clock.now())}"}
    assert client.put(result, content=b"\x1f\x8b" * 100_000, headers=headers).status_code == 204

    assert viewer.get(f"{path}/{task['id']}").json()["state"] == "done"
    assert viewer.get(f"{path}/{task['id']}/result").status_code == 403
    found = operator.get(f"{path}/{task['id']}/result")
    assert (found.headers["content-type"], len(found.content)) == ("application/gzip", 200_000)
    assert operator.get(f"{path}/t-none").status_code == 404


def test_many_are_asked_at_once_and_who_cannot_be_is_named(any_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house = any_house
    inside = [house.device(labels={"site": "hall"}) for _ in range(3)]
    outside, gone = house.device(labels={"site": "yard"}), house.device(labels={"site": "hall"})
    house.fleet.revocation.revoke(gone.id)
    for _ in range(MAX_OPEN):
        house.fleet.tasks.create(inside[0].id, TaskOrder("diag", {}), "ada")
    client = Operators(house).as_role(Role.OPERATOR)
    wanted = {"kind": "restart", "what": "agent", "selector": "site=hall"}
    counted = client.post("/devices:task", json={**wanted, "dry_run": True}).json()
    assert (counted["matched"], counted["asked"], counted["tasks"]) == (3, 3, {})
    assert document(house, inside[1]).tasks == []
    done = client.post("/devices:task", json=wanted)
    assert done.status_code == 201
    assert (done.json()["matched"], done.json()["asked"]) == (3, 2)
    (skipped,) = done.json()["skipped"]
    assert (skipped["device"], "open tasks" in skipped["reason"]) == (inside[0].id, True)
    assert [task.kind for task in document(house, inside[1]).tasks] == ["restart"]
    assert done.json()["tasks"][inside[2].id] == document(house, inside[2]).tasks[0].id
    assert document(house, outside).tasks == []
    monkeypatch.setattr(desired_tasks, "MOST_AT_ONCE", 2)
    refused = client.post("/devices:task", json=wanted)
    assert (refused.status_code, refused.json()["code"]) == (422, "task.too_many")
    monkeypatch.undo()
    wrong = client.post("/devices:task", json={**wanted, "what": "worker"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "task.bad")
    assert Operators(house).as_role(Role.VIEWER).post("/devices:task", json=wanted).status_code == 403
