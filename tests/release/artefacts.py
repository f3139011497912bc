"""Builds the wheels, source archives and the Debian package of a commit, the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.house.docs_site import ARCHIVE as HELP
from tests.release.checks import git
from tests.release.refusal import RefusalError

PROJECTS = (".", "agent")
"""Folders with a pyproject.toml, each a distribution."""


def export(root: Path, revision: str, to: Path) -> Path:
    """Write the files of a commit, and no others, into a new folder; return it. Raises RefusalError for an unknown revision."""
    git(root, "rev-parse", "--verify", f"{revision}^{{commit}}")
    packed = subprocess.run(["git", "archive", revision], cwd=root, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(to, filter="data")
    return to


def epoch_of(root: Path, revision: str) -> int:
    """Return the time of a commit in seconds: the only time that goes into what is built."""
    return int(git(root, "show", "-s", "--format=%ct", f"{revision}^{{commit}}"))


def build_python(tree: Path, out: Path, epoch: int, targets: tuple[str, ...] = ("wheel", "sdist")) -> None:
    """Build the Python archives of a tree with the hatchling of this environment. Raises RefusalError with its last line."""
    kinds = [word for target in targets for word in ("-t", target)]
    for project in PROJECTS:
        command = [sys.executable, "-m", "hatchling", "build", *kinds, "-d", str(out.resolve())]
        _run(command, tree / project, epoch, f"the build of {project}/pyproject.toml failed")


def build_help(tree: Path, epoch: int) -> None:
    """Build and pack the documentation of a tree: the wheel that is built next brings it along. Raises RefusalError."""
    command = [sys.executable, "-m", "tests.house.docs_site"]
    _run(command, tree, epoch, "the documentation cannot be built")


def help_of(root: Path, tree: Path, epoch: int, *, may_be_kept: bool) -> None:
    """Build the help of a tree that is HEAD of the clone `root`, and keep it there, for a dry run of the same commit.

    may_be_kept: take what was kept, if it is of this commit. Raises RefusalError.
    """
    kept = root / HELP.parent / f"help-{git(root, 'rev-parse', 'HEAD')}.tar.xz"
    if may_be_kept and kept.is_file():
        (tree / HELP).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, tree / HELP)
        return
    build_help(tree, epoch)
    kept.parent.mkdir(exist_ok=True)
    for old in kept.parent.glob("help-*.tar.xz"):
        old.unlink()
    shutil.copy(tree / HELP, kept)


def build_debian(tree: Path, out: Path, epoch: int) -> None:
    """Build the agent's Debian package of a tree. Raises RefusalError without dpkg-deb or the package index."""
    if shutil.which("dpkg-deb") is None:
        raise RefusalError(
            "the Debian package cannot be built",
            "dpkg-deb is not here",
            "run this on Debian or Ubuntu, or with --dry-run --without-deb",
        )
    _run([str(tree / "deploy/debian/build"), str(out.resolve())], tree, epoch, "the build of the Debian package failed")


def _run(command: list[str], folder: Path, epoch: int, what: str) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise RefusalError(what, lines[-1], f"run it by hand: {' '.join(command)}")


def digest(file: Path) -> str:
    """Return the sha256 of a file in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a folder, by name."""
    return {path.name: digest(path) for path in sorted(folder.iterdir())}


def check_same(first: Path, second: Path) -> None:
    """Raise RefusalError that names each file of which two builds made different bytes."""
    one, other = digests(first), digests(second)
    wrong = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    if wrong:
        why = "; ".join(f"{name}{_members(first / name, second / name)}" for name in wrong)
        raise RefusalError(
            "two builds of the same commit differ", why, "find what writes a time, a path or a random order into it"
        )


def _members(one: Path, other: Path) -> str:
    """Return which members of two wheels differ, "" for what is no wheel."""
    if not (one.is_file() and other.is_file() and zipfile.is_zipfile(one) and zipfile.is_zipfile(other)):
        return ""
    contents = []
    for path in (one, other):
        with zipfile.ZipFile(path) as archive:
            contents.append(
                {info.filename: (info.CRC, info.date_time, info.external_attr) for info in archive.infolist()}
            )
    names = [
        name
        for name in sorted(contents[0].keys() | contents[1].keys())
        if contents[0].get(name) != contents[1].get(name)
    ]
    return f" ({', '.join(names[:5]) or 'order or compression'})"
