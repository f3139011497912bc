"""`edgectl device pending | approve | reject | claims | revoke-claim`: what was shown is what is decided about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, page

PENDING = "/enrollments/pending"


def waits(fingerprint: str, **changes: Any) -> dict[str, Any]:
    """Return a waiting device as the API gives it."""
    return {
        "id": fingerprint,
        "key_sha256": "a" * 64,
        "state": "pending",
        "claim": "c1",
        "profile": "generic-x86_64-ort",
        "labels": {"site": "berlin"},
        "facts": {"hostname": "cam-1", "arch": "x86_64", "board": ""},
        "asked_at": NOON.isoformat(),
        "heard_at": NOON.isoformat(),
        "expires_at": NOON.isoformat(),
        "decided_at": None,
        "decided_by": "",
        "reason": "",
        "device": "",
        **changes,
    }


def decided(*done: str, skipped: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what the API says of a decision."""
    return {
        "matched": len(done) + len(skipped),
        "done": [{"id": one, "state": "approved", "device": f"d-{one}"} for one in done],
        "skipped": [{"id": one, "reason": "it gave up", "next": "Let it enrol again."} for one in skipped],
    }


def test_who_waits_is_listed_in_every_form(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {PENDING}", page([waits("ab12-0001")]))
    shown = edgectl("device", "pending", "-l", "site=berlin", "--claim", "c1")
    for word in ("ab12-0001", "cam-1", "site=berlin"):
        assert word in shown.out
    assert fleet.queries(f"GET {PENDING}")[0] == {
        "limit": "200",
        "selector": "site=berlin",
        "claim": "c1",
        "state": "pending",
    }
    assert edgectl("device", "pending", "-o", "name").out == "ab12-0001\n"
    assert edgectl("device", "pending", "-o", "json").json["items"][0]["key_sha256"] == "a" * 64
    assert "key_sha256" in edgectl("device", "pending", "-o", "csv").out
    fleet.says(f"GET {PENDING}", page([]))
    empty = edgectl("device", "pending", "-o", "json")
    assert (empty.code, empty.json["items"]) == (0, [])
    assert "no pending devices" in edgectl("device", "pending").err


def test_named_ones_are_let_in_without_a_question(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {PENDING}:approve", decided("ab12", "cd34"))
    ran = edgectl("device", "approve", "ab12", "cd34")
    assert (ran.code, fleet.bodies(f"POST {PENDING}:approve")) == (0, [{"ids": ["ab12", "cd34"]}])
    assert "approved: 2 of 2" in ran.err
    assert edgectl("device", "approve", "ab12", "cd34", "-o", "name").out == "d-ab12\nd-cd34\n"


def test_what_a_selector_found_is_what_is_decided_about(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {PENDING}", page([waits("ab12"), waits("cd34")]))
    fleet.says(f"POST {PENDING}:approve", decided("ab12", "cd34"))
    asks = edgectl("device", "approve", "-l", "site=berlin")
    assert asks.code == 3
    assert "ab12" in asks.err
    assert fleet.bodies(f"POST {PENDING}:approve") == []
    for flags in (("-l", "site=berlin"), ("--all",), ("--claim", "c1"), ("--all", "--claim", "c1")):
        ran = edgectl("device", "approve", *flags, "--yes", "-o", "json")
        assert (ran.code, ran.json["matched"]) == (0, 2)
    assert fleet.bodies(f"POST {PENDING}:approve") == [{"ids": ["ab12", "cd34"]}] * 4


def test_many_are_decided_about_in_parts(edgectl: Edgectl, fleet: Stub) -> None:
    ids = [f"{number:04}" for number in range(700)]
    fleet.says(f"GET {PENDING}", page([waits(one) for one in ids]))
    fleet.says(f"POST {PENDING}:reject", decided(*ids[:500]), decided(*ids[500:]))
    ran = edgectl("device", "reject", "--all", "--yes", "--reason", "not ours", "-o", "json")
    assert (ran.code, len(ran.json["done"]), ran.json["matched"]) == (0, 700, 700)
    sent = fleet.bodies(f"POST {PENDING}:reject")
    assert [(len(one["ids"]), one["reason"]) for one in sent] == [(500, "not ours"), (200, "not ours")]


def test_what_could_not_be_decided_is_told_and_code_1(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"POST {PENDING}:approve", decided("ab12", skipped=("cd34",)))
    ran = edgectl("device", "approve", "ab12", "cd34")
    assert ran.code == 1
    assert "it gave up" in ran.out
    assert "next: Let it enrol again." in ran.err


@pytest.mark.parametrize(
    "flags", [(), ("ab12", "--all"), ("ab12", "-l", "x=y"), ("--all", "-l", "x=y"), ("ab12", "--claim", "c1")]
)
def test_it_has_to_be_said_which(edgectl: Edgectl, fleet: Stub, flags: tuple[str, ...]) -> None:
    for verb in ("approve", "reject"):
        assert edgectl("device", verb, *flags, "--yes").code == 2
    assert fleet.asked == []


def test_nobody_waits(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {PENDING}", page([]))
    ran = edgectl("device", "approve", "--all", "-o", "json")
    assert (ran.code, ran.json) == (0, {"matched": 0, "done": [], "skipped": []})


def test_a_token_with_approval_says_what_comes_next(edgectl: Edgectl, fleet: Stub) -> None:
    token = {"id": "c1", "token": "efc1.abc", "expires_at": NOON.isoformat(), "approval": True}
    fleet.says("POST /enrollments", (201, {"tokens": [token]}))
    ran = edgectl("device", "enroll", "--approval", "--uses", "50")
    assert ran.out == "efc1.abc\n"
    assert "edgectl device pending" in ran.err
    assert edgectl("device", "enroll", "--no-approval").code == 0
    assert edgectl("device", "enroll").code == 0
    assert [one.get("approval") for one in fleet.bodies("POST /enrollments")] == [True, False, None]


def test_claim_tokens_are_listed_and_revoked(edgectl: Edgectl, fleet: Stub) -> None:
    claim = {
        "id": "c1",
        "uses": 50,
        "uses_left": 48,
        "expires_at": NOON.isoformat(),
        "created_at": NOON.isoformat(),
        "created_by": "ann",
        "profile": None,
        "labels": {},
        "devices": ["d-1", "d-2"],
        "approval": True,
        "pending": 7,
    }
    fleet.says("GET /enrollments", page([claim]))
    fleet.says("DELETE /enrollments/c1", {})
    shown = edgectl("device", "claims")
    for word in ("c1", "48/50", "yes", "7"):
        assert word in shown.out
    assert edgectl("device", "claims", "-o", "json").json["items"] == [claim]
    assert edgectl("device", "revoke-claim", "c1").code == 3
    assert edgectl("device", "revoke-claim", "c1", "--yes").code == 0
    assert [one.what for one in fleet.asked if one.what.startswith("DELETE")] == ["DELETE /enrollments/c1"]
