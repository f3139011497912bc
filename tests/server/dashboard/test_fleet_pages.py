"""The pages of the fleet by HTTP: overview, list of devices, what is done to many; and that their forms do it."""

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from edgefleet_server.alerting.active_alerts.tables import Alert
from edgefleet_server.alerting.model import AlertAction
from edgefleet_server.dashboard.fleet.device_query import MAX_IDS
from edgefleet_server.dashboard.fleet.views import FACET_OPTIONS, PAGE_DEVICES, narrowing_labels
from edgefleet_server.dashboard.operations.catalog import Operations
from edgefleet_server.fleet.inventory.device_list import Facets
from tests.server.dashboard.fleet import LITERT, NONFINITE, ORT, Fleet, staged
from tests.server.dashboard.live_elements import live_elements
from tests.server.dashboard.test_pages import text_of
from tests.server.fleet.house import FACTS, KeyedDevice

Story = tuple[Fleet, str, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A fleet after a good and a bad rollout, and the ids of both; tests only look at it."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet-story") / "server")
    ids = staged(fleet)
    fleet.parts.fleet.groups.create("hall", "site=hall", "ann")
    yield (fleet, *ids)
    fleet.close()


def rows_of(page: str) -> list[str]:
    """Return the text of each row of the list of devices."""
    return [
        text_of(row)
        for row in re.findall(r'<tr role="row">(?:(?!</tr>).)*data-label="Device".*?</tr>', page, re.DOTALL)
    ]


def part_of(page: str, name: str) -> str:
    """Return the text of one live part of a page."""
    return text_of(live_elements(page)[name])


def link(page: str, rel: str) -> str:
    """Return the address of the first link to the next or previous page, "" without one."""
    found = re.search(rf'<a rel="{rel}" href="([^"]+)"', page)
    return "" if found is None else html.unescape(found[1])


def form_of(page: str, operation: str, marked: str = "") -> dict[str, str]:
    """Return the fields of the form of an operation as a browser would send it untouched; `marked`: a text inside the form."""
    for form in re.findall(rf'<form class="act" method="post" action="/do/{operation}".*?</form>', page, re.DOTALL):
        if marked in form:
            fields = re.findall(r'<input[^>]* name="([^"]+)"(?:[^>]* value="([^"]*)")?', form)
            return {name: html.unescape(value) for name, value in fields}
    raise AssertionError(f"no form of {operation} with {marked!r}")


def send(browser: TestClient, operation: str, fields: dict[str, Any]) -> Response:
    """Post a form as the browser of our own page does."""
    answer: Response = browser.post(f"/do/{operation}", data=fields, headers={"sec-fetch-site": "same-origin"})
    return answer


# ---- overview


def test_the_overview_leads_from_a_failed_device_to_its_reason_in_one_click(story: Story) -> None:
    fleet, _good, bad = story
    browser = fleet.browser(Role.VIEWER)
    page = browser.get("/").text
    failed = next(one.device for one in fleet.parts.rollout.reader.devices(bad) if one.state == "rolled_back")
    told = part_of(page, "troubled")
    assert f"{failed} digits rolled back {NONFINITE}" in told
    assert f'href="/devices/{failed}"' in page
    assert NONFINITE in part_of(browser.get(f"/devices/{failed}").text, "models")


def test_the_overview_shows_open_rollouts_with_stages_figures_and_reason(story: Story) -> None:
    fleet, good, bad = story
    told = part_of(fleet.browser(Role.VIEWER).get("/").text, "rollouts")
    assert "1 open, 1 ended today" in told
    newest, ended = told.split("digits@1.1.0")
    for words in ("digits@1.2.0 Rolling back", "Canary 1 of 1", "one nonfinite failure stops", "Half", "Rest"):
        assert words in newest
    assert "Rolled out" in ended
    page = fleet.browser(Role.VIEWER).get("/").text
    assert f'href="/rollouts/{bad}"' in page
    assert f'href="/rollouts/{good}"' in page
    assert 'class="stop"' in page


def test_the_overview_shows_who_runs_what(story: Story) -> None:
    page = story[0].browser(Role.VIEWER).get("/").text
    assert "digits 10 devices 1.1.0 9 1.0.0 1" in part_of(page, "versions")
    assert 'aria-label="digits: 9 on 1.1.0, 1 on 1.0.0"' in page
    assert 'href="/devices?selector=model.digits%3D1.0.0"' in page
    assert 'href="/devices?selector=health%3Doffline"' in page


def test_alerts_that_acted_are_on_the_overview_for_a_day(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    fleet.device("one")
    rollout = fleet.rollout(release="digits@1.0.0", selector="", stages=[{"name": "all", "size": {"percent": 100}}])
    made = fleet.parts.alerts.create("pager", AlertAction.PAUSE, [], "", "ann")
    alert = {"status": "firing", "labels": {"alertname": "Slow", "edgefleet_rollout": rollout}, "annotations": {},
             "startsAt": "2026-11-25T12:00:00Z", "fingerprint": "f1"}  # fmt: skip
    fleet.parts.alerts.take(made.url_path.rpartition("/")[2], {"version": "4", "groupKey": "g", "alerts": [alert]})
    browser = fleet.browser(Role.VIEWER)
    told = part_of(browser.get("/").text, "alerts")
    assert "pager acted" in told
    assert rollout in told
    fleet.tick(days=2)
    assert '<div id="alerts" data-live></div>' in fleet.browser(Role.VIEWER).get("/").text


# ---- the list


def test_the_list_says_what_each_device_runs_and_why_not_what_it_should(story: Story) -> None:
    lines = rows_of(story[0].browser(Role.VIEWER).get("/devices").text)
    assert len(lines) == 10
    assert sum("Offline digits@1.0.0 → digits@1.1.0" in line for line in lines) == 1
    assert sum("Healthy digits@1.1.0 generic" in line for line in lines) == 7
    why = f"Degraded digits was rolled back and runs 1.1.0: {NONFINITE}, and 1 more digits@1.1.0 rolled back"
    assert [why in line for line in lines[:3]] == [False, True, False]
    assert "Offline" in lines[0]
    assert sum(line.startswith("cam") and " hall " in line for line in lines) == 4


def test_the_list_begins_with_what_needs_a_look(story: Story) -> None:
    fleet = story[0]
    page = fleet.browser(Role.VIEWER).get("/devices").text
    states = re.findall(r'<td role="cell" data-label="Health" class="text"><span class="state (\w+)">', page)
    assert states[:2] == ["off", "warn"]
    assert states == sorted(states, key=("bad", "off", "warn", "run", "ok").index)
    assert "2 of 10 need a look, and stand first" in part_of(page, "lead")
    assert "need a look." in part_of(fleet.browser(Role.VIEWER).get("/devices?sort=id").text, "lead")


def test_a_fleet_of_revoked_devices_is_not_called_well(fleet: Fleet) -> None:
    device = fleet.device("cam").id
    browser, admin = fleet.browser(Role.VIEWER), fleet.house.client(Role.ADMIN)
    assert "1 of 1 needs a look" in part_of(browser.get("/devices").text, "lead")
    assert admin.delete(f"/api/v1/devices/{device}").is_success
    assert part_of(browser.get("/devices").text, "lead") == "No device is in use: all that were enrolled are revoked."


def test_a_slow_model_is_seen_in_the_list(story: Story) -> None:
    page = story[0].browser(Role.VIEWER).get("/devices").text
    assert len(re.findall(r'<svg class="spark".*?<polyline points="[0-9., ]+"/></svg> 8\.\d ms', page, re.DOTALL)) == 1


@pytest.mark.parametrize(
    ("asked", "expected", "box"),
    [
        ({"q": f"profile={LITERT},site=hall"}, ["cam7"], f"profile={LITERT},site=hall"),
        ({"q": "cam3"}, ["cam3"], "cam3"),
        ({"q": "cam site=hall"}, ["cam1", "cam3", "cam5", "cam7"], "cam site=hall"),
        ({"q": "hal"}, ["cam1", "cam3", "cam5", "cam7"], "hal"),
        ({"q": "site in (hall), status = online"}, None, "site in (hall), status = online"),
        ({"q": "!site"}, [], "!site"),
        ({"selector": "group=hall", "text": "cam1"}, ["cam1"], "cam1 group=hall"),
        ({"selector": "site"}, None, "site"),
        ({"q": "site=moon"}, [], "site=moon"),
    ],
)
def test_the_box_takes_words_and_selectors(
    story: Story, asked: dict[str, str], expected: list[str] | None, box: str
) -> None:
    page = story[0].browser(Role.VIEWER).get("/devices", params=asked).text
    found = [line.partition("-")[0] for line in rows_of(page)]
    assert f'value="{html.escape(box)}"' in page
    if expected is None:
        assert found
    else:
        assert sorted(found) == expected
    if expected == []:
        assert "No matching devices" in part_of(page, "devices")


def test_a_wrong_selector_says_what_is_wrong_and_shows_all(story: Story) -> None:
    answer = story[0].browser(Role.VIEWER).get("/devices", params={"q": "site in ("})
    assert answer.status_code == 200
    assert 'aria-invalid="true"' in answer.text
    assert len(rows_of(answer.text)) == 10
    assert 'value="site in ("' in answer.text


def test_facets_narrow_and_are_taken_off_again(story: Story) -> None:
    browser = story[0].browser(Role.VIEWER)
    page = browser.get("/devices?selector=site%3Dhall").text
    told = part_of(page, "facets")
    assert "online 9 offline 1" in told
    assert f"{ORT} 7 {LITERT} 3" in told
    assert re.search(r"Label site=(hall|yard) \d", told)
    narrower = re.search(r'<a class="chip" href="([^"]+status%3Doffline)">offline', page)
    assert narrower is not None
    narrow = browser.get(html.unescape(narrower[1])).text
    assert 'value="site=hall,status=offline"' in narrow
    off = re.search(r'<a class="chip on" href="([^"]+)" aria-current="true">offline', narrow)
    assert off is not None
    assert html.unescape(off[1]) == "/devices?selector=site%3Dhall"


def test_labels_are_facets_where_they_narrow() -> None:
    labels = [
        ("env", "prod", 9),
        ("line", "4", 5),
        ("line", "5", 4),
        ("site", "a", 2),
        ("serial", "s1", 1),
        ("site", "b", 1),
    ]
    facets = Facets({}, {}, (), (), 9, 0, labels)
    assert narrowing_labels(facets) == [("site", "a", 2), ("site", "b", 1), ("line", "4", 5), ("line", "5", 4)]
    many = replace(facets, labels=[(f"k{n}", "v", 8) for n in range(99)])
    assert len(narrowing_labels(many)) == FACET_OPTIONS


def test_columns_sort_by_links_that_keep_the_search(story: Story) -> None:
    browser = story[0].browser(Role.VIEWER)
    page = browser.get("/devices?selector=site%3Dhall&sort=-last_seen").text
    assert (
        'aria-sort="descending"><a class="sort" href="/devices?selector=site%3Dhall&amp;sort=last_seen">Last seen'
        in page
    )
    first = rows_of(page)[0]
    assert first != rows_of(browser.get("/devices?selector=site%3Dhall&sort=last_seen").text)[0]
    assert len(rows_of(browser.get("/devices?sort=nonsense").text)) == 10


def test_devices_come_in_pages_of_fifty_both_ways(fleet: Fleet) -> None:
    claim = fleet.parts.fleet.enrolment.create_claims(
        uses=120, profile=ORT, name_prefix="d", labels={"row": "a"}, created_by="test"
    )
    for _ in range(2 * PAGE_DEVICES + 3):
        fleet.parts.fleet.enrolment.enroll(claim[0].token, KeyedDevice().csr(), FACTS)
    browser, path, pages = fleet.browser(Role.VIEWER), "/devices?selector=row%3Da&sort=-last_seen", list[list[str]]()
    while path:
        page = browser.get(path).text
        pages.append(rows_of(page))
        path, back = link(page, "next"), link(page, "prev")
        assert "selector=row%3Da" in path or not path
        assert "103 devices match" in part_of(page, "devices")
        if len(pages) > 1:
            assert rows_of(browser.get(back).text) == pages[-2]
    assert [len(one) for one in pages] == [50, 50, 3]
    assert len({row for one in pages for row in one}) == 103


def test_a_viewer_sees_no_buttons(story: Story) -> None:
    page = story[0].browser(Role.VIEWER).get("/devices").text
    assert "checkbox" not in page
    assert "With selected devices" not in page
    answer = story[0].browser(Role.VIEWER).get("/fleet/bulk?do=deploy")
    assert answer.status_code in (303, 403)


# ---- many at once


def test_a_release_is_given_to_many_after_saying_how_many_and_which(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    devices = [fleet.device(f"cam{n}", ORT, {"site": "hall" if n < 3 else "yard"}) for n in range(5)]
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get("/fleet/bulk", params={"do": "deploy", "selector": "site=hall", "all": 3}).text
    assert "Deploy to 3 devices" in page
    assert [line.partition("-")[0] for line in rows_of(page)] == ["cam0", "cam1", "cam2"]
    fields = form_of(page, "deploy_release") | {"path.ref": "digits@1.0.0"}
    refused = send(browser, "deploy_release", fields | {"confirm": "2"})
    assert refused.status_code != 303
    assert all("digits" not in one.desired().models for one in devices)
    done = send(browser, "deploy_release", fields | {"confirm": "3"})
    assert (done.status_code, done.headers["location"]) == (303, "/devices?selector=site%3Dhall")
    assert ["digits" in one.desired().models for one in devices] == [True, True, True, False, False]


def test_only_what_was_selected_is_acted_on(fleet: Fleet) -> None:
    ids = [fleet.device(f"cam{n}").id for n in range(4)]
    fleet.parts.fleet.revocation.revoke(ids[3])
    browser = fleet.browser(Role.OPERATOR)
    ticked = browser.get(
        "/fleet/bulk", params={"do": "restart", "selector": "", "device": [ids[0], ids[2], ids[3]]}
    ).text
    assert "Restart the agent on 2 devices" in ticked
    by_word = browser.get("/fleet/bulk", params={"do": "restart", "text": "cam1", "all": 1}).text
    assert "Restart the agent on 1 device" in by_word
    assert f"id={ids[1]},status!=revoked" in by_word
    nobody = browser.get("/fleet/bulk", params={"do": "restart", "text": "none", "all": 1}).text
    assert "No matching devices" in nobody
    assert "were selected" not in by_word
    everyone = browser.get("/fleet/bulk", params={"do": "restart", "all": 4, "device": ids[:1]}).text
    assert "Restart the agent on 3 devices" in everyone
    assert "4 were selected; this applies to 3." in everyone


@pytest.mark.parametrize("do", ["deploy", "label", "restart"])
def test_with_nothing_selected_nothing_is_done(fleet: Fleet, do: str) -> None:
    fleet.device("cam0", ORT, {"site": "hall"})
    browser = fleet.browser(Role.OPERATOR)
    assert 'name="all" value="1"' in browser.get("/devices?selector=site%3Dhall").text
    answer = browser.get("/fleet/bulk", params={"do": do, "selector": "site=hall", "text": ""})
    assert answer.status_code == 422
    assert "Nothing is selected" in answer.text
    assert 'href="/devices?selector=site%3Dhall">Back</a>' in answer.text
    assert "<form" not in answer.text


def test_many_are_restarted_by_one_form(fleet: Fleet) -> None:
    devices = [fleet.device(f"cam{n}", ORT, {"site": "hall" if n < 2 else "yard"}) for n in range(3)]
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get("/fleet/bulk", params={"do": "restart", "selector": "site=hall", "all": 2}).text
    done = send(browser, "create_tasks", form_of(page, "create_tasks") | {"confirm": "2"})
    assert done.status_code == 303, done.text
    kinds = [[task.kind for task in fleet.parts.fleet.tasks.tasks(one.id)] for one in devices]
    assert kinds == [["restart"], ["restart"], []]


def test_many_are_labelled_by_one_form(fleet: Fleet) -> None:
    if "label_devices" not in {one.id for one in Operations(fleet.house.app.openapi())}:
        pytest.skip("this server cannot label many devices yet")
    inside, outside = (
        fleet.device("cam0", ORT, {"site": "hall", "old": "1"}),
        fleet.device("cam1", ORT, {"site": "yard"}),
    )
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get("/fleet/bulk", params={"do": "label", "selector": "site=hall", "all": 1}).text
    done = send(browser, "label_devices", form_of(page, "label_devices") | {"body.labels": "line=4\nold-"})
    assert done.status_code == 303, done.text
    assert fleet.parts.fleet.reader.device(inside.id).labels == {"site": "hall", "line": "4"}
    assert fleet.parts.fleet.reader.device(outside.id).labels == {"site": "yard"}


def test_more_devices_than_a_selector_can_name_are_not_listed_one_by_one(fleet: Fleet) -> None:
    claim = fleet.parts.fleet.enrolment.create_claims(
        uses=MAX_IDS, profile=ORT, name_prefix="c" * 32, created_by="test"
    )
    for _ in range(90):
        fleet.parts.fleet.enrolment.enroll(claim[0].token, KeyedDevice().csr(), FACTS)
    answer = fleet.browser(Role.OPERATOR).get("/fleet/bulk", params={"do": "restart", "text": "ccc", "all": 90})
    assert answer.status_code == 200
    assert "90 devices match this text, too many to list one by one." in text_of(answer.text)
    assert "/do/create_tasks" not in answer.text


def fire(fleet: Fleet, device: str, severity: str = "critical") -> None:
    """Let an alert fire about a device."""
    now = fleet.parts.clock.now()
    texts = {
        "rule": "disk_full",
        "subject": device,
        "shown": device,
        "state": "firing",
        "severity": severity,
        "group": "",
    }
    said = {"summary": "has little disk left", "suppressed_by": "", "acked_by": "", "ack_comment": ""}
    figures = {"value": 1.0, "threshold": 2.0, "since": now, "seen_at": now, "fired_at": now}
    lists = {"link": f"/devices/{device}", "evidence": [], "devices": [device], "labels": {}}
    fields: dict[str, Any] = {**texts, **said, **figures, **lists}
    with fleet.parts.db.session() as session:
        session.add(Alert(**fields))


def test_no_list_calls_a_device_well_about_which_an_alert_fires(fleet: Fleet) -> None:
    devices = [fleet.device(f"cam{n}", ORT, {"site": "hall"}) for n in range(3)]
    for one in devices:
        one.say(0, [])
    fleet.parts.fleet.groups.create("hall", "site=hall", "ann")
    fleet.parts.fleet.groups.create("yard", "site=yard", "ann")
    browser = fleet.browser(Role.VIEWER)
    assert part_of(browser.get("/devices").text, "lead") == "All 3 are as they should be."
    assert "All 3 devices are as they should be." in part_of(browser.get("/groups/hall").text, "summary")
    fire(fleet, devices[2].id)
    page = browser.get("/devices").text
    assert part_of(page, "lead") == "An alert fires about 1 of 3 devices."
    assert any("Alert" in line for line in rows_of(page))
    group = browser.get("/groups/hall").text
    assert "An alert fires about 1 of 3 devices." in part_of(group, "summary")
    assert "k-bad" in group
    assert "alert fires" not in part_of(browser.get("/groups/yard").text, "summary")
    devices[0].connect(on=False)
    fleet.parts.fleet.lists.forget()
    assert "1 of 3 needs a look" in part_of(browser.get("/devices").text, "lead")


def test_a_device_that_went_away_still_says_what_was_wrong_with_it(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    device = fleet.device("cam")
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), device=device.id, by="ann")
    device.report(Phase.FAILED, error_class=ErrorClass.NONFINITE, reason=NONFINITE)
    device.connect(on=False)
    [row] = rows_of(fleet.browser(Role.VIEWER).get("/devices").text)
    assert f"Offline digits does not run: {NONFINITE} " in row
