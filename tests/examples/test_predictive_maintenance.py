"""The example of pumps is what its README says: data made again, shares measured again, judgements and labels on a real worker."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgefleet_agent.cli.feedback_args import add_feedback_parser
from edgefleet_agent.cli.feedback_command import run_feedback
from edgefleet_agent.cli.infer import run_infer
from edgefleet_agent.cli.infer_args import add_infer_parser
from edgefleet_agent.worker.control.protocol import Labels
from edgefleet_protocol.run_schedule import plan_of, read_schedule
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes
from tests.examples.retraining import records_of, retrained
from tests.house.pages import shell_blocks

PUMPS = Path(__file__).parents[2] / "examples" / "predictive-maintenance"
METRICS: dict[str, Any] = json.loads((PUMPS / "metrics.json").read_text())
README = Path("examples/predictive-maintenance/README.md")


@cache
def module() -> Any:
    spec = importlib.util.spec_from_file_location("pumps", PUMPS / "pumps.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["pumps"] = made
    spec.loader.exec_module(made)
    return made


@cache
def known() -> Any:
    return module().rows()


PARTS = {"autumn": ("2025-09-01", "2025-12-31"), "june": ("2026-06-01", "2026-06-22")}
TRAINED = ("2025-01-08", "2025-08-31")


def shares(version: str, part: Any) -> dict[str, float]:
    return shares_of(PUMPS / f"pump-{version}.onnx", part)


def shares_of(model: Path, part: Any) -> dict[str, float]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": part.x})
    said, is_due = logits.argmax(axis=1), part.due == 1
    figures = {"right": said == part.due, "found": said[is_due] == 1, "false_alarms": said[~is_due] == 1}
    return {name: float(np.mean(values)) for name, values in figures.items()}


def stored(name: str) -> dict[str, Any]:
    with np.load(PUMPS / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_shares_are_what_metrics_json_and_the_readme_say(version: str) -> None:
    for name, when in PARTS.items():
        assert shares(version, known().between(*when)) == pytest.approx(METRICS[version][name], abs=0.0015)
    row = " | ".join(f"{100 * value:.1f}" for name in PARTS for value in METRICS[version][name].values())
    assert f"| {version} | {row} |" in (PUMPS / "README.md").read_text()


def test_the_older_version_misses_the_new_bearings_and_the_newer_one_finds_them() -> None:
    assert METRICS["1.0.0"]["june"]["found"] < 0.05
    assert METRICS["1.0.0"]["june"]["right"] > 0.9
    assert METRICS["1.1.0"]["june"]["found"] > 0.8


def test_the_files_are_those_that_the_script_makes() -> None:
    held = known().between(*PARTS["autumn"]).balanced(600, 1)
    assert np.array_equal(stored("eval")["x"], held.x)
    assert np.array_equal(stored("eval")["y"], held.due)
    assert held.due.mean() == 0.5
    columns = json.loads((PUMPS / "preprocess.json").read_text())["inputs"][0]["columns"]
    assert tuple(columns) == module().COLUMNS
    plan = plan_of(read_schedule((PUMPS / "schedule.json").read_bytes()).every)
    assert plan.next_s(0) == 6 * 3600


def test_what_is_retrained_on_captured_windows_finds_the_new_bearings(tmp_path: Path) -> None:
    part = known().between("2026-04-01", "2026-05-31")
    part = part.chosen(np.random.default_rng(1).permutation(len(part.x))[:1000])
    traces = [
        f"pump-{pump:02d}@{np.datetime_as_string(at, unit='s').replace('-', '').replace(':', '')}Z"
        for pump, at in zip(part.pump, part.at, strict=True)
    ]
    words = ("ok", "due")
    labels = {("", trace): words[due] for trace, due in zip(traces, part.due, strict=True)}
    labels.pop(("", traces[0]))  # of this one nobody knows yet
    rows = ((trace, row[None]) for trace, row in zip(traces, part.x, strict=True))
    model = "pump-1.0.0.onnx"
    made = retrained(PUMPS, model, records_of(PUMPS, model, rows), labels, tmp_path)
    assert made.manifest.unlabelled == 1
    assert "999 captured windows" in made.said
    figures = {name: shares_of(made.out / "model.onnx", known().between(*when)) for name, when in PARTS.items()}
    for name in PARTS:
        assert figures[name] == pytest.approx(METRICS["retrained"][name], abs=0.03)
    row = " | ".join(f"{100 * value:.1f}" for name in PARTS for value in METRICS["retrained"][name].values())
    assert f"| retrained | {row} |" in (PUMPS / "README.md").read_text()
    assert figures["june"]["found"] > METRICS["1.0.0"]["june"]["found"] + 0.7
    assert figures["autumn"]["found"] > METRICS["1.1.0"]["autumn"]["found"]
    with np.load(made.out / "eval.npz") as held:
        assert (held["x"].shape, held["y"].shape) == ((850, 9), (850,))
    with np.load(made.out / "reference.npz") as reference:
        assert reference["x"].shape == (999, 9)


def moved(part: Any, column: str) -> float:
    """Return the PSI of a column by deciles of what 1.0.0 was trained on."""
    at = module().COLUMNS.index(column)
    old = known().between(*TRAINED).x[:, at]
    edges = np.quantile(old, np.linspace(0, 1, 11)[1:-1])
    a, b = (np.bincount(np.searchsorted(edges, one), minlength=10) + 0.5 for one in (old, part.x[:, at]))
    a, b = a / a.sum(), b / b.sum()
    return float((b - a) @ np.log(b / a))


def test_the_columns_move_as_the_readme_says() -> None:
    autumn = {name: moved(known().between(*PARTS["autumn"]), name) for name in module().COLUMNS}
    assert autumn.pop("outdoor") == pytest.approx(1.3, abs=0.05)
    assert autumn.pop("temperature_mean") == pytest.approx(0.2, abs=0.02)
    assert max(autumn.values()) < 0.1
    assert moved(known().between(*PARTS["june"]), "vibration_mean") == pytest.approx(1.45, abs=0.06)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("pump"))
    names = ("preprocess.json", "postprocess.json", "labels.txt", "schedule.json")
    extra = {name: (PUMPS / name).read_bytes() for name in names}
    bundle = bundle_bytes((PUMPS / "pump-1.0.0.onnx").read_bytes(), name="pump", extra=extra)
    rig.start(bundle, model="pump", log_predictions=True).serve()
    yield rig
    rig.close()


def words_of(command: str) -> list[str]:
    (line,) = [
        b.text for b in shell_blocks(README) if b.kind == "elsewhere" and b.text.startswith(f"edge-agent {command}")
    ]
    return shlex.split(line)[1:]


def test_a_run_over_all_pumps_and_its_labels(
    device: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (worker,) = device.workers
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers()
    add_infer_parser(sub)
    add_feedback_parser(sub)
    socket = ["--socket", str(device.socket_path)]
    asked = words_of("infer")
    asked[asked.index("judgements")] = str(tmp_path / "judgements")
    monkeypatch.chdir(PUMPS.parents[1])
    assert run_infer(parser.parse_args([*asked, *socket])) == 0
    assert "10 inputs answered" in capsys.readouterr().out
    (file,) = (tmp_path / "judgements").glob("*.jsonl")
    answers = {one["input"][:-4]: one for one in map(json.loads, file.read_text().splitlines())}
    failed = dict(line.split(",") for line in (PUMPS / "failed.csv").read_text().split()[1:])
    said = {name: one["predictions"][0]["logits"][0]["label"] for name, one in answers.items()}
    assert sum(said[name] == failed[name] for name in failed) >= 9
    told = words_of("feedback")
    assert told[told.index("--label") + 1] == failed["pump-08"] == said["pump-08"]
    told[2] = answers["pump-08"]["trace_id"]
    assert run_feedback(parser.parse_args([*told, *socket])) == 0
    assert [(one.key, one.label) for one in worker.until(Labels).items] == [(told[2], 1)]
