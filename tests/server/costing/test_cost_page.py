"""The page of costs."""

from __future__ import annotations

from pathlib import Path

from edgefleet_server.access.model import Role
from edgefleet_server.costing.model import CostLine, Kind
from edgefleet_server.dashboard.costs.cost_words import amount, energy, energy_part
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.test_pages import text_of


def test_the_page_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    browser = fleet.browser(Role.OPERATOR)
    assert "Nothing was counted in this span" in text_of(browser.get("/cost").text)
    fleet.release("digits@1.0.0", ORT)
    fleet.parts.fleet.groups.create("halls", "site=hall", "ann")
    device = fleet.device("cam-", ORT, {"site": "hall"})
    fleet.parts.costing.traffic.up(device.id, Kind.CAPTURES, "digits", 5 * 10**6)
    fleet.parts.costing.traffic.write()
    page = text_of(browser.get("/cost?span=24h").text)
    assert "0 B to devices and 5 MB from them. Set prices below to see money." in page
    assert "not measured" in page
    assert "Total 0 B 4.8 MiB" in page
    assert "No windows came" in page
    fleet.house.client(Role.OPERATOR).put("/api/v1/prices", json={"currency": "EUR", "up_gb": 100})
    priced = text_of(browser.get("/cost").text)
    assert "0.50 EUR in" in priced
    assert "Not in it, without a price or a measurement: downloads, device-hours, energy" in priced
    groups = text_of(browser.get("/cost?by=group").text)
    assert "halls" in groups
    assert "counts in each of their lines, and once in the total" in groups
    assert "Only of the model digits" in text_of(browser.get("/cost?model=digits&by=group").text)
    assert browser.get("/cost?group=nobody").status_code == 404
    fleet.close()


def _line(joules: float | None, measured: int, answers: int = 1000) -> CostLine:
    return CostLine(
        name="digits", down_bytes=0, up_bytes=0, telemetry_bytes=0, prediction_bytes=0, capture_bytes=0, device_hours=1.0,
        answers=answers, joules=joules, measured_answers=measured, devices=3, measured_devices=0, conversion_s=None,
        stored_bytes=None, stored_bundle_bytes=None, stored_source_bytes=None, stored_prediction_bytes=None,
        stored_capture_bytes=None,
    )  # fmt: skip


def test_figures_are_short_and_say_of_what_they_are() -> None:
    assert [amount(one, "EUR") for one in (None, 0.0, 0.00001, 0.00123, 12.345, 12_345.6)] == [
        "–", "0.00 EUR", "less than 0.0001 EUR", "0.0012 EUR", "12.35 EUR", "12\N{NARROW NO-BREAK SPACE}345.60 EUR",
    ]  # fmt: skip
    assert (energy(_line(None, 0)), energy_part(_line(None, 0))) == ("not measured", "0 of 3 devices could")
    assert (energy(_line(7_200_000, 10)), energy_part(_line(7_200_000, 10))) == (
        "2 kWh", "of 10 of 1\N{NARROW NO-BREAK SPACE}000 answers",
    )  # fmt: skip
    assert energy_part(_line(1.0, 1000)) == "of all answers"
