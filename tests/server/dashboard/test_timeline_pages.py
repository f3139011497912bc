"""Charts of the fleet, a model and a group with marks, their file, and the page that says why latency rose."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.filters import evidence
from edgefleet_server.dashboard.core.line_chart import Band, Limit, ScaleKind
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.dashboard.core.render import environment
from edgefleet_server.dashboard.devices.chart_worth import SHOWN, by_worth
from edgefleet_server.dashboard.timelines.chart_limits import Limits
from edgefleet_server.dashboard.timelines.charts import MOST_SERIES, SPANS, Chart, ChartMark, charts, fitting
from edgefleet_server.dashboard.timelines.time_range import Asked
from edgefleet_server.dashboard.timelines.views import TimelineViews
from edgefleet_server.events.model import NewEvent
from edgefleet_server.telemetry.timelines.csv_table import csv_lines
from edgefleet_server.telemetry.timelines.model import (
    MOST_CLASSES,
    ClassShares,
    DriftLine,
    LinesBy,
    Mark,
    MarkKind,
    MetricLine,
    Scope,
    Timeline,
)
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.live_elements import live_elements
from tests.server.objectives.test_openslo import share
from tests.server.telemetry.sending_fleet import SendingFleet

BEGIN = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(scope="module")
def sending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendingFleet]:
    """Devices of which one gets slow and hot with 1.1.0; tests only look."""
    made = SendingFleet(tmp_path_factory.mktemp("charts") / "server")
    made.join(3, "hall")
    made.parts.fleet.groups.create("halls", "site=hall", "ann")

    def later(step: int, device: str, said: dict[str, Any]) -> None:
        said["version"] = "1.1.0"
        if device == made.devices[0].id:
            said.update(ms=60.0, errors=9, throttled_ratio=0.5, temperature_celsius=84.0)

    made.go_on(40)
    detail = {"to": "running", "from": "validating", "release": "digits@1.1.0"}
    made.parts.fleet.feed.add([NewEvent("rollout", model="digits", rollout="r1", detail=detail)])
    made.go_on(40, later)
    made.devices[0].say(0, [], facts={"throttles_at_celsius": 83, "critical_at_celsius": 1e9})
    yield made
    made.fleet.close()


def figures(page: str) -> dict[str, Any]:
    """Return the charts that a page carries for its script, by id."""
    found = re.findall(r"<script[^>]* data-figures>(.*?)</script>", page, re.DOTALL)
    assert found
    return {one["id"]: one for text in found for one in json.loads(text)["charts"]}


def test_the_page_of_a_model_has_a_line_for_each_version_and_marks(sending: SendingFleet) -> None:
    page = sending.fleet.browser(Role.VIEWER).get("/models/digits").text
    found = figures(page)
    assert list(found)[:2] == ["p95", "failed"]
    assert found["p95"]["names"] == found["failed"]["names"] == ["1.1.0", "1.0.0"]
    assert {"failed", "failures", "classes", "memory", "temperature", "throttled", "network"} <= found.keys()
    assert page.count('class="of-deploy"') == len(found)
    assert "digits@1.1.0 begins" in page
    assert 'href="/rollouts/r1"' in page
    assert "Why did latency rise?" in page


def test_lines_and_spans_are_chosen_by_links(sending: SendingFleet) -> None:
    browser = sending.fleet.browser(Role.VIEWER)
    by_site = browser.get("/models/digits?span=7d&by=site").text
    assert figures(by_site)["p95"]["names"] == ["hall"]
    assert 'aria-current="true">7d' in by_site
    assert 'aria-current="true">site' in by_site
    assert figures(browser.get("/fleet").text)["p95"]["names"] == ["digits"]
    assert figures(browser.get("/groups/halls").text)["requests"]["names"] == ["digits"]
    assert {"p95", "requests", "failed"} <= figures(browser.get("/").text).keys()


def test_the_file_has_what_the_charts_show(sending: SendingFleet) -> None:
    browser = sending.fleet.browser(Role.VIEWER)
    answer = browser.get("/metrics-file?scope=model&name=digits&span=24h")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert sum(int(row["requests"]) for row in rows if row["line"] == "1.1.0") == 3 * 40 * 900
    assert browser.get("/metrics-file?scope=group&name=nobody").status_code == 404
    odd = browser.get("/metrics-file?scope=fleet&name=%E8%AA%9E")
    assert 'filename="fleet-metrics-' in odd.headers["content-disposition"]
    browser.cookies.clear()
    away = browser.get("/metrics-file?scope=fleet", follow_redirects=False)
    assert (away.status_code, away.headers["location"].partition("?")[0]) == (303, "/login")


def test_the_first_figures_come_to_a_page_that_is_open(empty_fleet: Fleet, sending: SendingFleet) -> None:
    slo = share("success", site="lab") | {"metadata": {"name": "ok"}}
    assert sending.fleet.house.client(Role.ADMIN).put("/api/v1/slos/ok", json=slo).status_code == 201
    for fleet, path, shown, data, words in (
        (empty_fleet, "/", "tiles", "tile-data", "Not measured yet"),
        (sending.fleet, "/slos/ok", "charts", "chart-data", "Nothing was counted yet"),
    ):
        parts = live_elements(fleet.browser(Role.VIEWER).get(path).text)
        assert words in parts[shown]
        assert figures(parts[data]) == {}


def test_a_device_that_says_where_it_throttles_has_that_line(sending: SendingFleet) -> None:
    browser = sending.fleet.browser(Role.VIEWER)
    hot, other = (browser.get(f"/devices/{one.id}").text for one in sending.devices[:2])
    assert "throttles at 83 °C" in hot
    assert "switches off" not in hot
    assert 'data-chart="temperature"' in other
    assert "throttles at" not in other
    api = sending.fleet.house.client(Role.VIEWER)
    said = [api.get(f"/api/v1/devices/{one.id}/metrics").json() for one in sending.devices[:2]]
    assert [one["limits"] for one in said] == [{"throttles_at_celsius": 83.0}, {}]


def test_the_page_of_latency_ranks_causes_with_their_evidence(sending: SendingFleet) -> None:
    browser, slow = sending.fleet.browser(Role.VIEWER), sending.devices[0].id
    page = browser.get(f"/models/digits/latency?device={slow}").text
    assert "Most likely: throttled clock." in page
    assert "check cooling and power supply" in page
    assert page.index("Throttled clock") < page.index("Version 1.1.0") < page.index("Little free memory")
    assert "2 of 2 devices that stayed fast had the same change" in page
    calm = browser.get(f"/models/digits/latency?device={sending.devices[1].id}").text
    assert "did not rise" in calm
    assert browser.get("/models/nobody/latency").status_code == 404
    assert "Why did the latency of digits rise?" in browser.get("/models/digits/latency").text


def line(key: str, requests: list[int | None]) -> MetricLine:
    nothing: list[Any] = [None] * len(requests)
    p95 = [None if one is None else 20.0 for one in requests]
    return MetricLine(key, requests, nothing, nothing, nothing, nothing, nothing, nothing, p95, nothing, ())


def timeline(lines: list[MetricLine], by: LinesBy = LinesBy.VERSION, **more: Any) -> Timeline:
    steps = len(lines[0].requests)
    at = [BEGIN + timedelta(hours=n) for n in range(steps)]
    made = Timeline(Scope.MODEL, "digits", by, at[0], at[-1] + timedelta(hours=1), 3600, at, lines, {}, {}, (), ())
    return replace(made, **more)


def test_versions_are_ordered_by_when_they_came_and_others_by_what_they_answer() -> None:
    old, new = line("2.0.0", [5, 5, None]), line("1.9.1", [None, 1, 1])
    (chart,) = charts(timeline([old, new]))
    assert (chart.names, chart.is_of_versions) == (["1.9.1", "2.0.0"], True)
    (chart,) = charts(timeline([new, old], LinesBy.SITE))
    assert (chart.names, chart.is_of_versions) == (["2.0.0", "1.9.1"], False)


def test_a_chart_has_no_more_lines_than_can_be_told_apart() -> None:
    (chart,) = charts(timeline([line(f"{n}", [n, n]) for n in range(1, 12)], LinesBy.SITE))
    assert chart.names == [f"{n}" for n in range(11, 11 - MOST_SERIES, -1)]


def test_of_a_device_the_charts_that_matter_go_first_and_the_rest_is_folded(sending: SendingFleet) -> None:
    hot, calm = (sending.fleet.browser(Role.VIEWER).get(f"/devices/{one.id}").text for one in sending.devices[:2])
    wanted = (
        (hot, ["latency-0", "temperature", "throttled", "failed-0"]),
        (calm, ["latency-0", "temperature", "requests-0", "cpu"]),
    )
    for page, first in wanted:
        parts = live_elements(page)
        assert re.findall(r'data-chart="([^"]+)"', parts["charts"]) == first
        others = re.findall(r'data-chart="([^"]+)"', parts["more-charts"])
        assert {*first, *others} == figures(page).keys()
        assert f"<summary>{len(others)} more charts</summary>" in parts["more-charts"]


def test_the_latency_of_many_models_leaves_room() -> None:
    lines = [line(name, [5]) for name in ("a", "a, candidate", "b", "c")]
    system = {"temperature_celsius": [50.0], "throttled_ratio": [0.0], "cpu_ratio": [0.5]}
    every = charts(timeline(lines, LinesBy.MODEL, scope=Scope.DEVICE, name="d", system=system))
    ids = [one.id for one in by_worth(every)]
    assert ids[:SHOWN] == ["latency-0", "temperature", "requests-0", "cpu"]
    assert sorted(ids) == sorted(one.id for one in every)
    assert by_worth([]) == []


@pytest.mark.parametrize(
    ("value", "shown"), [(22561.4, "22\u202f561"), (-1234.5, "-1\u202f234"), (999.96, "1000"), (0.12345, "0.1235")]
)
def test_figures_are_no_powers_of_ten(value: float, shown: str) -> None:
    assert evidence(value) == shown


def test_drift_has_the_axis_of_the_other_charts() -> None:
    drift = [DriftLine("blur", BEGIN + timedelta(hours=5), 3600, [0.1, None, 0.3])]
    latency, psi = charts(timeline([line("1.0.0", [5] * 9)], drift=drift))
    assert (psi.id, psi.begin, psi.end) == ("drift", latency.begin, latency.end)
    assert psi.data[0] == [int(BEGIN.timestamp()) + 3600 * n for n in (5, 7)]


def test_figures_in_bytes_have_the_unit_of_the_largest() -> None:
    gib = 1024**3
    system = {
        "disk_free_bytes": [29.5 * gib, None],
        "memory_available_bytes": [2.0 * gib, gib],
        "agent_rss_bytes": [None, gib / 32],
    }
    made = timeline(
        [line("1.0.0", [5, 5])], scope=Scope.DEVICE, name="d", system=system | {"net_rx_bytes_per_s": [512.0, 2048.0]}
    )
    found = {one.id: one for one in charts(made, Limits(rules={"disk_full": 512.0}))}
    assert (found["disk"].unit, found["disk"].data[1], found["disk"].limits[0].value) == ("GiB", [29.5], 0.5)
    assert (found["memory"].unit, found["memory"].names, found["memory"].data[2]) == (
        "GiB",
        ["free", "agent"],
        [None, 0.03],
    )
    assert (found["network"].unit, found["network"].data[1]) == ("KiB/s", [0.5, 2.0])


def test_shares_of_classes_are_those_of_all_lines() -> None:
    classes = [ClassShares(7, [0.75] * 3), ClassShares(-1, [0.25] * 3)]
    _, mix = charts(timeline([line("1.0.0", [5] * 3)], classes=classes))
    assert (mix.names, mix.data[1:]) == (["class 7", "other classes"], [[75.0] * 3, [25.0] * 3])
    assert MOST_CLASSES + 1 <= MOST_SERIES


@pytest.mark.parametrize(
    ("by", "name"), [(LinesBy.NONE, "all"), (LinesBy.SITE, "no site"), (LinesBy.GROUP, "no group")]
)
def test_what_belongs_to_none_is_not_called_all(by: LinesBy, name: str) -> None:
    made = timeline([line("", [5, 5])], by)
    assert charts(made)[0].names == [name]
    assert f",{name}," in "".join(csv_lines(made))


@pytest.mark.parametrize(("steps", "span"), [(0, "24h"), (1, "1h"), (5, "6h"), (7, "24h")])
def test_a_young_fleet_has_a_short_span(steps: int, span: str) -> None:
    assert fitting(timeline([line("1.0.0", [*[None] * (24 - steps), *[5] * steps])])) == span


def test_an_old_fleet_has_the_usual_span_where_steps_begin_before_it() -> None:
    since = BEGIN + timedelta(minutes=17)
    old = timeline([line("1.0.0", [5] * 25)], since=since, until=since + timedelta(hours=24))
    assert fitting(old) == "24h"


def test_a_window_that_begins_now_leaves_the_usual_span(empty_fleet: Fleet) -> None:
    """A step of a quarter of an hour has it; a minute that begins now is none of the steps of a shorter span."""

    class Reader:
        def read(self, *asked: Any, **more: Any) -> Timeline:
            length = asked[3] - asked[2]
            return timeline([line("1.0.0", [*[None] * 23, *[5 if length == timedelta(days=1) else None]])])

    clock = empty_fleet.house.clock
    view = TimelineViews(Reader(), Readings(clock), clock).view(Scope.FLEET)  # type: ignore[arg-type]
    assert (view.span, [one.id for one in view.charts]) == ("24h", ["p95"])


def test_steps_between_seldom_reports_do_not_break_a_line_but_silence_does() -> None:
    seldom: list[int | None] = [9 if n % 3 == 0 else None for n in range(30)]
    (chart,) = charts(timeline([line("1", seldom)]))
    assert chart.drawing.lines[0].count("M") == 1
    silent = [*seldom, *[None] * 20, *seldom]
    (chart,) = charts(timeline([line("1", silent)]))
    assert chart.drawing.lines[0].count("M") == 2
    assert (chart.begin, chart.end) == (int(BEGIN.timestamp()), int(BEGIN.timestamp()) + 80 * 3600)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/fleet",
        "/models/digits",
        "/models/digits/latency",
        "/models/digits/accuracy",
        "/groups/halls",
        "/devices/{device}",
    ],
)
def test_a_window_in_the_address_holds_for_all_pages_with_charts(sending: SendingFleet, path: str) -> None:
    browser, now = sending.fleet.browser(Role.VIEWER), sending.fleet.house.clock.now()
    address, begin = path.format(device=sending.devices[0].id), now - timedelta(hours=6)
    page = browser.get(f"{address}?from={begin:%Y-%m-%dT%H:%MZ}&to={int((now - timedelta(hours=2)).timestamp())}").text
    for chart in figures(page).values():
        assert begin.timestamp() - 900 <= chart["data"][0][0] < chart["data"][0][-1] <= now.timestamp() - 7_200
    assert f"{begin:%Y-%m-%d %H:%M} to {now - timedelta(hours=2):%H:%M} UTC" in page
    assert "Back to the last" in page
    wrong = browser.get(f"{address}?from=noon")
    assert wrong.status_code == 422
    assert "which is no time" in wrong.text
    assert "2026-11-30T10:00:00Z" in wrong.text
    assert "is not before" in browser.get(f"{address}?from={int(now.timestamp())}&to=2026-11-01T00:00Z").text
    assert browser.get(f"{address}?scale=round").status_code == 422


def test_a_window_is_cut_into_fitting_steps_and_its_links_and_file_keep_it(sending: SendingFleet) -> None:
    browser, now = sending.fleet.browser(Role.VIEWER), sending.fleet.house.clock.now()
    window = f"from={now - timedelta(hours=4):%Y-%m-%dT%H:%M:%SZ}&to={now - timedelta(hours=3):%Y-%m-%dT%H:%M:%SZ}"
    page = unescape(browser.get(f"/models/digits?{window}&by=site&scale=log").text)
    assert "From (UTC), 1 min each" in page
    kept = window.replace(":", "%3A")
    assert f"/metrics-file?scope=model&name=digits&by=site&{kept}&scale=log" in page
    assert f'href="/models/digits?by=version&{kept}&scale=log"' in page
    assert 'href="/models/digits?by=site&scale=log&span=7d"' in page
    assert '<input type="hidden" name="scale" value="log">' in page
    assert f"edgectl model metrics digits --since {window[5:25]} --until {window[29:]}" in page
    rows = list(csv.DictReader(io.StringIO(browser.get(f"/metrics-file?scope=model&name=digits&{window}").text)))
    assert {row["at"][:13] for row in rows} <= {f"{now - timedelta(hours=n):%Y-%m-%dT%H}" for n in (4, 3)}


def test_a_window_without_an_end_goes_on_to_now_in_its_links_too(sending: SendingFleet) -> None:
    browser, now = sending.fleet.browser(Role.VIEWER), sending.fleet.house.clock.now()
    begin = now - timedelta(hours=4)
    for path in ("/models/digits", "/models/digits/accuracy"):
        page = unescape(browser.get(f"{path}?from={begin:%Y-%m-%dT%H:%M:%SZ}").text)
        assert f"<b>{begin:%Y-%m-%d %H:%M} UTC to now</b>" in page
        assert '<input type="datetime-local" name="to" value="">' in page
        assert re.search(rf'href="{path}\?[^"]*from={begin:%Y-%m-%dT%H%%3A%M%%3A%SZ}', page)
        assert "&to=" not in page
        assert "--until" not in page


@pytest.mark.parametrize("scale", ScaleKind)
def test_a_scale_is_offered_only_where_a_chart_can_have_it(empty_fleet: Fleet, scale: ScaleKind) -> None:
    """Of charts with zeros none has a logarithmic scale, however it is asked for."""

    class Reader:
        def __init__(self, p95: float) -> None:
            self.line = replace(line("1.0.0", [5] * 24), p95_ms=[p95] * 24)

        def read(self, *_asked: Any, **_more: Any) -> Timeline:
            return timeline([self.line])

    def offered(p95: float) -> bool:
        clock = empty_fleet.house.clock
        views = TimelineViews(Reader(p95), Readings(clock), clock)  # type: ignore[arg-type]
        return views.view(Scope.MODEL, "digits", Asked("24h", scale=scale)).range.may_be_wide

    assert offered(20.0)
    assert not offered(0.0)


def test_a_log_scale_is_said_and_asked_for_by_a_link(sending: SendingFleet) -> None:
    browser = sending.fleet.browser(Role.VIEWER)
    page = browser.get("/models/digits?span=24h").text
    assert "<li>log scale</li>" not in page
    assert 'span=24h&amp;scale=log"' in page
    page = browser.get("/models/digits?span=24h&scale=log").text
    assert page.partition("Copy as CSV")[2].partition("<figure")[0].count("<li>log scale</li>") == 1
    assert 'span=24h&amp;scale=linear"' in page


def test_limits_of_objectives_and_rules_are_on_the_charts_of_a_model(sending: SendingFleet) -> None:
    client = sending.fleet.house.client(Role.ADMIN)
    assert client.put("/api/v1/slos/kept", json=share("success") | {"metadata": {"name": "kept"}}).status_code == 201
    sending.fleet.house.clock.turn(minutes=1)
    page = sending.fleet.browser(Role.VIEWER).get("/models/digits").text
    failed = page.partition('data-chart="failed"')[2].partition("</figure>")[0]
    assert re.search(r'<text class="thrt"[^>]*>objective 0.5 %</text>', failed)
    assert "alert above 2 %, beyond the scale" in failed
    assert client.delete("/api/v1/slos/kept").status_code == 204


def test_what_is_new_is_solid_and_what_is_old_is_grey_and_dashed() -> None:
    at = [0, 60, 120]
    new = Chart("gate", "Latency p95", "ms", ("new", "old"), [at, [4.0, 5.0, 4.0], [5.0] * 3], 0, 120, is_compared=True)
    assert new.classes == ["s1", "ctl"]
    many = Chart("p95", "Latency", "ms", [*"abcdef"], [at, *[[1.0] * 3] * 6], 0, 120, is_of_versions=True)
    assert many.classes == ["s1", "s2", "s3", "s4 old", "s4 old", "s4 old"]
    assert replace(many, is_of_versions=False).classes == ["s1", "s2", "s3", "s4", "s5", "s6 old"]
    band = replace(new, band=Band([3.0] * 3, [6.0] * 3))
    drawn = environment().get_template("chart.html").module
    page = str(drawn.plot(band))  # type: ignore[attr-defined]  # a macro
    assert page.count('<path class="ar s1"') == 1
    assert page.index('class="ln ctl" d=') < page.index('class="ln s1" d='), "the new one is drawn above the old one"
    assert band.plain["band"] == [[3.0] * 3, [6.0] * 3]


def test_a_small_chart_has_its_line_area_marks_and_limits_and_no_text() -> None:
    marks = [
        ChartMark(50.0, "rollback", "▼", "digits@1.1.0 goes back", " b"),
        ChartMark(60.0, "drift", "≈", "blur drifts", " w"),
    ]
    chart = Chart(
        "p95", "Latency", "ms", ("all",), [[0, 60], [40.0, 50.0]], 0, 60, marks, limits=[Limit("objective", 60.0)]
    )
    page = str(environment().get_template("chart.html").module.small(chart))  # type: ignore[attr-defined]  # a macro
    assert re.findall(r'<(?:path|line) class="([^"]+)"', page) == ["ar s1", "ln s1", "mk b", "thr", "hov cur"]
    assert "<text" not in page
    assert 'x1="500.0"' in page
    assert 'viewBox="0 0 1000 52"' in page
    wild = replace(chart, data=[[*range(9)], [*[1.0] * 7, 900.0, 1.0]], limits=(), marks=(), scale=ScaleKind.LOG, end=8)
    page = str(environment().get_template("chart.html").module.small(wild))  # type: ignore[attr-defined]  # a macro
    assert "up to 900 ms, above the scale" in page
    assert '<path class="ln dots s1" d="M875.0 2h0"/>' in page


def test_a_version_that_ended_has_no_newest_figure() -> None:
    old, new = line("2.0.0", [*[5] * 9, *[None] * 9]), line("2.1.0", [*[None] * 9, *[5] * 9])
    (chart,) = charts(timeline([old, new]))
    assert (chart.names, chart.newest) == (["2.1.0", "2.0.0"], [20.0, None])


def test_a_deploy_says_its_version_where_there_is_room() -> None:
    marks = [
        Mark(BEGIN + timedelta(hours=n), MarkKind.DEPLOY, f"digits@1.{n}.0 begins", "digits") for n in (1, 2, 9, 19)
    ]
    (chart,) = charts(timeline([line("1.0.0", [5] * 20)], marks=marks))
    assert [one.label for one in chart.marks] == ["", "1.2.0", "1.9.0", ""]


def test_no_mark_stands_on_the_version_of_a_deploy() -> None:
    def labels(*kinds: MarkKind) -> list[str]:
        marks = [Mark(BEGIN + timedelta(hours=1 + n), kind, "digits@1.2.0 x", "digits") for n, kind in enumerate(kinds)]
        (chart,) = charts(timeline([line("1.0.0", [5] * 20)], marks=marks))
        return [one.label for one in chart.marks]

    assert labels(MarkKind.DEPLOY, MarkKind.DEPLOYED) == ["", "1.2.0"]
    assert labels(MarkKind.DEPLOY, MarkKind.ROLLBACK) == ["", ""]
    assert labels(MarkKind.DEPLOYED, MarkKind.DEPLOY) == ["", "1.2.0"]


@pytest.mark.parametrize("span", SPANS)
def test_every_span_can_be_seen(sending: SendingFleet, span: str) -> None:
    assert sending.fleet.browser(Role.VIEWER).get(f"/fleet?span={span}").status_code == 200
