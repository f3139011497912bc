"""`edgectl convert`: the real pipeline in its child process, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Edgectl

_DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
_DATA = ("--calibration", _DIGITS / "data" / "calibration.npz", "--eval", _DIGITS / "data" / "eval.npz")
_PROFILE = ("--profile", "generic-x86_64-ort-small")


def test_a_model_becomes_a_bundle_with_a_report(edgectl: Edgectl, tmp_path: Path) -> None:
    model = _DIGITS / "digits-1.1.0.onnx"
    ran = edgectl(
        "convert", model, "--name", "digits", "--version", "1.1.0", *_DATA, *_PROFILE, "--out", tmp_path, "-o", "json"
    )
    assert ran.code == 0, ran.err
    (bundle,) = ran.json["bundles"]
    assert bundle["precision"] == "int8"
    assert bundle["bytes"] <= 0.35 * bundle["fp32_bytes"]
    assert (tmp_path / "digits-1.1.0-generic-x86_64-ort-small.bundle").stat().st_size == bundle["bundle_bytes"]
    assert json.loads((tmp_path / "report.json").read_text())
    assert "quantize" in ran.err


def test_the_table_shows_each_candidate_with_figures_of_this_host(edgectl: Edgectl, tmp_path: Path) -> None:
    model = _DIGITS / "digits-1.1.0.onnx"
    ran = edgectl("convert", model, "--name", "digits", "--version", "1.1.0", *_DATA, *_PROFILE, "--out", tmp_path)
    assert ran.code == 0, ran.err
    source = next(line for line in ran.out.splitlines() if line.lstrip().startswith("source"))
    small = next(line for line in ran.out.splitlines() if line.lstrip().startswith("int8-static"))
    assert source.count(" ms") == small.count(" ms") == 3, "p50, p95, cold start"
    assert "606 kB" in source
    assert "passed *" in small


def test_a_refused_profile_exits_1_with_reason_and_next_step(edgectl: Edgectl, tmp_path: Path) -> None:
    model = _DIGITS / "bad" / "crashes-at-load.onnx"
    ran = edgectl("convert", model, "--name", "digits", "--version", "9", *_DATA, *_PROFILE, "--out", tmp_path)
    assert ran.code == 1
    assert "refused: " in ran.out
    assert "next: " in ran.out


def test_bytes_that_are_no_model_are_told_as_such(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x00\x01\x02 not a model")
    ran = edgectl("convert", tmp_path / "m.onnx", "--name", "x", "--version", "1", *_PROFILE, "--out", tmp_path / "out")
    assert ran.code == 1
    assert ran.told()[1].startswith("convert.")


def test_an_unknown_profile_exits_5_and_names_close_ones(edgectl: Edgectl, tmp_path: Path) -> None:
    model = _DIGITS / "digits-1.1.0.onnx"
    ran = edgectl("convert", model, "--name", "x", "--version", "1", "--profile", "generic-x86-ort", "--out", tmp_path)
    assert ran.code == 5
    assert "generic-x86_64-ort" in ran.told()[2]


def test_a_metric_of_ones_own_is_found_in_the_working_folder(
    edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "def first(outputs, labels):\n    return float(len(next(iter(outputs.values()))) > 0)\n"
    )
    monkeypatch.chdir(tmp_path)
    flags = ("--name", "digits", "--version", "1", "--metric", "mine:first", "--precision", "fp32", "-o", "json")
    ran = edgectl(
        "convert",
        _DIGITS / "digits-1.1.0.onnx",
        *flags,
        *_DATA,
        *_PROFILE[:1],
        "generic-x86_64-ort",
        "--out",
        tmp_path / "out",
    )
    assert ran.code == 0, ran.err
    assert ran.json["bundles"][0]["metric"]["name"] == "mine:first"
