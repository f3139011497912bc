"""The demand example is what its README says: data made again, errors measured again, forecasts and labels on a real worker."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from datetime import date
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
from edgefleet_agent.worker.control.protocol import KnownSchedule, Labels
from edgefleet_protocol.run_schedule import plan_of, read_schedule
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes
from tests.examples.retraining import records_of, retrained
from tests.house.pages import shell_blocks

DEMAND = Path(__file__).parents[2] / "examples" / "demand-forecast"
METRICS: dict[str, Any] = json.loads((DEMAND / "metrics.json").read_text())
README = Path("examples/demand-forecast/README.md")


@cache
def module() -> Any:
    spec = importlib.util.spec_from_file_location("demand", DEMAND / "demand.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["demand"] = made
    spec.loader.exec_module(made)
    return made


@cache
def known() -> Any:
    return module().rows()


def error(version: str, part: Any) -> float:
    return error_of(DEMAND / f"demand-{version}.onnx", part)


def error_of(model: Path, part: Any) -> float:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (units,) = session.run(["units"], {"x": part.x})
    assert units.shape == part.units.shape
    return float(np.abs(units - part.units).mean())


def stored(name: str) -> dict[str, Any]:
    with np.load(DEMAND / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def days(*text: str) -> tuple[date, ...]:
    return tuple(map(date.fromisoformat, text))


PARTS = {
    "winter": days("2025-11-01", "2026-02-28"),
    "summer": days("2025-06-01", "2025-08-31"),
    "sundays": days("2026-03-01", "2026-04-30"),
    "july": days("2026-07-01", "2026-07-31"),
}
TRAINED = days("2024-09-29", "2025-02-28")


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_errors_are_what_metrics_json_and_the_readme_say(version: str) -> None:
    measured = {name: error(version, known().between(*when)) for name, when in PARTS.items()}
    assert measured == pytest.approx(METRICS["mae"][version], abs=0.01)
    row = " | ".join(f"{METRICS['mae'][version][name]:.1f}" for name in PARTS)
    assert f"| {version} | {row} |" in (DEMAND / "README.md").read_text()


def test_the_newer_version_has_learned_what_changed() -> None:
    old, new = METRICS["mae"]["1.0.0"], METRICS["mae"]["1.1.0"]
    assert new["july"] < 0.5 * old["july"]
    assert new["sundays"] < 0.5 * old["sundays"]
    assert old["sundays"] > 2.8 * old["winter"]


def test_the_files_are_those_that_the_script_makes() -> None:
    held = known().between(*PARTS["winter"]).sample(600, 1)
    assert np.array_equal(stored("eval")["x"], held.x)
    assert np.array_equal(stored("eval")["y"], held.units)
    assert np.array_equal(stored("reference")["x"], known().between(*TRAINED).sample(2400, 3).x)
    for name in ("calibration", "july"):
        assert stored(name)["x"].shape == ({"calibration": 300, "july": 600}[name], len(module().COLUMNS))
    columns = json.loads((DEMAND / "preprocess.json").read_text())["inputs"][0]["columns"]
    assert tuple(columns) == module().COLUMNS
    plan = plan_of(read_schedule((DEMAND / "schedule.json").read_bytes()).every)
    assert plan.next_s(0) == 5 * 3600


def test_what_is_retrained_on_captured_rows_knows_sundays_and_has_forgotten_no_winter(tmp_path: Path) -> None:
    part = known().between(*days("2026-03-01", "2026-06-30")).sample(1000, 1)
    traces = [
        f"kiosk-{kiosk:02d}@{str(day).replace('-', '')}T030000Z"
        for kiosk, day in zip(part.kiosk, part.day, strict=True)
    ]
    labels = {("", trace): f"{units:g}" for trace, units in zip(traces, part.units[:, 0], strict=True)}
    labels.pop(("", traces[0]))  # of this one nobody knows yet
    rows = ((trace, row[None]) for trace, row in zip(traces, part.x, strict=True))
    model = "demand-1.0.0.onnx"
    made = retrained(DEMAND, model, records_of(DEMAND, model, rows), labels, tmp_path)
    assert made.manifest.unlabelled == 1
    assert "999 captured rows" in made.said
    figures = {name: error_of(made.out / "model.onnx", known().between(*PARTS[name])) for name in PARTS}
    assert figures == pytest.approx(METRICS["mae"]["retrained"], rel=0.1)
    row = " | ".join(f"{METRICS['mae']['retrained'][name]:.1f}" for name in PARTS)
    assert f"| retrained | {row} |" in (DEMAND / "README.md").read_text()
    old = METRICS["mae"]["1.0.0"]
    assert figures["july"] < 0.5 * old["july"]
    assert figures["winter"] < 1.15 * old["winter"]
    with np.load(made.out / "eval.npz") as held:
        assert (held["x"].shape, held["y"].shape) == ((850, 13), (850, 1))
    with np.load(made.out / "reference.npz") as reference:
        assert reference["x"].shape == (999, 13)


def moved(part: Any, column: int) -> float:
    """Return the PSI of a column by deciles of what 1.0.0 was trained on."""
    old = known().between(*TRAINED).x[:, column]
    edges = np.quantile(old, np.linspace(0, 1, 11)[1:-1])
    a, b = (np.bincount(np.searchsorted(edges, one), minlength=10) + 0.5 for one in (old, part.x[:, column]))
    a, b = a / a.sum(), b / b.sum()
    return float((b - a) @ np.log(b / a))


def test_the_season_moves_the_columns_as_the_readme_says() -> None:
    by_part = {name: [moved(known().between(*when), at) for at in range(4)] for name, when in PARTS.items()}
    assert max(by_part["winter"]) <= 0.04
    assert 0.65 <= min(by_part["summer"]) <= max(by_part["summer"]) <= 1.65
    assert max(by_part["sundays"]) == by_part["sundays"][0] == pytest.approx(0.6, abs=0.05)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("demand"))
    extra = {name: (DEMAND / name).read_bytes() for name in ("preprocess.json", "schedule.json")}
    bundle = bundle_bytes((DEMAND / "demand-1.0.0.onnx").read_bytes(), name="demand", extra=extra)
    rig.start(bundle, model="demand", log_predictions=True).serve()
    yield rig
    rig.close()


def lines_of(word: str) -> list[str]:
    (line,) = [
        b.text for b in shell_blocks(README) if b.kind == "elsewhere" and b.text.startswith(f"edge-agent {word}")
    ]
    return shlex.split(line)[1:]


def test_a_night_of_forecasts_and_their_labels(
    device: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (worker,) = device.workers
    assert any(isinstance(one, KnownSchedule) for one in worker.messages)
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers()
    add_infer_parser(sub)
    add_feedback_parser(sub)
    socket = ["--socket", str(device.socket_path)]
    asked = lines_of("infer")
    asked[asked.index("forecasts")] = str(tmp_path / "forecasts")
    monkeypatch.chdir(DEMAND.parents[1])
    assert run_infer(parser.parse_args([*asked, *socket])) == 0
    assert "20 inputs answered" in capsys.readouterr().out
    (file,) = (tmp_path / "forecasts").glob("*.jsonl")
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    sold = dict(line.split(",") for line in (DEMAND / "sold.csv").read_text().split()[1:])
    errors = [
        abs(float(next(iter(one["predictions"][0].values()))[0]) - float(sold[one["input"][:-4]])) for one in answers
    ]
    assert np.mean(errors) < 15
    told = lines_of("feedback")
    assert told[told.index("--value") + 1] == sold["kiosk-00"]
    told[2] = answers[0]["trace_id"]
    assert told[2].startswith("kiosk-00@")
    assert run_feedback(parser.parse_args([*told, *socket])) == 0
    labels = worker.until(Labels)
    assert [(one.key, one.value) for one in labels.items] == [(told[2], float(sold["kiosk-00"]))]
