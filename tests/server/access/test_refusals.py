"""Refused requests without a token: the first of a minute is a row, the others one row together."""

from edgefleet_server.access.model import Role
from edgefleet_server.access.refusals import ACTION, MAX_ADDRESSES, Refusal, RefusalBook
from tests.support.servers import ApiHouse, HandClock

Row = tuple[str, str, str, int, str]


def test_a_flood_without_a_token_is_two_rows_and_a_figure(house: ApiHouse) -> None:
    stranger = house.client()
    for _ in range(30):
        assert stranger.post("/api/v1/releases", json={}).status_code == 401
    house.clock.turn(seconds=61)
    house.parts.access.refusals.write_due()
    rows = house.client(Role.ADMIN).get("/api/v1/audit").json()["items"]
    assert [(row["actor"], row["action"]) for row in rows] == [("unknown", ACTION), ("unknown", "create_release")]
    assert rows[0]["object"] == "29 more within a minute: testclient: 29"
    assert "edgefleet_anonymous_refusals_total 30.0" in stranger.get("/metrics").text


def test_counts_are_bounded_and_the_last_ones_are_written_at_the_end() -> None:
    clock, rows = HandClock(), list[Row]()
    book = RefusalBook(clock, lambda *row: rows.append(row))
    for number in range(2 * MAX_ADDRESSES):
        book.note(Refusal(f"a{number}", "create_release", "/api/v1/releases", 401, "r"))
    book.note(Refusal("a7", "create_release", "/api/v1/releases", 401, "r"))
    assert len(rows) == 1
    book.write_due()
    assert len(rows) == 1, "its minute is not over"
    book.write_due(is_last=True)
    assert rows[1][2].startswith("2000 more within a minute: others: 999, a7: 2, ")
    assert rows[1][2].endswith("and 996 more addresses")
    clock.turn(seconds=59)
    book.note(Refusal("b", "login_with_link", "/login", 401, "r"))
    clock.turn(seconds=2)
    book.note(Refusal("c", "login_with_link", "/login", 401, "r"))
    assert [row[2] for row in rows[2:]] == ["1 more within a minute: b: 1"]
