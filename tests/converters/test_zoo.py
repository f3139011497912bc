"""The zoo: its table is whole, its generators draw fresh samples, its figures count what they say, and a tiny model goes through it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench.zoo import __main__ as zoo
from bench.zoo import task_metrics, trial
from bench.zoo.entry import Entry, Samples, seeds
from bench.zoo.summary import difference, summary
from bench.zoo.table import ENTRIES
from bench.zoo.tools import TOOLS

Row = dict[str, Any]
DRAWN_HERE = [entry for entry in ENTRIES.values() if entry.needs != "download" and not entry.name.endswith(".tflite")]


def test_the_table_is_large_and_of_many_kinds() -> None:
    assert len(ENTRIES) >= 40
    assert len({entry.kind for entry in ENTRIES.values()}) >= 12
    assert {"float16 .tflite", "float32 .tflite", "small BERT", "GRU encoder-decoder"} <= {
        e.kind for e in ENTRIES.values()
    }


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_an_entry_is_well_formed(entry: Entry) -> None:
    assert ENTRIES[entry.name] is entry
    assert all((entry.kind, entry.task, entry.data, entry.source))
    assert entry.metric in task_metrics.METRICS
    assert 0 < entry.limit <= 0.1
    assert entry.licence in {"Apache-2.0", "MIT"}
    assert all(count >= 20 for count in entry.sizes)


@pytest.mark.parametrize("entry", DRAWN_HERE, ids=lambda entry: entry.name)
def test_another_seed_draws_other_samples_of_the_same_kind(entry: Entry) -> None:
    one, again, other = (entry.draw(3, 12, seed) for seed in (1, 1, 2))
    for arrays, same, others in ((one.inputs, again.inputs, other.inputs), (one.truth, again.truth, other.truth)):
        for name, array in arrays.items():
            assert np.isfinite(array).all()
            np.testing.assert_array_equal(array, same[name])
            assert (array.shape, array.dtype) == (others[name].shape, others[name].dtype)
    assert any((array != other.inputs[name]).any() for name, array in one.inputs.items())


def test_the_halves_and_the_parts_have_seeds_of_their_own() -> None:
    drawn = [seeds(name, root) for name in ENTRIES for root in ("fixed", "0123abcd")]
    numbers = [number for one in drawn for number in (one.model, one.calibration, one.gate, one.fresh)]
    assert len(set(numbers)) == len(numbers)
    assert seeds("a", "fixed") == seeds("a", "fixed")


def row(model: str, tool: str, verdict: str, **figures: Any) -> Row:
    base = {
        "model": model,
        "tool": tool,
        "runtime": "ort",
        "verdict": verdict,
        "quantizable": True,
        "source_bytes": 1000,
    }
    return {**base, "limit": 0.01, "loss_error": 0.0, "latency_ratio": 1.0, "seconds": 5.0, "peak_mb": 100, **figures}


def test_the_figures_count_what_they_say() -> None:
    rows = [
        row("a", "edgefleet ort", "passed", loss=0.0, within=True, ratio=0.3),
        row("a", "nncf", "made", loss=0.0, within=True, ratio=0.3),
        row("b", "edgefleet ort", "passed", loss=0.03, within=False, ratio=0.3),
        row("b", "nncf", "made", loss=0.005, within=True, ratio=0.5),
        row("c", "edgefleet ort", "refused", why="no"),
        row("c", "nncf", "made", loss=0.5, within=False, ratio=0.25),
        row("d", "edgefleet ort", "passed", loss=0.011, within=False, ratio=1.0, latency_ratio=None, seconds=70.0),
        row("e", "edgefleet ort", "broken", ratio=0.3, why="it does not run"),
    ]
    found = summary(rows)
    assert found["lists"]["silent_wrong"] == ["b/ort", "e/ort"]
    assert (found["share_of_peers"], found["lists"]["not_served_but_by_peers"]) == (0.5, ["b/ort"])
    assert (found["share_small"], found["share_fast"], found["share_over"]) == (0.2, 1.0, 0.5)
    assert (found["worst_over"], found["most_seconds"]) == (3.0, 70.0)
    assert found["within"] == {
        "silent_wrong": False, "share_of_peers": False, "share_small": False, "share_fast": True, "share_over": False,
        "worst_over": False, "most_seconds": False, "most_mb": True, "large_seconds": None, "large_mb": None,
    }  # fmt: skip
    assert difference(found, {**found, "share_small": 0.3})["share_small"] == 10.0


def test_a_loss_is_the_mean_of_what_it_costs_more_than_the_source() -> None:
    truth, source = {"y": np.array([0, 1, 1, 0])}, {"s": np.array([[2, 1], [0, 1], [3, 1], [1, 0]], np.float32)}
    got = {"s": np.array([[0, 1], [0, 1], [0, 1], [1, 0]], np.float32)}
    assert task_metrics.loss("top1", got, source, truth)[0] == 0.0  # one lost, one won
    assert task_metrics.loss("top1", got, source, {})[0] == 0.5
    assert task_metrics.loss("spread", {"s": got["s"] * np.nan}, source, {})[0] == float("inf")


def test_objects_count_in_one_output_and_in_two() -> None:
    both = np.zeros((1, 16, 9), np.float32)
    both[0, 0] = [10, 10, 8, 8, 0, 1, 0, 0, 0]
    for answers in ({"objects": both}, {"boxes": both[..., :4], "scores": both[..., 4:]}):
        assert task_metrics.METRICS["objects"](answers, answers, {"y": both}) == [0.0]
        assert task_metrics.METRICS["objects"](answers, answers, {"y": np.zeros_like(both)}) == [1.0]


def test_parts_share_no_sample_where_there_are_others() -> None:
    def draw(_task: int, n: int, seed: int) -> Samples:
        """Files of a small pool, in another order each time."""
        return Samples({"x": np.random.default_rng(seed).permutation(40)[:n].astype(np.float32)[:, None]})

    entry: Any = SimpleNamespace(draw=draw)
    seen: set[bytes] = set()
    parts = [trial.apart_from(seen, entry, 0, 15, seed)["x"] for seed in (1, 2, 3)]
    assert [len(part) for part in parts] == [15, 15, 10]
    assert len(np.unique(np.concatenate(parts))) == 40


def test_a_tiny_model_goes_through_the_whole_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(function: Callable[..., Any], *given: Any) -> Any:
        return function(*given)

    monkeypatch.setattr(trial, "apart", here)  # a process for each row takes a second to start
    monkeypatch.setattr(
        zoo, "TOOLS", tuple(tool for tool in TOOLS if tool.name in ("edgefleet litert", "quantize_dynamic"))
    )
    arguments = ["--only", "sklearn-pipeline", "--half", "fixed", "--cache", str(tmp_path)]

    def figures(*more: str) -> Row:
        monkeypatch.setattr(sys, "argv", ["zoo", *arguments, *more])
        code = zoo.main()
        said = json.loads(capsys.readouterr().out)
        assert said["not_made"] == {}
        assert code == (0 if said["ok"] else 1), "seconds are among the goals, so a busy machine may miss them"
        fixed: Row = said["halves"]["fixed"]
        return fixed

    first = figures()
    ours = next(row for row in first["rows"] if row["tool"] == "edgefleet litert")
    assert (ours["verdict"], ours["within"], first["served"], first["silent_wrong"]) == ("passed", True, 1, 0)
    assert {"loss", "ratio", "latency_ratio", "seconds", "peak_mb", "gate"} <= ours.keys()
    assert len(first["rows"]) == 2
    assert figures()["rows"] == first["rows"]  # taken from the lines that were kept
    assert figures("--shard", "2/2")["rows"] == []
