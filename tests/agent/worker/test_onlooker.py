"""What a worker shows of its newest answers: labels and figures as the bundle declares and allows, bounded, and no input."""

import asyncio
import json
import math
import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from edgefleet_agent.worker.control.protocol import Predictions, Seen, Start, ToAgentd
from edgefleet_agent.worker.observe.answer_log import LABEL_CHARS, AnswerLog, LiveAnswers
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array
from edgefleet_runtime.postprocess import GLANCE_VALUES, build_postprocessor, parse_postprocess
from edgefleet_runtime.privacy import Privacy

START = Start(model="digits", version="1", digest="d" * 64, lane="active", slot="A", bundle_fd=-1, log_predictions=True)
LABELS = ("cat", "dog", "x" * 90)
SCORES = {"y": np.array([[0.05, 0.7, 0.25], [1.0, 0.0, 0.0]], np.float32)}


def spec(*shape: int | str) -> tuple[TensorSpec, ...]:
    """Return the one output of a model."""
    return (TensorSpec(name="y", dtype="float32", shape=list(shape)),)


def live(lines: int = 5, policy: Privacy | None = None) -> LiveAnswers:
    """Return the onlooker of a made-up classifier."""
    post = build_postprocessor(None, LABELS, spec("n", 3))
    return LiveAnswers(cast("Any", SimpleNamespace(start=START, privacy=policy or Privacy(), postprocess=post)), lines)


def test_only_the_newest_are_told_and_all_are_counted() -> None:
    made = live(2)
    assert made.take() is None
    for number in range(9):
        made.answered(time.perf_counter(), f"t{number}", SCORES, 0.001, nonfinite=False)
    seen = made.take()
    assert seen is not None
    assert ([line.trace_id for line in seen.lines], seen.n) == (["t7", "t8"], 9)
    first = seen.lines[0]
    assert (first.labels, first.scores) == (["dog", "x" * LABEL_CHARS, "cat"], [0.7, 0.25, 0.05])
    assert (first.model, first.version, first.lane, first.latency_us) == ("digits", "1", "active", 1_000)
    assert made.take() is None


def test_a_policy_that_keeps_outputs_shows_that_there_was_an_answer_and_no_more() -> None:
    made = live(policy=Privacy(outputs=False))
    made.answered(time.perf_counter(), "t1", SCORES, 0.002, nonfinite=False)
    seen = made.take()
    assert seen is not None
    (line,) = seen.lines
    assert (line.hidden, line.labels, line.scores, line.latency_us) == (True, [], [], 2_000)


@pytest.mark.parametrize(
    ("steps", "shape", "values", "expected"),
    [
        ([{"op": "identity"}], ("n", 4), [[1.5, 2.5, 3.5, 4.5]], [("", 1.5), ("", 2.5), ("", 3.5)]),
        ([{"op": "argmax"}], ("n", 3), [[0.1, 0.9, 0.2]], [("dog", 0.9)]),
        ([{"op": "softmax"}, {"op": "top_k", "k": 2}], ("n", 3), [[0.0, 0.0, 0.0]], [("cat", 1 / 3), ("dog", 1 / 3)]),
        ([{"op": "threshold", "value": 0.5}], ("n", 3), [[0.6, 0.1, 0.9]], [("x" * 90, 0.9), ("cat", 0.6)]),
        ([{"op": "threshold", "value": 0.5}], ("n", 3), [[0.1, 0.1, 0.1]], []),
        ([{"op": "argmax"}], ("n", 2, 2, 3), np.zeros((1, 2, 2, 3)), []),
    ],
)
def test_a_glance_is_what_the_bundle_declares(
    steps: list[Any], shape: tuple[int | str, ...], values: Any, expected: list[tuple[str, float]]
) -> None:
    declared = parse_postprocess(json.dumps({"outputs": [{"name": "y", "steps": steps}]}).encode())
    post = build_postprocessor(declared, LABELS, spec(*shape))
    found = post.glance({"y": np.array(values, np.float32)}, 3)
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


def test_a_glance_at_boxes_tells_classes_and_no_places() -> None:
    steps = [{"op": "boxes", "format": "xyxy", "score": 0.1}]
    declared = parse_postprocess(json.dumps({"outputs": [{"name": "y", "steps": steps}]}).encode())
    post = build_postprocessor(declared, LABELS, spec("n", 2, 7))
    rows = np.array([[[0, 0, 0.5, 0.5, 0.1, 0.8, 0.1], [0.6, 0.6, 1, 1, 0.9, 0.0, 0.0]]], np.float32)
    found = post.glance({"y": rows}, 3)
    assert [(label, round(score, 3)) for label, score in found] == [("cat", 0.9), ("dog", 0.8)]


@pytest.mark.parametrize(
    "output", [np.zeros((1, 0), np.float32), np.array([["text"]]), np.zeros((1, GLANCE_VALUES + 1))]
)
def test_what_cannot_be_glanced_at_quickly_is_left_out(output: Array) -> None:
    post = build_postprocessor(None, (), spec("n", "m"))
    assert post.glance({"y": output}, 3) == []


def test_not_a_number_is_told_as_such() -> None:
    made = live()
    made.answered(time.perf_counter(), "t1", {"y": np.array([[np.nan, 0.5, 0.1]], np.float32)}, 0.001, nonfinite=True)
    seen = made.take()
    assert seen is not None
    (line,) = seen.lines
    assert line.nonfinite
    assert any(math.isnan(score) for score in line.scores)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(seen), type=Seen).n == 1


def test_a_watched_worker_tells_its_answers_and_still_logs_them() -> None:
    sent: list[ToAgentd] = []

    async def answer_twice() -> None:
        watch = AnswerLog(START, "y", sent.append)
        watch.answered(time.perf_counter(), "t0", {}, SCORES, [1], 0.001, nonfinite=False)
        watch.live = live()
        watch.answered(time.perf_counter(), "t1", {}, SCORES, [1], 0.001, nonfinite=False)
        watch._tick()  # what the loop would call a second later

    asyncio.run(answer_twice())
    (log,) = [one for one in sent if isinstance(one, Predictions)]
    (seen,) = [one for one in sent if isinstance(one, Seen)]
    assert (log.n, [line.trace_id for line in seen.lines]) == (2, ["t1"])
