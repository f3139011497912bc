"""Pages of drift: said in words, then signal by signal, by cohort, by device; what counts as normal is chosen there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.ids import ModelName
from edgefleet_server.access.model import Role
from edgefleet_server.alerting.alert_facts.drift_verdicts import verdict_of
from edgefleet_server.dashboard.registry.histogram_chart import HEIGHT, histogram, trend
from tests.server.dashboard.drifting_fleet import pumps, say
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.shelf import shelve
from tests.server.dashboard.test_pages import part_of, text_of
from tests.server.dashboard.test_registry_pages import page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Twelve pumps, of which those at Lyon run warm; one says so. Tests only look at it, but for the last."""
    fleet = Fleet(tmp_path_factory.mktemp("site") / "server")
    shelve(fleet, "plain@1.0.0", ORT)
    say(fleet, pumps(fleet)[5])
    yield fleet
    fleet.close()


def test_the_page_says_what_moved_and_where(site: Fleet) -> None:
    html = page(site, "/models/pump/drift")
    told = text_of(html)
    assert "Drift of pump drift" in told
    assert "The inputs have drifted, the answers have not: temperature, 0.99 σ higher" in told
    assert "at site lyon (4 of 12 devices)." in told
    signals = part_of(html, "signals")
    assert signals.index("temperature") < signals.index("pressure")
    assert "temperature numeric drift site lyon 4 of 12 +" in signals
    assert html.count('class="histogram"') == 6
    words = part_of(html, "words")
    assert "temperature 1h +1.02 σ 0.41" in words
    assert 'href="/models/pump/drift"' in page(site, "/models/pump")


def test_the_fleet_names_site_signal_and_devices(site: Fleet) -> None:
    html = page(site, "/drift")
    assert "1 of 2 models drifts, most at site lyon" in text_of(html)
    assert "lyon pump: temperature 4 of 4 devices" in part_of(html, "sites")
    assert 'href="/devices?selector=site%3Dlyon"' in html
    assert 'href="/models/pump/drift/temperature"' in html
    told = part_of(html, "model-pump")
    assert "Signal lyon berlin osaka" in told or "Signal lyon osaka berlin" in told
    assert "temperature numeric drifts 4 of 4" in told
    assert told.count("as before") > 2
    assert "plain no reference Its bundles carry no reference" in part_of(html, "unjudged")


def test_a_signal_is_shown_by_cohort_and_device(site: Fleet) -> None:
    html = page(site, "/models/pump/drift/temperature?over=1h&version=1.0.0")
    assert "20 before, 2" in part_of(html, "figures")
    cohorts = part_of(html, "cohorts")
    for name in ("all 12", "site berlin 4", "site lyon 4", "site osaka 4"):
        assert name in cohorts
    devices = part_of(html, "devices")
    assert devices.count("moved") == 4
    assert devices.count("reports drift itself") == 1
    assert 'class="histogram large"' in html
    assert site.browser(Role.VIEWER).get("/models/pump/drift/humidity").status_code == 404


def test_what_has_no_reference_or_no_figures_says_so(site: Fleet) -> None:
    assert "Its bundles carry no reference" in text_of(page(site, "/models/plain/drift"))
    assert "No device has reported signals yet" in text_of(page(site, "/models/pump/drift?over=5m"))


def _worth(name: str, value: float) -> dict[str, Any]:
    return {
        "name": name,
        "input": "x",
        "kind": "column",
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "repeats": 5,
    }


WEIGHED: dict[str, Any] = {
    "profiles": [{"profile": ORT}],
    "importance": {
        "metric": "top1", "base": 0.94, "n": 200, "given": 200,
        "features": [_worth("temperature", 0.002), _worth("pressure", 0.31), _worth("current", 0.1)],
    },
}  # fmt: skip


def test_what_moved_and_matters_comes_first(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    try:
        warm = {"temperature": 1.5, "pressure": 0.7}
        pumps(fleet, lambda k: warm if 4 <= k < 8 else {}, WEIGHED)
        html = page(fleet, "/models/pump/drift")
        told, signals = text_of(html), part_of(html, "signals")
        assert "temperature. First to look at: pressure, 0." in told
        assert "Moved a lot, matters most: 31 % of accuracy (94 % → 63 %)." in told
        assert signals.index("pressure") < signals.index("temperature") < signals.index("current")
        assert "Moved a lot, matters little: no effect beyond chance" in signals
        assert "what drifts and matters first" in signals
        assert "Each input shuffled on 200 labelled evaluation samples; undisturbed: accuracy 94 %." in signals
        one = part_of(page(fleet, "/models/pump/drift/temperature"), "figures")
        assert "Importance Moved a lot, matters little: no effect beyond chance" in one
        found = fleet.parts.drift.of_model(ModelName("pump"))
        assert [one.name for one in found.signals[:2]] == ["pressure", "temperature"]
        matters = {one.name: one.matters for one in found.signals}
        assert matters == {
            "pressure": "most", "temperature": "little", "current": "some", "score": "", "classes": "", "confidence": "",
        }  # fmt: skip
        assert found.signals[0].psi < found.signals[1].psi
        alert = verdict_of(found, "pump", fleet.house.clock.now())
        assert [one.name for one in alert.signals] == ["pressure", "temperature"]
        assert alert.signals[1].said.endswith(
            "(4 of 12 devices). Moved a lot, matters little: no effect beyond chance."
        )
    finally:
        fleet.close()


def test_where_nothing_was_measured_it_says_so_and_the_furthest_comes_first(site: Fleet) -> None:
    signals = part_of(page(site, "/models/pump/drift"), "signals")
    assert "so they come by how far they moved. Not measured: " in signals
    assert "Matters" not in signals


def test_the_device_and_the_events_name_what_drifts(site: Fleet) -> None:
    device = next(one for one in site.by_id.values() if one.id in part_of(page(site, "/models/pump/drift"), "words"))
    assert "reports that 1 signal differs from what is normal" in part_of(page(site, f"/devices/{device.id}"), "drift")
    assert "temperature differs from its reference" in text_of(page(site, "/events?kind=drift"))


def test_a_period_is_chosen_as_normal_and_cleared_again(site: Fleet) -> None:
    browser, path = site.browser(Role.OPERATOR), "/models/pump/drift"
    send(browser, form(browser.get(path).text, "/do/set_drift_baseline"), {})
    told = text_of(browser.get(path).text)
    assert "a period that was chosen by" in told
    send(browser, form(browser.get(path).text, "/do/clear_drift_baseline"), {})
    assert "a period that was chosen by" not in text_of(browser.get(path).text)
    assert "needs the role operator" in text_of(page(site, path))


def test_the_drawing_has_both_histograms_on_one_scale() -> None:
    drawn = histogram(["< 1", "1 … 2", "≥ 2", "missing"], [0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0])
    assert drawn.most == 1.0
    assert [one.height for one in drawn.bars] == [0.0, 0.0, HEIGHT]
    assert drawn.outline == "M0 100L0 50L333.33 50L333.33 75L666.67 75L666.67 75L1000 75L1000 100"
    assert [(one.at, one.label) for one in drawn.ticks] == [(33.33, "1"), (66.67, "2")]
    with_missing = histogram(["a", "missing"], [1.0, 0.0], [0.5, 0.5])
    assert [one.name for one in with_missing.bars] == ["a", "missing"]
    assert histogram([], [], []).bars == []
    assert replace(drawn, most=2.0).most == 2.0


def test_a_trend_has_gaps_and_never_makes_little_look_like_much() -> None:
    assert trend([0.0, 0.25]) == "M0 17L72 1"
    assert trend([0.0, 0.0125, None, 0.5, 0.0]) == "M0 17L18 16.6M54 1L72 17"
    assert trend([None, 0.3]) == ""
