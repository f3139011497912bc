"""A cgroup of its own with a low weight, where one was delegated; nothing and no fault where none was."""

from pathlib import Path

import pytest

from edgefleet_agent.worker.runtime.process_priority import join_lighter, own_cgroup


def delegated(root: Path, controllers: str) -> Path:
    folder = root / "system.slice" / "edge-agent.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.subtree_control").write_text(controllers)
    return folder


def test_the_own_cgroup_is_found_by_the_unified_line(tmp_path: Path) -> None:
    folder = delegated(tmp_path, "")
    membership = tmp_path / "cgroup"
    membership.write_text("12:cpu:/other\n0::/system.slice/edge-agent.service\n")
    assert own_cgroup(membership, tmp_path) == folder
    membership.write_text("0::/\n")
    assert own_cgroup(membership, tmp_path) is None
    membership.write_text("12:cpu:/other\n")
    assert own_cgroup(membership, tmp_path) is None
    assert own_cgroup(tmp_path / "none", tmp_path) is None


def test_it_moves_into_a_lighter_cgroup_where_the_controller_is_on(tmp_path: Path) -> None:
    folder = delegated(tmp_path, "cpu io memory")
    assert join_lighter(folder, "shadow-m")
    made = folder / "shadow-m"
    assert (made / "cpu.weight").read_text() == "10"
    assert (made / "io.weight").read_text() == "10"
    assert (made / "cgroup.procs").read_text() == "0"
    assert join_lighter(folder, "shadow-m")  # once more, as after a crash


@pytest.mark.parametrize("controllers", ["", "memory"])
def test_without_the_controller_nothing_is_made(tmp_path: Path, controllers: str) -> None:
    folder = delegated(tmp_path, controllers)
    assert not join_lighter(folder, "shadow-m")
    assert not (folder / "shadow-m").exists()
    assert not join_lighter(tmp_path / "nowhere", "shadow-m")
