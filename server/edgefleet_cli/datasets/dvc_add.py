"""`--dvc`: `dvc add` for a data set in a repository of DVC. The program is the user's own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.datasets.model import DataSetError
from edgefleet_cli.datasets.places import S3
from edgefleet_cli.importing.dvc import WAIT_S, dvc_program


def check_dvc(out: str, environ: Mapping[str, str]) -> list[str]:
    """Return the command line of `dvc`. Raises UsageError for a place that it cannot track, DvcMissingError."""
    if out.startswith(S3):
        raise UsageError(
            "--dvc needs a folder",
            why=f"{out} is in S3",
            next_step="give --out DIR in a repository of DVC; `dvc push` sends it",
        )
    return dvc_program(environ)


def add_to_dvc(program: list[str], folder: Path, environ: Mapping[str, str]) -> Path:
    """Run `dvc add` in the folder above; return the file that names the data set. Raises DataSetError."""
    place = folder.absolute()
    environment = {**environ, "DVC_NO_ANALYTICS": "1", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            [*program, "add", "--", place.name], capture_output=True, text=True, errors="replace", timeout=WAIT_S, check=False,
            env=environment, stdin=subprocess.DEVNULL, cwd=place.parent,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(place, str(error)) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise _failed(place, " ".join(lines[-2:])[:400])
    return place.with_name(f"{place.name}.dvc")


def _failed(place: Path, why: str) -> DataSetError:
    return DataSetError(
        f"dvc did not add {place}; the data set itself is there, complete",
        why=why,
        next_step=f"run by hand in {place.parent}: dvc add {place.name}",
    )
