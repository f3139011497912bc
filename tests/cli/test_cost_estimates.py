"""Predictions for eyes: never a figure without its error, and no figure where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.options import Format
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.release.render import show_result
from edgefleet_cli.render.format import milliseconds, predicted, size
from edgefleet_cli.render.output import Output
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

FIGURE = {"value": 12.1, "low": 10.08, "high": 14.52, "error": 0.2}
FITTED: dict[str, Any] = {
    "basis": "fitted", "reason": "reports of this profile on 9 models", "level": 0.8, "models": 9, "devices": 3,
    "latency_p50_ms": FIGURE, "latency_p95_ms": {**FIGURE, "value": 15.0}, "memory_bytes": {**FIGURE, "value": 8.2e7, "error": 0.03},
}  # fmt: skip
NONE: dict[str, Any] = {
    "basis": "none", "reason": "1 of the 2 models needed were reported on", "level": 0.8, "models": 1, "devices": 1,
    "latency_p50_ms": None, "latency_p95_ms": None, "memory_bytes": None,
}  # fmt: skip
OBSERVED = {
    "devices": 3, "windows": 9, "answers": 900, "latency_p50_ms": 11.0, "latency_p95_ms": 14.0, "memory_bytes": 81_000_000,
}  # fmt: skip
ROW: dict[str, Any] = {
    "profile": "pi", "predicted": FITTED, "current": None, "observed": OBSERVED, "error": {"latency_p50_ms": 0.1},
    "within": {"latency_p50_ms": True},
}  # fmt: skip
STATE: dict[str, Any] = {
    "profile": "pi", "basis": "ratio", "reason": "2 models were reported on", "level": 0.8, "models": 2, "devices": 1,
    "error": {"latency_p50_ms": 0.4, "memory_bytes": 0.03},
    "examples": [{"release": "digits@1.0.0", "observed": OBSERVED, "left_out": {"latency_p50_ms": -0.12}}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("estimate", "told"),
    [
        (FITTED, "12 ms ±20 %"), (NONE, "no estimate: 1 model reported"), (None, "-"), ({}, "-"),
        ({**NONE, "models": 0}, "no estimate: 0 models reported"),
    ],
)  # fmt: skip
def test_a_figure_comes_with_its_error_or_the_reason_why_there_is_none(estimate: Any, told: str) -> None:
    assert predicted(estimate, "latency_p50_ms", milliseconds) == told


def test_memory_is_told_as_a_size() -> None:
    assert predicted(FITTED, "memory_bytes", size) == "78.2 MiB ±3 %"


def test_a_release_shows_what_was_predicted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = [{"profile": "pi", "predicted": FITTED}, {"profile": "old", "predicted": NONE}, {"profile": "local"}]
    show_result(Output(Format.TABLE), struct_of({"bundles": rows}, Release))
    shown = capsys.readouterr().out
    assert "12 ms ±20 %" in shown
    assert "no estimate: 1 model reported" in shown


def told(fleet: Stub, edgectl: Edgectl, row: dict[str, Any], form: str = "wide") -> str:
    """Return what `edgectl release performance` prints of one row."""
    fleet.says("GET /releases/m@1.0.0/performance", {"items": [row], "next_cursor": None, "total": 1})
    ran = edgectl("release", "performance", "m@1.0.0", "-o", form)
    assert ran.code == 0, ran.err
    return ran.out


def test_performance_puts_prediction_and_observation_side_by_side(
    fleet: Stub, edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    shown = told(fleet, edgectl, ROW)
    assert "12 ms ±20 %" in shown
    assert "11 ms" in shown
    assert "+10 %" in shown
    assert "pi: fitted: reports of this profile on 9 models, true for 80% of models" in shown
    outside = copy.deepcopy(ROW)
    outside["within"]["latency_p50_ms"] = False
    assert "+10 % (outside)" in told(fleet, edgectl, outside)
    unseen = {**ROW, "observed": None, "predicted": NONE, "current": FITTED, "error": {}, "within": {}}
    assert "12 ms ±20 % (today)" in told(fleet, edgectl, unseen)
    assert told(fleet, edgectl, ROW, "name") == "pi\n"


def test_a_profile_shows_the_state_of_its_cost_model(fleet: Stub, edgectl: Edgectl) -> None:
    fleet.says("GET /profiles/pi", {"name": "pi"})
    fleet.says("GET /profiles/pi/cost", STATE)
    shown = edgectl("profile", "show", "pi").out
    assert "ratio: 2 models were reported on" in shown
    assert "p50 ±40 %, memory ±3 %, true for 80% of models" in shown
    assert edgectl("profile", "show", "pi", "-o", "json").json == {"name": "pi"}
    listed = edgectl("profile", "cost", "pi").out
    assert "digits@1.0.0" in listed
    assert "-12 %" in listed
    assert edgectl("profile", "cost", "pi", "-o", "json").json == STATE
    fleet.says(
        "GET /profiles/pi/cost", {**STATE, "basis": "none", "error": {}, "models": 0, "devices": 0, "examples": []}
    )
    assert "no estimate" in edgectl("profile", "cost", "pi").out
