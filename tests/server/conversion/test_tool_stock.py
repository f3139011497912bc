"""What the server says of its converters' tools is what the converters would find."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_cli.release.conversion import tool_environments
from edgefleet_converters.importers import sklearn_model
from edgefleet_converters.importers.tool_process import TOOL_OF
from edgefleet_converters.tools import environment
from edgefleet_converters.tools.table import TOOLS
from edgefleet_server.conversion import tool_stock
from edgefleet_server.conversion.tool_stock import look
from tests.house.tree import ROOT


def test_a_tool_counts_from_its_stamp_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sklearn" in (look(tmp_path, converts=True, reads_pickles=False).names or ())
    monkeypatch.setattr(tool_stock, "SKLEARN_PACKAGES", ("sklearn_that_is_not_here",))
    assert look(tmp_path / "absent", converts=True, reads_pickles=False).names == frozenset()
    (tmp_path / "sklearn" / "bin").mkdir(parents=True)
    (tmp_path / "sklearn" / "bin" / "python").touch()
    assert look(tmp_path, converts=True, reads_pickles=False).names == frozenset()
    (tmp_path / "sklearn" / environment.STAMP).write_text("{}")
    assert look(tmp_path, converts=True, reads_pickles=False).names == frozenset({"sklearn"})
    assert look(tmp_path, converts=False, reads_pickles=True).names is None


def test_server_converters_and_command_line_mean_the_same() -> None:
    assert tool_stock.STAMP == environment.STAMP
    assert sklearn_model.PACKAGES == tool_stock.SKLEARN_PACKAGES
    asked = {suffix: tool for suffix, tool in tool_environments.TOOL_OF.items() if suffix.removeprefix(".") in TOOL_OF}
    assert asked == {f".{kind}": tool for kind, (tool, _) in TOOL_OF.items()}


def test_a_folder_with_onnx_files_needs_no_tool(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert tool_environments.suffix_of(tmp_path) == ".safetensors"
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "encoder_model.onnx").touch()
    assert tool_environments.suffix_of(tmp_path) not in tool_environments.TOOL_OF


def test_the_packages_of_the_sklearn_tool_are_those_that_we_test_with() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [one for one in TOOLS["sklearn"].requirements if one not in pinned] == []
