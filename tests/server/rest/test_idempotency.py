"""A POST with an `Idempotency-Key` is done once, whoever loses the answer."""

import threading
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import select

from edgefleet_server.access.model import Role
from edgefleet_server.access.tables import RepeatRow, TokenRow
from tests.support.servers import ApiClient, ApiHouse

GROUP = {"name": "berlin", "selector": "site=berlin"}


def keyed(key: str) -> dict[str, Any]:
    """Return the header."""
    return {"idempotency-key": key}


def rows(house: ApiHouse) -> list[RepeatRow]:
    """Return what is kept."""
    with house.parts.db.read() as session:
        return list(session.exec(select(RepeatRow)))


def test_the_same_request_is_done_once_and_answered_alike(any_house: ApiHouse) -> None:
    client = any_house.client(Role.ADMIN)
    first = client.post("/api/v1/groups", json=GROUP, headers=keyed("k-1"))
    again = client.post("/api/v1/groups", json=GROUP, headers=keyed("k-1"))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"] == "/api/v1/groups/berlin"
    assert again.headers["etag"] == first.headers["etag"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert again.headers["content-type"] == first.headers["content-type"]
    assert client.get("/api/v1/groups").json()["total"] == 1
    actions = [row["action"] for row in client.get("/api/v1/audit").json()["items"]]
    assert actions == ["create_group", "create_group"]


def test_a_secret_comes_again_to_its_owner_and_lies_nowhere(house: ApiHouse) -> None:
    client = house.client(Role.ADMIN)
    body = {"name": "ci", "roles": ["viewer"]}
    first = client.post("/api/v1/tokens", json=body, headers=keyed("k"))
    again = client.post("/api/v1/tokens", json=body, headers=keyed("k"))
    assert again.json()["token"] == first.json()["token"]
    with house.parts.db.read() as session:
        assert len(list(session.exec(select(TokenRow)))) == 2
    (kept,) = rows(house)
    assert first.json()["token"].encode() not in kept.sealed
    assert first.json()["id"].encode() not in kept.sealed


def test_another_request_with_the_key_is_refused(house: ApiHouse) -> None:
    client = house.client(Role.ADMIN)
    client.post("/api/v1/groups", json=GROUP, headers=keyed("k"))
    for path, body in (("/api/v1/groups", GROUP | {"name": "b"}), ("/api/v1/groups?dry_run=true", GROUP)):
        answer = client.post(path, json=body, headers=keyed("k"))
        assert (answer.status_code, answer.json()["code"]) == (409, "request.idempotency_key_conflict")
    assert house.client(Role.ADMIN).post("/api/v1/groups", json=GROUP | {"name": "c"}, headers=keyed("k")).is_success


def test_a_refused_request_frees_its_key(house: ApiHouse) -> None:
    client = house.client(Role.ADMIN)
    assert client.post("/api/v1/groups", json=GROUP | {"name": "Not A Name"}, headers=keyed("k")).status_code == 422
    assert rows(house) == []
    assert client.post("/api/v1/groups", json=GROUP, headers=keyed("k")).status_code == 201


def test_strangers_keep_nothing(house: ApiHouse) -> None:
    stranger = house.client()
    assert stranger.post("/api/v1/groups", json=GROUP, headers=keyed("k")).status_code == 401
    assert house.client(Role.VIEWER).post("/api/v1/groups", json=GROUP, headers=keyed("k")).status_code == 403
    assert rows(house) == []


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_that_is_none_is_refused(house: ApiHouse, key: str) -> None:
    answer = house.client(Role.ADMIN).post("/api/v1/groups", json=GROUP, headers={"idempotency-key": key.encode()})
    assert (answer.status_code, answer.json()["code"]) == (422, "request.bad_idempotency_key")


def test_a_body_above_the_limit_is_refused_with_a_key_too(house: ApiHouse) -> None:
    def pieces() -> Any:
        for _ in range(5):
            yield b" " * 1024 * 1024

    answer = house.client(Role.ADMIN).post("/api/v1/groups", content=pieces(), headers=keyed("k"))
    assert (answer.status_code, answer.json()["code"]) == (413, "request.too_large")


def test_after_a_day_the_key_is_free(house: ApiHouse) -> None:
    client = house.client(Role.ADMIN)
    body = {"name": "t", "roles": ["viewer"]}
    first = client.post("/api/v1/tokens", json=body, headers=keyed("k")).json()["id"]
    house.clock.turn(hours=24, seconds=1)
    assert client.post("/api/v1/tokens", json=body, headers=keyed("k")).json()["id"] != first
    house.clock.turn(hours=25)
    assert house.parts.access.repeats.prune() == 1
    assert rows(house) == []


def test_two_at_once_do_it_once(any_house: ApiHouse) -> None:
    client = any_house.client(Role.ADMIN)
    answers: list[Any] = []

    def send() -> None:
        body = {"name": "t", "roles": ["viewer"]}
        answers.append(client.post("/api/v1/tokens", json=body, headers=keyed("k")))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [one for one in answers if one.status_code == 201]
    waiting = [one for one in answers if one.status_code != 201]
    assert len({one.json()["id"] for one in done}) == 1
    assert {one.json()["code"] for one in waiting} <= {"request.idempotency_running_conflict"}
    assert all(one.headers["retry-after"] == "1" for one in waiting)
    assert client.get("/api/v1/tokens").json()["total"] == 2


def test_a_request_that_was_cut_off_is_not_done_again_unseen(house: ApiHouse) -> None:
    app = house.own_app()
    client = ApiClient(app, house.token(Role.ADMIN))

    @app.post("/api/v1/broken", operation_id="break_it")
    def broken() -> None:
        raise KeyError

    assert client.post("/api/v1/broken", headers=keyed("k")).status_code == 500
    assert rows(house) == []
    client.post("/api/v1/groups", json=GROUP | {"name": "x"}, headers=keyed("cut"))
    with house.parts.db.session() as session:
        row = session.exec(select(RepeatRow)).one()
        row.status = None
        session.add(row)
    now = client.post("/api/v1/groups", json=GROUP | {"name": "x"}, headers=keyed("cut"))
    assert now.json()["code"] == "request.idempotency_running_conflict"
    house.clock.turn(minutes=11)
    later = client.post("/api/v1/groups", json=GROUP | {"name": "x"}, headers=keyed("cut"))
    assert (later.status_code, later.json()["code"]) == (409, "request.idempotency_answer_conflict")


def test_a_key_that_could_not_be_freed_is_freed_once_the_database_is_back(house: ApiHouse) -> None:
    app = house.own_app()
    client = ApiClient(app, house.token(Role.ADMIN))

    def rename(before: str, after: str) -> None:
        with house.parts.db.session() as session:
            session.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    @app.post("/api/v1/away", operation_id="lose_it")
    def away() -> None:
        rename("access_repeats", "away")
        raise KeyError

    repeats = house.parts.access.repeats
    assert client.post("/api/v1/away", headers=keyed("k")).status_code == 500
    repeats.free_due()
    rename("away", "access_repeats")
    assert len(rows(house)) == 1
    repeats.free_due()
    assert rows(house) == []
