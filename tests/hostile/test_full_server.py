"""A server whose disk or database takes nothing more: it says so, and reads go on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.db import database
from edgefleet_server.db.database import Database, DatabaseUnavailableError
from edgefleet_server.observability.health import RECENT_S, SLOW_S, Recent, SlowCheckError
from edgefleet_server.settings import load_settings
from tests.server.conftest import KINDS, new_database
from tests.support.servers import ApiHouse, HandClock, copy_server, server_process

READS = ("/api/v1/devices", "/api/v1/releases", "/api/v1/rollouts", "/api/v1/tokens", "/metrics")
WRITER_WAITS_S = 10


@contextmanager
def unwritable(url: str) -> Iterator[None]:
    """Hold the lock that every writer needs, as a stuck program does, with a connection of its own."""
    other = Database(url)
    with other.engine.connect() as connection:
        if other.is_sqlite:
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("LOCK TABLE alembic_version, access_tokens IN EXCLUSIVE MODE"))
        yield
    other.dispose()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind."""
    with new_database(request.param, tmp_path, is_empty=False) as made:
        yield made


def test_a_running_server_tells_of_a_full_disk_and_a_locked_database_and_answers_what_only_reads(
    tmp_path: Path,
) -> None:
    data = tmp_path / "server"
    token = copy_server(data)

    def checks(client: httpx.Client) -> dict[str, dict[str, object]]:
        answer = client.get("/readyz", timeout=20)
        assert answer.status_code == 503, "the disk is below its floor"
        found: dict[str, dict[str, object]] = answer.json()["checks"]
        return found

    floor = {"EDGEFLEET_SERVER_MIN_FREE_BYTES": str(1 << 60)}
    with server_process(data, token, "--roles", "api", environment=floor) as server, server.client() as client:
        before = checks(client)
        assert [name for name, one in before.items() if not one["ok"]] == ["disk"]
        assert "min_free_bytes" in str(before["disk"]["detail"])
        time.sleep(RECENT_S)
        with unwritable(load_settings(data).database):
            began_s = time.monotonic()
            assert client.get("/api/v1/devices").status_code == 200, "its token was never used: that would be noted"
            assert time.monotonic() - began_s < WRITER_WAITS_S
            locked = checks(client)["database"]
            assert client.get("/api/v1/releases").status_code == 200
        assert (locked["ok"], "nothing can be written" in str(locked["detail"])) == (False, True), locked
        time.sleep(RECENT_S)
        assert checks(client)["database"]["ok"]


def test_on_both_databases_reads_go_on_and_the_probe_fails(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PROBE_MS", 300)
    house = ApiHouse(tmp_path / "server", url, SystemClock())
    try:
        admin = house.client(Role.ADMIN)
        with unwritable(house.settings.database):
            began_s = time.monotonic()
            answers = {path: admin.get(path).status_code for path in READS}
            took_s = time.monotonic() - began_s
            with pytest.raises(DatabaseUnavailableError, match="nothing can be written"):
                house.parts.db.check_writing()
        assert answers == dict.fromkeys(READS, 200)
        assert took_s < WRITER_WAITS_S, "no request waits for the lock"
        house.parts.db.check_writing()
        if house.parts.db.is_sqlite:
            with house.parts.db.session() as session:
                assert session.execute(text("PRAGMA busy_timeout")).scalar() == 10_000, "the next one waits as ever"
    finally:
        house.close()


def test_strangers_who_ask_often_do_not_make_the_server_write() -> None:
    clock, asked = HandClock(), [0]

    def check() -> str:
        asked[0] += 1
        if asked[0] == 2:
            raise OSError("full")
        return "fine"

    recent = Recent(check, clock)
    assert [recent() for _ in range(50)] == ["fine"] * 50
    clock.turn(seconds=3)
    for _ in range(5):
        with pytest.raises(OSError, match="full"):
            recent()
    assert asked == [2]


def test_a_check_that_hangs_holds_one_thread_and_is_told() -> None:
    clock, asked, begun, go_on = HandClock(), [0], threading.Event(), threading.Event()

    def check() -> str:
        asked[0] += 1
        if asked[0] == 2:
            begun.set()
            go_on.wait(10)
        return "fine"

    recent = Recent(check, clock)
    assert recent() == "fine"
    clock.turn(seconds=RECENT_S)
    stuck = threading.Thread(target=recent)
    stuck.start()
    assert begun.wait(10)
    assert recent() == "fine", "what was found last"
    clock.turn(seconds=SLOW_S)
    with pytest.raises(SlowCheckError, match="15 s"):
        recent()
    go_on.set()
    stuck.join(10)
    assert recent() == "fine"
    assert asked == [2]
