"""Tool environments: made with a real venv, told from half-made ones, refused with the command that makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_converters import errors
from edgefleet_converters.importers.tool_process import TOOL_OF
from edgefleet_converters.tools import manage
from edgefleet_converters.tools.environment import STAMP, look, needed
from edgefleet_converters.tools.table import TOOLS, Tool


@pytest.fixture
def small() -> Iterator[Tool]:
    """A tool that needs nothing from an index: pip is in every new environment."""
    tool = Tool("small", "tests", ("pip",), ((3, 11), (3, 99)), "pip", "here")
    TOOLS["small"] = tool
    yield tool
    del TOOLS["small"]


@pytest.mark.slow
def test_an_environment_is_made_kept_and_removed(tmp_path: Path, small: Tool) -> None:
    made = manage.install(tmp_path, "small")
    assert (made.state, made.python_version) == ("installed", f"3.{sys.version_info.minor}")
    assert made.versions["pip"]
    inside = subprocess.run(
        [str(made.python), "-I", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert inside.stdout.strip() == str(tmp_path / "small")
    written = (tmp_path / "small" / STAMP).stat().st_mtime_ns
    assert manage.install(tmp_path, "small") == made
    assert (tmp_path / "small" / STAMP).stat().st_mtime_ns == written
    assert manage.remove(tmp_path, "small").state == "absent"


def stamp(folder: Path, requirements: list[str]) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / STAMP).write_text(
        json.dumps({"requirements": requirements, "python": "3.11", "versions": {"torch": "2.9"}})
    )


def test_states_are_told_by_the_stamp(tmp_path: Path) -> None:
    assert look(tmp_path, "torch").state == "absent"
    (tmp_path / "torch" / "bin").mkdir(parents=True)
    assert look(tmp_path, "torch").state == "incomplete"
    (tmp_path / "torch" / STAMP).write_text("{")
    assert look(tmp_path, "torch").state == "incomplete"
    stamp(tmp_path / "again" / "torch", ["torch>=1"])
    assert look(tmp_path / "again", "torch").state == "outdated"
    assert look(tmp_path / "again", "torch").is_usable
    stamp(tmp_path / "good" / "torch", list(TOOLS["torch"].requirements))
    assert look(tmp_path / "good", "torch").state == "installed"


def test_a_missing_tool_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(errors.ToolMissingError, match=r"m\.pt2 needs the tool environment 'torch'") as caught:
        needed(tmp_path, "torch", "m.pt2")
    assert caught.value.next_step.endswith(f"edgectl tool install torch --tools {tmp_path}")
    with pytest.raises(errors.ToolMissingError) as without:
        needed(None, "torch", "m.pt2")
    assert "edgectl tool install torch" in without.value.next_step


def test_every_kind_names_a_tool_and_a_file_that_are_there() -> None:
    import edgefleet_converters.importers

    folder = Path(edgefleet_converters.importers.__file__).parent
    for name, script in TOOL_OF.values():
        assert name in TOOLS
        assert (folder / script).is_file()


def test_no_requirement_names_a_place_and_each_has_a_bound() -> None:
    for tool in TOOLS.values():
        for requirement in tool.requirements:
            assert "/" not in requirement
            assert any(sign in requirement for sign in ("<", "==", ">=")), requirement


def test_a_python_that_no_tool_runs_on_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: Tool) -> None:
    TOOLS["small"] = Tool("small", "tests", ("pip",), ((3, 4), (3, 5)), "pip", "here")
    with pytest.raises(errors.ToolFailedError, match=r"runs on Python 3\.4 to 3\.4"):
        manage.install(tmp_path, "small")


def test_the_process_answers_one_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgefleet_converters.tools.manage"]
    listed = subprocess.run([*command, "list", "--tools", str(tmp_path)], capture_output=True, text=True, check=True)
    assert [item["name"] for item in json.loads(listed.stdout)["items"]] == list(TOOLS)
    (tmp_path / "file").write_text("")
    failed = subprocess.run(
        [*command, "remove", "torch", "--tools", str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["code"] == "convert.tool_failed"
