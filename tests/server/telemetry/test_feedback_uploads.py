"""Labels in bulk: sorted out row by row, sent to each device one part after the other, counted by what the devices say came of them."""

import datetime as dt
from typing import Any

import pytest

from edgefleet_protocol.feedback_csv import Row, read_rows
from edgefleet_protocol.ids import ModelName
from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.fleet.desired.model import TaskOrder
from edgefleet_server.fleet.desired.tasks import MAX_OPEN
from edgefleet_server.fleet.errors import BadTaskError
from edgefleet_server.registry.errors import ModelUnknownError
from edgefleet_server.telemetry.ground_truth import uploads as module
from edgefleet_server.telemetry.ground_truth.errors import NoLabelsError, TooManyLabelsError, UploadUnknownError
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads
from tests.server.fleet.house import PROFILE, House
from tests.server.telemetry.drifting import bundle_bytes

PUMP = ModelName("pump")


class Post:
    """A fleet that gets labels."""

    def __init__(self, house: House, devices: int = 2) -> None:
        self.house = house
        house.release("pump@1.0.0", bundles={PROFILE: bundle_bytes("pump", "1.0.0", PROFILE, None)})
        self.devices = sorted(house.device().id for _ in range(devices))
        self.running = self.devices
        self.seq = 0
        self.uploads = FeedbackUploads(
            house.db,
            house.clock,
            house.fleet.tasks,
            lambda ids: house.fleet.reader.profiles_of(list(ids)),
            lambda _: self.running,
            house.registry.model,
        )

    def asked(self, device: str) -> list[Any]:
        """Return the open tasks with labels in a device's document, newest first."""
        return [one for one in self.house.fleet.tasks.tasks(device) if one.kind == "feedback" and one.state == "queued"]

    def answer(self, device: str, words: str, state: str = "done") -> None:
        """Let a device end its task."""
        (task,) = self.asked(device)
        self.seq += 1
        detail = {"task": task.id, "task_kind": "feedback", "state": state}
        event = Event(
            device=device, boot_id="b", seq=self.seq, ts=0, kind=EventKind.TASK, code="", reason=words, detail=detail
        )
        self.house.fleet.tasks.hear([event])
        self.uploads.advance(self.house.clock.now())


@pytest.fixture
def post(any_house: House) -> Post:
    """Every test of this file runs on both databases."""
    return Post(any_house)


def rows(device: str, n: int, **more: Any) -> list[Row]:
    """Return rows of labels."""
    return [Row(k + 2, {"device": device, "trace_id": f"t{k}", "label": "1", **more}, "") for k in range(n)]


def test_bad_rows_are_named_and_the_others_go_to_their_devices(post: Post) -> None:
    one, two = post.devices
    text = f"device,trace_id,label,kpi.scrap\n{one},t1,seven,\n{two},t2,,\nd-nobody,t3,1,\n{two},,1,\n{one},t5\n,,,3\n{two},t6,2,4\n"
    view = post.uploads.take(PUMP, read_rows(text), "ann")
    assert [(bad.line, bad.error) for bad in view.bad_rows] == [
        (3, "it has no label, no value and no figure"),
        (4, "there is no device d-nobody"),
        (5, "it names no answer: give `trace_id` or `key`"),
        (6, "it has 2 cells, the first line names 4 columns"),
        (7, "business figures need the `device` that they are of"),
    ]
    assert (view.state, view.rows, view.bad, view.parts, view.pending) == ("open", 7, 5, 2, 2)
    (task,) = post.asked(two)
    assert task.args == {"model": "pump", "items": [{"trace_id": "t6", "label": "2", "kpi": {"scrap": 4.0}}]}
    post.answer(one, "matched=1 unmatched=0 late=0 repeated=0 misfit=0 refused=0")
    post.answer(two, "matched=0 unmatched=1 late=1 repeated=0 misfit=0 refused=0")
    done = post.uploads.upload(view.id, PUMP)
    assert (done.state, done.matched, done.unmatched, done.late, done.pending) == ("done", 1, 1, 1, 0)
    assert post.uploads.uploads(PUMP, 10)[0].id == view.id


def test_a_device_gets_one_part_after_the_other(post: Post) -> None:
    one, _ = post.devices
    view = post.uploads.take(PUMP, rows(one, 250), "ann")
    assert (view.parts, len(post.asked(one))) == (3, 1)
    assert post.uploads.advance(post.house.clock.now()) == 0, "it has one on its way"
    for n in (100, 100, 50):
        assert len(post.asked(one)[0].args["items"]) == n
        post.answer(one, f"matched={n} unmatched=0 late=0 repeated=0 misfit=0 refused=0")
    assert (post.uploads.upload(view.id, PUMP).matched, post.uploads.upload(view.id, PUMP).state) == (250, "done")


def test_a_liar_matches_no_more_labels_than_it_got(post: Post) -> None:
    one, _ = post.devices
    view = post.uploads.take(PUMP, rows(one, 3), "ann")
    post.answer(one, "matched=999999999 unmatched=7 late=-5 repeated=x refused=1e9")
    found = post.uploads.upload(view.id, PUMP)
    assert (found.matched, found.unmatched, found.repeated) == (3, 3, 0)


def test_rows_without_a_device_go_to_all_that_run_the_model_and_match_once(post: Post) -> None:
    view = post.uploads.take(
        PUMP, [Row(2, {"key": "A-1", "label": "1"}, ""), Row(3, {"key": "A-2", "label": "1"}, "")], "ann"
    )
    assert (view.parts, view.pending) == (2, 2)
    assert all(post.asked(device)[0].args["wide"] is True for device in post.devices)
    post.answer(post.devices[0], "matched=1 unmatched=1 late=0 repeated=0 misfit=0 refused=0")
    post.answer(post.devices[1], "matched=0 unmatched=2 late=0 repeated=0 misfit=0 refused=0")
    found = post.uploads.upload(view.id, PUMP)
    assert (found.state, found.matched, found.unmatched) == ("done", 1, 1)
    post.running = [f"d-{n}" for n in range(17)]
    with pytest.raises(NoLabelsError, match="17 run pump: name the `device`"):
        post.uploads.take(PUMP, [Row(2, {"key": "A-1", "label": "1"}, "")], "ann")


def test_a_device_that_does_not_take_its_labels_is_named(post: Post) -> None:
    one, two = post.devices
    view = post.uploads.take(PUMP, [*rows(one, 2), *rows(two, 2)], "ann")
    post.answer(one, "no model 'pump' answers on this device", state="failed")
    post.answer(two, "matched=2 unmatched=0 late=0 repeated=0 misfit=0 refused=0")
    found = post.uploads.upload(view.id, PUMP)
    assert (found.state, found.failed, found.matched) == ("partly", 2, 2)
    assert [(one.device, one.rows) for one in found.failures] == [(one, 2)]
    assert "no model" in found.failures[0].reason


def test_labels_of_a_device_that_never_comes_end_by_time(post: Post) -> None:
    one, _ = post.devices
    view = post.uploads.take(PUMP, rows(one, 2), "ann")
    post.house.clock.turn(seconds=(module.PART_LIFE + dt.timedelta(hours=1)).total_seconds())
    post.uploads.advance(post.house.clock.now())
    assert post.uploads.upload(view.id, PUMP).failures[0].reason == "the task is expired"
    post.house.clock.turn(seconds=module.KEPT.total_seconds())
    post.uploads.prune(post.house.clock.now())
    with pytest.raises(UploadUnknownError):
        post.uploads.upload(view.id, PUMP)


def test_what_no_document_can_hold_is_refused_and_stops_no_other(post: Post) -> None:
    one, two = post.devices
    bad: list[dict[str, Any]] = [
        {"device": one, "trace_id": "t\ud800", "label": "1"},
        {"device": one, "trace_id": "t", "value": float("nan")},
        {"device": one, "trace_id": "t", "value": 10**5_000},
        {"device": one, "trace_id": "t", "label": 2**64},
        {"device": "d-\ud800", "trace_id": "t", "label": "1"},
        {"device": "d-\0", "trace_id": "t", "label": "1"},
    ]
    view = post.uploads.take(PUMP, [*(Row(k, item, "") for k, item in enumerate(bad, 1)), *rows(two, 2)], "ann")
    assert (view.bad, view.pending) == (6, 2)
    assert view.bad_rows[0].error == "it holds a number or a text that no device can read"
    assert "\ud800" not in str(view.bad_rows)
    assert len(post.asked(two)) == 1


def test_a_device_with_many_tasks_gets_its_labels_later(post: Post) -> None:
    one, _ = post.devices
    for _ in range(MAX_OPEN):
        post.house.fleet.tasks.create(one, TaskOrder("diag", {}), "ada")
    view = post.uploads.take(PUMP, rows(one, 1), "ann")
    assert (view.state, view.failed, post.asked(one)) == ("open", 0, [])
    post.house.clock.turn(days=2)
    assert post.uploads.advance(post.house.clock.now()) == 1
    assert len(post.asked(one)) == 1


def test_all_parts_are_looked_at_in_turn(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 1)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    view = post.uploads.take(PUMP, [Row(2, {"key": "A-1", "label": "1"}, "")], "ann")
    post.uploads.advance(post.house.clock.now())
    assert [len(post.asked(device)) for device in post.devices] == [1, 1]
    last = max(post.devices, key=lambda device: post.asked(device)[0].id)
    post.answer(last, "matched=1 unmatched=0 late=0 repeated=0 misfit=0 refused=0")
    for _ in range(3):
        post.uploads.advance(post.house.clock.now())
    assert post.uploads.upload(view.id, PUMP).over == 1


def test_single_labels_are_kept_until_they_were_sent(post: Post) -> None:
    one, two = post.devices
    tasks = post.house.fleet.tasks
    post.uploads.take(PUMP, [*rows(one, 2), *rows(two, 2)], "ann")
    (asked,), (never,) = post.asked(one), post.asked(two)
    order = TaskOrder("feedback", asked.args, module.PART_LIFE)
    post.answer(one, "matched=2 unmatched=0 late=0 repeated=0 misfit=0 refused=0")
    assert tasks.task(one, asked.id).args == {"model": "pump"}
    assert tasks.create(one, order, "ann", asked.id).state == "done", "asked again it is the same"
    with pytest.raises(BadTaskError):
        tasks.create(one, TaskOrder("feedback", {"model": "other"}, module.PART_LIFE), "ann", asked.id)
    post.house.clock.turn(seconds=module.PART_LIFE.total_seconds())
    tasks.prune(post.house.clock.now())
    found = tasks.task(two, never.id)
    assert (found.state, found.args) == ("expired", {"model": "pump"})


def test_what_cannot_be_taken_at_all_says_why(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnknownError):
        post.uploads.take(ModelName("nobody"), rows(post.devices[0], 1), "ann")
    with pytest.raises(NoLabelsError, match="no row"):
        post.uploads.take(PUMP, [], "ann")
    with pytest.raises(NoLabelsError, match="line 2: there is no device"):
        post.uploads.take(PUMP, rows("d-nobody", 1), "ann")
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    with pytest.raises(TooManyLabelsError):
        post.uploads.take(PUMP, rows(post.devices[0], 4), "ann")
