"""A git clone of the tree as it stands here, for tests: every change committed, and `./dev` finds its environment ready."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.house.tree import ROOT, tracked

_STAMP = r"""
{ cat pyproject.toml agent/pyproject.toml constraints.txt && printf '%s\n' "$(pwd -P)" "${EDGEFLEET_PYTHON:-}"; } | cksum
"""
"""What `./dev` computes before it enters an environment."""


def git(folder: Path, *arguments: str) -> str:
    """Return what git prints, as a committer who has no settings."""
    who = ("-c", "user.name=test", "-c", "user.email=test@edgefleet.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def dated(changelog: str) -> str:
    """Return the changelog as the commit of a release has it: what is unreleased gets the heading of the newest version."""
    heading = next((line for line in changelog.splitlines() if line.startswith("## ") and line != "## Unreleased"), "")
    return changelog.replace("## Unreleased", heading, 1)


def make_clone(folder: Path, paths: Iterable[Path] | None = None) -> Path:
    """Make the clone in a new folder, with one commit that holds all files or only these, and return it."""
    for path in tracked() if paths is None else paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    changelog = folder / "CHANGELOG.md"
    changelog.write_text(dated(changelog.read_text()))
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "all")
    return folder


def commit(folder: Path, message: str) -> None:
    """Commit every change of a clone."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)


def lend_environment(folder: Path) -> None:
    """Give a clone this clone's `.venv`, without the right to bring it up to date."""
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(ROOT / ".venv" / name)
    digest = subprocess.run(["sh", "-c", _STAMP], cwd=folder, capture_output=True, text=True, check=True).stdout
    (venv / "edgefleet.stamp").write_text(f"dev {digest.strip()}")
