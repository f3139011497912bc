"""How a failure that waits for confirmation stands in `rollout show`, `rollout explain` and `rollout plan`."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core.api.rollout import Confirmation, Decision, Plan, Rollout
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.rollout.confirmation_story import confirmation_fields
from edgefleet_cli.rollout.explain import verdicts
from edgefleet_cli.rollout.render import confirmation_lines, failure_lines
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub, cell, page, rollout, stage

ASKED: dict[str, Any] = {
    "number": 0,
    "code": "small_class",
    "error_class": "crash",
    "reports": 7,
    "reported_by": [{"device": f"d-{n}", "display_name": "door cam" if n == 1 else ""} for n in range(1, 8)],
    "how": "soak",
    "how_text": "drawn devices run the release for its soak of 30s",
    "drawn": [
        {"device": "d-8", "display_name": "", "is_new": True, "showed": "", "text": "no answer yet"},
        {"device": "d-9", "display_name": "gate", "is_new": False, "showed": "healthy", "text": "healthy for a whole soak"},
    ],
    "need": 2,
    "proof": "",
    "is_proof_ok": None,
    "verdict": "open",
    "text": "The crash failure waits for confirmation: 1 of 2 drawn devices is healthy; both must fail",
    "next": "No other device of the stratum is offered the release meanwhile",
    "opened_at": "2026-11-25T12:00:00Z",
    "deadline": "2026-11-25T12:40:00Z",
    "closed_at": None,
}  # fmt: skip


def shown(one: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a rollout with one confirmation."""
    return rollout(stages=[stage(0, "canary", [cell("rpi", confirmations=[one], **changes)])])


def test_show_has_a_line_while_it_is_open_and_while_a_person_must_decide() -> None:
    line = f"rpi: {ASKED['text']}, answer due 2026-11-25 12:40:00"
    assert confirmation_lines(struct_of(shown(ASKED), Rollout)) == [line]
    closed = {**ASKED, "verdict": "unconfirmed", "text": "It is not confirmed"}
    assert confirmation_lines(struct_of(shown(closed, code="unconfirmed"), Rollout)) == ["rpi: It is not confirmed"]
    assert confirmation_lines(struct_of(shown(closed), Rollout)) == [], "the rollout goes on"
    assert confirmation_lines(struct_of(rollout(), Rollout)) == []


def test_explain_tells_the_whole_story() -> None:
    assert dict(confirmation_fields(struct_of(ASKED, Confirmation))) == {
        "verdict": "open",
        "what": ASKED["text"],
        "reported by": "door cam (d-1), d-2, d-3, d-4, d-5 and 2 more",
        "confirmed by": ASKED["how_text"],
        "drawn": "d-8: no answer yet (offered the release for this); gate (d-9): healthy for a whole soak",
        "server": "",
        "opened": "2026-11-25 12:00:00",
        "closed": "",
        "answer due": "2026-11-25 12:40:00",
        "next": ASKED["next"],
    }
    proved = {**ASKED, "verdict": "proved", "drawn": [], "proof": "2 of 8 vectors differ", "is_proof_ok": False}
    fields = dict(confirmation_fields(struct_of({**proved, "closed_at": "2026-11-25T12:01:00Z"}, Confirmation)))
    assert fields["server"] == "its check failed: 2 of 8 vectors differ"
    assert (fields["closed"], fields["answer due"]) == ("2026-11-25 12:01:00", "")
    assert fields["drawn"] == "none: no other device could be asked"


def test_a_decision_says_what_it_knew_of_a_confirmation() -> None:
    words = {"verdict": "timed_out", "drawn": 3, "failed": 1, "need": 2}
    for known, told in (
        (words, "abort 0.87 of 100, confirmation timed out: 1 of 3 drawn failed, 2 must"),
        (None, "abort 0.87 of 100"),
    ):
        made = {"stage": "canary", "stratum": "rpi", "figures": {"e_abort": 0.87, "abort_at": 100.0}}
        decision = struct_of({**made, "evidence": {"words": known}}, Decision)
        (row,) = verdicts(struct_of(shown(ASKED), Rollout), [decision])
        assert row.evidence == told


def test_a_plan_says_what_one_failure_does_in_small_strata() -> None:
    strata = [{"stratum": "a", "after_failure": "if it fails, it fails"}, {"stratum": "b", "after_failure": ""}]
    assert failure_lines(struct_of({"strata": strata}, Plan)) == ["a: if it fails, it fails"]


def test_show_and_explain_write_it(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /rollouts/r-7", shown(ASKED))
    fleet.says("GET /rollouts/r-7/devices", page([]))
    fleet.says("GET /rollouts/r-7/decisions", page([]))
    assert " 1 of 2 drawn devices is healthy; both must fail" in " ".join(edgectl("rollout", "show", "r-7").out.split())
    told = edgectl("rollout", "explain", "r-7").out
    assert "Confirmation in canary / rpi" in told
    assert "gate (d-9): healthy for a whole soak" in " ".join(told.split())
