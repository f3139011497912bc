"""`metrics` of the fleet, a model, a group and a device, and `model explain`: pictures for eyes, rows and documents for programs."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub

STEPS = 4


def line(key: str, **figures: list[Any]) -> dict[str, Any]:
    """Return a line of STEPS steps; what is not given is all null."""
    names = ("requests", "requests_per_s", "errors", "timeouts", "nonfinite", "crashes", "p50_ms", "p95_ms", "p99_ms")
    return {"key": key, "classes": [], **{name: figures.get(name, [None] * STEPS) for name in names}}


def timeline(**changes: Any) -> dict[str, Any]:
    """Return figures of two versions, with a deploy and a rollback."""
    at = [(NOON + timedelta(minutes=15 * n)).isoformat() for n in range(STEPS)]
    new = line(
        "1.1.0",
        requests=[None, 900, 1800, 900],
        requests_per_s=[None, 1.0, 2.0, 1.0],
        errors=[None, 0, 3, 0],
        p95_ms=[None, 40.0, 44.0, 4.0],
    )
    old = line("1.0.0", requests=[900, 0, 0, 0], requests_per_s=[1.0, 0.0, 0.0, 0.0], p95_ms=[20.0, None, None, None])
    marks = [
        {"at": at[1], "kind": "deploy", "title": "digits@1.1.0 begins", "model": "digits", "rollout": "r1", "device": "", "n": 1},
        {"at": at[3], "kind": "rollback", "title": "digits@1.1.0 goes back", "model": "digits", "rollout": "r1", "device": "", "n": 3},
    ]  # fmt: skip
    return {
        "scope": "model", "name": "digits", "by": "version", "since": at[0], "until": at[-1], "step_s": 900, "at": at,
        "lines": [old, new], "system": {"temperature_celsius": [50.0, 51.0, 80.0, None]}, "system_most": {}, "drift": [],
        "marks": marks,
    } | changes  # fmt: skip


EXPLAINED = {
    "model": "digits", "device": "", "since": NOON.isoformat(), "until": NOON.isoformat(), "step_s": 900, "state": "rise",
    "said": "The p95 of digits rose from 20 ms to 40 ms. Most likely: throttled clock.", "rise": None, "where": "all",
    "place": "", "slower": 2, "parts": 2, "next": "check cooling and power supply; no release mends it",
    "causes": [
        {"kind": "throttling", "verdict": "likely", "score": 0.9, "title": "Throttled clock", "unit": "share", "before": 0.0,
         "after": 0.5, "said": "throttled clock: 0% before, 50% after", "evidence": ["it moved together with latency"], "against": []},
        {"kind": "release", "verdict": "unlikely", "score": 0.1, "title": "Version 1.1.0", "unit": "share", "before": 0.0,
         "after": 1.0, "said": "its share of the answers: 0% before, 100% after", "evidence": [], "against": ["3 of 3 had it"]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("model", "metrics", "digits", "--by", "version"), "GET /models/digits/metrics"),
        (("group", "metrics", "hall"), "GET /groups/hall/metrics"),
        (("device", "metrics", "d-1"), "GET /devices/d-1/metrics"),
        (("fleet", "metrics"), "GET /fleet/metrics"),
    ],
)
def test_figures_are_bars_and_marks_on_one_axis(
    edgectl: Edgectl, fleet: Stub, words: tuple[str, ...], path: str
) -> None:
    fleet.says(path, timeline())
    ran = edgectl(*words)
    assert ran.code == 0, ran.err
    rows = {tuple(part.split()[:2]): part for part in ran.out.splitlines()}
    assert "▲ ▼" in rows["-", "marks"]
    assert "██▁" in rows["1.1.0", "p95"]
    assert rows["1.1.0", "requests"].split()[-1] == "1/s"
    assert ("1.1.0", "errors") in rows
    assert ("1.0.0", "errors") not in rows
    assert rows["devices", "Temperature"].rstrip().endswith("80 °C")
    assert "digits@1.1.0 goes back (3 times)" in ran.out
    assert [one for one in ran.out.splitlines() if len(one) > 80] == []
    assert edgectl(*words, "-o", "json").json == timeline()


def test_a_device_without_a_model_has_bars_too(edgectl: Edgectl, fleet: Stub) -> None:
    said = timeline(scope="device", lines=[], marks=[], system={"load_1m": [0.5, 0.25, None, 1.0]})
    fleet.says("GET /devices/d-1/metrics", said)
    ran = edgectl("device", "metrics", "d-1")
    assert "devices  Load" in ran.out
    assert [one for one in ran.out.splitlines() if len(one) > 80] == []


def test_what_belongs_to_none_is_not_called_all(edgectl: Edgectl, fleet: Stub) -> None:
    rates = [1234.0] * STEPS
    fleet.says("GET /fleet/metrics", timeline(by="site", lines=[line("", requests=[1] * STEPS, requests_per_s=rates)]))
    ran = edgectl("fleet", "metrics", "--by", "site")
    assert "no site  requests" in ran.out
    assert "1,234/s" in ran.out


def test_a_young_fleet_is_shown_from_its_beginning_on(edgectl: Edgectl, fleet: Stub) -> None:
    at = [(NOON + timedelta(hours=8 * n)).isoformat() for n in range(STEPS)]
    day = timeline(at=at, since=at[0], until=at[-1], lines=[line("1.0.0", requests=[None, None, None, 900])], system={})
    fleet.says("GET /fleet/metrics", day, timeline())
    assert "steps of 15m" in edgectl("fleet", "metrics").out
    queries = fleet.queries("GET /fleet/metrics")
    assert len(queries) == 2
    assert "since" not in queries[0]
    assert "since" in queries[1]
    fleet.asked.clear()
    fleet.says("GET /fleet/metrics", day)
    edgectl("fleet", "metrics", "--since", "24h")
    edgectl("fleet", "metrics", "-o", "json")
    assert len(fleet.queries("GET /fleet/metrics")) == 2


def test_rows_for_programs_are_steps(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /models/digits/metrics", timeline())
    rows = list(csv.DictReader(io.StringIO(edgectl("model", "metrics", "digits", "-o", "csv").out)))
    assert [(row["line"], row["requests"]) for row in rows if row["line"] != "devices"] == [
        ("1.0.0", "900"), ("1.0.0", "0"), ("1.0.0", "0"), ("1.0.0", "0"), ("1.1.0", "900"), ("1.1.0", "1800"), ("1.1.0", "900"),
    ]  # fmt: skip
    assert [row["temperature_celsius"] for row in rows if row["line"] == "devices"] == ["50.0", "51.0", "80.0"]


def test_a_time_without_figures_says_so(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /models/digits/metrics", timeline(lines=[], system={}, marks=[]))
    ran = edgectl("model", "metrics", "digits", "--since", "7d")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("no figures in this time")
    assert edgectl("model", "metrics", "digits", "--since", "soon").code == 2


def test_causes_come_with_what_is_for_and_against_them(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /models/digits/latency-explanation", EXPLAINED)
    ran = edgectl("model", "explain", "digits", "--since", "6h")
    assert ran.code == 0, ran.err
    assert "Most likely: throttled clock." in ran.out.replace("\n", " ")
    assert "next: check cooling" in ran.out
    assert "●●●" in ran.out
    assert "+ it moved together with latency" in ran.out
    assert "- 3 of 3 had it" in ran.out
    assert [one for one in ran.out.splitlines() if len(one) > 80] == []
    assert edgectl("model", "explain", "digits", "-o", "json").json == EXPLAINED
    assert edgectl("model", "explain", "digits", "-o", "name").out.split() == ["throttling", "release"]
