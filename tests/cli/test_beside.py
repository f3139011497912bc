"""`edgectl deploy --shadow | --split PCT | --end`, and how a candidate is shown, against a server that answers as the API does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

ASK = "POST /releases/digits@1.1.0:deploy"
SET = {"device": "d-1", "profile": "p", "gen": 4, "target": "digits/1.1.0/p.bundle"}
SKIPPED = {"device": "d-2", "profile": "p", "reason": "no version of digits is active there", "next": "See it."}


def deployment(*chosen: dict[str, Any]) -> dict[str, Any]:
    return {"release": "digits@1.1.0", "matched": 2, "set": list(chosen), "skipped": [SKIPPED]}


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        (["--shadow"], {"mode": "shadow"}),
        (["--split", "20"], {"mode": "split", "share_pct": 20, "salt": ""}),
        (["--split", "0", "--salt", "s1"], {"mode": "split", "share_pct": 0, "salt": "s1"}),
        (["--end"], {"mode": "end"}),
    ],
)
def test_the_flags_say_what_the_server_is_asked(
    edgectl: Edgectl, fleet: Stub, flags: list[str], body: dict[str, Any]
) -> None:
    fleet.says(ASK, deployment(SET))
    ran = edgectl("deploy", "digits@1.1.0", "--to", "site=berlin", *flags, "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["set"] == [SET]
    assert fleet.bodies(ASK) == [{"selector": "site=berlin", "device": None, "dry_run": False, **body}]
    assert "skipped d-2, p: no version of digits is active there" in ran.err


def test_no_device_is_a_failure_but_not_of_a_dry_run(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(ASK, deployment())
    assert edgectl("deploy", "digits@1.1.0", "--device", "d-2", "--shadow").code == 1
    assert edgectl("deploy", "digits@1.1.0", "--device", "d-2", "--shadow", "--dry-run").code == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--shadow", "--split", "5"],
        ["--shadow", "--end"],
        ["--shadow", "--wait"],
        ["--split", "5", "--strategy", "canary"],
        ["--salt", "s"],
        ["--shadow", "--salt", "s"],
        ["--split", "101"],
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_asked(
    edgectl: Edgectl, fleet: Stub, flags: list[str]
) -> None:
    assert edgectl("deploy", "digits@1.1.0", "--to", "", *flags).code == 2
    assert fleet.asked == []


def test_a_device_shows_its_candidate_and_how_it_compares(edgectl: Edgectl, fleet: Stub) -> None:
    shadow = {
        "offered": 120, "dropped": 3, "compared": 117, "failed": 0, "judged": 117, "agreed": 110, "agreement": 0.9402,
        "delta_p50": 0.01, "delta_p95": 0.3, "overlap": None, "active_p50_ms": 1.0, "active_p95_ms": 2.0, "kept": 7,
    }  # fmt: skip
    window = {
        "model": "digits", "version": "1.1.0", "lane": "candidate", "length_s": 60, "n": 117, "errors": 0, "nonfinite": 0,
        "crashes": 0, "latency_p50_ms": 1.5, "latency_p95_ms": 3.0, "worker_rss_bytes": 50_000_000, "shadow": shadow,
    }  # fmt: skip
    candidate = {"release": "digits@1.1.0", "mode": "shadow", "state": "running", "share_pct": 0, "reason": ""}
    device = {
        "id": "d-1",
        "profile": "p",
        "status": "online",
        "models": [{"model": "digits", "release": "digits@1.0.0", "phase": "committed", "candidate": candidate}],
        "labels": {},
        "desired": {"gen": 1, "models": []},
        "refused": None,
        "last_seen": None,
        "reported_gen": 1,
        "telemetry": {"received_at": "2026-01-03T12:00:00+00:00", "system": {}, "windows": [window]},
    }
    fleet.says("GET /devices/d-1", device)
    shown = edgectl("device", "show", "d-1").out
    for text in ("94.0%", "3 of", "candidate", "running"):
        assert text in shown
    far = {"answers": 132, "enough": 200, "within_s": 1800}
    trial = {"model": "digits", "release": "digits@1.1.0", "phase": "probation", "probation": far}
    fleet.says("GET /devices/d-1", {**device, "models": [trial]})
    described = edgectl("device", "describe", "d-1").out
    assert "probation  132 of 200 answers reported so far, or until 1800 s are over" in described
