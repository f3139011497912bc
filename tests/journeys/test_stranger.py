"""A stranger with only the README: an own ONNX model on an own device, asked and taken back, with the README's own commands, at most four.

The blocks are taken from the README as they stand; only the name of the model's file is the stranger's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.agent.field import eventually
from tests.house.tree import ROOT
from tests.support.device_python import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TITLE = "## Your own model on your own device"
THEIRS = "examples/digits/digits-1.1.0.onnx"
MOST = 4


def commands() -> list[str]:
    """Return the commands of the README's section, in order: those that do it, without the one that cleans up."""
    section = (ROOT / "README.md").read_text("utf-8").partition(TITLE)[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for line in blocks[0].replace("\\\n", " ").splitlines() if line.strip()]


def own_model(path: Path) -> None:
    """Write a small classifier of pictures that is in nobody's examples."""
    chance = np.random.default_rng(7)
    weights = numpy_helper.from_array(chance.normal(size=(64, 10)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Flatten", ["image"], ["features"]),
        helper.make_node("MatMul", ["features", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty folder with a short name, which is also the stranger's home; what runs in it is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="ef-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        yield folder
        run(folder, "edgectl server down || true")
        for process in psutil.process_iter(["cmdline"]):
            if str(folder) in " ".join(process.info["cmdline"] or ()):
                process.terminate()
                process.wait(20)


def run(folder: Path, command: str) -> str:
    """Run a command as the stranger's shell does; return what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGECTL_", "EDGEFLEET_", "XDG_", "PYTEST_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env={**clean, "HOME": str(folder), "PATH": path, "NO_COLOR": "1", "EDGEFLEET_AGENT_INFER_PORT": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_an_own_model_runs_on_an_own_device_and_goes_back(home: Path) -> None:
    lines = commands()
    assert len(lines) <= MOST
    own_model(home / "mine.onnx")
    (home / "examples").symlink_to(ROOT / "examples")
    up, publish, ask, back = (line.replace(THEIRS, "mine.onnx") for line in lines)
    assert "mine.onnx" in publish
    run(home, up)
    run(home, publish)
    assert re.match(r"\S+7\.png: [0-9] [0-9.]+, ", run(home, ask))
    assert eventually(lambda: serving(home) == ["mine@1.0.0"], 90 * PATIENCE, 0.5)
    run(home, back)
    assert eventually(lambda: serving(home) == [], 90 * PATIENCE, 0.5)
    assert {path.name for path in home.iterdir() if not path.name.startswith(".")} == {"mine.onnx", "examples"}
    run(home, "edge-agent stop && edgectl server down")


def serving(home: Path) -> list[str]:
    """Return the releases that the stranger's device serves, as the server knows."""
    (device,) = json.loads(run(home, "edgectl device list -o json"))["items"]
    return [str(one["release"]) for one in device["models"] if one["serving"]]
