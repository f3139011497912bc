"""The digits example is what its README says: measured again with onnxruntime, compared with scikit-learn's own data."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime import postprocess, preprocess

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
METRICS: dict[str, Any] = json.loads((DIGITS / "metrics.json").read_text())
PARTS = ("calibration", "eval", "device")


def part(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(DIGITS / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def accuracy(model: Path, name: str = "eval") -> float:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    data = part(name)
    logits = session.run(["logits"], {"image": data["image"]})[0]
    assert logits.shape == (len(data["y"]), 10)
    return float((logits.argmax(1) == data["y"]).mean())


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self) -> None:
        image = part("calibration")["image"]
        self._left = iter([{"image": image[i : i + 1]} for i in range(len(image))])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self._left, None)


def int8_static(model: Path, out: Path) -> Path:
    quantize_static(
        str(model), str(out), Batches(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )
    return out


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
@pytest.mark.parametrize("name", ["eval", "device", "hazy"])
def test_accuracy_is_what_metrics_json_says(version: str, name: str) -> None:
    measured = accuracy(DIGITS / f"digits-{version}.onnx", name)
    assert measured == pytest.approx(METRICS[version]["accuracy"][name], abs=0.0026)


def test_second_release_is_better_and_both_score_alike_on_eval_and_device() -> None:
    old, new = METRICS["1.0.0"]["accuracy"], METRICS["1.1.0"]["accuracy"]
    assert 0.94 <= old["eval"] <= 0.97
    assert new["eval"] >= 0.985
    assert new["device"] > old["device"] + 0.02
    for scores in (old, new):
        assert abs(scores["eval"] - scores["device"]) <= 0.003


def test_interface_is_plain() -> None:
    for version in ("1.0.0", "1.1.0"):
        model = onnx.load(DIGITS / f"digits-{version}.onnx")
        assert [o.version for o in model.opset_import] == [17]
        assert [i.name for i in model.graph.input] == ["image"]
        assert [o.name for o in model.graph.output] == ["logits"]
        dims = model.graph.input[0].type.tensor_type.shape.dim
        assert (dims[0].dim_param, [d.dim_value for d in dims[1:]]) == ("N", [1, 8, 8])


def test_images_and_labels_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    raw = datasets.load_digits()
    known: dict[bytes, set[int]] = {}
    for row, label in zip((raw.data / 16).astype(np.float32), raw.target, strict=True):
        known.setdefault(row.tobytes(), set()).add(int(label))
    for name in PARTS:
        data = part(name)
        assert data["image"].dtype == np.float32
        for i, image in enumerate(data["image"]):
            labels = known[image.tobytes()]
            assert name == "calibration" or int(data["y"][i]) in labels


def test_parts_are_disjoint_and_have_their_sizes() -> None:
    seen: set[bytes] = set()
    for name in PARTS:
        images = {image.tobytes() for image in part(name)["image"]}
        assert len(images) == METRICS["sizes"][name]
        assert not images & seen
        seen |= images


def test_every_labelled_part_holds_all_digits_in_near_equal_shares() -> None:
    for name in ("eval", "device"):
        share = np.bincount(part(name)["y"], minlength=10) / len(part(name)["y"])
        assert share.min() > 0.085
        assert share.max() < 0.115


def test_samples_are_8_by_8_grey_pictures_of_device_images() -> None:
    image_of = pytest.importorskip("PIL.Image").open
    data = part("device")
    for digit in range(10):
        with image_of(DIGITS / "samples" / f"{digit}.png") as picture:
            assert (picture.size, picture.mode) == ((8, 8), "L")
            pixels = np.asarray(picture, np.float32) / 255
        distance = np.abs(data["image"][:, 0] - pixels).max(axis=(1, 2))
        assert distance.min() <= 0.5 / 255 + 1e-6
        assert data["y"][int(distance.argmin())] == digit


def test_the_reference_is_everything_but_the_device_images() -> None:
    known = part("reference")["image"]
    assert len(known) == 1497
    seen = {image.tobytes() for image in known}
    assert {image.tobytes() for name in ("calibration", "eval") for image in part(name)["image"]} <= seen
    assert not any(image.tobytes() in seen for image in part("device")["image"])


def test_labels_name_each_class() -> None:
    assert (DIGITS / "labels.txt").read_text().split() == [str(d) for d in range(10)]


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_int8_is_small_and_loses_nothing_that_matters(version: str, tmp_path: Path) -> None:
    source = DIGITS / f"digits-{version}.onnx"
    small = int8_static(source, tmp_path / "int8.onnx")
    assert small.stat().st_size <= 0.35 * source.stat().st_size
    assert accuracy(small) >= accuracy(source) - 0.01


def test_bad_release_is_good_in_float32_and_loses_in_int8(tmp_path: Path) -> None:
    source = DIGITS / "bad" / "int8-loses.onnx"
    assert accuracy(source) == pytest.approx(METRICS["1.1.0"]["accuracy"]["eval"], abs=0.0026)
    dynamic = tmp_path / "dynamic.onnx"
    quantize_dynamic(str(source), str(dynamic), per_channel=True, weight_type=QuantType.QInt8)
    for candidate in (int8_static(source, tmp_path / "static.onnx"), dynamic):
        assert accuracy(candidate) < accuracy(source) - 0.1


def test_crashing_release_passes_the_checker_and_kills_the_process_that_loads_it() -> None:
    path = DIGITS / "bad" / "crashes-at-load.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    load = "import sys, onnxruntime as o; o.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    done = subprocess.run([sys.executable, "-c", load, str(path)], capture_output=True, check=False)
    assert done.returncode != 0
    if platform.machine() == "x86_64":
        assert done.returncode == -signal.SIGFPE


def test_readme_figures_are_the_measured_ones() -> None:
    text = (DIGITS / "README.md").read_text()
    for version in ("1.0.0", "1.1.0"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `digits-{version}.onnx`"))
        figures = [float(f) for f in re.findall(r"([\d.]+) %", row)]
        scores = METRICS[version]["accuracy"]
        assert figures == [round(100 * scores["eval"], 1), round(100 * scores["device"], 1)]


def test_files_stay_small() -> None:
    sizes = [path.stat().st_size for path in DIGITS.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert max(sizes) < 2_000_000
    assert sum(sizes) < 3_000_000


def test_declared_steps_turn_a_picture_into_the_right_answer() -> None:
    spec_in = [TensorSpec(name="image", dtype="float32", shape=["N", 1, 8, 8])]
    spec_out = [TensorSpec(name="logits", dtype="float32", shape=["N", 10])]
    steps = preprocess.parse_preprocess((DIGITS / "preprocess.json").read_bytes())
    preprocess.check_against(steps, spec_in)
    answer = postprocess.build_postprocessor(
        postprocess.parse_postprocess((DIGITS / "postprocess.json").read_bytes()),
        postprocess.parse_labels((DIGITS / "labels.txt").read_bytes()),
        spec_out,
    )
    session = ort.InferenceSession(str(DIGITS / "digits-1.1.0.onnx"), providers=["CPUExecutionProvider"])
    for digit in range(10):
        inputs = preprocess.from_image(steps, (DIGITS / "samples" / f"{digit}.png").read_bytes(), spec_in)
        best = answer.answers({"logits": session.run(["logits"], inputs)[0]})[0]["logits"]
        assert len(best) == 3
        assert best[0]["label"] == str(digit)
        assert best[0]["score"] > 0.5
