"""Feedback: a real worker reads labels as its model has them, and tells agentd after the answers that they are about."""

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgefleet_agent.captures.prediction_log import unpack_block
from edgefleet_agent.cli import feedback_command
from edgefleet_agent.client import InferenceError, Model
from edgefleet_agent.worker.control.protocol import Label, Labels, Predictions, ReadLabels, Start, ToAgentd
from edgefleet_agent.worker.http.feedback_items import Refused, with_untaken
from edgefleet_agent.worker.observe import answer_log
from edgefleet_agent.worker.observe.answer_log import AnswerLog
from edgefleet_agent.worker.runtime.lifecycle import _sent
from edgefleet_protocol.drift.reference import MEMBER, Reference, Signal, SignalKind, write_reference
from tests.agent.worker.conftest import Rig, RunningWorker
from tests.agent.worker.models import bundle_bytes, classifier_onnx

NAMES = {"labels.txt": b"zero\none\ntwo\n"}
CELSIUS = {
    MEMBER: write_reference(
        Reference(n=9, outputs=[Signal(name="y.0", kind=SignalKind.OUTPUT, mean=0.3, std=0.25, counts=[9])])
    ),
    "postprocess.json": json.dumps(
        {
            "v": 1,
            "outputs": [{"name": "y", "steps": [{"op": "scale", "factor": 100, "offset": -5}, {"op": "identity"}]}],
        }
    ).encode(),
}
ROW = np.array([[9.0, 1.0, 1.0, 1.0]], np.float32)


def serving(rig: Rig, members: dict[str, bytes], **overrides: Any) -> RunningWorker:
    """Return a worker that logs what it answers."""
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=members), **{"log_predictions": True, **overrides})
    worker.serve()
    return worker


def post(rig: Rig, body: object) -> tuple[int, Any]:
    """Send feedback."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer, _ = rig.request("POST", "/v2/models/digits/feedback", raw)
    return status, answer


def test_labels_follow_the_answers_that_they_are_about(rig: Rig) -> None:
    worker = serving(rig, NAMES)
    with Model("digits", url=f"http://127.0.0.1:{rig.port}") as model:
        model.predict(ROW, key="order-7")
        assert model.trace_id == "order-7"
        model.infer({"x": ROW})
        trace = model.trace_id
        assert trace
        model.feedback("order-7", label="zero", kpi={"scrap": 1})
        model.feedback(trace, label=2, segment="line-1")
    block = unpack_block(worker.until(Predictions).body)
    assert {row.trace_id for row in block.rows} <= {"order-7", trace}
    assert worker.until(Labels).items == [Label("order-7", 0, None, "", 0, {"scrap": 1.0})]
    assert worker.until(Labels).items == [Label(trace, 2, None, "line-1", 0, {})]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        ([], "0 items"),
        ([{}] * 1_001, "1001 items"),
        ([5], "an object"),
        ({"trace_id": "t", "lable": "one"}, "no field 'lable'"),
        ({"trace_id": "t", "label": "nine"}, "'nine' is no class of this model; known are zero, one, two"),
        ({"trace_id": "t", "label": 3}, "'3' is no class"),
        ({"trace_id": "t", "label": True}, "no class"),
        ({"trace_id": "t", "value": 3}, "answers classes"),
        ({"trace_id": "t", "label": "one", "value": 1}, "not both"),
        ({"trace_id": "t", "key": "u", "label": "one"}, "not both"),
        ({"label": "one"}, "name the answer"),
        ({"trace_id": "t"}, "give a `label`"),
        ({"trace_id": "t t", "label": "one"}, "visible ASCII"),
        ({"trace_id": "t", "label": "one", "segment": "<b>"}, "segment is a name"),
        ({"trace_id": "t", "label": "one", "at": "yesterday"}, "RFC 3339"),
        ({"trace_id": "t", "label": "one", "at": "1900-01-01T00:00:00Z"}, "RFC 3339"),
        ({"trace_id": "t", "label": "one", "at": "9999-01-01T00:00:00Z"}, "RFC 3339"),
        ({"trace_id": "t", "label": "one", "at": 2**32}, "RFC 3339"),
        ({"trace_id": "t", "label": "9" * 5_000}, "no class"),
        (b'{"trace_id": "t", "label": ' + b"9" * 4_000 + b"}", "no class|not JSON"),
        ({"kpi": {"scrap": "many"}}, "kpi scrap"),
        ({"kpi": {"a b": 1}}, "names no figure"),
        (b'{"kpi": {"scrap": 1e999}}', "not JSON|added up"),
    ],
)
def test_what_cannot_be_taken_says_why(rig_of_module: Rig, body: object, words: str) -> None:
    status, answer = post(rig_of_module, body)
    assert status == 400
    assert re.search(words, answer["error"]), answer


def test_one_bad_item_does_not_stop_the_others(rig: Rig) -> None:
    worker = serving(rig, NAMES)
    bad = {"trace_id": "t2", "label": "nine"}
    good = {"key": "t1", "label": "1", "at": "2024-11-30T10:00:00+00:00"}
    status, answer = post(rig, {"feedback": [bad, good]})
    assert (status, answer["accepted"]) == (200, 1)
    assert answer["refused"][0]["index"] == 0
    assert worker.until(Labels).items == [Label("t1", 1, None, "", 1_732_960_800, {})]
    assert rig.request("GET", "/v2/models/digits/feedback")[0] == 405


def test_no_more_labels_are_taken_than_agentd_pairs_and_a_file_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_log, "LABELS_PER_S", 0)
    sent: list[ToAgentd] = []

    async def tell() -> list[int]:
        log = AnswerLog(cast("Start", None), "y", sent.append)
        return [log.tell_labels([Label(f"t{n}", 1) for n in range(some)], 1.0) for some in (9_950, 100, 100)]

    assert asyncio.run(tell()) == [9_950, 50, 0]
    assert len(cast("Labels", sent[-1]).items) == 50
    slept: list[float] = []
    taken: list[int] = []

    class Agent:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Agent":
            return self

        def __exit__(self, *_: object) -> None: ...
        def send_feedback(self, items: list[object]) -> dict[str, int]:
            taken.append(len(items))
            return {"accepted": len(items)}

    monkeypatch.setattr(feedback_command, "Model", Agent)
    monkeypatch.setattr(time, "sleep", slept.append)
    file = tmp_path / "labels.csv"
    file.write_text("trace_id,label\n" + "".join(f"t{n},1\n" for n in range(11_000)))
    args = argparse.Namespace(model="digits", url="", socket="", file=str(file), output="json")
    assert feedback_command.run_feedback(args) == 0
    assert (sum(taken), slept) == (11_000, [0.5, 0.5])


def test_what_agentd_has_no_room_for_is_named_and_no_label_counts_twice() -> None:
    sent: list[ToAgentd] = []

    def send(message: ToAgentd) -> bool:
        sent.append(message)
        return len(sent) < 3

    async def tell() -> int:
        labels = [Label(f"t{n}", 1) for n in range(950)]
        return AnswerLog(cast("Start", None), "y", send).tell_labels(labels, 1.0)

    assert asyncio.run(tell()) == 200
    assert len(sent) == 3
    refused = with_untaken(5, [Refused(1, "it is bad")], 2)
    assert [one.place for one in refused] == [1, 3, 4]
    assert "send it again" in refused[2].error


def test_numbers_are_logged_and_labelled_as_they_are_answered(rig: Rig) -> None:
    worker = serving(rig, CELSIUS)
    with Model("digits", url=f"http://127.0.0.1:{rig.port}") as model:
        answer = model.predict(ROW)["predictions"][0]["y"]
        model.feedback(model.trace_id or "", value=80.5)
        with pytest.raises(InferenceError, match="answers no classes"):
            model.feedback(model.trace_id or "", label="one")
    huge = b'{"trace_id": "t", "value": ' + b"9" * 400 + b"}"
    assert post(rig, huge)[0] == 400
    first = answer[0] if isinstance(answer, list) else answer
    (row,) = unpack_block(worker.until(Predictions).body).rows
    assert row.top == -1
    assert row.score == pytest.approx(first, rel=1e-5)
    told = worker.until(Labels)
    assert (told.items[0].value, told.unit) == (80.5, 25.0)


def test_labels_of_a_task_are_read_the_same_way(rig: Rig) -> None:
    worker = serving(rig, NAMES)
    items = [{"trace_id": "t1", "label": "two"}, {"trace_id": "t2", "label": "nine"}]
    worker.link.send(ReadLabels(task="k-1", body=json.dumps(items).encode()))
    told = worker.until(Labels)
    assert (told.task, told.items, told.refused) == ("k-1", [Label("t1", 2)], 1)
    worker.link.send(ReadLabels(task="k-2", body=b"{"))
    assert worker.until(Labels) == Labels(items=[], task="k-2", refused=1)


def test_without_a_log_there_is_nothing_to_pair_but_figures_count(rig: Rig) -> None:
    worker = serving(rig, NAMES, log_predictions=False)
    assert post(rig, {"trace_id": "t", "label": "one"})[0] == 409
    assert post(rig, {"kpi": {"scrap": 1}}) == (200, {"accepted": 1})
    assert worker.until(Labels).items[0].figures == {"scrap": 1.0}


def test_the_command_sends_a_file_and_names_bad_lines(rig: Rig, tmp_path: Path) -> None:
    worker = serving(rig, NAMES)
    file = tmp_path / "labels.csv"
    file.write_text("device,trace_id,label\nd-1,t1,two\nd-1,t2,nine\nd-1,t3\n")
    command = [sys.executable, "-m", "edgefleet_agent", "feedback", "digits", "--url", f"http://127.0.0.1:{rig.port}"]
    done = subprocess.run([*command, "--file", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 taken, 2 refused" in done.stdout
    assert "line 3: 'nine' is no class" in done.stderr
    assert "line 4: it has 2 cells" in done.stderr
    assert worker.until(Labels).items == [Label("t1", 2)]
    file.write_text("trace_id,label\nt1,nine\nt2,ten\n")
    done = subprocess.run([*command, "--file", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search("line 2: 'nine' is no class.*\nline 3: 'ten' is no class", done.stderr), done.stderr
    file.write_text("trace,lable\n")
    done = subprocess.run([*command, "--file", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no column 'trace'" in done.stderr


@pytest.fixture(scope="module")
def rig_of_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A rig with one worker that serves, for requests that change nothing."""
    made = Rig(tmp_path_factory.mktemp("feedback"))
    serving(made, NAMES)
    yield made
    made.close()


def test_a_worker_that_is_not_read_says_so() -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a.setblocking(False)
    message = Labels(items=[Label(f"t{n}", 1) for n in range(100)])
    while _sent(a, message):
        pass
    b.close()
    assert not _sent(a, message)
    a.close()
