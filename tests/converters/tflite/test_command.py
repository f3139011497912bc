"""The compiler alone, as a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_converters.tflite.load import read_facts
from tests.converters.tflite.models import one_node

ROOT = Path(__file__).resolve().parents[3]


def compiler(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgefleet_converters.tflite", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("runtime", ["tflite-2.14", "litert-2.3"])
def test_exit_0_means_a_file(tmp_path: Path, runtime: str) -> None:
    model = onnx.load(ROOT / "examples" / "digits" / "digits-1.1.0.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "in.onnx")
    done = compiler(str(tmp_path / "in.onnx"), str(tmp_path / "out.tflite"), "--runtime", runtime)
    assert done.returncode == 0, done.stderr
    assert read_facts((tmp_path / "out.tflite").read_bytes())["operators"]["CONV_2D"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.tflite"]


def open_batch() -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), ir_version=10)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (one_node("Exp", {"x": np.ones(3, np.float64)}), "EXP on float64, which tflite-2.14 does not have"),
        (one_node("RandomNormalLike", {"x": np.ones(3, np.float32)}), "random numbers"),
        (one_node("Unique", {"x": np.ones(3, np.float32)}, outputs=1), "Unique is not compiled"),
        (open_batch(), "open dimension"),
    ],
    ids=["type", "operator", "gap", "shape"],
)
def test_a_refusal_says_what_why_and_next_and_writes_nothing(tmp_path: Path, model: Any, said: str) -> None:
    onnx.save(model, tmp_path / "in.onnx")
    done = compiler(str(tmp_path / "in.onnx"), str(tmp_path / "out.tflite"))
    assert done.returncode == 4
    what, why, then = done.stderr.splitlines()
    assert what.startswith("error: in.onnx is not compiled")
    assert said in why
    assert then.startswith("next:  ")
    assert not (tmp_path / "out.tflite").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(b"\xff\xff\xff not a model")
    assert compiler(str(tmp_path / "in.onnx"), str(tmp_path / "out.tflite")).returncode == 4
    assert compiler(str(tmp_path / "none.onnx"), str(tmp_path / "out.tflite")).returncode == 4
