"""`edgectl audit verify` after the server was restored from a backup: what docs/operate/audit.md says of it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgefleet_cli.audit.audit_state import state_of
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.process.lifecycle.engine_work import publish_audit_head
from tests.cli.conftest import Edgectl
from tests.cli.test_audit import record
from tests.server.dashboard.serving import served
from tests.server.fleet.house import TurnedClock
from tests.support.servers import ApiHouse

RECORDED, LOST = 35, 10


def test_the_trail_goes_on_from_the_backup_and_who_saw_more_hears_of_it(
    edgectl: Edgectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, folders = TurnedClock(SystemClock().now()), (tmp_path / "lost", tmp_path / "restored")
    house, export = ApiHouse(folders[0], clock=clock), tmp_path / "audit.jsonl"
    record(house, RECORDED)
    folders[1].mkdir()
    files = [folder / "edgefleet.db" for folder in folders]
    with closing(sqlite3.connect(files[0])) as live, closing(sqlite3.connect(files[1])) as copy:
        live.backup(copy)
    shutil.copytree(folders[0] / "keys", folders[1] / "keys")
    clock.turn(hours=1)
    record(house, LOST)
    publish_audit_head(house.parts)
    with served(house.own_app()) as url:
        monkeypatch.setenv("EDGECTL_SERVER", url)
        monkeypatch.setenv("EDGECTL_TOKEN", house.token(Role.AUDITOR))
        assert edgectl("audit", "verify").code == 0
        assert edgectl("audit", "export", "--out", export).code == 0
    seen = state_of(url).folder
    house.close()

    house = ApiHouse(folders[1], clock=clock)
    with served(house.own_app()) as url:
        monkeypatch.setenv("EDGECTL_SERVER", url)
        monkeypatch.setenv("EDGECTL_TOKEN", house.token(Role.AUDITOR))
        kept = state_of(url).folder
        shutil.copytree(seen, kept)  # of the same server: only its port is another in this test
        for more, words in (
            (0, "the server's signed metadata does not hold"),
            (3, f"entries {RECORDED + 4} to {RECORDED + LOST} were cut off the end"),
            (LOST, f"entries 1 to {RECORDED + LOST} were rewritten together with their hashes"),
        ):
            if more:
                clock.turn(hours=1)
                record(house, more)
                publish_audit_head(house.parts)
            ran = edgectl("audit", "verify")
            assert (ran.code, words in ran.out + ran.err) == (1, True), (more, ran.out, ran.err)
        assert len(export.read_bytes().splitlines()) == RECORDED + LOST, "what was lost is in the export of before"
        kept.rename(tmp_path / "aside")
        whole = edgectl("audit", "verify")
        assert whole.code == 0, whole.out + whole.err
        assert f"The audit trail is whole: {RECORDED + 3 + LOST} entries." in whole.out
    house.close()
