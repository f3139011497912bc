"""The page on PostgreSQL: the commands that move a server from SQLite, typed as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_server.db.database import Database
from edgefleet_server.settings import load_settings
from tests.house.pages import shell_blocks
from tests.house.tree import ROOT
from tests.support import databases
from tests.support.postgres import binaries

PAGE = "docs/operate/postgresql.md"
URL = "postgresql+psycopg://edgefleet-server@/edgefleet"
PORTS = {f"EDGEFLEET_SERVER_{name}_PORT": "0" for name in ("API", "DEVICE")}


def typed(text: str, folder: Path) -> str:
    """Run lines of a shell as a user with a home in `folder`; return what they print."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGECTL_", "EDGEFLEET_", "XDG_"))}
    mine = {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    mine |= {"EDGEFLEET_SERVER_DATA": str(folder / "data"), **PORTS}
    with (folder / "said").open("w+") as said:
        done = subprocess.run(["bash", "-ec", text], env={**clean, **mine}, stdout=said, stderr=said, check=False)
        said.seek(0)
        words = said.read()
    assert done.returncode == 0, words
    return words


@pytest.mark.slow
@pytest.mark.postgres
def test_the_commands_of_the_page_move_a_server_that_then_runs(tmp_path: Path) -> None:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    block = next(one for one in shell_blocks(ROOT / PAGE) if "server migrate" in one.text)
    assert URL in block.text
    with databases.new("postgresql", tmp_path / "unused.db") as url:
        there = url.replace("postgresql://", "postgresql+psycopg://")
        typed("edgectl server up --broker embedded; edgectl group create yard --selector site=yard", tmp_path)
        try:
            typed(block.text.replace(URL, f"'{there}'"), tmp_path)
            assert load_settings(tmp_path / "data").database == there
            groups = json.loads(typed("edgectl group list -o json", tmp_path))
            assert "yard" in [one["name"] for one in groups["items"]]
        finally:
            typed("edgectl server down", tmp_path)
        new = Database(there)
        assert not new.is_sqlite
        new.dispose()
