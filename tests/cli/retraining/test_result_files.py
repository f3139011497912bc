"""What a training leaves, as the publication of a release."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_cli.core.errors import BadAnswerError
from edgefleet_cli.retraining.parent_release import source_name
from edgefleet_cli.retraining.result_files import TrainingResultError, flags_of, model_name, next_version


def test_exactly_one_model_is_the_source() -> None:
    assert model_name(["eval.npz", "model.onnx", "publish.json"]) == "model.onnx"
    assert model_name(["model", "modelling.txt"]) == "model", "a folder"
    with pytest.raises(TrainingResultError, match="left no model"):
        model_name(["digits.onnx", "eval.npz"])
    with pytest.raises(TrainingResultError, match=r"several models: model, model\.tflite"):
        model_name(["model.tflite", "model"])


def test_flags_are_those_of_publish() -> None:
    given = {
        "version": "2.0.0",
        "precision": "int8",
        "max-drop": 0.02,
        "profile": ["p"],
        "set": ["sr=16000"],
        "seal": True,
    }
    flags = {"precision": "int8", "max_drop": 0.02, "profile": ["p"], "value": ["sr=16000"], "seal": True}
    assert flags_of(given) == (flags, "2.0.0")
    assert flags_of({}) == ({}, "")


@pytest.mark.parametrize(
    "given",
    [
        [], None, "x", {"allow-pickle": True}, {"parent": "a@1"}, {"precision": 8}, {"max-drop": True}, {"max-drop": 2}, {"profile": "p"},
        {"seal": 1}, {"version": 1},
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_there_is(given: Any) -> None:
    with pytest.raises(TrainingResultError) as refused:
        flags_of(given)
    assert "max-drop" in refused.value.next_step


@pytest.mark.parametrize(
    ("parent", "taken", "found"),
    [
        ("1.1.0", set(), "1.1.1"),
        ("1.1.0", {"1.1.1", "1.1.2"}, "1.1.3"),
        ("1.9", {"1.10"}, "1.11"),
        ("2024-05", set(), "2024-6"),
        ("stable", {"stable-r1"}, "stable-r2"),
        ("v3-rc", set(), "v3-rc-r1"),
    ],
)
def test_the_next_version_is_the_first_free_one(parent: str, taken: set[str], found: str) -> None:
    assert next_version(parent, taken) == found


def test_files_of_a_parent_stay_in_its_folder() -> None:
    assert source_name("file", "digits-1.1.0.onnx") == "model.onnx"
    assert source_name("folder", "weights/a.bin") == "model/weights/a.bin"
    for path in ("../x", "/etc/x", "a/../../x", "", "a\\..\\x"):
        with pytest.raises(BadAnswerError):
            source_name("folder", path)
