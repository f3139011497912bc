"""`edgectl server upgrade-schema` as it is typed."""

from __future__ import annotations

from pathlib import Path

from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from tests.cli.conftest import Edgectl


def test_the_steps_are_shown_then_taken_and_the_json_is_the_result(edgectl: Edgectl, tmp_path: Path) -> None:
    before, newest = (migrations.steps()[at].number for at in (-2, -1))
    db = Database(f"sqlite:///{tmp_path}/edgefleet.db")
    migrations.upgrade_to(db, before)
    db.dispose()
    upgrade = ("server", "upgrade-schema", "--data", tmp_path)
    shown = edgectl(*upgrade, "--dry-run")
    assert shown.code == 0, shown.err
    assert f"1 step would be taken, from schema {before} to {newest}" in shown.out
    done = edgectl(*upgrade, "-o", "json")
    assert (done.json["from"], done.json["to"], len(done.json["steps"])) == (before, newest, 1)
    assert f"upgrade-schema: {newest} {migrations.steps()[-1].name}" in done.err
    assert f"The schema of the database is {newest}" in edgectl(*upgrade).out
