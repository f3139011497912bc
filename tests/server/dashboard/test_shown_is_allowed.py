"""Buttons for a person whose grants are for a part of the fleet: what is shown is allowed, and what is not shown is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, PersonKind, Principal, Role
from edgefleet_server.dashboard.live.own_parts import END, OTHERWISE, own_parts, second_person
from edgefleet_server.rollout.commands.duty_separation import Makers
from tests.server.dashboard.fleet import ORT, STAGES, Fleet
from tests.server.dashboard.forms_of import PageForm, form, forms, send
from tests.server.dashboard.test_acting import key_of
from tests.server.dashboard.test_rollout_actions import approving

FILLED = {
    "path.ref": "digits@1.1.0", "body.reason": "a look", "body.name": "new", "body.labels": "a=b", "body.selector": "group=line-a",
}  # fmt: skip
"""What a user writes into fields that are empty."""
PAGES = ("/groups/line-a", "/enrolment", "/models/digits/1.1.0")


class Scoped:
    """Two devices, each in a group, a rollout on each, and browsers of an operator of one group and of the whole fleet."""

    def __init__(self, fleet: Fleet) -> None:
        fleet.release("digits@1.0.0", ORT)
        fleet.release("digits@1.1.0", ORT)
        self.fleet = fleet
        self.devices = {}
        self.rollouts = {}
        for line in ("line-a", "line-b"):
            self.devices[line] = fleet.device(line, labels={"line": line}).id
            fleet.parts.fleet.groups.create(line, f"line={line}", "test")
        for line in self.devices:
            self.rollouts[line] = fleet.rollout(release="digits@1.1.0", selector=f"group={line}", stages=STAGES)
        self.whole = fleet.browser(Role.OPERATOR)
        self.part = self.browser("dora", Grant(Role.OPERATOR, Scope(groups=frozenset({"line-a"}))))

    def browser(self, name: str, grant: Grant) -> TestClient:
        """Return a browser of a person with one grant."""
        made = self.fleet.parts.access.create_token(name, [], by="test", scoped=[grant])
        browser = self.fleet.browser()
        assert browser.post("/login", data={"token": made.token}).status_code == 303
        return browser

    def pages(self) -> Iterator[str]:
        """Yield pages with buttons."""
        yield from PAGES
        yield from (f"/devices/{one}" for one in self.devices.values())
        yield from (f"/rollouts/{one}" for one in self.rollouts.values())
        yield from (f"/devices?do={do}&device={self.devices['line-a']}" for do in ("deploy", "label", "restart"))


@pytest.fixture
def scoped(fleet: Fleet) -> Scoped:
    """Return that fleet."""
    return Scoped(fleet)


def acting(browser: TestClient, page: str) -> dict[str, PageForm]:
    """Return the forms of a page that change something, by what they are about."""
    answer = browser.get(page)
    assert answer.status_code == 200, (page, answer.text)
    own = ("form_key", "next", "back", "said", "standing", "if_match")
    found = [one for one in forms(answer.text) if one.action.startswith("/do/")]
    return {str((one.action, [pair for pair in one.fields if pair[0] not in own])): one for one in found}


def filled(one: PageForm, key: str) -> PageForm:
    """Return a form as somebody fills it in whose session has this key."""
    values = dict(one.fields)
    fields = [(name, text or FILLED.get(name, "")) for name, text in one.fields if name != "form_key"]
    fields = [(name, values.get("confirm_word", "") if name == "confirm" else text) for name, text in fields]
    return PageForm(one.action, one.method, [("form_key", key), *fields])


def test_what_a_part_does_not_show_is_refused_and_what_it_shows_is_not(scoped: Scoped) -> None:
    shown: dict[str, PageForm] = {}
    hidden: dict[str, PageForm] = {}
    for page in scoped.pages():
        mine, all_of_it = acting(scoped.part, page), acting(scoped.whole, page)
        shown |= mine
        hidden |= {key: one for key, one in all_of_it.items() if key not in mine}
    hidden = {key: one for key, one in hidden.items() if key not in shown}
    assert len(shown) > 8
    assert len(hidden) > 12
    own = key_of(scoped.part)
    for key, one in hidden.items():
        assert send(scoped.part, filled(one, own)).status_code == 403, key
    for key, one in sorted(shown.items(), key=lambda pair: "revoke_device" in pair[0]):
        assert send(scoped.part, filled(one, own)).status_code != 403, key


def test_links_to_what_would_be_refused_are_not_shown(scoped: Scoped) -> None:
    links = {
        "/": 'href="/rollouts/{}#roll-back-now"',
        "/devices": 'href="/enrolment"><',
        "/rollouts": 'href="/rollouts/undo"',
    }
    for page, link in links.items():
        text = {who: browser.get(page).text for who, browser in (("part", scoped.part), ("whole", scoped.whole))}
        theirs = link.format(scoped.rollouts["line-b"])
        assert (theirs in text["part"], theirs in text["whole"]) == (False, True), page


def test_a_maker_is_not_offered_to_approve_and_another_person_is(fleet: Fleet) -> None:
    rollout, _devices = approving(fleet)
    page = f"/rollouts/{rollout}"
    approver = fleet.browser(Role.APPROVER, Role.OPERATOR)
    assert form(approver.get(page).text, "/do/approve_rollout")
    send(approver, form(approver.get(page).text, "/do/pause_rollout"))
    resume = next(one for one in forms(approver.get(page).text) if one.action == "/do/resume_rollout")
    send(approver, resume)  # which makes it a maker
    fleet.tick(seconds=2)
    text = approver.get(page).text
    assert not [one for one in forms(text) if one.action == "/do/approve_rollout"]
    assert form(text, "/do/deny_rollout"), "stopping it is open to its makers"
    assert "Approve or deny" not in text
    assert "<!--" not in text


@pytest.mark.parametrize(
    ("person", "name", "kind", "expected"),
    [
        ("p1", "ann", PersonKind.PERSON, "B"),
        ("p2", "first", PersonKind.PERSON, "B"),
        ("p2", "bob", PersonKind.PERSON, "A"),
        ("p2", "bob", PersonKind.SERVICE, "B"),
        ("", "bob", PersonKind.PERSON, "B"),
    ],
)
def test_each_viewer_gets_one_part(person: str, name: str, kind: PersonKind, expected: str) -> None:
    text = f"<p>{second_person(Makers(['p1'], 'first'))}A{OTHERWISE}B{END}</p>"
    viewer = Principal("t", name, frozenset({Role.APPROVER}), person, kind)
    assert own_parts(text * 2, viewer) == f"<p>{expected}</p>" * 2
