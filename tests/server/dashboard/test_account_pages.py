"""Passwords as browsers send them: choosing one, signing in, changing it, and forms of strangers."""

from __future__ import annotations

import re

import pyotp
import pytest
from fastapi.testclient import TestClient
from httpx import Response

from edgefleet_server.access.accounts.guess_limits import Bucket
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.login import COOKIE
from tests.server.access.accounts_house import OTHER, PASSWORD, code_in
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.forms_of import form, send
from tests.server.dashboard.test_login_pages import assert_headers, audit

ELSEWHERE = {"sec-fetch-site": "cross-site"}


def code_for(fleet: Fleet, name: str = "ann", role: Role = Role.OPERATOR) -> str:
    """Return a one-time code, as the API gives it to an admin."""
    answer = fleet.house.client(Role.ADMIN).post("/api/v1/invitations", json={"person": name, "roles": [role]})
    assert answer.status_code == 201, answer.text
    return code_in(answer.json()["url_path"])


def choose(
    browser: TestClient, code: str, password: str = PASSWORD, again: str | None = None, **headers: str
) -> Response:
    """Send the form that chooses a password."""
    data = {"code": code, "password": password, "again": password if again is None else again}
    answer: Response = browser.post("/invitation", data=data, headers=headers)
    return answer


def typed(current: str) -> dict[str, str]:
    """Return what somebody types to change a password to OTHER."""
    return {"current": current, "password": OTHER, "again": OTHER}


def signed_in(fleet: Fleet, name: str = "ann", password: str = PASSWORD) -> TestClient:
    """Return a browser of a person who signed in with a password."""
    browser = fleet.browser()
    answer = browser.post("/login", data={"name": name, "password": password, "next": "/devices"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices"), answer.text
    return browser


def test_a_person_chooses_a_password_signs_out_and_in(fleet: Fleet) -> None:
    code, browser = code_for(fleet), fleet.browser()
    for _ in range(2):  # looking uses nothing up
        shown = browser.get("/invitation", params={"code": code})
        assert "Welcome, ann" in shown.text
        assert "set-cookie" not in shown.headers
        assert_headers(shown)
    wrong = choose(browser, code, again=OTHER)
    assert (wrong.status_code, "the two passwords are not the same" in wrong.text.lower()) == (422, True)
    weak = choose(browser, code, "password1234")
    assert (weak.status_code, "easily guessed" in weak.text, "password1234" in weak.text) == (422, True, False)
    done = choose(browser, code)
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert browser.get("/devices").status_code == 200
    again = choose(fleet.browser(), code)
    assert (again.status_code, "set-cookie" in again.headers) == (401, False)
    assert signed_in(fleet).get("/settings/account").status_code == 200
    rows = [row for row in audit(fleet) if row[1].startswith("login_by")]
    assert [(row[0].partition(" (")[0], row[1], row[2]) for row in rows if row[0] != "unknown"] == [
        ("ann", "login_by_invitation", 303),
        ("ann", "login_by_password", 303),
    ]


def test_a_refused_sign_in_says_nothing_about_the_name_and_keeps_no_password(fleet: Fleet) -> None:
    choose(fleet.browser(), code_for(fleet))
    texts = []
    for name in ("ann", "bea"):
        answer = fleet.browser().post("/login", data={"name": name, "password": OTHER})
        assert (answer.status_code, "set-cookie" in answer.headers, OTHER in answer.text) == (401, False, False)
        texts.append(answer.text.replace(name, "NAME"))
    assert texts[0] == texts[1]
    actor, action, status = audit(fleet)[-1]
    assert (actor, action, status) == ("unknown", "login_by_password", 401)


def test_a_flood_of_wrong_passwords_is_told_when_to_come_back_and_is_few_rows(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefleet_server.access.accounts.guess_book.OF_CLIENT", Bucket(3, 10.0))
    before = len(audit(fleet))
    browser = fleet.browser()
    for n in range(3):
        assert browser.post("/login", data={"name": f"name{n}", "password": OTHER}).status_code == 401
    refused = browser.post("/login", data={"name": "ann", "password": OTHER})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert len(audit(fleet)) == before + 1


def test_a_cookie_that_somebody_planted_is_not_the_session_and_the_one_before_ends(empty_fleet: Fleet) -> None:
    choose(empty_fleet.browser(), code_for(empty_fleet))
    browser = signed_in(empty_fleet)
    planted = browser.cookies[COOKIE]
    answer = browser.post("/login", data={"name": "ann", "password": PASSWORD})
    assert answer.status_code == 303
    assert browser.cookies[COOKIE] != planted
    stranger = empty_fleet.browser()
    stranger.cookies.set(COOKIE, planted)
    assert stranger.get("/devices").status_code == 303


def test_forms_of_other_sites_change_nothing(empty_fleet: Fleet) -> None:
    code = code_for(empty_fleet)
    assert choose(empty_fleet.browser(), code, **ELSEWHERE).status_code == 403
    assert choose(empty_fleet.browser(), code).status_code == 303
    assert (
        empty_fleet.browser().post("/login", data={"name": "ann", "password": PASSWORD}, headers=ELSEWHERE).status_code
        == 403
    )
    browser = signed_in(empty_fleet)
    wanted = typed(PASSWORD)
    for path, data in (("/account/password", wanted), ("/account/sign-out-others", {})):
        assert browser.post(path, data=data).status_code == 403
        own = form(browser.get("/settings/account").text, path).fields
        key = dict(own)["form_key"]
        assert browser.post(path, data={**data, "form_key": key}, headers=ELSEWHERE).status_code == 403
        assert empty_fleet.browser().post(path, data={**data, "form_key": key}).headers["location"].startswith("/login")
    signed_in(empty_fleet)


def test_a_password_is_changed_by_the_form_and_other_browsers_are_signed_out(fleet: Fleet) -> None:
    choose(fleet.browser(), code_for(fleet))
    browser, other = signed_in(fleet), signed_in(fleet)
    page = browser.get("/settings/account").text
    wrong = send(browser, form(page, "/account/password"), typed(OTHER))
    assert (wrong.status_code, "current password is wrong" in wrong.text) == (403, True)
    done = send(browser, form(page, "/account/password"), typed(PASSWORD))
    assert (done.status_code, done.headers["location"]) == (303, "/settings/account")
    assert "Password changed" in browser.get("/settings/account").text
    assert other.get("/devices").status_code == 303
    third = signed_in(fleet, password=OTHER)
    assert send(browser, form(page, "/account/sign-out-others")).status_code == 303
    assert third.get("/devices").status_code == 303
    told = [(row[1], row[2]) for row in audit(fleet) if row[1] in ("password", "sign_out_others")]
    assert told == [("password", 403), ("password", 303), ("sign_out_others", 303)]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.APPROVER])
def test_only_an_admin_invites(empty_fleet: Fleet, role: Role) -> None:
    answer = empty_fleet.house.client(role).post("/api/v1/invitations", json={"person": "ann", "roles": ["admin"]})
    assert answer.status_code == 403


def test_who_signed_in_by_a_token_is_told_how_to_get_a_password(empty_fleet: Fleet) -> None:
    shown = empty_fleet.browser(Role.VIEWER).get("/settings/account")
    assert (shown.status_code, "edgectl person invite" in shown.text) == (200, True)


def test_a_browser_of_an_own_token_is_offered_neither_to_make_nor_to_end_others(empty_fleet: Fleet) -> None:
    access = empty_fleet.house.parts.access
    first = access.create_token("ann", [Role.OPERATOR], by="boss")
    own = access.own_tokens.create(access.authenticate(first.token), "laptop", [], None)
    pages = []
    for token in (first.token, own.token):
        browser = empty_fleet.browser()
        browser.post("/login", data={"token": token})
        pages.append(browser.get("/settings/account").text)
    shown = [
        ("/do/create_own_token" in page, "/do/revoke_own_token" in page, "makes and ends no other" in page)
        for page in pages
    ]
    assert shown == [(True, True, False), (False, False, True)]


def test_an_admin_invites_from_the_page(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    page = browser.get("/settings/people").text
    made = send(browser, form(page, "/do/create_invitation"), {"body.person": "ann", "body.roles": "viewer"})
    assert "/invitation?code=" in made.text
    assert "one-time code waits" in browser.get("/settings/people").text


def test_codes_are_turned_on_by_the_forms_and_asked_for_from_then_on(fleet: Fleet) -> None:
    choose(fleet.browser(), code_for(fleet))
    browser = signed_in(fleet)
    begun = send(browser, form(browser.get("/settings/account").text, "/account/codes"), {"current": PASSWORD})
    assert (begun.status_code, "<svg" in begun.text) == (200, True)
    assert_headers(begun)
    found = re.search(r"type this into the app: <code>([A-Z2-7 ]+)</code>", begun.text)
    assert found is not None
    source = pyotp.TOTP(found[1].replace(" ", ""))
    wrong = send(browser, form(begun.text, "/account/codes/confirm"), {"totp": "12345"})
    assert (wrong.status_code, found[1] in wrong.text) == (422, True)
    done = send(browser, form(wrong.text, "/account/codes/confirm"), {"totp": source.at(fleet.parts.clock.now())})
    assert "Recovery codes" in done.text
    fleet.tick(minutes=2)
    sent = {"name": "ann", "password": PASSWORD}
    assert fleet.browser().post("/login", data=sent).status_code == 401
    assert fleet.browser().post("/login", data={**sent, "totp": source.at(fleet.parts.clock.now())}).status_code == 303
    own = browser.get("/settings/account").text
    assert send(browser, form(own, "/account/codes/off"), {"current": PASSWORD}).status_code == 303
    assert fleet.browser().post("/login", data=sent).status_code == 303
