"""`edge-agent infer` against a real worker."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_agent.cli.answers import print_result
from edgefleet_agent.cli.infer import run_infer
from edgefleet_agent.cli.infer_args import add_infer_parser
from tests.agent.worker.conftest import Rig
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.test_api import COLUMNS, LABELS, TOP


def _run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_infer_parser(parser.add_subparsers())
    return run_infer(parser.parse_args(["infer", *arguments]))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One model of table rows."""
    rig = Rig(tmp_path_factory.mktemp("served"))
    extra = {
        "preprocess.json": json.dumps(COLUMNS).encode(),
        "postprocess.json": json.dumps(TOP).encode(),
        "labels.txt": LABELS,
    }
    rig.start(bundle_bytes(classifier_onnx(), extra=extra)).serve()
    yield rig
    rig.close()


@pytest.mark.parametrize(
    ("arguments", "inputs"),
    [
        (["digits", "in", "--move"], ["in"]),
        (["digits", "--move", "in"], ["in"]),
        (["--move", "digits", "in"], ["in"]),
        (["digits", "--url", "http://a", "1.csv", "2.csv", "-o", "json"], ["1.csv", "2.csv"]),
        (["digits", "--content-type", "text/csv", "-"], ["-"]),
        (["digits", "--lines"], []),
        (["--lines", "digits"], []),
    ],
)
def test_inputs_stand_before_options_or_behind_them(arguments: list[str], inputs: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_infer_parser(parser.add_subparsers())
    parsed = parser.parse_args(["infer", *arguments])
    assert (parsed.model, parsed.inputs) == ("digits", inputs)


def test_a_folder_is_answered_file_by_file(served: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text("a,b,c,d\n9,0,0,0\n0,9,0,0\n")
    (folder / "2.json").write_text('{"a": 0, "b": 0, "c": 9, "d": 0}')
    (folder / "3.csv").write_text("a,b\n1,2\n")
    (folder / "readme.txt").write_text("no input")
    url = f"http://127.0.0.1:{served.port}"
    assert _run("digits@1.0.0", str(folder), "--url", url, "-o", "json") == 1
    answer = json.loads(capsys.readouterr().out)
    labels = [[p["y"][0]["label"] for p in r.get("predictions", [])] for r in answer["results"]]
    assert labels == [["zero", "one"], ["two"], []]
    assert answer["failed"] == 1
    assert "lacks the column c" in answer["results"][2]["error"]
    assert _run("digits", str(folder / "1.csv"), "--socket", str(served.socket_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "zero 1.000" in lines[0]


def test_what_cannot_be_asked_is_said(served: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{served.port}"
    assert _run("digits", str(tmp_path / "none.csv"), "--url", url) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("a,b,c,d\n1,2,3,4\n")
    assert _run("digits", str(tmp_path / "a.csv"), "--socket", str(tmp_path / "none.sock")) == 3
    assert "next: look at" in capsys.readouterr().err
    assert _run("ghost", str(tmp_path / "a.csv"), "--url", url) == 1


def test_an_unknown_model_names_what_lists_the_models(
    served: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = tmp_path / "row.csv"
    row.write_text("a,b,c,d\n9,0,0,0\n")
    assert _run("nope", str(row), "--url", f"http://127.0.0.1:{served.port}") == 1
    assert capsys.readouterr().err == (
        f"{row}: there is no model nope on this device\nnext: `edge-agent models` lists the models on this device\n"
    )


def test_an_answer_without_a_number_is_not_called_by_labels(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [{"label": "0", "score": None}, {"label": "1", "score": None}]
    print_result({"input": "fog.npy", "predictions": [{"logits": scores}]})
    print_result({"input": "one.npy", "predictions": [{"logits": [scores[0], {"label": "1", "score": 0.5}]}]})
    assert capsys.readouterr().out == "fog.npy: not finite (NaN or infinity)\none.npy: 0 NaN, 1 0.500\n"


def test_it_waits_for_a_model_and_not_for_ever(served: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1.csv").write_text("a,b,c,d\n9,0,0,0\n")
    url = f"http://127.0.0.1:{served.port}"
    assert _run("digits", str(tmp_path / "1.csv"), "--url", url, "--wait", "5") == 0
    capsys.readouterr()
    assert _run("other", str(tmp_path / "1.csv"), "--url", url, "--wait", "1") == 3
    assert "other is not served here after 1 s" in capsys.readouterr().err
