"""`edgectl server upgrade-schema`: the steps that it names, takes and waits for, and servers that leave them to it."""

from __future__ import annotations

import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from edgefleet_server.migrations import UpgradeWatch
from edgefleet_server.migrations.schema_lock import schema_lock
from edgefleet_server.process.init import AlreadyRunningError
from edgefleet_server.process.progress_lines import ProgressLines
from edgefleet_server.process.schema_upgrade import (
    SchemaBusyError,
    SchemaOutdatedError,
    main,
    prepare_schema,
    upgrade_schema,
)
from edgefleet_server.settings import load_settings
from tests.support import databases

NUMBERS = [step.number for step in migrations.steps()]
OLD, NEWEST = NUMBERS[-3], NUMBERS[-1]


def outdated(url: str) -> None:
    """Make the tables of an earlier version."""
    db = Database(url)
    migrations.upgrade_to(db, OLD)
    db.dispose()


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the stages and the result of what `main` printed."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line["stage"] for line in lines if "stage" in line], lines[-1]["result"]


def test_a_dry_run_changes_nothing_then_the_steps_are_taken_and_a_third_run_has_nothing_to_do(
    empty_database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdated(empty_database_url)
    flags = ["upgrade-schema", "--data", str(tmp_path), "--db", empty_database_url]
    assert main([*flags, "--dry-run"]) == 0
    stages, planned = printed(capsys)
    assert not stages
    assert (planned["from"], planned["to"], planned["is_dry_run"]) == (OLD, NEWEST, True)
    assert [step["number"] for step in planned["steps"]] == NUMBERS[-2:]
    db = Database(empty_database_url)
    assert [step.number for step in migrations.pending(db)] == NUMBERS[-2:]
    db.dispose()
    assert main(flags) == 0
    stages, done = printed(capsys)
    assert [stage.partition(" ")[0] for stage in stages[:-1]] == NUMBERS[-2:]
    assert [step["number"] for step in done["steps"]] == NUMBERS[-2:]
    assert all(step["elapsed_s"] >= 0 for step in done["steps"])
    assert main(flags) == 0
    assert printed(capsys) == ([], {**done, "from": NEWEST, "steps": [], "elapsed_s": 0.0})


def test_no_file_is_made_of_a_server_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade-schema", "--data", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_newer_schema_is_refused(database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = Database(database_url)
    databases.upgrade(db)
    with db.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    db.dispose()
    for dry in ([], ["--dry-run"]):
        assert main(["upgrade-schema", "--data", str(tmp_path), "--db", database_url, *dry]) == 1
        assert "server.schema_unsupported" in capsys.readouterr().err


def test_while_another_process_has_the_lock_it_waits_and_then_takes_only_what_is_left(empty_database_url: str) -> None:
    outdated(empty_database_url)
    db, other = Database(empty_database_url), Database(empty_database_url)
    waits, took = threading.Event(), list[str]()
    second = threading.Thread(target=migrations.upgrade, args=(db, UpgradeWatch(waits.set, took.append)))
    with other.engine.connect() as connection, schema_lock(other, connection, lambda: None):
        second.start()
        assert waits.wait(60)
        with other.session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :step"), {"step": NEWEST})
    second.join(60)
    assert not second.is_alive()
    assert not took
    db.dispose()
    other.dispose()


def test_a_server_that_leaves_it_to_the_command_says_so(empty_database_url: str) -> None:
    outdated(empty_database_url)
    db = Database(empty_database_url)
    with pytest.raises(SchemaOutdatedError, match="lacks 2 steps") as refused:
        prepare_schema(db, may_upgrade=False)
    assert "edgectl server upgrade-schema" in refused.value.next_step
    assert len(migrations.pending(db)) == 2
    prepare_schema(db, may_upgrade=True)
    prepare_schema(db, may_upgrade=False)
    assert migrations.is_current(db)
    db.dispose()


def test_a_file_that_a_server_uses_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outdated(f"sqlite:///{tmp_path}/edgefleet.db")
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/main.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunningError):
            upgrade_schema(load_settings(tmp_path), ProgressLines())
        assert main(["upgrade-schema", "--data", str(tmp_path)]) == 6
        assert "server.already_running" in capsys.readouterr().err
        assert main(["upgrade-schema", "--data", str(tmp_path), "--dry-run"]) == 0


def test_a_table_that_another_program_holds_ends_it_and_nothing_is_changed(tmp_path: Path) -> None:
    """SQLite: the other one waits too long in its transaction."""
    url = f"sqlite:///{tmp_path}/edgefleet.db"
    outdated(url)
    holder = Database(url)
    with holder.engine.connect() as other:
        other.execute(text("UPDATE alembic_version SET version_num = version_num"))
        with pytest.raises(SchemaBusyError) as refused:
            upgrade_schema(load_settings(tmp_path), ProgressLines())
        assert "run the command again" in refused.value.next_step
        other.rollback()
    assert upgrade_schema(load_settings(tmp_path), ProgressLines())["from"] == OLD
    holder.dispose()
