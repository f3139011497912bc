"""The blocks of docs/how-to/export-a-data-set.md, run as they stand there."""

from __future__ import annotations

import contextlib
import io
import platform
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgefleet_cli.device.captures.capture_files import make_key
from tests.cli.conftest import Edgectl
from tests.cli.datasets.test_export_command import holds, sealed
from tests.cli.fleet_stub import Stub, page
from tests.house.pages import Block, blocks

PAGE = Path("docs/how-to/export-a-data-set.md")


def ours() -> list[Block]:
    """Return the blocks that name this file."""
    return [
        one for one in blocks(PAGE) if one.kind == "elsewhere" and one.note == "tests/cli/datasets/test_export_page.py"
    ]


def test_the_blocks_of_the_page_run(
    edgectl: Edgectl, fleet: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "capture.key"
    make_key(key)
    now = datetime.now(UTC).isoformat()
    holds(fleet, [sealed(key, 1, ground_truth="two", taken_at=now), sealed(key, 2, taken_at=now)])
    mine = {"id": "ds-1", "model": "digits", "place": f"{platform.node()}:{tmp_path / 'digits-fog'}"}
    fleet.says("GET /data-sets", page([mine]))
    fleet.says("GET /data-sets/ds-1/records", page([{"device": "line-1", "record": f"{1:016x}"}]))
    fleet.says("POST /data-sets/ds-1:purge", mine)
    shell, python, purge = ours()
    (line,) = shell.text.splitlines()
    program, *flags = shlex.split(line)
    assert program == "edgectl"
    ran = edgectl(*flags)
    assert ran.code == 0, ran.err
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(python.text, str(PAGE), "exec"), {})
    assert printed.getvalue() == "(1, 1, 8, 8) [2]\n"
    ran = edgectl(*shlex.split(purge.text)[1:])
    assert (ran.code, ran.out) == (0, "digits-fog: 1 record removed, 1 left\n")
    fleet.says("GET /data-sets/ds-1/records", page([]))
    ran = edgectl(*shlex.split(purge.text)[1:])
    assert (ran.code, ran.out) == (0, "digits-fog: 0 records removed, 1 left\n")
    assert "asks nothing of it, or that is done" in ran.err
