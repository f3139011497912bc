"""The example notebook, executed by a real kernel against a live server with a real device."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.house.tree import ROOT
from tests.journeys.road import Road, Traveller

NOTEBOOK = ROOT / "examples" / "notebook" / "first-model.ipynb"
pytestmark = pytest.mark.timeout(600)
CONVERTS = True


def test_the_example_notebook_publishes_and_deploys_a_model(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Traveller(road, "lab-device", labels={"site": "lab"}, EDGEFLEET_AGENT_PROBATION_S="1")
    monkeypatch.setenv("EDGECTL_SERVER", road.server.url)
    monkeypatch.setenv("EDGECTL_TOKEN", road.server.token)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = ["".join(_html(cell)) for cell in notebook.cells if cell.cell_type == "code"]
    assert device.name in shown[0], "the device is in the frame"
    assert "iris@1.0.0 is ready" in shown[2]
    assert "<td>generic-x86_64-ort</td>" in shown[2]
    assert f"<td>{device.name}</td>" in shown[3]
    assert "<td>committed</td>" in shown[3]
    assert "iris@1.0.0" in shown[4]
    release = road.edgectl("release", "show", "iris@1.0.0")
    assert release["bundles"][0]["metric"]["name"] == "top1"
    assert device.served("iris") == "1.0.0"


def _html(cell: nbformat.NotebookNode) -> list[str]:
    return [output.data.get("text/html", "") for output in cell.outputs if "data" in output]
