"""`edgectl tool`, and the sandbox that `edgectl convert` runs its converter in."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.admin.installation.tool_commands import ToolName
from edgefleet_server.conversion.sandbox import active_layers
from tests.cli.conftest import Edgectl

_CONVERT = ("--name", "m", "--version", "1", "--profile", "generic-x86_64-ort")


def test_the_tools_are_listed_with_their_state(edgectl: Edgectl, tmp_path: Path) -> None:
    ran = edgectl("tool", "list", "--tools", tmp_path, "-o", "json")
    assert ran.code == 0, ran.err
    items = {item["name"]: item for item in ran.json["items"]}
    assert (
        set(items)
        == {"sklearn", "torch", "tensorflow", "onnx2tf", "ai-edge-quantizer", "rknn", "shap"}
        == set(ToolName)
    )
    assert items["torch"]["state"] == "absent"
    assert items["torch"]["path"] == str(tmp_path / "torch")


def test_an_unknown_tool_is_wrong_usage(edgectl: Edgectl, tmp_path: Path) -> None:
    assert edgectl("tool", "install", "jax", "--tools", tmp_path).code == 2


def test_removing_asks_and_then_removes(edgectl: Edgectl, tmp_path: Path) -> None:
    (tmp_path / "torch" / "bin").mkdir(parents=True)
    assert edgectl("tool", "remove", "torch", "--tools", tmp_path, "--no-input").code == 3
    assert (tmp_path / "torch").is_dir()
    ran = edgectl("tool", "remove", "torch", "--tools", tmp_path, "--yes")
    assert ran.code == 0, ran.err
    assert "absent" in ran.err
    assert not (tmp_path / "torch").exists()


@pytest.mark.slow
def test_a_source_without_its_tool_is_refused_with_the_command(
    edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    monkeypatch.setenv("EDGECTL_TOOLS", str(tmp_path / "tools"))
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
    ran = edgectl("convert", tmp_path / "m.pt2", *_CONVERT, "--out", tmp_path / "out")
    assert ran.code == 1
    assert ran.error_code == "convert.tool_missing"
    assert f"edgectl tool install torch --tools {tmp_path / 'tools'}" in ran.told()[2]


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.skipif("files" not in active_layers(), reason="this kernel has no Landlock")
def test_a_pickle_that_was_allowed_writes_nothing_but_the_output(edgectl: Edgectl, tmp_path: Path) -> None:
    for name, place in (("outside.pkl", tmp_path / "owned"), ("inside.pkl", tmp_path / "out" / "owned")):
        (tmp_path / name).write_bytes(pickle.dumps(_Evil(place)))
        ran = edgectl("convert", tmp_path / name, *_CONVERT, "--out", tmp_path / "out", "--allow-pickle")
        assert ran.code == 1
        assert ran.error_code == "convert.invalid_model"
    assert not (tmp_path / "owned").exists()
    assert (tmp_path / "out" / "owned").is_dir(), "the code did run, so the first one was really held back"
