"""A stranger with only the README: a model of their own on a device of their own, asked and taken back, with the README's own commands.

The block is taken from the README as it stands; only the name of the model's file is the stranger's. Before it succeeds they try three
things that are refused: a pickle, data of another shape, and labels that are not there. None of these may use up the version.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.agent.field import eventually
from tests.house.tree import ROOT
from tests.support.device_python import PATIENCE

TITLE = "## Your own model on your own device"
THEIRS = "examples/digits/digits-1.1.0.onnx"
MOST = 4
DATA = ROOT / "examples" / "digits" / "data"


def commands() -> list[str]:
    """Return the commands of the README's section, in order: those that do it, without the one that cleans up."""
    section = (ROOT / "README.md").read_text("utf-8").partition(TITLE)[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for line in blocks[0].replace("\\\n", " ").splitlines() if line.strip()]


def train(path: Path) -> None:
    """Write a linear reader of digits, trained here by ridge regression on 300 pictures."""
    images, digits = _pictures()
    features = np.c_[images.reshape(len(images), -1), np.ones(len(images))]
    weights = np.linalg.solve(features.T @ features + np.eye(65), features.T @ np.eye(10)[digits])
    nodes = [
        helper.make_node("Flatten", ["image"], ["features"]),
        helper.make_node("Gemm", ["features", "w", "b"], ["z"], alpha=20.0, beta=20.0),
        helper.make_node("Softmax", ["z"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [
            numpy_helper.from_array(part.astype(np.float32), name)
            for part, name in ((weights[:-1], "w"), (weights[-1], "b"))
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _pictures() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return pictures (n, 1, 8, 8) of 0 to 1 and their digits (n,)."""
    with np.load(DATA / "device.npz") as data:
        return data["image"], data["y"]


class Stranger:
    """Somebody at a shell in a clone, with a home of their own and the commands of an environment."""

    def __init__(self, clone: Path, home: Path, commands: Path = Path(sys.executable).parent) -> None:
        """Sit down in `clone`. commands: the folder with `edgectl` and `edge-agent`."""
        self.clone = clone
        self.home = home
        self.commands = commands

    def tries(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it printed on both streams."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGECTL_", "EDGEFLEET_", "XDG_", "PYTEST_"))}
        path = f"{self.commands}:{os.environ['PATH']}:/usr/sbin"
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.clone,
            env={**clean, "HOME": str(self.home), "PATH": path, "NO_COLOR": "1", "EDGEFLEET_AGENT_INFER_PORT": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        return done.returncode, done.stdout

    def runs(self, command: str) -> str:
        """Run a command that has to succeed; return what it printed."""
        code, printed = self.tries(command)
        assert code == 0, f"{command}\n{printed}"
        return printed

    def is_refused(self, command: str, word: str) -> None:
        """Run a command that has to be refused, saying what, why and what to do next."""
        code, printed = self.tries(command)
        assert code not in {0, 130}, f"{command}\n{printed}"
        assert "Traceback" not in printed, printed
        assert all(part in printed for part in ("next:", word)), f"{command}\n{printed}"

    def serves(self) -> list[str]:
        """Return the releases that the device serves, as the server knows."""
        (device,) = json.loads(self.runs("edgectl device list -o json"))["items"]
        return [str(one["release"]) for one in device["models"] if one["serving"]]

    def walks(self) -> None:
        """Do what the README says, with a model of their own, three wrong tries, and git status at the end."""
        lines = commands()
        assert len(lines) <= MOST
        model = self.home / "mine.onnx"
        train(model)
        up, publish, ask, back = (line.replace(THEIRS, str(model)) for line in lines)
        assert str(model) in publish
        self.runs(up)
        self.fails_three_times(publish, str(model))
        self.runs(publish)
        assert re.match(r"\S+7\.png: 7 [0-9.]+, ", self.runs(ask))
        assert eventually(lambda: self.serves() == ["mine@1.0.0"], 90 * PATIENCE, 0.5)
        self.runs(back)
        assert eventually(lambda: self.serves() == [], 90 * PATIENCE, 0.5)
        self.leaves()
        assert self.runs("git status --porcelain") == ""

    def fails_three_times(self, publish: str, model: str) -> None:
        """Publish a pickle, inputs of another shape, and labels that are not there, under the version that succeeds later."""
        forest, wide = self.home / "forest.pkl", self.home / "wide.npz"
        forest.write_bytes(pickle.dumps({"trees": [1, 2, 3]}))
        np.savez(wide, image=np.zeros((4, 1, 9, 9), np.float32), y=np.zeros(4, np.int64))
        self.is_refused(publish.replace(model, str(forest)), "pickle")
        self.is_refused(f"{publish} --eval {wide}", "shape")
        self.is_refused(publish.replace("examples/digits/labels.txt", "examples/digits/label.txt"), "label.txt")

    def leaves(self) -> None:
        """End the device and the server, as the README says."""
        self.runs("edge-agent stop && edgectl server down")


def clone_into(folder: Path) -> Path:
    """Return a clone of the committed tree."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder
