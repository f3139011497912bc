"""What tests share leaves nothing of one test to another: the apps of a process, and databases of PostgreSQL that are used again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.composition.container import Parts
from tests.server.conftest import new_database
from tests.support.apps import AppOf
from tests.support.databases import NOON
from tests.support.servers import ApiClient, ApiHouse, HandClock

KEY_ID = re.compile(r"\.[0-9a-f]{12}\.")
"""Part of the name of a key file that is made when it is first needed."""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ApiHouse]:
    """A second server."""
    made = ApiHouse(tmp_path / "other")
    yield made
    made.close()


def test_one_app_serves_each_server_from_its_own_parts(house: ApiHouse, other: ApiHouse) -> None:
    assert house.app.openapi() is other.app.openapi(), "both have the one app"
    for name, made in (("one", house), ("two", other)):
        answer = made.client(Role.ADMIN).post("/api/v1/groups", json={"name": name, "selector": "site=hall"})
        assert answer.status_code == 201
    for name, made in (("one", house), ("two", other)):
        told = made.client(Role.VIEWER).get("/api/v1/groups").json()["items"]
        assert [one["name"] for one in told] == [name]
    token = house.token(Role.VIEWER)
    assert ApiClient(other.app, token).get("/api/v1/groups").status_code == 401


def test_servers_of_the_same_moment_share_keys_and_no_row(house: ApiHouse, other: ApiHouse, tmp_path: Path) -> None:
    later = ApiHouse(tmp_path / "later", clock=HandClock(NOON + timedelta(seconds=1)))
    one, two, three = (made.parts.signing for made in (house, other, later))
    assert one.root_chain() == two.root_chain() != three.root_chain()
    for signing, digest in ((one, house.put(b"one")), (two, other.put(b"two"))):
        assert signing.add_target("digits/1.0.0/p.bundle", 3, Sha256(digest), {})
    targets = [signing.target("digits/1.0.0/p.bundle") for signing in (one, two, three)]
    assert [target and target.sha256 for target in targets] == [sha256_hex(b"one"), sha256_hex(b"two"), None]
    modes = [
        {KEY_ID.sub(".KEY.", path.name): path.stat().st_mode for path in made.settings.keys_dir.rglob("*")}
        for made in (house, other, later)
    ]
    assert modes[0] == modes[1] == modes[2] | {"m.digits.KEY.pem": modes[2]["director.pem"]}, "as private in a copy"
    assert other.settings.keys_dir.stat().st_mode == later.settings.keys_dir.stat().st_mode
    later.close()


def test_what_an_app_keeps_of_the_settings_makes_it_another_app(house: ApiHouse, tmp_path: Path) -> None:
    behind = ApiHouse(tmp_path / "behind", behind_proxy=True)
    try:
        assert behind.app.openapi() is not house.app.openapi()
    finally:
        behind.close()


def test_an_app_that_uses_a_part_while_it_is_made_cannot_be_shared(house: ApiHouse) -> None:
    def calls(parts: Parts) -> FastAPI:
        parts.access.create_token("x", [Role.VIEWER], by="test")
        return FastAPI()

    with pytest.raises(TypeError, match=r"uses access\.create_token"):
        AppOf(calls, house.parts)


def test_settings_that_an_app_keeps_are_those_of_each_request(house: ApiHouse, other: ApiHouse) -> None:
    def keeps(parts: Parts) -> FastAPI:
        app, settings = FastAPI(), parts.settings
        app.get("/data")(lambda: str(settings.data_dir))
        return app

    told = [TestClient(cast("Any", AppOf(keeps, one.parts))).get("/data").json() for one in (house, other)]
    assert told == [str(house.parts.settings.data_dir), str(other.parts.settings.data_dir)]
    assert told[0] != told[1]


@pytest.mark.postgres
def test_a_database_that_is_used_again_is_as_new(tmp_path: Path) -> None:
    def held(url: str) -> Any:
        with psycopg.connect(url) as connection:
            tables = [name for (name,) in connection.execute("SELECT relname FROM pg_stat_user_tables ORDER BY 1")]
            rows = [connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables]
            return (
                tables,
                rows,
                connection.execute("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1").fetchall(),
            )

    with new_database("postgresql", tmp_path, is_empty=False) as first:
        fresh = held(first)
        house = ApiHouse(tmp_path / "server", first)
        assert house.client(Role.ADMIN).post("/api/v1/groups", json={"name": "a", "selector": ""}).status_code == 201
        assert held(first) != fresh
    with new_database("postgresql", tmp_path, is_empty=False) as second, psycopg.connect(second) as connection:
        assert second == first
        assert held(second) == fresh
        connection.execute("ALTER TABLE audit ADD COLUMN more text")
        connection.commit()
    with new_database("postgresql", tmp_path, is_empty=False) as third:
        assert third != second, "its schema was another one"
        assert held(third) == fresh
    house.close()
