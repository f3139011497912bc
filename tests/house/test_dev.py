"""`./dev` and `.ci/run`: what they say, what they refuse, and that a fresh copy of the tree can be entered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house import soak
from tests.house.tree import ROOT, tracked

SHELL = shutil.which("dash") or "sh"
TOOLS = ("sh", "dirname", "cat", "sed", "basename", "id", "tr", "wc", "cksum", "rm", "date", "printf", "env")


def dev(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHELL, str(ROOT / "dev"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def bare_path(folder: Path, *names: str) -> str:
    """Return a PATH that holds only these programs."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return str(folder)


def copy_of_the_tree(to: Path) -> Path:
    for path in tracked():
        target = to / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    return to


def test_help_names_every_command() -> None:
    done = dev()
    assert done.returncode == 0
    for command in ("demo", "test", "lint", "bench", "house", "soak", "release", "run"):
        assert f"\n  {command} " in done.stdout


def test_unknown_command_is_a_usage_error() -> None:
    done = dev("tset")
    assert done.returncode == 2
    assert "unknown command tset" in done.stderr
    assert done.stdout == ""


def test_unknown_benchmark_says_what_to_do() -> None:
    done = dev("bench", "no-such-thing")
    assert done.returncode == 5
    assert "next:  ./dev bench --list" in done.stderr


def test_benchmarks_are_listed_with_what_they_measure() -> None:
    listed = dev("bench", "--list").stdout.splitlines()
    modules, packages = (ROOT / "bench").glob("[a-z]*.py"), (ROOT / "bench").glob("[a-z]*/__main__.py")
    there = sorted([path.stem for path in modules] + [path.parent.name for path in packages])
    assert sorted(line.split()[0] for line in listed) == there
    assert all(len(line.split()) > 3 for line in listed)


def test_every_soak_in_the_table_can_be_loaded() -> None:
    for entry in soak.SOAKS.values():
        assert callable(soak.load(entry))


def test_without_python_the_line_to_type_is_printed_and_the_code_is_3(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    path = bare_path(tmp_path / "bin", *TOOLS)
    shell = shutil.which(SHELL) or SHELL
    done = subprocess.run(
        [shell, str(tree / "dev"), "run", "true"], capture_output=True, text=True, check=False, env={"PATH": path}
    )
    assert done.returncode == 3
    assert "apt-get install -y python3-venv" in done.stderr
    assert not (tree / ".venv").exists()


def test_the_shell_scripts_parse() -> None:
    subprocess.run([SHELL, "-n", str(ROOT / "dev")], check=True)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed: apt-get install shellcheck"
)
def test_the_shell_scripts_have_no_known_trap() -> None:
    subprocess.run(["shellcheck", str(ROOT / "dev"), str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1200)  # it installs every package, which takes a busy machine many minutes
def test_a_fresh_copy_is_entered_and_the_second_time_nothing_is_installed(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    script = "import edgefleet_protocol as p, json, sys; print(json.dumps([p.__file__, sys.prefix]))"
    first = subprocess.run(
        [str(tree / "dev"), "run", "python", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert first.returncode == 0, first.stderr
    module, prefix = json.loads(first.stdout)  # stdout holds what the command printed and nothing else
    assert Path(module).is_relative_to(tree)
    assert Path(prefix) == tree / ".venv"
    again = subprocess.run(
        [str(tree / "dev"), "run", "true"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
