"""Models with a memory: streams in which their states are given back, and what streams of the search leave possible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters import errors, gate
from edgefleet_converters.accuracy.confidence import standard_error
from edgefleet_converters.accuracy.output_kinds import OutputPlan
from edgefleet_converters.check.metrics import Score
from edgefleet_converters.check.run_model import run_step
from edgefleet_converters.evaluation import Evaluation
from edgefleet_converters.gate import Judged
from edgefleet_converters.job_steps import Answers, Stream
from edgefleet_converters.request import Options
from edgefleet_converters.sample_data import SampleSet
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.graphs import model_of

LIMIT = 0.01
PLAN = (
    OutputPlan(name="y", kind="regression", metric="mae-share"),
    OutputPlan(name="s", kind="state", metric="long-run", feeds="s0"),
)
SPECS = (TensorSpec(name="y", dtype="float32", shape=[1, 1]), TensorSpec(name="s", dtype="float32", shape=[1, 1]))


def counter() -> onnx.ModelProto:
    """Return a model that counts its runs: `s0` [1, 1] -> `s` = s0 + x."""
    return model_of([helper.make_node("Add", ["s0", "x"], ["s"])], {}, {"x": [1, 1], "s0": [1, 1]}, {"s": [1, 1]})


def test_a_new_stream_begins_with_the_states_of_the_samples(tmp_path: Path) -> None:
    onnx.save(counter(), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=np.ones((3, 1), np.float32), s0=np.zeros((3, 1), np.float32))
    args = {
        "runtime": "ort", "model": str(tmp_path / "m.onnx"), "threads": 1, "samples": str(tmp_path / "in.npz"),
        "outputs": str(tmp_path / "out.npz"), "timed_runs": 0, "feedback": {"0": "s0"}, "steps": 8, "each": 4,
    }  # fmt: skip
    run_step(args)
    assert np.load(tmp_path / "out.npz")["o0"].ravel().tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    run_step({**args, "each": 8})
    assert np.load(tmp_path / "out.npz")["o0"].ravel().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_neighbours_in_a_stream_are_one_sample() -> None:
    random = np.random.default_rng(0)
    alike = np.repeat(random.uniform(0, 0.02, 20), 10)
    apart = random.permutation(alike)
    assert standard_error(alike) > 2 * standard_error(apart)
    assert standard_error(alike) == pytest.approx(alike.std() / np.sqrt(20), rel=0.1)
    assert standard_error(None) == standard_error(alike[:20]) == 0


class Workshop:
    """Answers with what each key holds: the source's are zero but for one of 1, so that a loss is a share of a spread of 1."""

    def __init__(self, losses: dict[str, Any]) -> None:
        self.losses = losses
        self.streams: list[tuple[str, int, int]] = []
        self.looks: dict[str, set[str]] = {}

    def answers(
        self, model: Any, _runtime: str, samples: SampleSet, *, key: str, stream: Stream | None = None, **_: Any
    ) -> Answers:
        n = stream.steps if stream else samples.n
        wanted = np.linspace(0, 1, n, dtype=np.float32).reshape(n, 1, 1)
        if stream is not None:
            self.streams.append((key, stream.steps, stream.each))
        away = np.broadcast_to(np.asarray(self.losses.get(key, 0.0), np.float32), (n,)).reshape(n, 1, 1)
        made = wanted + (away if model.is_candidate else 0)
        return Answers({"y": made, "s": np.zeros_like(made)}, (), SPECS, "ort", "1", {})


def judged(n: int, *, held_out: int = 0) -> Judged:
    samples = SampleSet({"x": np.zeros((n, 1), np.float32)})
    evaluation = Evaluation(samples, n, (), "data", None, 0, 0, False, False, {}, PLAN)
    if held_out:
        evaluation = replace(evaluation, hold_out=SampleSet({"x": np.zeros((held_out, 1), np.float32)}))
    source: Any = SimpleNamespace(is_candidate=False)
    workshop: Any = Workshop({})
    return Judged(source, workshop.answers(source, "ort", samples, key="own"), evaluation, Options(max_drop=LIMIT))


CANDIDATE: Any = SimpleNamespace(is_candidate=True)
PROVED: Any = SimpleNamespace(runtime="ort", version="1")
FLAT = Score("mae-share", 0.0, 0.0, 0.0, 100)


@pytest.mark.parametrize(("n", "streams"), [(30, 1), (149, 1), (160, 2), (900, 4)])
def test_there_are_as_many_streams_as_the_samples_fill(n: int, streams: int) -> None:
    workshop: Any = Workshop({})
    gate._held_long(workshop, CANDIDATE, PROVED, judged(n), FLAT, "int8")
    assert set(workshop.streams) == {("long-run", 100 * streams, 100)}


@pytest.mark.parametrize(("bursts", "holds"), [(1, False), (0, True)])
def test_a_loss_that_comes_in_bursts_must_hold_for_other_streams_too(bursts: int, holds: bool) -> None:
    """Both lose 0.008 of 0.01 in the mean: one evenly, the other in one tenth of the stream."""
    loss = np.full(100, 0.008)
    if bursts:
        loss = np.where(np.arange(100) // 10 == 3, 0.08, 0.0)
    workshop: Any = Workshop({"long-run": loss})
    if holds:
        score = gate._held_long(workshop, CANDIDATE, PROVED, judged(100), FLAT, "int8")
        assert score.name == "long-run"
        assert score.drop == pytest.approx(0.008, rel=0.05)
        return
    with pytest.raises(errors.AccuracyError, match=r"in ort 1.*other 100 runs may well lose 0\.01"):
        gate._held_long(workshop, CANDIDATE, PROVED, judged(100), FLAT, "int8")


@pytest.mark.parametrize(("loss", "holds"), [(0.009, True), (0.02, False)])
def test_streams_of_the_hold_out_are_held_as_well(loss: float, holds: bool) -> None:
    workshop: Any = Workshop({"hold-out-long-run": loss})
    passed: Any = gate.Passed(judged(100).reference, gate.metric_row(FLAT, judged(100).evaluation), {}, ())
    profile: Any = SimpleNamespace(name="p", runtime=SimpleNamespace(name="ort"), also_verified_on=())

    def held() -> Any:
        return gate.hold_unseen(workshop, CANDIDATE, passed, profile, judged(100, held_out=60), "int8")

    if holds:
        assert held().metric.name == "long-run"
        return
    with pytest.raises(errors.AccuracyError, match=r"samples that no choice had seen: long-run"):
        held()


def test_a_long_run_does_not_hide_behind_samples_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 60 may change, which is 0.017; that says nothing of 0.012 in a stream."""
    workshop: Any = Workshop({"hold-out-long-run": 0.012})
    counted = Score("agreement", 59 / 60, 1.0, 1 / 60, 60)
    monkeypatch.setattr(gate, "_score", lambda *_: counted)
    passed: Any = gate.Passed(judged(100).reference, gate.metric_row(FLAT, judged(100).evaluation), {}, ())
    profile: Any = SimpleNamespace(name="p", runtime=SimpleNamespace(name="ort"), also_verified_on=())
    with pytest.raises(errors.AccuracyError, match=r"samples that no choice had seen: long-run"):
        gate.hold_unseen(workshop, CANDIDATE, passed, profile, judged(100, held_out=60), "int8")
