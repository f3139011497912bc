"""`edgectl device diag | logs | restart | tasks`: each step is told, the result is saved, what went wrong has an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, page

TASKS = "/devices/d-1/tasks"


def task(state: str, kind: str = "diag", **fields: Any) -> dict[str, Any]:
    """Return a task as the API gives it."""
    times = dict.fromkeys(("created_at", "until", "changed_at"), NOON.isoformat())
    plain = {"id": "t-1", "device": "d-1", "kind": kind, "args": {}, "state": state, "code": "", "reason": "", "gen": 7}
    return {**plain, **times, "created_by": "ada", "result_type": "", "result_bytes": 0, "result_sha256": "", **fields}


def test_a_diagnosis_is_waited_for_and_saved_for_its_owner_only(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    fleet.says(f"POST {TASKS}", (201, task("queued")))
    fleet.says(f"GET {TASKS}/t-1", task("accepted"), task("running"), task("done", result_bytes=2))
    fleet.says(f"GET {TASKS}/t-1/result", {})
    file = tmp_path / "d.tar.gz"
    ran = edgectl("device", "diag", "d-1", "--out", file)
    assert (ran.code, file.read_bytes(), file.stat().st_mode & 0o777) == (0, b"{}", 0o600)
    assert [word for word in ("queued", "accepted", "running", "done") if word in ran.err] == [
        "queued",
        "accepted",
        "running",
        "done",
    ]
    assert fleet.bodies(f"POST {TASKS}") == [{"kind": "diag"}]


def test_logs_are_shown_and_harmless_in_a_terminal(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {TASKS}", (201, task("queued", "logs")))
    fleet.says(f"GET {TASKS}/t-1", task("done", "logs", result_bytes=9))
    fleet.says(f"GET {TASKS}/t-1/result", {"line": "\u001b[31m"})
    assert edgectl("device", "logs", "d-1", "-n", "5", "--contains", "x").code == 0
    assert fleet.bodies(f"POST {TASKS}") == [{"kind": "logs", "lines": 5, "contains": "x"}]
    assert "\x1b" not in edgectl("device", "logs", "d-1").out
    assert edgectl("device", "logs", "d-1", "-o", "json").json["state"] == "done"


def test_a_restart_is_of_the_agent_or_of_one_worker(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {TASKS}", (201, task("done", "restart")))
    assert edgectl("device", "restart", "d-1").code == 0
    assert edgectl("device", "restart", "d-1", "--model", "digits", "--no-wait").code == 0
    assert edgectl("device", "restart", "d-1", "--model", "").code == 2
    assert fleet.bodies(f"POST {TASKS}") == [
        {"kind": "restart", "what": "agent"},
        {"kind": "restart", "what": "worker", "model": "digits"},
    ]


def test_what_a_device_did_not_do_is_told_with_its_reason(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {TASKS}", (201, task("queued")))
    fleet.says(f"GET {TASKS}/t-1", task("failed", code="agent.diag_too_big", reason="too much"))
    ran = edgectl("device", "diag", "d-1")
    assert (ran.code, ran.told()[1]) == (1, "agent.diag_too_big: too much")
    fleet.says(f"GET {TASKS}/t-1", task("queued"))
    ran = edgectl("--timeout", "1", "device", "diag", "d-1")
    assert ran.code == 8
    assert "edgectl device tasks d-1" in ran.told()[2]


def test_tasks_are_listed(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(
        f"GET {TASKS}", page([task("running"), task("failed", "logs", id="t-2", code="agent.disk", reason="full")])
    )
    ran = edgectl("device", "tasks", "d-1")
    assert ran.code == 0
    for words in ("t-1", "running", "t-2", "agent.disk: full"):
        assert words in ran.out
    assert edgectl("device", "tasks", "d-1", "-o", "name").out == "t-1\nt-2\n"
