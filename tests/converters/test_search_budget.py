"""A search ends with its budget, or when it is asked to, and keeps the best it found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from edgefleet_converters import errors
from edgefleet_converters.pipeline import convert
from edgefleet_converters.report import ConversionReport
from edgefleet_converters.request import parse_request
from edgefleet_converters.sandbox import Sandbox
from edgefleet_converters.search_budget import STOP_NAME, SearchBudget, SearchEndedError, budget_s
from edgefleet_profiles import load
from edgefleet_profiles.profile import profile_to_dict
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.crash_models import never_ending
from tests.converters.graphs import classifier, data_for, model_of, run, samples, save


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    model = classifier(features=64)
    x, y = data_for(model, 200)
    data = {"calibration": samples(tmp_path, "c.npz", x=x[:80]), "eval": samples(tmp_path, "e.npz", x=x[80:], y=y[80:])}
    return {"source": save(model, tmp_path), "data": data}


def test_a_larger_source_has_more_time() -> None:
    assert budget_s(None, 1_000_000) == 60
    assert budget_s(None, 30_000_000) == pytest.approx(120)
    assert budget_s(5.0, 30_000_000) == 5


def test_a_search_without_time_offers_what_is_made_quickly_and_says_so(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchBudget, "left_s", lambda self: -1.0)
    report, _ = run(given["source"], tmp_path / "out", data=given["data"])
    (profile,) = report.profiles
    assert profile.search_ended.startswith("the search ended after 60 s: ")
    assert profile.search_ended.endswith(" candidates not tried")
    assert profile.bundle is not None
    assert profile.bundle.search_ended == profile.search_ended
    assert profile.bundle.precision in ("fp16", "int16-weights")
    rows = {row.id: row for row in profile.candidates}
    assert rows["int8-weights"].verdict == "not_tried"
    assert rows["int8-weights"].reason == profile.search_ended
    assert report.key == "", "a result that a clock decided is not kept for later"
    assert "the search ended after 60 s" in (tmp_path / "out" / "report.html").read_text()


def test_the_recipe_of_a_search_that_ended_early_gives_the_same_bytes(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchBudget, "left_s", lambda self: -1.0)
    first, _ = run(given["source"], tmp_path / "a", data=given["data"])
    monkeypatch.undo()
    recipe = {"candidates": [_recipe_of(first)], "golden_vectors": 16}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    again, _ = run(given["source"], tmp_path / "b", data=given["data"] | {"recipe": str(tmp_path / "recipe.json")})
    assert again.bundles[0].sha256 == first.bundles[0].sha256
    assert again.profiles[0].search_ended == ""


def _recipe_of(report: ConversionReport) -> dict[str, Any]:
    from edgefleet_protocol.bundle import open_bundle

    with Path(report.bundles[0].path).open("rb") as file:
        found: dict[str, Any] = open_bundle(file).manifest.recipe.steps["candidates"][0]
    return found


def test_a_request_to_end_keeps_the_best_so_far(given: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "candidate" and event["verdict"] == "passed":
            seen.append(event["id"])
            (out / STOP_NAME).touch()

    request = parse_request(
        {
            "v": 1, "model": "m", "version": "1.0.0", "source": {"path": str(given["source"])}, "out_dir": str(out),
            "profiles": [profile_to_dict(load("generic-x86_64-ort")), profile_to_dict(load("generic-aarch64-ort"))],
            "data": given["data"], "options": {"max_drop": 0.2, "explore": True},
        }
    )  # fmt: skip
    report = convert(request, listen)
    first, second = report.profiles
    assert first.bundle is not None
    assert first.bundle.candidate == seen[0]
    assert second.bundle is not None
    assert second.search_ended.startswith("the search was ended on request: ")
    assert report.key == ""


def explored(given: dict[str, Any], out: Path, last: str) -> ConversionReport:
    """Choose among three candidates and explore the others; once `last` has its row, somebody asks for the end."""
    recipe = {
        "candidates": [
            {"id": "int8-weights", "precision": "int8-weights", "method": "weights", "weight_bits": 8},
            {"id": "fp16", "precision": "fp16", "method": "float16"}, {"id": "fp32", "precision": "fp32", "method": "none"},
        ]
    }  # fmt: skip
    out.mkdir()
    (out / "recipe.json").write_text(json.dumps(recipe))

    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "candidate" and event["id"] == last:
            (out / STOP_NAME).touch()
        if event["type"] == "progress" and event["stage"] == "gate":
            assert event["message"].startswith("best so far "), "also while exploring: then Ctrl-C keeps it"

    request = parse_request(
        {
            "v": 1, "model": "m", "version": "1.0.0", "source": {"path": str(given["source"])}, "out_dir": str(out),
            "profiles": [profile_to_dict(load("generic-x86_64-ort"))], "options": {"max_drop": 0.2, "explore": True},
            "data": given["data"] | {"recipe": str(out / "recipe.json")},
        }
    )  # fmt: skip
    return convert(request, listen)


def test_exploring_ends_on_request_and_keeps_the_choice_and_the_rows(given: dict[str, Any], tmp_path: Path) -> None:
    report = explored(given, tmp_path / "out", last="fp16")
    (profile,) = report.profiles
    assert profile.bundle is not None
    assert profile.bundle.candidate == "int8-weights"
    assert [row.verdict for row in profile.candidates] == ["passed", "passed", "not_tried"]
    assert profile.search_ended == "after the choice, the search was ended on request: 1 more not tried"
    assert report.key == ""
    assert "another run" not in (tmp_path / "out" / "report.html").read_text()


def test_exploring_has_no_more_time_than_the_search(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_s = iter([60.0, 60.0])
    monkeypatch.setattr(SearchBudget, "left_s", lambda self: next(left_s, -1.0))
    (profile,) = explored(given, tmp_path / "out", last="").profiles
    assert profile.bundle is not None
    assert [row.verdict for row in profile.candidates] == ["passed", "not_tried", "not_tried"]
    assert profile.search_ended == "after the choice, the search ended after 60 s: 2 more not tried"


def test_a_step_ends_with_its_search_and_the_sandbox_goes_on(tmp_path: Path) -> None:
    never = save(never_ending(), tmp_path)
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 1, 4), np.float32))
    args = {
        "runtime": "ort", "model": str(never), "threads": 1, "samples": str(tmp_path / "x.npz"), "outputs": None, "timed_runs": 0,
    }  # fmt: skip
    stop = tmp_path / "stop"
    with Sandbox() as sandbox:
        short = SearchBudget(1.0, 0.0, lambda: sandbox.spent_s)
        with sandbox.ending_with(short), pytest.raises(SearchEndedError):
            sandbox.execute("run_model", args, what="running for ever")
        assert short.ended() == "the search ended after 1 s"
        stop.touch()
        with (
            sandbox.ending_with(SearchBudget(1e6, 0.0, lambda: sandbox.spent_s, stop)),
            pytest.raises(SearchEndedError),
        ):
            sandbox.execute("run_model", args, what="running for ever")
        assert sandbox.execute("probe_runtime", {"runtime": "ort"}, what="importing").answer["version"]


def test_a_budget_that_is_none_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(errors.BadRequestError, match="between 1 s and 86400 s, got 0 s"):
        parse_request(
            {
                "v": 1, "model": "m", "version": "1.0.0", "source": {"path": "m.onnx"}, "out_dir": str(tmp_path),
                "profiles": [profile_to_dict(load("generic-x86_64-ort"))], "options": {"budget_s": 0},
            }
        )  # fmt: skip


def test_progress_says_which_is_the_best_so_far(given: dict[str, Any], tmp_path: Path) -> None:
    _, events = run(given["source"], tmp_path / "out", data=given["data"], max_drop=0.2)
    told = [event["message"] for event in events if event["type"] == "progress" and event["stage"] == "gate"]
    best = re.compile(r"best so far \S+, 0\.\d\d of float32, top1 \d+\.\d %; ")
    assert [text for text in told if best.match(text)]


def test_calibration_keeps_no_tensor_that_it_has_looked_at(tmp_path: Path) -> None:
    depth, values = 40, 2_000_000
    nodes = [helper.make_node("Add", ["x" if i == 0 else f"t{i}", "c"], [f"t{i + 1}"]) for i in range(depth)]
    nodes.append(helper.make_node("ReduceMean", [f"t{depth}"], ["y"], axes=[1], keepdims=1))
    model = model_of(nodes, {"c": np.ones(1, np.float32)}, {"x": [1, values]}, {"y": [1, 1]})
    inputs = [TensorSpec(name="x", dtype="float32", shape=[1, values])]
    path, data = save(model, tmp_path), samples(tmp_path, x=np.zeros((2, 1, values), np.float32))
    args = {
        "model": str(path), "spec": {"id": "s", "precision": "int8", "method": "static"}, "samples": data, "plain": None,
        "inputs": msgspec.to_builtins(inputs), "out": str(tmp_path / "o"), "calibration": str(tmp_path / "c.npz"),
    }  # fmt: skip
    with Sandbox() as sandbox:
        sandbox.build("onnx_prepare", args, what="calibrating")
        held = sandbox.peak_rss_bytes
    assert held < 0.7 * depth * values * 4, f"{held // 2**20} MiB: all {depth} tensors of one sample are 305 MiB"
