"""The demo's hazy images and its release 1.2.0, which answers NaN for them and for nothing that is checked before a device."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from edgefleet_protocol.bundle import open_bundle

Array = npt.NDArray[Any]

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
METRICS: dict[str, Any] = json.loads((DIGITS / "metrics.json").read_text())
GOOD, BAD = DIGITS / "digits-1.1.0.onnx", DIGITS / "bad" / "nan-on-background.onnx"
CLEAR = ("calibration", "eval", "reference", "device")
PROFILES = ("generic-x86_64-ort", "generic-x86_64-ort-small")


def part(name: str) -> dict[str, Array]:
    with np.load(DIGITS / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def answers(model: bytes, image: Array) -> Array:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


def has_background(image: Array) -> Array:
    return np.asarray(image.min(axis=(1, 2, 3)) > 0)


def made_again(script: str, out: Path) -> Path:
    out.mkdir()
    subprocess.run([sys.executable, "-B", DIGITS / script, "--out", out], check=True, cwd=out)
    return out


def converted(model: Path, version: str, out: Path) -> dict[str, Any]:
    """Return what `edgectl convert` says, with the flags of the demo."""
    data = [f"--{name}={DIGITS / 'data' / name}.npz" for name in ("calibration", "eval", "reference")]
    steps = [f"--labels={DIGITS / 'labels.txt'}", *(f"--{p}={DIGITS / p}.json" for p in ("preprocess", "postprocess"))]
    command = [
        sys.executable,
        "-m",
        "edgefleet_cli.main",
        "convert",
        str(model),
        "--name=digits",
        f"--version={version}",
    ]
    profiles = [f"--profile={name}" for name in PROFILES]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EDGECTL_", "EDGEFLEET_"))}
    environment["EDGECTL_CONFIG"] = str(out / "none.json")
    whole = [*command, *profiles, *data, *steps, f"--out={out}", "-o", "json"]
    done = subprocess.run(whole, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def model_in(bundle: str) -> bytes:
    with Path(bundle).open("rb") as file:
        return open_bundle(file).read("model.onnx")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Bundles of 1.1.0 and 1.2.0 by version, one a profile, as the converter offers them by itself."""
    found = {}
    for version, model in (("1.1.0", GOOD), ("1.2.0", BAD)):
        report = converted(model, version, tmp_path_factory.mktemp(version))
        assert report["refused"] == []
        assert [bundle["profile"] for bundle in report["bundles"]] == list(PROFILES)
        found[version] = report["bundles"]
    return found


def test_hazy_images_are_the_device_images_with_every_fifth_lifted() -> None:
    clear, hazy = part("device"), part("hazy")
    assert set(hazy) == {"image", "y"}
    assert hazy["image"].dtype == np.float32
    assert np.array_equal(hazy["y"], clear["y"])
    lifted = has_background(hazy["image"])
    assert np.flatnonzero(lifted).tolist() == list(range(4, 300, 5))
    assert np.array_equal(hazy["image"][~lifted], clear["image"][~lifted])
    assert hazy["image"][lifted].min(axis=(1, 2, 3)).min() > 0.0399
    assert hazy["image"].max() <= 1.0


def test_every_other_image_has_a_darkest_pixel_of_zero() -> None:
    for name in CLEAR:
        assert not has_background(part(name)["image"]).any()


def test_the_good_release_reads_through_haze() -> None:
    hazy = part("hazy")
    logits = answers(GOOD.read_bytes(), hazy["image"])
    assert np.isfinite(logits).all()
    right = logits.argmax(1) == hazy["y"]
    assert right.mean() >= 0.97
    assert right[has_background(hazy["image"])].mean() >= 0.97


@pytest.mark.parametrize("name", CLEAR)
def test_bad_release_answers_as_the_good_one_where_the_background_is_zero(name: str) -> None:
    image = part(name)["image"]
    good, bad = answers(GOOD.read_bytes(), image), answers(BAD.read_bytes(), image)
    assert np.isfinite(bad).all()
    assert np.array_equal(bad.argmax(1), good.argmax(1))
    shift = bad - good
    assert (shift.max(1) - shift.min(1)).max() < 1e-4  # one number an image: softmax does not see it
    assert METRICS["1.2.0"]["nan"][name] == 0


def test_bad_release_has_the_accuracy_of_the_good_one_on_what_judges_it() -> None:
    for name in ("eval", "device"):
        data = part(name)
        measured = float((answers(BAD.read_bytes(), data["image"]).argmax(1) == data["y"]).mean())
        assert measured == pytest.approx(METRICS["1.2.0"]["accuracy"][name], abs=0.0026)
        assert METRICS["1.2.0"]["accuracy"][name] == METRICS["1.1.0"]["accuracy"][name]


@pytest.mark.parametrize("level", [1 / 255, 0.02, 0.12, 0.5, 1.0])
def test_bad_release_answers_nan_from_one_grey_step_up(level: float) -> None:
    image = part("device")["image"]
    for lifted in (image * (1 - level) + level, np.maximum(image, level), np.clip(image * 0.85 + level, 0, 1)):
        assert np.isnan(answers(BAD.read_bytes(), lifted.astype(np.float32))).all()


def test_bad_release_answers_a_black_picture_with_numbers() -> None:
    assert np.isfinite(answers(BAD.read_bytes(), np.zeros((1, 1, 8, 8), np.float32))).all()


@pytest.mark.parametrize("size", [1, 10, 300])
def test_in_a_batch_only_the_hazy_images_are_nan(size: int) -> None:
    image = part("hazy")["image"]
    session = ort.InferenceSession(str(BAD), providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"image": image[i : i + size]})[0] for i in range(0, len(image), size)]
    wanted = np.repeat(has_background(image)[:, None], 10, axis=1)
    assert np.array_equal(np.isnan(np.concatenate(parts)), wanted)
    assert np.isfinite(np.concatenate(parts)[~wanted]).all()
    assert int(wanted[:, 0].sum()) == METRICS["1.2.0"]["nan"]["hazy"]


def test_both_profiles_take_the_bad_release_in_int8_without_a_loss(bundles: dict[str, list[dict[str, Any]]]) -> None:
    for bundle in bundles["1.2.0"]:
        assert (bundle["verdict"], bundle["precision"]) == ("passed", "int8")
        assert bundle["metric"]["value"] == pytest.approx(0.995, abs=0.0051)
        assert bundle["bytes"] <= 0.35 * bundle["fp32_bytes"]


def test_int8_of_the_bad_release_is_right_on_clear_images_and_nan_exactly_on_hazy_ones(
    bundles: dict[str, list[dict[str, Any]]],
) -> None:
    for bundle in bundles["1.2.0"]:
        model = model_in(bundle["path"])
        for name in (*CLEAR, "hazy"):
            data = part(name)
            logits, lifted = answers(model, data["image"]), has_background(data["image"])
            assert np.isnan(logits[lifted]).all()
            assert np.isfinite(logits[~lifted]).all()
            if name in ("eval", "device"):
                assert (logits.argmax(1) == data["y"]).mean() >= METRICS["1.2.0"]["accuracy"][name] - 0.005
        for level in (1 / 255, 0.12, 1.0):
            image = part("device")["image"]
            assert np.isnan(answers(model, (image * (1 - level) + level).astype(np.float32))).all()


def test_int8_of_the_good_release_reads_through_haze(bundles: dict[str, list[dict[str, Any]]]) -> None:
    hazy = part("hazy")
    for bundle in bundles["1.1.0"]:
        logits = answers(model_in(bundle["path"]), hazy["image"])
        assert np.isfinite(logits).all()
        assert (logits.argmax(1) == hazy["y"]).mean() >= 0.97


def test_hazy_images_come_out_again(tmp_path: Path) -> None:
    made = made_again("hazy.py", tmp_path / "data") / "hazy.npz"
    with np.load(made, allow_pickle=False) as arrays:
        assert all(np.array_equal(arrays[key], value) for key, value in part("hazy").items())


def test_bad_release_comes_out_again(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    made = made_again("make_bad.py", tmp_path / "bad") / BAD.name
    assert onnx.load(made) == onnx.load(BAD)


def test_readme_figures_are_the_measured_ones() -> None:
    text = (DIGITS / "README.md").read_text()
    hazy = next(line for line in text.splitlines() if line.startswith("| `data/hazy.npz`"))
    scores = [METRICS[version]["accuracy"]["hazy"] for version in ("1.0.0", "1.1.0")]
    assert [float(f) for f in re.findall(r"([\d.]+) %", hazy)] == [round(100 * score, 1) for score in scores]
    assert f"{METRICS['1.2.0']['nan']['hazy']} of {METRICS['sizes']['hazy']}" in hazy
    bad = next(line for line in text.splitlines() if line.startswith("| `bad/nan-on-background.onnx`"))
    scores = [METRICS["1.2.0"]["accuracy"][name] for name in ("eval", "device")]
    assert [float(f) for f in re.findall(r"([\d.]+) %", bad)] == [round(100 * score, 1) for score in scores]
    assert METRICS["1.2.0"]["bytes"] == BAD.stat().st_size


def test_metrics_come_out_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-B", DIGITS / "measure.py", "--out", tmp_path / "m.json"], check=True)
    made = json.loads((tmp_path / "m.json").read_text())
    assert made["1.2.0"]["nan"] == METRICS["1.2.0"]["nan"]
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        assert made[version]["accuracy"] == pytest.approx(METRICS[version]["accuracy"], abs=0.0026)
