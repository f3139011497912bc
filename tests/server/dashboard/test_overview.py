"""The first page: its sentence, its first steps, the map in groups, pipelines, figures; and what the script of the map asks for."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.overview import map_picture
from edgefleet_server.dashboard.overview.first_steps import StepFacts, first_steps
from edgefleet_server.dashboard.overview.fleet_sentence import FleetFacts, ObjectiveFact, RolloutFact, sentence_of
from edgefleet_server.dashboard.overview.map_picture import Colouring
from edgefleet_server.dashboard.overview.tiles import Tile, tiles
from edgefleet_server.dashboard.overview.views import judged_first, model_shares
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.fleet.health_state import ATTENTION, Health
from edgefleet_server.fleet.inventory.device_list import Facets
from edgefleet_server.fleet.inventory.fleet_map import FleetMap, Grouping, MapGroup
from edgefleet_server.fleet.selectors.grammar import parse_selector
from tests.server.dashboard.fleet import ORT, Fleet, small
from tests.server.dashboard.test_fleet_drift import model, signal

H = Health
STOPPED = RolloutFact("r-1", "ocr@2", "rolling_back")


@pytest.mark.parametrize(
    ("facts", "kind", "title", "reasons", "act"),
    [
        (FleetFacts({}), "off", "No devices yet", [], None),
        (FleetFacts({H.HEALTHY: 248}), "ok", "All 248 devices are healthy", [], None),
        (FleetFacts({H.HEALTHY: 1}), "ok", "The only device is healthy", [], None),
        (FleetFacts({H.HEALTHY: 5, H.UPDATING: 2}), "run", "The fleet works; 2 devices are updating", [], None),
        (
            FleetFacts({H.HEALTHY: 9}, rollouts=[RolloutFact("r-1", "ocr@2", "running")]),
            "run", "All 9 devices are healthy", [], ("Watch ocr@2", "/rollouts/r-1"),
        ),
        (
            FleetFacts({H.HEALTHY: 243, H.DEGRADED: 2, H.OFFLINE: 3}, {H.DEGRADED: "Lyon", H.OFFLINE: "Osaka"}),
            "warn", "The fleet works, but 5 devices need attention",
            ["3 devices in Osaka are offline", "2 devices in Lyon are degraded"],
            ("Show the 5 devices", "/devices?selector=health+in+%28offline%2Cdegraded%29"),
        ),
        (
            FleetFacts({H.HEALTHY: 1, H.FAILING: 1}), "bad", "The fleet works, but 1 device needs attention",
            ["1 device does not run what it should"], ("Show the device", "/devices?selector=health%3Dfailing"),
        ),
        (
            FleetFacts({H.HEALTHY: 1, H.UNKNOWN: 4}), "warn", "4 of 5 devices need attention", ["4 devices were not heard of"],
            ("Show the 4 devices", "/devices?selector=health%3Dunknown"),
        ),
        (
            FleetFacts({H.OFFLINE: 2, H.UNKNOWN: 1}), "bad", "No device can be reached",
            ["2 devices are offline", "1 device was not heard of"],
            ("Show the 3 devices", "/devices?selector=health+in+%28offline%2Cunknown%29"),
        ),
        (FleetFacts({H.OFFLINE: 1}), "bad", "The only device cannot be reached", ["1 device is offline"],
         ("Show the device", "/devices?selector=health%3Doffline")),
        (
            FleetFacts({H.HEALTHY: 7, H.FAILING: 1}, rollouts=[STOPPED]), "bad", "ocr@2 is going back",
            ["1 device does not run what it should"], ("Show the rollout", "/rollouts/r-1"),
        ),
        (
            FleetFacts({H.HEALTHY: 7}, rollouts=[RolloutFact("r-1", "ocr@2", "rollback_incomplete")]), "bad",
            "ocr@2 could not go back everywhere", [], ("Show the rollout", "/rollouts/r-1"),
        ),
        (
            FleetFacts({H.HEALTHY: 7}, rollouts=[RolloutFact("r-1", "ocr@2", "regressed")]), "bad",
            "ocr@2 got worse after it was rolled out", [], ("Show the rollout", "/rollouts/r-1"),
        ),
        (
            FleetFacts({H.HEALTHY: 7}, alerts=2), "warn", "All 7 devices are healthy, but 2 alerts fire", [],
            ("Show the alerts", "/alerts"),
        ),
        (
            FleetFacts({H.HEALTHY: 7}, rollouts=[RolloutFact("r-1", "ocr@2", "awaiting_approval")]), "warn",
            "All 7 devices are healthy, but ocr@2 waits for a person", [], ("Show the rollout", "/rollouts/r-1"),
        ),
        (
            FleetFacts({H.HEALTHY: 7}, critical=1, objectives=[ObjectiveFact("fast", "ocr is fast", "spent")]), "bad",
            "All 7 devices are healthy, but 1 critical alert fires", ["the error budget of ocr is fast is spent"],
            ("Show the alerts", "/alerts"),
        ),
    ],
)  # fmt: skip
def test_the_sentence(
    facts: FleetFacts, kind: str, title: str, reasons: list[str], act: tuple[str, str] | None
) -> None:
    found = sentence_of(facts)
    assert (found.kind, found.title, [one.text for one in found.reasons], found.act) == (kind, title, reasons, act)


@pytest.mark.parametrize(
    ("states", "calm"),
    [
        ([], "5 of 6 devices are healthy."),
        (["ok"], "5 of 6 devices are healthy and the objective is met."),
        (["ok", "ok"], "5 of 6 devices are healthy and all 2 objectives are met."),
        (["ok", "no_data"], "5 of 6 devices are healthy and 1 of 2 objectives are met."),
        (["no_data"], "5 of 6 devices are healthy."),
    ],
)
def test_objectives_without_data_are_not_met(states: list[str], calm: str) -> None:
    objectives = [ObjectiveFact(str(n), "", state) for n, state in enumerate(states)]
    assert sentence_of(FleetFacts({H.HEALTHY: 5, H.UPDATING: 1}, objectives=objectives)).calm == calm


COUNTS = st.dictionaries(st.sampled_from([one for one in Health if one is not H.REVOKED]), st.integers(0, 40))
ROLLOUTS = st.lists(
    st.builds(
        RolloutFact,
        st.just("r-1"),
        st.just("ocr@2"),
        st.sampled_from(["running", "paused", "awaiting_approval", "rolling_back", "rollback_incomplete", "regressed"]),
    ),
    max_size=2,
)


@given(COUNTS, st.integers(0, 2), st.integers(0, 2), ROLLOUTS)
def test_what_is_silent_never_counts_as_good(
    devices: Mapping[Health, int], critical: int, alerts: int, rollouts: Sequence[RolloutFact]
) -> None:
    found = sentence_of(FleetFacts(devices, critical=critical, alerts=alerts, rollouts=rollouts))
    total, ill = sum(devices.values()), sum(devices.get(one, 0) for one in ATTENTION)
    assert (found.kind == "off") == (total == 0)
    if found.kind in {"ok", "run"}:
        assert ill == critical == alerts == 0
        assert {one.state for one in rollouts} <= {"running"}
    if total and (devices.get(H.FAILING, 0) or critical):
        assert found.kind == "bad"
    for one in found.reasons:
        assert one.text not in found.title
    if found.act and found.act[1].startswith("/devices?selector="):
        assert ill


@pytest.mark.parametrize(
    ("facts", "done"),
    [
        (StepFacts(0, 0, 0), [False, False, False]),
        (StepFacts(1, 0, 0), [True, False, False]),
        (StepFacts(0, 1, 0), [False, True, False]),
        (StepFacts(2, 1, 0), [True, True, False]),
        (StepFacts(2, 1, 1), []),
    ],
)
def test_first_steps_are_ticked_by_facts(facts: StepFacts, done: list[bool]) -> None:
    assert [one.is_done for one in first_steps(facts)] == done


def group(name: str, letters: str) -> MapGroup:
    return MapGroup(name, letters, " ".join(f"{name}{n}" for n in range(len(letters))))


def test_the_map_has_squares_words_and_lists_for_each_group_and_state() -> None:
    asked = map_picture.question(Grouping.SITE, Colouring.HEALTH, {}, "")
    found = FleetMap([group("Lyon", "hhwd".replace("w", "u")), group("", "o")], "v")
    shown = map_picture.picture(found, asked, Colouring.HEALTH, "", [], 5)
    assert [(one.name, one.words, one.address) for one in shown.groups] == [
        ("Lyon", "2 healthy, 1 degraded, 1 updating", "/devices?selector=site%3DLyon"),
        ("no site", "1 offline", "/devices?selector=%21site"),
    ]
    assert shown.groups[0].squares == ["", "", "u", "w"]
    assert not shown.is_drawn
    assert [(one.label, one.count, one.address) for one in shown.keys] == [
        ("healthy", 2, "/devices?selector=health%3Dhealthy"),
        ("degraded", 1, "/devices?selector=health%3Ddegraded"),
        ("failing", 0, ""),
        ("updating", 1, "/devices?selector=health%3Dupdating"),
        ("offline", 1, "/devices?selector=health%3Doffline"),
        ("unknown", 0, ""),
    ]


def test_versions_are_coloured_by_recency() -> None:
    versions = {"ocr": ["5", "4", "3", "2", "1"], "seg": ["1"]}
    of_site = map_picture.question(Grouping.SITE, Colouring.VERSION, versions, "ocr")
    assert [one[1:] for one in of_site.versions] == [("5", "1"), ("4", "2"), ("3", "3"), ("2", "4"), ("1", "4")]
    found = FleetMap([group("Lyon", "114-")], "v")
    shown = map_picture.picture(found, of_site, Colouring.VERSION, "ocr", list(versions), 4)
    assert shown.groups[0].words == "2 5, 1 2 and older, 1 no ocr"
    assert [(one.label, one.address) for one in shown.keys if one.count] == [
        ("5", "/devices?selector=model.ocr+in+%285%29"),
        ("2 and older", "/devices?selector=model.ocr+in+%282%2C1%29"),
        ("no ocr", "/devices?selector=%21model.ocr"),
    ]
    of_model = map_picture.question(Grouping.MODEL, Colouring.VERSION, versions, "ocr")
    assert {one[0] for one in of_model.versions} == {"ocr", "seg"}
    assert map_picture.question(Grouping.SITE, Colouring.VERSION, {}, "").versions


def test_a_large_map_is_drawn_by_the_script_and_has_bars_without_it() -> None:
    asked = map_picture.question(Grouping.SITE, Colouring.HEALTH, {}, "")
    found = FleetMap([group("Lyon", "h" * 999 + "oo")], "v")
    shown = map_picture.picture(found, asked, Colouring.HEALTH, "", [], 1001)
    assert shown.is_drawn
    assert shown.groups[0].squares == ()
    assert shown.groups[0].shares == [("f-ok", 99.8), ("f-off", 0.2)]
    plain = map_picture.plain(found, asked, Colouring.HEALTH, "")
    assert len(plain["groups"][0]["letters"]) == 1001
    assert plain["keys"]["o"] == {"label": "offline", "mark": "o"}


def chart(name: str, *figures: float | None, names: Sequence[str] = ("all",)) -> Chart:
    at = list(range(len(figures)))
    return Chart(name, name, "", list(names), [at, *([list(figures)] * len(names))], 0, 10)


def tile(found: Sequence[Tile], name: str) -> tuple[str, str]:
    one = next(each for each in found if each.id == name)
    return one.value, one.note


def test_nothing_is_claimed_that_was_not_measured() -> None:
    found = tiles([], [], {}, [])
    assert {one.value for one in found} == {"–"}
    assert {tile(found, name)[1] for name in ("requests", "errors", "p95", "nonfinite")} == {"Not measured yet"}


def test_no_failure_among_requests_is_a_rate_of_zero() -> None:
    found = tiles([chart("requests", 10.0, None, 12.0)], [], {H.HEALTHY: 999, H.OFFLINE: 1}, [])
    assert tile(found, "requests") == ("12", "9 % above the mean")
    assert tile(found, "errors") == ("0", "No objective")
    assert tile(found, "nonfinite") == ("0", "None in this time")
    assert tile(found, "online") == ("99.9", "999 of 1\N{NARROW NO-BREAK SPACE}000 devices now; no history yet")
    failures = chart("failures", 3, 0, names=("errors", "non-finite"))
    assert tile(tiles([chart("requests", 1.0, 1.0), failures], [], {}, []), "nonfinite") == ("3", "The last 10 s ago")


def test_presence_and_drift_have_a_chart_once_they_were_sampled() -> None:
    online, drifting = chart("online", 100.0, None, 50.0), chart("drifting", 0.0, 0.0, 25.0)
    found = tiles([online, drifting], [], {H.HEALTHY: 3, H.OFFLINE: 1}, [])
    assert tile(found, "online") == ("75.0", "3 of 4 devices now")
    assert tile(found, "drift") == ("25", "Devices that report drift; no signal is judged")
    assert [one.chart for one in found][-2:] == [online, drifting]
    assert found[-2].shares == ()
    once = tiles([chart("online", 100.0)], [], {H.HEALTHY: 3}, [])
    assert tile(once, "online") == ("100", "3 of 3 devices now; no history yet")
    assert once[-2].chart is None


def test_drift_that_was_judged_long_ago_is_not_said_of_now() -> None:
    drifting = model("warm", [signal("t", "drift", 0.4)])
    assert tile(tiles([], [], {}, [drifting]), "drift") == ("0.40", "1 signal drifts; worst: warm t")
    assert tile(tiles([], [], {}, [replace(drifting, is_old=True)]), "drift") == ("–", "Not measured lately")
    calm = model("calm", [signal("a")])
    found = tiles([], [], {}, [calm, replace(drifting, is_old=True)])
    assert tile(found, "drift") == ("0.01", "No signal drifts; worst: calm a")


def test_the_oldest_of_many_versions_are_one_part() -> None:
    versions = [("ocr", f"1.{n}.0", n + 1) for n in range(9)]
    (found,) = model_shares(Facets({}, {}, versions, (), 45))
    assert [(label, n) for label, n, *_ in found.shares] == [
        ("1.8.0", 9), ("1.7.0", 8), ("1.6.0", 7), ("1.5.0", 6), ("1.4.0", 5), ("4 older", 10),
    ]  # fmt: skip
    assert found.shares[-1][-1].endswith("model.ocr+in+%281.3.0%2C1.2.0%2C1.1.0%2C1.0.0%29")
    assert sum(percent for _, _, percent, *_ in found.shares) == pytest.approx(100, abs=0.01)
    (few,) = model_shares(Facets({}, {}, versions[:6], (), 21))
    assert [label for label, *_ in few.shares][-1] == "1.0.0"


def test_models_that_drifted_last_are_looked_at_first() -> None:
    versions = ["a", "b", "c", "d", "gone"]
    assert judged_first(versions, ["d", "elsewhere"], {"a", "b", "c", "d", "elsewhere"}, 3) == ["d", "a", "b"]
    assert judged_first(versions, [], {"a", "b", "c", "d"}, 3) == ["a", "b", "c"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(Path(tmp_path_factory.mktemp("overview")))
    small(fleet, 3)
    fleet.device("gate", ORT, {"site": "yard"})
    yield fleet
    fleet.close()


def test_the_script_of_the_map_reads_letters_and_names(fleet: Fleet) -> None:
    browser = fleet.browser(Role.VIEWER)
    found: dict[str, Any] = browser.get("/map").json()
    assert [(one["name"], one["letters"]) for one in found["groups"]] == [("hall", "hhh"), ("yard", "n")]
    names = browser.get("/map/names", params={"of": "hall", "start": 1}).json()
    hall = sorted(one.id for one in fleet.by_id.values() if one.id.startswith("cam"))
    assert [one for one, _ in names] == hall[1:]
    assert browser.get("/map/names?of=nowhere").json() == []
    assert browser.get("/map?group=moon").status_code == 422
    by_version = browser.get("/map?colour=version&group=model").json()
    assert [(one["name"], one["letters"]) for one in by_version["groups"]] == [("digits", "111"), ("", "-")]
    assert fleet.browser().get("/map").status_code == 401
    assert json.loads(browser.get("/map", headers={"accept-encoding": "gzip"}).text) == found


def test_the_page_charts_what_was_sampled_and_leaves_a_gap_where_nobody_looked(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    small(fleet, 3)
    browser, clock, sampler = fleet.browser(Role.VIEWER), fleet.house.clock, fleet.parts.sampler
    assert "no history yet" in browser.get("/?span=1h").text
    for minute in range(30):
        clock.turn(minutes=1)
        if not 10 <= minute < 12:
            assert sampler.tick()
    found = browser.get("/?span=1h").text
    tile_html = found[found.index('id="tile-online"') : found.index('id="tile-drift"')]
    assert "3 of 3 devices now" in tile_html
    assert "no history yet" not in tile_html
    path = re.search(r'class="ln s1" d="([^"]+)"', tile_html)
    assert path is not None
    assert path[1].count("M") == 2
    assert "Devices online" in browser.get("/fleet?span=1h").text
    said = fleet.house.client(Role.VIEWER).get("/api/v1/fleet/metrics", params={"points": 1500}).json()
    assert [one for one in said["system"]["online_ratio"] if one is not None] == [
        1.0
    ] * 27  # the step that begins now is not over
    assert "drifting_ratio" not in said["system"]
    fleet.close()


def test_the_page_of_a_device_says_when_it_was_away(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.parts.fleet.receiver.forget_presence()
    device, clock = fleet.device("cam", ORT, {}), fleet.house.clock
    for on, minutes in ((True, 30), (False, 3), (True, 10)):
        device.connect(on=on)
        clock.turn(minutes=minutes)
    browser, client = fleet.browser(Role.VIEWER), fleet.house.client(Role.VIEWER)
    page = browser.get(f"/devices/{device.id}?span=1h").text
    assert 'aria-label="Connection: online, then offline, then online"' in page
    assert "was offline for 3 min" in page
    found = client.get(f"/api/v1/devices/{device.id}/metrics").json()
    known = [one for one in found["system"]["online_ratio"] if one is not None]
    assert (len(known), known.count(0.0), known.count(1.0)) == (43, 3, 40)
    assert [(one["kind"], one["title"]) for one in found["marks"]] == [("offline", "offline for 3 min")]
    for on in (False, True) * 3:
        device.connect(on=on)
        clock.turn(seconds=5)
    page = browser.get(f"/devices/{device.id}?span=1h&again").text
    assert "was away 3 times; the last time it was offline for 5 s" in page
    found = client.get(f"/api/v1/devices/{device.id}/metrics").json()
    assert [(one["title"], one["n"]) for one in found["marks"]] == [("offline for 3 min", 1), ("offline", 3)]
    fleet.parts.fleet.receiver.forget_presence()  # the server was down since nobody knows when
    page = browser.get(f"/devices/{device.id}?span=1h").text
    assert 'aria-label="Connection: unknown"' in page
    fleet.close()


def test_the_page_leads_to_what_needs_attention(fleet: Fleet) -> None:
    page = fleet.browser(Role.VIEWER).get("/?group=profile&colour=version&span=7d").text
    assert "The fleet works, but 1 device needs attention" in page
    assert 'href="/devices?selector=health%3Dunknown">Show the device</a>' in page
    assert 'href="/?colour=version&amp;span=7d">Site</a>' in page
    assert "Last 7 days" in page
    assert '<i class="n"></i>' in page
    for selector in ("health=unknown", "health in (offline,unknown)"):
        assert parse_selector(selector)
    lists = fleet.browser(Role.VIEWER).get("/devices?selector=health%3Dunknown").text
    assert "gate" in lists
    assert ">healthy <b>3</b></a>" in lists


def test_an_empty_fleet_gets_first_steps(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    page = fleet.browser(Role.VIEWER).get("/").text
    assert "No devices yet" in page
    assert "0 of 3 done" in page
    fleet.release("digits@1.0.0", ORT)
    fleet.house.clock.turn(seconds=2)
    assert "1 of 3 done" in fleet.browser(Role.VIEWER).get("/").text
    fleet.close()
