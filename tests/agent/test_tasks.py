"""Tasks of the desired document: each id once, over restarts, in order, within their time; nothing foreign gets through."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install.records import TaskRequest
from edgefleet_agent.tasks.model import TaskDone, TasksDone
from edgefleet_agent.tasks.rules import KEPT, Begin, GiveUp, bad_args, next_step, noted, retry_in_s

NOW = 1_000


def wish(name: str, kind: str = "diag", until_s: int = 0, **args: Any) -> TaskRequest:
    return TaskRequest(id=name, kind=kind, until_s=until_s, args=args)


def test_the_first_that_is_not_over_is_begun() -> None:
    done = TasksDone(done=[TaskDone(id="t-1", state="done")])
    assert next_step([wish("t-1"), wish("t-2"), wish("t-3")], done, NOW) == Begin(wish("t-2"))
    assert next_step([wish("t-1")], done, NOW) is None


def test_what_another_part_does_runs_beside_and_is_begun_once() -> None:
    tasks = [wish("c-1", "capture", limit=3), wish("t-2")]
    assert next_step(tasks, TasksDone(), NOW, ("capture",)) == Begin(tasks[0])
    assert next_step(tasks, TasksDone(), NOW, ("capture",), ("c-1",)) == Begin(tasks[1]), "not waited for"
    assert isinstance(next_step(tasks, TasksDone(), NOW), GiveUp), "of nobody's kind"
    late = [wish("c-1", "capture", until_s=NOW)]
    assert isinstance(next_step(late, TasksDone(), NOW, ("capture",)), GiveUp)
    assert next_step(late, TasksDone(), NOW, ("capture",), ("c-1",)) is None, "begun in time, it goes on"


@pytest.mark.parametrize(
    ("task", "state", "code"),
    [
        (wish("t-1", until_s=NOW), "expired", "task.expired"),
        (wish("t-1", "measure"), "failed", "task.unsupported"),
        (wish("t-1", "logs", lines=0), "failed", "task.bad_args"),
        (wish("t-1", "restart", what="worker", model="../x"), "failed", "task.bad_args"),
    ],
)
def test_what_cannot_be_done_is_over_and_says_why(task: TaskRequest, state: str, code: str) -> None:
    step = next_step([task], TasksDone(), NOW)
    assert isinstance(step, GiveUp)
    assert (step.state, step.code) == (state, code)
    assert step.reason


@pytest.mark.parametrize("name", ["../x", "T-1", "", "a" * 65, "-x", "t 1"])
def test_an_id_that_is_none_is_left_alone(name: str) -> None:
    assert next_step([wish(name)], TasksDone(), NOW) is None


@pytest.mark.parametrize(
    ("kind", "args", "fits"),
    [
        ("diag", {}, True),
        ("diag", {"lines": 3}, False),
        ("logs", {"lines": 5000, "contains": "x"}, True),
        ("logs", {"lines": True}, False),
        ("logs", {"lines": 5001}, False),
        ("logs", {"contains": "x" * 129}, False),
        ("restart", {"what": "agent"}, True),
        ("restart", {"what": "worker"}, False),
        ("restart", {"what": "worker", "model": "digits"}, True),
        ("restart", {"what": "device"}, False),
        ("check", {"model": "digits", "sha256": "ab" * 32}, True),
        ("check", {"model": "digits", "sha256": "AB" * 32}, False),
        ("check", {"model": "digits"}, False),
        ("check", {"model": "../x", "sha256": "ab" * 32}, False),
        ("check", {"model": "digits", "sha256": 7}, False),
        ("check", {"model": "digits", "sha256": "ab" * 32, "what": "agent"}, False),
    ],
)
def test_arguments_are_checked(kind: str, args: Mapping[str, Any], fits: bool) -> None:
    assert (bad_args(kind, args) == "") is fits


@given(
    st.lists(st.sampled_from([f"t-{n}" for n in range(200)]), max_size=150), st.sets(st.integers(0, 31), max_size=32)
)
def test_the_record_stays_short_and_never_forgets_what_is_still_asked(ids: list[str], named: set[int]) -> None:
    tasks = [wish(f"t-{n}") for n in named]
    done = TasksDone()
    for name in ids:
        done = noted(done, TaskDone(id=name, state="done"), tasks)
    kept = [entry.id for entry in done.done]
    assert len(kept) == len(set(kept)) <= KEPT + len(named)
    assert {task.id for task in tasks} & set(ids) <= set(kept)
    step = next_step(tasks, done, NOW)
    assert step is None or (isinstance(step, Begin) and step.task.id not in ids)


def test_waiting_grows_and_stays_bounded() -> None:
    waits = [retry_in_s(n) for n in range(1, 9)]
    assert waits == sorted(waits)
    assert waits[-1] == 1800.0
