"""`edgectl device watch`: lines as they come, a table that fits a terminal, and a word where nothing will come."""

import json

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Json, Stub, problem
from tests.cli.terminal import Terminal

WATCH, LOOK = "POST /devices/d-1:watch", "GET /devices/d-1/predictions"
UNTIL = "2026-01-03T12:05:00Z"
ASKED = {"device": "d-1", "until": UNTIL, "status": "online"}


def line(number: int, **fields: object) -> Json:
    """Return one answer as the API tells it."""
    return {
        "model": "digits",
        "version": "1.0.0",
        "lane": "active",
        "at": f"2026-01-03T12:00:{number:02d}.125000Z",
        "trace_id": f"deadbeef{number:08x}",
        "latency_ms": 0.85,
        "labels": ["seven", "one"],
        "scores": [0.9, 0.05],
        "nonfinite": False,
        "hidden": False,
        **fields,
    }


def answer(last_id: int, *items: Json, state: str = "on", until: str | None = UNTIL) -> Json:
    """Return what the server says to one question."""
    return {"items": list(items), "last_id": last_id, "until": until, "state": state, "seen": len(items)}


def test_lines_come_once_and_the_next_question_goes_on_from_there(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(WATCH, ASKED)
    fleet.says(LOOK, answer(3, line(1), state=""), answer(3, state=""), answer(7, line(2), line(3)))
    ran = edgectl("device", "watch", "d-1", "--model", "digits", "--limit", "3", "-o", "json")
    assert ran.code == 0, ran.err
    assert [json.loads(row)["trace_id"] for row in ran.out.splitlines()] == [line(n)["trace_id"] for n in (1, 2, 3)]
    asked = fleet.queries(LOOK)
    assert [query["after_id"] for query in asked] == ["0", "3", "3"]
    assert {query["model"] for query in asked} == {"digits"}
    assert "sends its answers" in ran.err
    assert len(fleet.bodies(WATCH)) == 1


def test_a_watch_that_is_over_is_asked_for_anew(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(WATCH, ASKED)
    fleet.says(LOOK, answer(0, state=""), answer(0, state="", until=None), answer(1, line(1)))
    assert edgectl("device", "watch", "d-1", "--limit", "1").code == 0
    assert len(fleet.bodies(WATCH)) == 2


def test_words_for_eyes(edgectl: Edgectl, fleet: Stub) -> None:
    odd = [
        line(1),
        line(2, hidden=True, labels=[], scores=[]),
        line(3, nonfinite=True, labels=["seven"], scores=[None]),
        line(4, labels=["", ""], scores=[1.5, -2]),
        line(5, labels=["\x1b[2Jboom"], scores=[1]),
    ]
    fleet.says(WATCH, ASKED)
    fleet.says(LOOK, answer(9, *odd))
    rows = edgectl("device", "watch", "d-1", "--limit", "5").out.splitlines()
    assert rows[0].split("  ")[:4] == ["12:00:01.125", "digits@1.0.0", "active", "seven 0.9, one 0.05"]
    assert "(kept on the device)" in rows[1]
    assert "seven nan (not finite)" in rows[2]
    assert "1.5, -2" in rows[3]
    assert "\x1b" not in rows[4]


def test_a_device_that_shows_nothing_is_said(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(WATCH, ASKED)
    fleet.says(LOOK, answer(0, state=""), answer(4, state="off"))
    ran = edgectl("device", "watch", "d-1")
    assert ran.code == 1
    what, why, _ = ran.told()
    assert "d-1" in what
    assert "watch_predictions" in why


def test_nothing_in_time_is_told_by_the_exit_code(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(WATCH, ASKED)
    fleet.says(LOOK, answer(0, state=""))
    assert edgectl("device", "watch", "d-1", "--timeout", "300ms").code == 8
    fleet.says(WATCH, {**ASKED, "status": "offline"})
    assert "d-1 is offline" in edgectl("device", "watch", "d-1", "--timeout", "300ms").err
    fleet.says(WATCH, problem(404, "device.unknown", "no such device"))
    assert edgectl("device", "watch", "d-1").code == 5


def test_a_terminal_shows_the_newest_that_fit(fleet: Stub) -> None:
    fleet.says(WATCH, ASKED)
    many = [line(n, labels=["a label that is so long that the table must fold it"], scores=[0.5]) for n in range(30)]
    fleet.says(LOOK, answer(9, *many))
    terminal = Terminal(fleet, "device", "watch", "d-1", "--limit", "30", rows=12)
    assert terminal.end() == 0
    lines = terminal.shown.splitlines()
    assert all("TRACE" not in row for row in lines), "what there is no room for is left out"
    assert any("12:00:29.125" in row for row in lines)
    assert not any("12:00:02.125" in row for row in lines)
