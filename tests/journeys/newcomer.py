"""`./dev soak newcomer`: the first hour of a stranger, on a clean clone with an environment of its own and an empty home.

- The clone makes its environment; the demo runs once.
- Then the README with a model that the stranger trained, after three tries that are refused: a pickle, inputs of the wrong shape, and
  a model whose labels are missing. None of them uses up the version.
- Then every page that a newcomer reads: the tutorials and the how-to guides, each block, with what the pages claim.
- In the end git sees no change in the clone.

Numbers are seconds. n: how many of the pages, from the first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.house.pages import SERVER_DATA, needs_server, pages, script, shell_blocks, unmet
from tests.house.tree import ROOT
from tests.journeys.stranger import Stranger

PAGES = [
    page
    for page in pages()
    if str(page).startswith(("docs/tutorials/", "docs/how-to/"))
    and any(block.kind in ("run", "background") for block in shell_blocks(page))
]
STEP_S = 1_200
_FREE_PORTS = {
    "EDGEFLEET_AGENT_INFER_PORT": "0",
    "EDGEFLEET_SERVER_API_PORT": "0",
    "EDGEFLEET_SERVER_DEVICE_PORT": "0",
    "EDGEFLEET_SERVER_BROKER_PORT": "0",
}


class Walk:
    """One walk: a clone, a home, and how long each step took."""

    def __init__(self, folder: Path) -> None:
        """Clone the committed tree into `folder`."""
        self.clone = folder / "edgefleet"
        self.home = folder / "home"
        self.home.mkdir()
        self.steps: dict[str, float] = {}
        self.faults: list[str] = []
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.clone)], check=True)
        with (self.clone / ".git" / "info" / "exclude").open("a") as excluded:
            excluded.write(
                f"/{SERVER_DATA}/\n"
            )  # the server that a guide presupposes; what a reader makes has no exception

    def step(self, name: str, command: str, **environment: str) -> str:
        """Run a command in the clone; return both streams. A failure is noted with its last lines."""
        print(f"newcomer: {name}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGECTL_", "EDGEFLEET_", "XDG_", "PYTEST_"))}
        clean |= {"HOME": str(self.home), "NO_COLOR": "1", "VIRTUAL_ENV": "", "PATH": _plain_path(), **environment}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.clone, env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=STEP_S, check=False,
        )  # fmt: skip
        self.steps[name] = round(time.monotonic() - begun, 1)
        if done.returncode != 0:
            self.faults.append(f"{name}: exit {done.returncode}: {done.stdout[-1500:]}")
        return done.stdout

    def readme(self) -> None:
        """Do what the README says, with three refused tries before it."""
        begun = time.monotonic()
        stranger = Stranger(self.clone, self.home, self.clone / ".venv" / "bin")
        try:
            stranger.walks()
        except AssertionError as error:
            self.faults.append(f"README: {error}"[:2_000])
            stranger.tries("edge-agent stop; edgectl server down")
        self.steps["README, with refused tries"] = round(time.monotonic() - begun, 1)

    def page(self, page: Path) -> None:
        """Run the blocks of a page in the clone, and look at its claims."""
        server = f"edgectl server init {SERVER_DATA} >/dev/null\n" if needs_server(page) else ""
        path = f"{self.clone / '.venv' / 'bin'}:{_plain_path()}:/usr/sbin"
        home = self.home / page.stem  # of its own: a page may enrol this machine, which the README has done already
        home.mkdir()
        self.step(str(page), server + script(page), HOME=str(home), PATH=path, **_FREE_PORTS)
        self.faults += [] if self.faults and str(page) in self.faults[-1] else unmet(page, self.clone)
        self.step(f"{page}: what it left", f"rm -rf {SERVER_DATA} .out-* .log-*")


def _plain_path() -> str:
    """Return the path without the environment of this very run."""
    own = str(Path(sys.executable).parent)
    return ":".join(one for one in os.environ["PATH"].split(":") if one != own)


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Walk, and return what each step took and what did not come true."""
    del seed  # nothing is drawn
    with tempfile.TemporaryDirectory(prefix="ef-", ignore_cleanup_errors=True) as folder:
        walk = Walk(Path(folder))
        walk.step("environment", "./dev run true")
        walk.step("demo", "./dev demo --once -o json")
        walk.readme()
        for page in PAGES[:n]:
            walk.page(page)
        changed = walk.step("git status", "git status --porcelain")
        if changed:
            walk.faults.append(f"git sees changes: {changed}")
        return {"ok": not walk.faults, "steps": walk.steps, "faults": walk.faults, "total_s": sum(walk.steps.values())}
