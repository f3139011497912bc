"""Models that DVC tracks, fetched by `dvc get`: the program is the user's own and none of our dependencies."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.importing.addresses import DvcAddress
from edgefleet_cli.importing.fetch_context import FetchContext, Fetched, ImportFailedError, place_for
from edgefleet_cli.importing.git import commit_of

PROGRAM = "EDGECTL_DVC"
WAIT_S = 3600


class DvcMissingError(CliError):
    """There is no `dvc` to run."""

    code = "cli.missing_part"


def fetch_dvc(address: DvcAddress, folder: Path, context: FetchContext) -> Fetched:
    """Return the file or folder that DVC tracks. Raises DvcMissingError, ImportFailedError."""
    place = place_for(folder, address.path.rstrip("/").rpartition("/")[2])
    rev = ["--rev", address.rev] if address.rev else []
    command = [*dvc_program(context.environ), "get", *rev, "--out", str(place), "--", address.repo, address.path]
    context.note(f"dvc get {address}")
    environment = {**context.environ, "DVC_NO_ANALYTICS": "1", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=WAIT_S, check=False, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImportFailedError(
            f"dvc could not fetch {address.path}", why=str(error), next_step="run the same `dvc get` by hand"
        ) from error
    if done.returncode != 0 or not place.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise ImportFailedError(
            f"dvc could not fetch {address.path} (exit code {done.returncode})",
            why=" ".join(lines[-2:])[:400],
            next_step=f"run by hand: dvc get {' '.join([*rev, address.repo, address.path])}",
        )
    check_plain(place, context)
    commit = commit_of(address.repo, address.rev)
    facts = {"uri": str(address), "dvc_path": address.path, "dvc_rev": address.rev or commit, "git_commit": commit}
    return Fetched(place, {key: value[:500] for key, value in facts.items() if value})


def check_plain(place: Path, context: FetchContext) -> None:
    """Count what came, and refuse links: one could lead to any file of this machine. Raises ImportFailedError."""
    entries = [place, *(Path(root) / name for root, folders, files in os.walk(place) for name in (*folders, *files))]
    for entry in entries:
        if entry.is_symlink():
            raise ImportFailedError(
                f"{entry.name} is a link", why="links are not followed", next_step="track the file itself with DVC"
            )
        if entry.is_file():
            context.budget.take_file()
            context.budget.take(entry.stat().st_size)


def dvc_program(environ: Mapping[str, str]) -> list[str]:
    """Return the command line of `dvc`. Raises DvcMissingError."""
    named = environ.get(PROGRAM)
    found = named or shutil.which("dvc")
    if found:
        return [found]
    if importlib.util.find_spec("dvc") is not None:
        return [sys.executable, "-m", "dvc"]
    raise DvcMissingError(
        "dvc is not installed here",
        why="what DVC tracks is fetched and added by the program itself",
        next_step=f"pip install dvc (and the package of its remote), or name the program in {PROGRAM}",
    )
