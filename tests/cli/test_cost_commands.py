"""`edgectl cost` and `edgectl prices` against a server that answers as the API does."""

from pathlib import Path
from typing import Any

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub

LINE: dict[str, Any] = {
    "name": "digits", "down_bytes": 5_000_000, "up_bytes": 1_000_000, "telemetry_bytes": 1_000_000, "device_hours": 72.5,
    "answers": 1000, "joules": None, "measured_answers": 0, "devices": 3, "measured_devices": 0, "conversion_s": 12.0,
    "stored_bytes": 900,
    "money": {"down": 0.5, "up": None, "device_hours": 0.0, "total": 0.5, "unpriced_bytes": 1_000_000},
}  # fmt: skip
REPORT: dict[str, Any] = {
    "since": "2026-11-01T00:00:00Z", "until": "2026-12-01T00:00:00Z", "by": "group", "counted_since": "2026-11-20T00:00:00Z",
    "currency": "EUR", "lines": [LINE], "total": LINE | {"name": ""}, "is_sum": False, "bundles_sent": 1, "compared": 1,
    "smaller_bundles": [
        {"release": "digits@1.0.0", "profile": "board", "candidate": "fp32", "candidate_bytes": 4096, "smaller": "int8-static",
         "smaller_bytes": 1024, "sent_bytes": 5_000_000, "saved_bytes": 3_750_000, "saved": 0.375, "how": "5,000,000 bytes sent × …"},
    ],
    "longer_windows": [
        {"model": "digits", "windows": 290, "window_bytes": 410.0, "times": 4, "saved_bytes": 750_000, "saved": None, "how": "290 …"},
    ],
    "methods": [{"figure": "joules", "how": "joules an answer …"}],
}  # fmt: skip
PRICES = "currency: EUR\ndown_gb: 0.09\ngroups:\n  - {group: mobile, up_gb: 4}\n"
KNOWN: dict[str, Any] = {
    "prices": {"currency": "EUR", "down_gb": 0.09, "groups": [{"group": "mobile", "down_gb": None, "up_gb": 4}]},
    "set_at": "2026-12-01T00:00:00Z",
    "set_by": "ann",
}


def test_costs_say_what_is_known_and_how(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /cost", REPORT, REPORT, REPORT)
    ran = edgectl("cost", "digits", "--by", "group", "--group", "mobile")
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    for part in (
        "total", "not measured", "0 of 3 devices", "counts in each of their lines", "0.50 EUR: down 0.50, device-hours 0.00.",
        "Without a price or a measurement: up, energy, conversion, storage.", "have no price.", "int8-static", "4x as long",
        "joules an answer", "bytes are counted since",
    ):  # fmt: skip
        assert part in said, (part, said)
    query = fleet.asked[-1].query
    assert (query["model"], query["by"], query["group"]) == ("digits", "group", "mobile")
    assert edgectl("cost", "-o", "name").out.split() == ["digits"]
    assert '"is_sum":' in edgectl("cost", "-o", "json").out


def test_without_prices_and_savings_it_says_so(edgectl: Edgectl, fleet: Stub) -> None:
    bare: dict[str, Any] = {
        "lines": [],
        "smaller_bundles": [],
        "longer_windows": [],
        "counted_since": None,
        "is_sum": True,
    }
    measured = LINE | {"name": "", "money": None, "joules": 7_200_000.0, "measured_answers": 1000}
    fleet.says("GET /cost", REPORT | bare | {"total": measured})
    said = " ".join(edgectl("cost").out.split())
    for part in (
        "No prices:",
        "2 kWh",
        "no smaller candidate kept the metric",
        "No windows came",
        "no bytes were counted yet",
    ):
        assert part in said, (part, said)


def test_a_price_file_goes_along_with_the_question(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    fleet.says("POST /cost:price", REPORT)
    assert edgectl("cost", "--prices", str(file), "-o", "json").code == 0
    body = fleet.asked[-1].body
    assert body["prices"] == {"currency": "EUR", "down_gb": 0.09, "groups": [{"group": "mobile", "up_gb": 4}]}
    assert body["by"] == "model"
    for text, says in (
        ("- 1\n", "has no prices"),
        ("a: [\n", "neither YAML nor JSON"),
        ("a: " + "b" * 100_001, "too large"),
    ):
        file.write_text(text)
        ran = edgectl("cost", "--prices", str(file))
        assert (ran.code, says in ran.err) == (2, True), ran.err


def test_prices_are_set_shown_and_removed(edgectl: Edgectl, fleet: Stub, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    fleet.says("PUT /prices", KNOWN, KNOWN)
    fleet.says("GET /prices", KNOWN)
    fleet.says("DELETE /prices", {})
    assert edgectl("prices", "set", "-f", str(file), "--dry-run").code == 0
    assert fleet.asked[-1].query["dry_run"] == "true"
    assert edgectl("prices", "set", "-f", str(file)).code == 0
    shown = " ".join(edgectl("prices", "show").out.split())
    assert "0.09 EUR" in shown
    assert "4 EUR a GB from devices" in shown
    assert edgectl("prices", "remove", "--yes").code == 0
