"""Signing in and out as a browser does it: links, tokens, cookies, forms of strangers, limits, headers, audit."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.forms import MAX_FORM_BYTES
from edgefleet_server.dashboard.core.login import COOKIE, SECURE_COOKIE
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.web.attempt_limits import MAX_FAILURES
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.forms_of import form, send

CSP = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


def link_of(fleet: Fleet, *roles: Role) -> str:
    """Return the path of a fresh login link."""
    answer = fleet.house.client(*(roles or (Role.VIEWER,))).post("/api/v1/login-links")
    return str(answer.json()["url_path"])


def code_of(path: str) -> str:
    """Return the code in a link."""
    return path.partition("=")[2]


def audit(fleet: Fleet) -> list[tuple[str, str, int]]:
    """Return actor, action and status of the audit rows, oldest first."""
    return [(one.actor, one.action, one.status) for one in reversed(fleet.parts.access.audit(PageRequest()).items)]


def assert_headers(answer: object) -> None:
    """Fail unless an answer has the headers of every page."""
    headers = answer.headers  # type: ignore[attr-defined]
    assert headers["content-security-policy"] == CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/", "/login"),
        ("/?selector=a%3Db", "/login?next=/%3Fselector%3Da%253Db"),
        ("/rollouts/r-abc", "/login?next=/rollouts/r-abc"),
        ("/devices/d-1", "/login?next=/devices/d-1"),
        ("/devices/%22%3E%3Cb%3E", "/login"),
    ],
)
def test_without_a_session_every_page_leads_to_the_login(empty_fleet: Fleet, path: str, to: str) -> None:
    answer = empty_fleet.browser().get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, to)
    assert_headers(answer)


def test_the_login_page_says_how_to_get_a_link(empty_fleet: Fleet) -> None:
    answer = empty_fleet.browser().get("/login")
    assert answer.status_code == 200
    assert "edgectl dashboard" in answer.text
    assert '<form method="post" action="/login">' in answer.text
    assert 'type="password"' in answer.text
    assert_headers(answer)


def test_looking_at_a_link_uses_nothing_up_and_its_button_works_once(empty_fleet: Fleet) -> None:
    path, browser = link_of(empty_fleet, Role.OPERATOR), empty_fleet.browser()
    for _ in range(3):
        shown = browser.get(path)
        assert shown.status_code == 200
        assert "set-cookie" not in shown.headers
        assert f'<input type="hidden" name="code" value="{code_of(path)}">' in shown.text
    browser.head(path)
    used = browser.post("/login", data={"code": code_of(path)})
    assert (used.status_code, used.headers["location"]) == (303, "/")
    assert_headers(used)
    assert "operator" in browser.get("/").text
    again = empty_fleet.browser().post("/login", data={"code": code_of(path)})
    assert again.status_code == 401
    assert "was used already" in again.text
    assert "set-cookie" not in again.headers
    assert_headers(again)


def test_a_link_is_worth_nothing_after_ten_minutes(fleet: Fleet) -> None:
    path = link_of(fleet)
    fleet.house.clock.turn(minutes=10)
    assert fleet.browser().post("/login", data={"code": code_of(path)}).status_code == 401


def test_the_cookie_is_for_this_site_and_not_for_scripts(empty_fleet: Fleet) -> None:
    cookie = empty_fleet.browser().post("/login", data={"code": code_of(link_of(empty_fleet))}).headers["set-cookie"]
    assert re.fullmatch(
        rf"{COOKIE}=[a-z2-7]{{12}}_[A-Za-z0-9_-]{{43}}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie
    )


def test_with_tls_the_cookie_is_secure_and_bound_to_the_host(empty_fleet: Fleet) -> None:
    browser = TestClient(empty_fleet.house.app, base_url="https://fleet.test", follow_redirects=False)
    cookie = browser.post("/login", data={"code": code_of(link_of(empty_fleet))}).headers["set-cookie"]
    assert cookie.startswith(f"{SECURE_COOKIE}=")
    assert "; Secure" in cookie
    assert "Path=/;" in cookie
    assert "Domain" not in cookie
    assert browser.get("/").status_code == 200
    browser.post("/login", data={"token": empty_fleet.house.token(Role.OPERATOR)})
    act = form(browser.get("/groups").text, "/do/create_group")
    said = send(browser, act, {"body.name": "shop", "body.selector": "site=shop"}).headers["set-cookie"]
    assert said.startswith("edgefleet_said=")
    assert "; Secure" in said


@pytest.mark.parametrize(("proto", "is_secure"), [("https", True), (None, True), ("http", False)])
def test_behind_a_proxy_the_cookie_is_secure_unless_the_browser_speaks_http(
    tmp_path: Path, proto: str | None, is_secure: bool
) -> None:
    fleet = Fleet(tmp_path / "proxied", behind_proxy=True)
    headers = {} if proto is None else {"x-forwarded-proto": proto}
    cookie = (
        fleet.browser().post("/login", data={"code": code_of(link_of(fleet))}, headers=headers).headers["set-cookie"]
    )
    fleet.close()
    assert cookie.startswith(f"{SECURE_COOKIE}=") is is_secure
    assert ("; Secure" in cookie) is is_secure


@pytest.mark.parametrize("role", list(Role))
def test_a_token_of_any_role_can_be_pasted(empty_fleet: Fleet, role: Role) -> None:
    browser = empty_fleet.browser(role)
    assert browser.get("/").status_code == 200
    assert f"<br>{role}</p>" in browser.get("/").text


def test_wrong_and_ended_tokens_are_refused(fleet: Fleet) -> None:
    ended = fleet.house.token(Role.ADMIN, expires_at=fleet.house.clock.now() + timedelta(seconds=1))
    fleet.house.clock.turn(seconds=1)
    for token in ("", "x", "edg_aaaaaaaaaaaa_" + "A" * 43, ended, "\0"):
        answer = fleet.browser().post("/login", data={"token": token})
        assert answer.status_code == 401
        assert 'role="alert"' in answer.text
        assert "set-cookie" not in answer.headers


def test_a_session_lasts_twelve_hours_and_ends_with_its_token(fleet: Fleet) -> None:
    browser = fleet.browser(Role.VIEWER)
    fleet.house.clock.turn(hours=11, minutes=59)
    assert browser.get("/").status_code == 200
    fleet.house.clock.turn(minutes=1)
    assert browser.get("/").status_code == 303
    token = fleet.house.token(Role.VIEWER)
    browser.post("/login", data={"token": token})
    assert browser.get("/").status_code == 200
    fleet.parts.access.revoke_token(token.split("_")[1])
    assert browser.get("/").status_code == 303


def test_the_cookie_is_worth_nothing_at_the_api(empty_fleet: Fleet) -> None:
    assert empty_fleet.browser(Role.ADMIN).get("/api/v1/devices").status_code == 401


def test_signing_out_ends_the_session_not_only_the_cookie(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    cookie = browser.cookies[COOKIE]
    key = re.search(r'name="form_key" value="([0-9a-f]{64})"', browser.get("/").text)
    assert key is not None
    answer = browser.post("/logout", data={"form_key": key[1]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert COOKIE not in browser.cookies
    assert browser.get("/", headers={"cookie": f"{COOKIE}={cookie}"}).status_code == 303
    assert browser.post("/logout", data={"form_key": key[1]}).status_code == 303


def test_a_forged_logout_changes_nothing(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    other = re.search(r'name="form_key" value="([0-9a-f]{64})"', empty_fleet.browser(Role.VIEWER).get("/").text)
    assert other is not None
    for key in ("", "0" * 64, other[1], "ü"):
        answer = browser.post("/logout", data={"form_key": key})
        assert answer.status_code == 403
        assert_headers(answer)
    assert browser.get("/logout").status_code == 405
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://elsewhere.test"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://fleet.test:81"}, False),
        ({"origin": "http://fleet.test"}, True),
        ({"origin": "http://elsewhere.test"}, False),
        ({}, True),
    ],
)
def test_forms_of_other_sites_are_refused(empty_fleet: Fleet, headers: dict[str, str], is_ours: bool) -> None:
    path = link_of(empty_fleet)
    answer = empty_fleet.browser().post("/login", data={"code": code_of(path)}, headers=headers)
    assert answer.status_code == (303 if is_ours else 403)
    if not is_ours:  # and the link still works
        assert empty_fleet.browser().post("/login", data={"code": code_of(path)}).status_code == 303


@pytest.mark.parametrize(
    ("wanted", "to"),
    [
        ("/rollouts/r-abc", "/rollouts/r-abc"),
        ("//elsewhere.test", "/"),
        ("https://elsewhere.test/", "/"),
        ("/\\elsewhere.test", "/"),
        ("/devices/../login", "/"),
        ("/devices/a\r\nset-cookie: x=y", "/"),
    ],
)
def test_after_signing_in_nobody_is_sent_elsewhere(empty_fleet: Fleet, wanted: str, to: str) -> None:
    answer = empty_fleet.browser().post("/login", data={"token": empty_fleet.house.token(Role.VIEWER), "next": wanted})
    assert (answer.status_code, answer.headers["location"]) == (303, to)
    shown = empty_fleet.browser().get("/login", params={"next": wanted})
    assert (f'name="next" value="{to}"') in shown.text


def test_who_fails_too_often_waits(fleet: Fleet) -> None:
    for _ in range(MAX_FAILURES):
        assert fleet.browser().post("/login", data={"token": "x"}).status_code == 401
    refused = fleet.browser().post("/login", data={"token": "x"})
    assert refused.status_code == 429
    assert fleet.browser().post("/login", data={"token": fleet.house.token(Role.VIEWER)}).status_code == 303
    assert refused.headers["retry-after"] == "60"
    assert_headers(refused)
    assert [row[2] for row in audit(fleet) if row[1] == "login_by_token"] == [401, 303], "the others are counted"
    fleet.house.clock.turn(seconds=60)
    fleet.house.parts.access.refusals.write_due()
    assert "refused_requests" in [row[1] for row in audit(fleet)]
    assert fleet.browser().post("/login", data={"token": fleet.house.token(Role.VIEWER)}).status_code == 303


def test_a_large_form_is_refused(empty_fleet: Fleet) -> None:
    answer = empty_fleet.browser().post("/login", data={"token": "x" * MAX_FORM_BYTES})
    assert answer.status_code == 413
    assert_headers(answer)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"code=%ff%00", b"&" * 4000, b"code=a&code=b", b"{}"])
def test_odd_forms_are_refused(empty_fleet: Fleet, body: bytes) -> None:
    answer = empty_fleet.browser().post("/login", content=body)
    assert 400 <= answer.status_code < 500
    assert_headers(answer)


def test_logins_are_audited_with_who_and_how(fleet: Fleet) -> None:
    path = link_of(fleet)
    browser = fleet.browser()
    browser.post("/login", data={"code": code_of(path)})
    key = re.search(r'name="form_key" value="([0-9a-f]{64})"', browser.get("/").text)
    assert key is not None
    browser.post("/logout", data={"form_key": "wrong"})
    browser.post("/logout", data={"form_key": key[1]})
    fleet.house.clock.turn(seconds=61)
    fleet.browser().post("/login", data={"code": code_of(path)})
    fleet.house.clock.turn(seconds=61)
    fleet.browser().post("/login", data={"token": "x"})
    rows = audit(fleet)
    assert [row[1:] for row in rows] == [
        ("create_login_link", 201),
        ("login_by_link", 303),
        ("logout", 403),
        ("logout", 303),
        ("login_by_link", 401),
        ("login_by_token", 401),
    ]
    assert [row[0].startswith("test (") for row in rows] == [True, True, False, True, False, False]


def test_pages_are_not_in_the_schema_of_the_api(empty_fleet: Fleet) -> None:
    paths = empty_fleet.house.app.openapi()["paths"]
    assert "/api/v1/login-links" in paths
    assert not {"/", "/login", "/logout", "/rollouts/{rollout_id}", "/devices/{device_id}"} & set(paths)
