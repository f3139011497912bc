"""The detector example is what its README says: pictures drawn again, precision measured again, a camera file, a retraining."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgefleet_agent.cli.infer import run_infer
from edgefleet_agent.cli.infer_args import add_infer_parser
from edgefleet_cli.datasets.dataset_writer import write_data_set
from edgefleet_cli.datasets.model import DataFormat, Record
from edgefleet_cli.datasets.places import FolderPlace
from edgefleet_converters.drift_reference import Answered, build_reference
from edgefleet_converters.sample_data import SampleSet
from edgefleet_protocol.drift.detector import BLOCK_S, step, watches_of
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.signals import counted, signal_plan, signal_values
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes
from tests.examples.retraining import records_of, retrained
from tests.house.pages import shell_blocks

PARTS = Path(__file__).parents[2] / "examples" / "part-detector"
METRICS: dict[str, Any] = json.loads((PARTS / "metrics.json").read_text())
README = Path("examples/part-detector/README.md")
MODEL = PARTS / "parts-1.0.0.onnx"
CAPTURED = 160
NO_ANSWERS = Answered({}, [], {})
SETTLED = 3 * 288
"""Blocks of five minutes: three days of usual pictures, from which a device learns how they vary."""
START_S = 1_700_006_400


@cache
def module(name: str) -> Any:
    sys.path.insert(0, str(PARTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PARTS))


@cache
def held() -> dict[str, Any]:
    drawn = module("scenes")
    return {"old": drawn.scenes(100, drawn.OLD, 7), "new": drawn.scenes(100, drawn.NEW, 8)}


def precision(model: Path) -> dict[str, float]:
    measured = module("precision")
    return {name: measured.map50(measured.found(model, part.image), part.boxes) for name, part in held().items()}


def stored(name: str) -> Any:
    with np.load(PARTS / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["image"]
        return arrays["image"]


def row_of(version: str) -> str:
    return f"| {version} | " + " | ".join(f"{100 * METRICS[version][name]:.1f}" for name in ("old", "new")) + " |"


def test_precision_is_what_metrics_json_and_the_readme_say() -> None:
    assert precision(MODEL) == pytest.approx(METRICS["1.0.0"], abs=0.005)
    assert row_of("1.0.0") in (PARTS / "README.md").read_text()


def test_precision_of_answers_that_are_known() -> None:
    measured = module("precision")
    there = [np.array([[0, 0, 0, 10, 10], [1, 50, 50, 60, 60]]), np.array([[0, 20, 20, 40, 40]])]
    right = [np.array([[0, 0, 0, 10, 9, 0.9], [1, 50, 50, 60, 61, 0.8]]), np.array([[0, 20, 21, 40, 40, 0.7]])]
    assert measured.map50(right, there) == 1.0
    twice = [np.concatenate([right[0], [[0, 0, 0, 10, 10, 0.95]]]), right[1]]
    assert measured.map50(twice, there) == pytest.approx((1 + (1 + 2 / 3) / 2) / 2), (
        "an object that is found twice counts once"
    )
    assert measured.map50([right[0], np.zeros((0, 6))], there) == pytest.approx((1 + 1 / 2) / 2)
    off = [right[0], np.array([[0, 35, 35, 55, 55, 0.99]])]
    assert measured.map50(off, there) == pytest.approx((1 + (1 / 2) / 2) / 2)


def test_the_files_are_those_that_the_script_makes() -> None:
    drawn = module("scenes")
    assert {name: stored(name).shape for name in ("eval", "calibration")} == {
        "eval": (60, 1, 96, 96), "calibration": (100, 1, 96, 96),
    }  # fmt: skip
    for name, seed in (("eval", 1), ("calibration", 2)):
        assert np.array_equal(stored(name)[:8], drawn.scenes(8, drawn.OLD, seed).image)
    assert tuple((PARTS / "labels.txt").read_text().split()) == drawn.LABELS
    light = {name: float(part.image.mean()) for name, part in held().items()}
    assert light == pytest.approx({"old": 0.29, "new": 0.37}, abs=0.01)
    assert light["new"] - light["old"] > 3 * held()["old"].image.mean(axis=(1, 2, 3)).std()
    assert sum(path.stat().st_size for path in PARTS.rglob("*") if path.is_file()) < 1_500_000


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("parts"))
    extra = {name: (PARTS / name).read_bytes() for name in ("preprocess.json", "postprocess.json", "labels.txt")}
    bundle = bundle_bytes(MODEL.read_bytes(), name="parts", extra=extra, golden_inputs=stored("eval")[:2])
    rig.start(bundle, model="parts").serve()
    yield rig
    rig.close()


def test_the_camera_file_of_the_page_is_answered(
    device: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_infer_parser(parser.add_subparsers())
    monkeypatch.chdir(PARTS.parents[1])
    asked = parser.parse_args([*words_of("edge-agent infer")[1:], "--socket", str(device.socket_path), "-o", "json"])
    assert run_infer(asked) == 0
    answers = [json.loads(one)["predictions"][0]["boxes"] for one in capsys.readouterr().out.splitlines()]
    drawn = module("scenes")
    film = drawn.scenes(24, drawn.OLD, 3)
    assert len(answers) == len(film.boxes)
    said = [np.array([[one["index"], *(96 * s for s in one["box"]), one["score"]] for one in each]) for each in answers]
    assert module("precision").map50([one.reshape(-1, 6) for one in said], film.boxes) > 0.95


def words_of(command: str) -> list[str]:
    (line,) = [b.text for b in shell_blocks(README) if b.text.startswith(command)]
    return shlex.split(line)


def with_answers(records: list[Record], image: Any) -> list[Record]:
    session = ort.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    answers = dict(zip(names, session.run(names, {"image": image}), strict=True))
    packed = [
        {name: {"dtype": "<f4", "shape": [1, *a.shape[1:]], "data": a[n].tobytes()} for name, a in answers.items()}
        for n in range(len(records))
    ]
    return [replace(one, outputs=outputs) for one, outputs in zip(records, packed, strict=True)]


def corrected(document: dict[str, Any], boxes: list[Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """Return annotations as a person leaves them who looked at all pictures but the first."""
    kinds = {one["name"]: one["id"] for one in document["categories"]}
    right = [
        {"image_id": one["id"], "category_id": kinds[labels[int(kind)]], "bbox": [x, y, right - x, bottom - y]}
        for one in document["images"][1:]
        for kind, x, y, right, bottom in boxes[int(one["trace_id"][1:])].tolist()
    ]
    stays = [one for one in document["annotations"] if one["image_id"] == document["images"][0]["id"]]
    assert stays
    return {**document, "annotations": stays + right}


def test_what_is_retrained_on_corrected_boxes_sees_parts_on_the_new_belt(tmp_path: Path) -> None:
    drawn = module("scenes")
    new = drawn.scenes(CAPTURED, drawn.NEW, 55)
    records = records_of(PARTS, MODEL.name, ((f"t{n}", one[None]) for n, one in enumerate(new.image)))
    export = words_of("edgectl data export")
    form, out = (export[export.index(flag) + 1] for flag in ("--format", "--out"))
    write_data_set(with_answers(records, new.image), {}, DataFormat(form), FolderPlace(tmp_path / out, False))
    file = tmp_path / out / "annotations.json"
    file.write_text(json.dumps(corrected(json.loads(file.read_text()), new.boxes, drawn.LABELS)))
    made = retrained(PARTS, MODEL.name, records, {}, tmp_path, {f"{out}/annotations.json": str(file)})
    assert f"{CAPTURED - 1} captured pictures" in made.said
    figures = precision(made.out / "model.onnx")
    assert figures == pytest.approx(METRICS["retrained"], abs=0.02)
    assert row_of("retrained") in (PARTS / "README.md").read_text()
    assert figures["new"] > METRICS["1.0.0"]["new"] + 0.2
    assert figures["old"] > METRICS["1.0.0"]["old"] - 0.1
    for name, n in {"eval": 60 + 39, "calibration": 100 + 120, "reference": 159}.items():
        with np.load(made.out / f"{name}.npz") as arrays:
            assert arrays["image"].shape == (n, 1, 96, 96)


def test_a_device_sees_the_new_belt_within_an_hour_and_none_before() -> None:
    drawn = module("scenes")
    spec = TensorSpec(name="image", dtype="float32", shape=["N", 1, 96, 96], layout="NCHW")
    reference = build_reference(SampleSet({"image": stored("calibration")}), [spec], NO_ANSWERS, None, "calibration")
    plan, watches = signal_plan(reference, [spec], []), watches_of(reference)
    usual, other = (
        signal_values({"image": part}, {}, plan) for part in (stored("eval"), drawn.scenes(60, drawn.NEW, 22).image)
    )
    rng, began = np.random.default_rng(0), []
    for block in range(SETTLED + 12):
        is_new = block >= SETTLED
        of_block = counted((other if is_new else usual)[rng.integers(0, 60, 10)], plan)
        for at, sums in enumerate(of_block):
            watches[at], changes = step(watches[at], sums, START_S + BLOCK_S * (block + 1))
            began += [(one.name, is_new) for one in changes]
    assert ("image.brightness", True) in began
    assert all(is_new for _, is_new in began)
