"""`edgectl device measure` and the table beside `publish --measure-on`, against a server that answers as the API does."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core.api.device import Window
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.release.device_measurement import energy, figures_of
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub, page

ASK = "POST /releases/digits@1.1.0:deploy"
SET = {"device": "d-1", "profile": "p", "gen": 4, "target": "digits/1.1.0/p.bundle"}
PREDICTED = {"basis": "fitted", "models": 5, "latency_p50_ms": {"value": 1.2, "error": 0.2}, "memory_bytes": None}
RELEASE = {
    "ref": "digits@1.1.0",
    "state": "ready",
    "bundles": [{"profile": "p", "sha256": "ab", "predicted": PREDICTED}],
}


def window(p50: float, received: str = "2026-01-03T12:00:01+00:00", sha256: str = "ab") -> dict[str, Any]:
    return {
        "model": "digits", "version": "1.1.0", "lane": "measure", "sha256": sha256, "received_at": received, "n": 100,
        "latency_p50_ms": p50, "latency_p95_ms": p50 * 2, "worker_rss_bytes": 50_000_000, "joules_per_answer": 0.004,
    }  # fmt: skip


def device(state: str, reason: str = "") -> dict[str, Any]:
    candidate = {"release": "digits@1.1.0", "mode": "measure", "state": state, "share_pct": 0, "reason": reason}
    return {"id": "d-1", "reported_gen": 4, "refused": None, "models": [{"model": "digits", "candidate": candidate}]}


def answer(*chosen: dict[str, Any]) -> dict[str, Any]:
    skipped = [{"device": "d-1", "profile": "p", "reason": "it was not built for it", "next": ""}]
    return {"release": "digits@1.1.0", "matched": 1, "set": list(chosen), "skipped": [] if chosen else skipped}


def test_what_a_device_measured_is_told_beside_the_prediction_and_the_measurement_is_ended(
    edgectl: Edgectl, fleet: Stub
) -> None:
    fleet.says("GET /releases/digits@1.1.0", RELEASE)
    fleet.says(ASK, answer(SET))
    fleet.says("GET /devices/d-1", device("measured"))
    old = window(9.0, "2026-01-02T12:00:00+00:00")
    other = window(7.0, sha256="cd")
    rounds = [window(p50) for p50 in (1.0, 5.0, 1.1)]
    fleet.says("GET /devices/d-1/telemetry", page([old]), page([*rounds, other, old]))
    ran = edgectl("device", "measure", "d-1", "digits@1.1.0", "-o", "json")
    assert ran.code == 0, ran.err
    assert (ran.json["state"], ran.json["p50_ms"], ran.json["p95_ms"], ran.json["runs"]) == ("measured", 1.1, 2.2, 300)
    assert ran.json["predicted"] == PREDICTED
    assert [body["mode"] for body in fleet.bodies(ASK)] == ["measure", "end"]


def test_a_device_that_cannot_says_why_and_the_exit_code_is_1(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /releases/digits@1.1.0", RELEASE)
    fleet.says(ASK, answer(SET))
    fleet.says("GET /devices/d-1", device("failed", "wrong answers"))
    fleet.says("GET /devices/d-1/telemetry", page([]))
    ran = edgectl("device", "measure", "d-1", "digits@1.1.0")
    assert ran.code == 1
    assert "d-1: failed: wrong answers" in ran.err
    assert [body["mode"] for body in fleet.bodies(ASK)] == ["measure", "end"]
    fleet.says(ASK, answer())
    ran = edgectl("device", "measure", "d-1", "digits@1.1.0", "-o", "json")
    assert (ran.code, ran.json["state"], ran.json["reason"]) == (1, "skipped", "it was not built for it")


def test_figures_of_rounds_are_medians_and_energy_is_told_where_it_is_known() -> None:
    rounds = [{**window(2.0), "joules_per_answer": None}, window(4.0), window(100.0)]
    figures = figures_of([struct_of(one, Window) for one in rounds])
    assert (figures["p50_ms"], figures["p95_ms"], figures["joules_per_answer"]) == (4.0, 8.0, 0.004)
    assert (energy(None), energy(0.004), energy(2.5)) == ("-", "4.00 mJ", "2.50 J")
