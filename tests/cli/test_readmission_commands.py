"""`edgectl device readmissions | readmit`: who waits to come back, and what is decided is what was named or shown."""

from __future__ import annotations

import shlex
from typing import Any

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, page
from tests.house.pages import shell_blocks
from tests.house.tree import ROOT

PATH = "/readmissions"


def asks(device: str, **changes: Any) -> dict[str, Any]:
    """Return a request as the API gives it."""
    at = NOON.isoformat()
    unset = dict.fromkeys(("decided_at", "readmitted_at"))
    return {"device": device, "state": "pending", "ended_at": at, "asked_at": at, "heard_at": at, "why": "it is suspect",
            "decided_by": "", **unset, **changes}  # fmt: skip


def test_what_the_page_says_is_sent(edgectl: Edgectl, fleet: Stub) -> None:
    (block,) = [one for one in shell_blocks(ROOT / "docs/operate/returning-devices.md") if "readmit" in one.text]
    fleet.says(f"GET {PATH}", page([asks("d-1")]))
    for verb in ("approve", "refuse"):
        fleet.says(f"POST {PATH}:{verb}", {"done": [], "skipped": []})
    for line in block.text.splitlines():
        assert edgectl(*shlex.split(line)[1:], "--yes").code == 0
    named = "d-4kq2x7wz3m5ahd2c"
    assert fleet.bodies(f"POST {PATH}:approve") == [{"devices": [named]}, {"devices": ["d-1"]}]
    assert fleet.bodies(f"POST {PATH}:refuse") == [{"devices": [named], "reason": "stolen from hall 3"}]


def test_who_waits_is_listed_with_the_reason(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {PATH}", page([asks("d-1")]))
    shown = edgectl("device", "readmissions")
    assert "d-1" in shown.out
    assert "it is suspect" in shown.out
    assert edgectl("device", "readmissions", "--state", "refused", "-o", "name").out == "d-1\n"
    assert [one["state"] for one in fleet.queries(f"GET {PATH}")] == ["pending", "refused"]


def test_named_ones_come_back_and_what_was_skipped_is_said(edgectl: Edgectl, fleet: Stub) -> None:
    skipped = [{"device": "d-2", "reason": "it did not ask to come back", "next": "See `edgectl device readmissions`."}]
    fleet.says(f"POST {PATH}:approve", {"done": [asks("d-1", state="approved")], "skipped": skipped})
    ran = edgectl("device", "readmit", "d-1", "d-2")
    assert (ran.code, fleet.bodies(f"POST {PATH}:approve")) == (1, [{"devices": ["d-1", "d-2"]}])
    assert "approved: 1 of 2" in ran.err
    assert "d-2 skipped: it did not ask to come back" in ran.err


def test_all_that_wait_are_asked_about_and_named(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {PATH}", page([asks("d-1"), asks("d-2")]))
    fleet.says(f"POST {PATH}:refuse", {"done": [asks("d-1"), asks("d-2")], "skipped": []})
    assert edgectl("device", "readmit", "--all", "--refuse").code == 3  # nobody is there to ask
    assert fleet.bodies(f"POST {PATH}:refuse") == []
    ran = edgectl("device", "readmit", "--all", "--refuse", "--reason", "stolen", "--yes")
    assert (ran.code, fleet.bodies(f"POST {PATH}:refuse")) == (0, [{"devices": ["d-1", "d-2"], "reason": "stolen"}])


def test_unclear_choices_are_refused_before_anything_is_sent(edgectl: Edgectl, fleet: Stub) -> None:
    for words in ((), ("d-1", "--all"), ("d-1", "--reason", "stolen")):
        ran = edgectl("device", "readmit", *words)
        assert (ran.code, fleet.bodies(f"POST {PATH}:approve")) == (2, [])
