"""`edgectl convert`: the real pipeline in its child process, without a server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgefleet_cli.release.conversion.conversion_options import Precision, make_request, named_by
from edgefleet_protocol.ids import parse_model_name, parse_version
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
    assert ran.json["report_html_path"] == str(tmp_path / "report.html")
    assert "int8-static" in (tmp_path / "report.html").read_text()
    assert "quantize" in ran.err


def test_the_table_shows_each_candidate_with_figures_of_this_host(edgectl: Edgectl, tmp_path: Path) -> None:
    model = _DIGITS / "digits-1.1.0.onnx"
    ran = edgectl("convert", model, "--name", "digits", "--version", "1.1.0", *_DATA, *_PROFILE, "--out", tmp_path)
    assert ran.code == 0, ran.err
    source = next(line for line in ran.out.splitlines() if line.lstrip().startswith("source"))
    small = next(line for line in ran.out.splitlines() if line.lstrip().startswith("int8-static"))
    assert re.search(r"59\d\.\d KiB +0\.9950 +- +\d+\.\d\d/\d+\.\d+ +[\d.]+ MiB +\d", source), source
    assert small.rstrip().endswith("passed *")
    assert ran.err.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"


def test_three_flags_are_enough_and_the_table_fits_80_columns(
    edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "My net-1.2.0.onnx").write_bytes((_DIGITS / "digits-1.1.0.onnx").read_bytes())
    ran = edgectl("convert", "My net-1.2.0.onnx", "--profile", "raspberry-pi-4-ort", *_DATA[:2])
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith(("source", "int8-static", "raspberry-pi-4-ort  "))]
    assert len(rows) == 3, "a row is one line"
    assert ran.err.splitlines()[-2:] == [
        "1 bundle in bundles/my-net-1.2.0",
        "report: bundles/my-net-1.2.0/report.html",
    ]
    again = edgectl("convert", "My net-1.2.0.onnx", "--profile", "raspberry-pi-4-ort", *_DATA[:2], "-o", "name")
    assert again.out == "my-net/1.2.0/raspberry-pi-4-ort\n"
    assert "quantize" not in again.err, "done before"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("digits-1.1.0.onnx", ("digits", "1.1.0")),
        ("some/where/net_v2.0.tflite", ("net", "2.0")),
        ("net-1.0.0-rc.1.onnx", ("net", "1.0.0-rc.1")),
        ("model.onnx", ("model", "dev")),
        ("yolo-v8.onnx", ("yolo-v8", "dev")),
        ("Röck star!.onnx", ("r-ck-star", "dev")),
        ("…….onnx", ("model", "dev")),
        ("file:///tmp/net-3.1.onnx", ("net", "3.1")),
    ],
)
def test_name_and_version_come_from_the_file_when_not_given(given: str, made: tuple[str, str]) -> None:
    assert named_by(given, None, None) == made
    assert named_by(given, "own", "9") == ("own", "9")
    parse_model_name(made[0])
    parse_version(made[1])


@pytest.mark.parametrize("explore", [True, False])
def test_exploring_is_an_option_only_when_asked_for(explore: bool) -> None:
    request = make_request(
        model=str(_DIGITS / "digits-1.1.0.onnx"), name="digits", version="1", profiles=None, data={},
        precision=Precision.AUTO, metric=None, max_drop=0.01, explore=explore,
    )  # fmt: skip
    assert request.options.get("explore", False) is explore
    assert ("explore" in request.options) is explore, "a release without the flag stays what it was"


def test_a_failed_conversion_leaves_no_empty_folder(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    assert edgectl("convert", tmp_path / "m.onnx", *_PROFILE, "--out", tmp_path / "out").code == 1
    assert not (tmp_path / "out").exists()


def test_a_failed_conversion_leaves_a_folder_that_was_there(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "mine").mkdir()
    assert edgectl("convert", tmp_path / "m.onnx", *_PROFILE, "--out", tmp_path / "mine").code == 1
    assert (tmp_path / "mine").is_dir()


def test_a_refused_profile_exits_1_with_reason_and_next_step(edgectl: Edgectl, tmp_path: Path) -> None:
    model = _DIGITS / "bad" / "crashes-at-load.onnx"
    ran = edgectl("convert", model, "--name", "digits", "--version", "9", *_DATA, *_PROFILE, "--out", tmp_path)
    assert ran.code == 1
    assert re.search(r" refused *$", ran.out, re.MULTILINE)
    assert "(convert." in ran.out
    assert "next: " in ran.out


def test_bytes_that_are_no_model_are_told_as_such(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x00\x01\x02 not a model")
    ran = edgectl("convert", tmp_path / "m.onnx", "--name", "x", "--version", "1", *_PROFILE, "--out", tmp_path / "out")
    assert ran.code == 1
    assert ran.error_code.startswith("convert.")
    assert " " in ran.told()[1]


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
