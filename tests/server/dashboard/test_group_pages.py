"""The pages of groups by HTTP: the list, one group, and their forms."""

import html
import re

from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.live_elements import live_elements
from tests.server.dashboard.test_fleet_pages import form_of, part_of, rows_of, send


def test_a_group_is_made_shown_and_removed_by_forms(fleet: Fleet) -> None:
    inside = fleet.device("cam0", ORT, {"site": "hall"})
    fleet.device("cam1", ORT, {"site": "yard"})
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get("/groups?selector=site%3Dhall").text
    assert "No groups yet" in part_of(page, "groups")
    fields = form_of(page, "create_group")
    assert fields["body.selector"] == "site=hall"
    made = send(browser, "create_group", fields | {"body.name": "hall"})
    assert (made.status_code, made.headers["location"]) == (303, "/groups/hall")
    assert "hall site=hall 1 " in part_of(browser.get("/groups").text, "groups")
    group = browser.get("/groups/hall").text
    assert inside.id in part_of(group, "members")
    assert "cam1" not in part_of(group, "members")
    gone = send(browser, "delete_group", form_of(group, "delete_group") | {"confirm": "hall"})
    assert (gone.status_code, gone.headers["location"]) == (303, "/groups")
    assert browser.get("/groups/hall").status_code == 404


def test_a_selector_is_put_together_from_what_the_fleet_has(fleet: Fleet) -> None:
    for name, site in (("cam0", "hall"), ("cam1", "hall"), ("cam2", "yard")):
        fleet.device(name, ORT, {"site": site})
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get("/groups").text
    assert "No part of the fleet has a name yet." in part_of(page, "lead")
    assert "Label site=hall 2 site=yard 1" in part_of(page, "choices")
    hall = re.search(r'<a class="chip" href="([^"]+)">site=hall', page)
    assert hall is not None
    assert html.unescape(hall[1]) == "/groups?selector=site%3Dhall#new"
    page = browser.get(html.unescape(hall[1])).text
    assert "2 of 3 devices match site=hall now." in part_of(page, "matching")
    assert form_of(page, "create_group")["body.selector"] == "site=hall"
    assert re.search(r'<a class="chip on" href="/groups#new" aria-current="true">site=hall', page)
    wrong = browser.get("/groups?selector=a+in+(").text
    assert 'aria-invalid="true"' in wrong
    assert "expected" in part_of(wrong, "matching")


def test_groups_begin_with_how_many_there_are_and_which_are_empty(fleet: Fleet) -> None:
    fleet.device("cam0", ORT, {"site": "hall"})
    for name in ("hall", "yard"):
        fleet.parts.fleet.groups.create(name, f"site={name}", "ann")
    browser = fleet.browser(Role.VIEWER)
    told = part_of(browser.get("/groups").text, "lead")
    assert "2 groups name parts of a fleet of 1 device; 1 has no device now." in told
    assert "No live device matches site=yard ." in part_of(browser.get("/groups/yard").text, "summary")


def test_a_group_says_how_many_of_its_devices_need_a_look_and_shows_them_first(fleet: Fleet) -> None:
    for name in ("cam0", "cam1", "cam2"):
        fleet.device(name, ORT, {"site": "hall"})
    lost = fleet.device("cam3", ORT, {"site": "hall"})
    lost.connect(on=False)
    fleet.device("cam4", ORT, {"site": "yard"}).connect(on=False)
    fleet.parts.fleet.groups.create("hall", "site=hall", "ann")
    page = fleet.browser(Role.VIEWER).get("/groups/hall").text
    told = part_of(page, "summary")
    assert re.search(r"\d of 4 devices needs? a look, and stands? first below\.", told)
    assert "as they should be" not in told
    first = rows_of(live_elements(page)["members"])[0]
    assert first.startswith(f"{lost.id} Offline")
