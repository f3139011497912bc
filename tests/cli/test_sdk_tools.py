"""PyTorch and Keras objects as `edgefleet_sdk` saves them, made in their real tool environments and read by the converters."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.converters.test_tool_sources import answers_as_wanted, converted, environment
from tests.house.tree import ROOT

SAVING = ROOT / "server" / "edgefleet_sdk" / "model_export.py"
pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1800)]

LOAD = """
import importlib.util  # the rest of the package wants httpx and typer, which a tool has not
spec = importlib.util.spec_from_file_location("saving", sys.argv[2])
saving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saving)
save_model = saving.save_model
"""
TORCH = """
import sys, numpy, torch
from pathlib import Path
LOAD
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.drop = torch.nn.Linear(6, 3), torch.nn.Dropout(0.5)
    def forward(self, x):
        return torch.softmax(self.drop(self.dense(x)), 1)

folder = Path(sys.argv[1])
torch.manual_seed(0)
net = Net()
x = numpy.random.default_rng(0).standard_normal((16, 6))  # float64, as a notebook has it
print(save_model(net, folder, x))
assert net.training, "the module is as it was"
numpy.savez(folder / "wanted.npz", x=x.astype("float32"), y=net.eval()(torch.tensor(x).float()).detach().numpy())
"""
KERAS = """
import sys, keras, numpy
from pathlib import Path
LOAD
folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)
net = keras.Sequential([keras.layers.Input((6,), name="x"), keras.layers.Dense(3, activation="softmax")])
print(save_model(net, folder))
x = numpy.random.default_rng(0).standard_normal((16, 6)).astype("float32")
numpy.savez(folder / "wanted.npz", x=x, y=numpy.asarray(net(x)))
"""


def saved(tool: str, program: str, folder: Path) -> Path:
    """Run a program with a tool's Python, in which our own packages are only on the path; return the file it saved."""
    ours = os.pathsep.join(str(ROOT / name) for name in ("server", "agent"))
    done = subprocess.run(
        [str(environment(tool).python), "-c", program.replace("LOAD\n", LOAD), str(folder), str(SAVING)],
        capture_output=True, text=True, timeout=900, check=False, env={**os.environ, "PYTHONPATH": ours},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("tool", "program", "name"), [("torch", TORCH, "model.pt2"), ("tensorflow", KERAS, "model.keras")]
)
def test_an_object_of_a_framework_answers_as_it_did(tmp_path: Path, tool: str, program: str, name: str) -> None:
    file = saved(tool, program, tmp_path)
    assert file.name == name
    answers_as_wanted(converted(file, tmp_path / "out"), tmp_path)
