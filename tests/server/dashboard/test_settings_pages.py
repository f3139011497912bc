"""Pages of settings, tokens and webhooks, over HTTP, on real services; and the preferences of a browser."""

import html
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from edgefleet_server.access.errors import BadTokenError
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.preferences import THEME_COOKIE, ZONE_COOKIE
from edgefleet_server.process.lifecycle.engine_work import build_webhook_sender
from tests.server.access.known_identity import add_identity
from tests.server.alerting.post_office import post_office
from tests.server.dashboard.fleet import Fleet
from tests.server.dashboard.forms_of import forms, send
from tests.server.dashboard.test_acting import do
from tests.server.dashboard.test_login_pages import assert_headers
from tests.server.dashboard.test_pages import part_of, text_of
from tests.support.receivers import LOOPBACK, receiving


@pytest.fixture
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server that may call the loopback."""
    made = Fleet(tmp_path_factory.mktemp("calling") / "server", webhook_networks=LOOPBACK)
    yield made
    made.close()


def page(browser: TestClient, path: str) -> str:
    """Return a page that is there."""
    answer = browser.get(path)
    assert answer.status_code == 200, (path, answer.status_code, text_of(answer.text)[:800])
    assert_headers(answer)
    assert answer.text.count("<h1") == 1
    return str(answer.text)


def test_settings_say_who_is_signed_in_and_what_the_server_is(empty_fleet: Fleet) -> None:
    empty_fleet.parts.health.add("database", lambda: "it answers")
    told = text_of(page(empty_fleet.browser(Role.VIEWER), "/settings"))
    assert "Signed in as test with token" in told
    assert "Roles viewer" in told
    assert "Database SQLite" in told
    assert "Blobs a local folder" in told
    assert "database ok it answers" in told
    assert re.search(r"Version \d+\.", told)


def test_a_failing_check_is_shown_with_its_next_step(fleet: Fleet) -> None:
    def fail() -> str:
        raise OSError("no broker")

    fleet.parts.health.add("broker", fail)
    told = part_of(page(fleet.browser(Role.VIEWER), "/settings"), "checks")
    assert "broker failing OSError: no broker see the server's log" in told


def test_a_login_link_for_another_browser_is_shown_once(empty_fleet: Fleet) -> None:
    answer = do(empty_fleet.browser(Role.VIEWER), "create_login_link", next="/settings")
    shown = answer.text  # type: ignore[attr-defined]
    assert re.search(r"/login\?code=[a-z2-7]{12}_", html.unescape(shown))


def test_a_token_is_made_shown_once_and_revoked_by_forms(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    form = page(browser, "/settings/tokens")
    assert {one.value for one in Role} == set(re.findall(r'name="body.roles" value="([a-z]+)"', form))
    end = re.search(r'<option value="(20[^"]+)" selected>in 30 days', form)
    assert end is not None
    fields = {
        "body.name": "ci",
        "body.roles": ["publisher", "viewer"],
        "body.expires_at": end[1],
        "next": "/settings/tokens",
    }
    key = re.search(r'name="form_key" value="([^"]+)"', form)
    assert key is not None
    answer = browser.post("/do/create_token", data={"form_key": html.unescape(key[1]), **fields})
    text = re.search(r"edg_[a-z2-7]{12}_[A-Za-z0-9_-]{43}", answer.text)
    assert text is not None, text_of(answer.text)
    assert fleet.parts.access.authenticate(text[0]).roles == {Role.PUBLISHER, Role.VIEWER}
    listed = page(browser, "/settings/tokens")
    assert text[0] not in listed
    token_id = text[0].split("_")[1]
    assert f"ci {token_id} ci publisher, viewer valid until 2026-12-25" in part_of(listed, "tokens")
    done = do(
        browser,
        "revoke_token",
        path__token_id=token_id,
        next="/settings/tokens",
        confirm_word=token_id,
        confirm=token_id,
    )
    assert done.status_code == 303  # type: ignore[attr-defined]
    assert f"ci {token_id} ci publisher, viewer revoked" in part_of(page(browser, "/settings/tokens"), "tokens")


def test_a_token_for_a_part_of_the_fleet_is_made_by_a_form(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    made = do(
        browser,
        "create_token",
        next="/settings/tokens",
        body__name="line",
        body__roles="operator",
        body__sites="oslo",
    )
    assert "edg_" in made.text  # type: ignore[attr-defined]
    assert "line operator (site oslo) valid" in part_of(page(browser, "/settings/tokens"), "tokens")


def test_a_person_is_added_disabled_and_enabled_by_forms(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    do(browser, "create_person", next="/settings/people", body__name="robot", body__kind="service")
    person = fleet.parts.access.people.person("robot").id
    token = fleet.parts.access.create_token("ci", [Role.VIEWER], by="x", person=person).token
    assert f"robot {person} service enabled 1" in part_of(page(browser, "/settings/people"), "people")
    assert "ci" in part_of(page(browser, "/settings/tokens"), "tokens")
    change = {"path__person_id": person, "next": "/settings/people"}
    do(browser, "update_person", body__disabled="true", confirm_word="robot", confirm="robot", **change)
    assert f"robot {person} service disabled 0" in part_of(page(browser, "/settings/people"), "people")
    with pytest.raises(BadTokenError):
        fleet.parts.access.authenticate(token)
    do(browser, "update_person", body__disabled="false", **change)
    assert f"robot {person} service enabled 0" in part_of(page(browser, "/settings/people"), "people")


def test_a_pipeline_is_trusted_and_removed_by_forms(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    do(
        browser, "create_trusted_pipeline", next="/settings/pipelines", body__name="ci", body__provider="gitlab",
        body__repository="acme/edge/vision", body__ref="refs/tags/v*", body__roles="publisher",
    )  # fmt: skip
    told = part_of(page(browser, "/settings/pipelines"), "pipelines")
    assert "ci GitLab acme/edge/vision refs/tags/v* id of its first token publisher never" in told
    do(
        browser, "create_trusted_pipeline", next="/settings/pipelines", body__name="line", body__provider="github",
        body__repository="acme/vision", body__ref="refs/heads/main", body__roles="operator", body__models="digits", body__sites="oslo",
    )  # fmt: skip
    told = part_of(page(browser, "/settings/pipelines"), "pipelines")
    assert "id of its first token operator (model digits, site oslo) never" in told
    do(browser, "delete_trusted_pipeline", path__name="line", confirm_word="line", confirm="line")
    do(browser, "delete_trusted_pipeline", path__name="ci", confirm_word="ci", confirm="ci")
    assert "None. Jobs need a token" in text_of(page(browser, "/settings/pipelines"))


def test_an_identity_is_linked_and_unlinked_by_forms(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    assert "No identity provider is named" in text_of(page(browser, "/settings/identities"))
    add_identity(fleet.parts.db, "i-dora")
    shown = part_of(page(browser, "/settings/identities"), "identities")
    assert "dora dora@example.com i-dora https://id.example i-dora waits" in shown
    do(browser, "link_identity", path__identity_id="i-dora", body__person="")
    assert "dora (corp)" in part_of(page(browser, "/settings/identities"), "identities")
    do(browser, "unlink_identity", path__identity_id="i-dora")
    assert "waits" in part_of(page(browser, "/settings/identities"), "identities")


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/settings/identities", "admin"),
        ("/settings/people", "admin"),
        ("/settings/pipelines", "admin"),
        ("/settings/tokens", "admin"),
        ("/audit", "auditor"),
        ("/audit/export?form=csv", "auditor"),
        ("/settings/webhooks", "operator"),
    ],
)
def test_who_lacks_the_role_is_told_which_it_needs(empty_fleet: Fleet, path: str, role: str) -> None:
    answer = empty_fleet.browser(Role.VIEWER).get(path)
    assert answer.status_code == 403
    assert f"needs the role {role}" in answer.text
    assert empty_fleet.browser().get(path).status_code == 303


def test_a_webhook_is_made_tested_sent_again_rotated_and_deleted_by_forms(calling: Fleet) -> None:
    browser, parts = calling.browser(Role.ADMIN), calling.parts
    assert "edgectl webhook create" in page(browser, "/settings/webhooks")
    statuses = iter((500, 204, 204))
    with receiving() as receiver:
        receiver.answer = lambda _got: next(statuses)
        made = do(
            browser, "create_webhook", body__url=receiver.url, body__name="ops", body__types="edgefleet.rollout.*",
            next="/settings/webhooks",
        )  # fmt: skip
        assert "whsec_" in made.text, made.text  # type: ignore[attr-defined]
        [webhook] = parts.webhooks.webhooks()
        assert "whsec_" not in page(browser, "/settings/webhooks")
        own = f"/settings/webhooks/{webhook.id}"
        pinged = do(browser, "ping_webhook", path__webhook_id=webhook.id, next=own + "/deliveries/{id}")
        assert pinged.headers["location"] == f"{own}/deliveries/1"  # type: ignore[attr-defined]
        assert "Not sent yet" in page(browser, f"{own}/deliveries/1")
        sent(calling)
        assert "Next attempt" in page(browser, f"{own}/deliveries/1")
        calling.house.clock.turn(hours=1)
        sent(calling)
        told = text_of(page(browser, f"{own}/deliveries/1"))
        assert "Delivery 1 delivered" in told
        assert "HTTP 500" in told
        assert "HTTP 204" in told
        assert "edgefleet.ping delivered 2 HTTP 204" in part_of(page(browser, own), "deliveries")
        assert "No dead deliveries" in page(browser, f"{own}?state=dead")
        again = do(browser, "redeliver_webhook", path__webhook_id=webhook.id, path__delivery_id="1", next=own)
        assert again.status_code == 303  # type: ignore[attr-defined]
        sent(calling)
        assert len(receiver.got) == 3
    rotated = do(browser, "rotate_webhook", path__webhook_id=webhook.id, body__overlap_s="3600", next=own)
    assert "whsec_" in rotated.text  # type: ignore[attr-defined]
    assert len(parts.webhooks.webhook(webhook.id).secrets) == 2
    gone = do(
        browser,
        "delete_webhook",
        path__webhook_id=webhook.id,
        next="/settings/webhooks",
        confirm_word=webhook.id,
        confirm=webhook.id,
    )
    assert gone.status_code == 303  # type: ignore[attr-defined]
    assert parts.webhooks.webhooks() == []
    assert browser.get(own).status_code == 404


def test_a_webhook_says_the_same_of_itself_whichever_deliveries_are_listed(calling: Fleet) -> None:
    browser = calling.browser(Role.ADMIN)
    with receiving() as receiver:
        receiver.answer = lambda _got: 500
        do(browser, "create_webhook", body__url=receiver.url, body__name="ops", next="/settings/webhooks")
        [webhook] = calling.parts.webhooks.webhooks()
        own = f"/settings/webhooks/{webhook.id}"
        for state in ("", "?state=dead", "?state=delivered"):
            assert "Nothing was sent yet" in part_of(page(browser, own + state), "head")
        assert "not tried" in part_of(page(browser, "/settings/webhooks"), "webhooks")
        do(browser, "ping_webhook", path__webhook_id=webhook.id, next=own)
        sent(calling)
        calling.house.clock.turn(minutes=5)
        for state in ("", "?state=dead", "?state=delivered"):
            assert "has not accepted 1 of them yet" in part_of(page(browser, own + state), "head")
        assert "failing" in part_of(page(browser, "/settings/webhooks"), "webhooks")


def test_a_contact_point_is_made_tested_while_its_service_fails_and_tested_again(calling: Fleet) -> None:
    browser = calling.browser(Role.ADMIN)
    with post_office() as office:
        made = do(
            browser, "create_contact_point", body__name="on call", body__url=office.url, body__severity="warning",
            next=field_of(page(browser, "/settings/contacts"), "create_contact_point", "next"),
        )  # fmt: skip
        own = made.headers["location"]  # type: ignore[attr-defined]
        assert re.fullmatch("/settings/contacts/cp-[a-z0-9]+", own), own
        assert "not tried" in part_of(page(browser, own), "head")
        assert "ready" not in part_of(page(browser, "/settings/contacts"), "contacts")
        office.refuses = True
        assert "on its way" in field_of(page(browser, own), "test_contact_point", "said")
        test = {"path__contact_id": own.rpartition("/")[2], "next": own}
        do(browser, "test_contact_point", **test)
        assert "not tried" in part_of(page(browser, own), "head")
        sent(calling)
        assert "on hold" in part_of(page(browser, own), "head")
        calling.house.clock.turn(minutes=5)
        for path, place in ((own, "head"), ("/settings/contacts", "contacts")):
            assert "failing" in part_of(page(browser, path), place)
        office.refuses = False
        do(browser, "test_contact_point", **test)
        sent(calling)
        assert office.subjects[-1] == "[test] Contact point on call"
        for path, place in ((own, "head"), ("/settings/contacts", "contacts")):
            assert "ready" in part_of(page(browser, path), place)


def test_a_contact_point_whose_test_was_given_up_is_not_ready(calling: Fleet) -> None:
    browser = calling.browser(Role.ADMIN)
    with post_office() as office:
        do(browser, "create_contact_point", body__name="on call", body__url=office.url, next="/settings/contacts")
        office.refuses = True
        [contact] = calling.parts.alarm.contacts.contacts()
        do(browser, "test_contact_point", path__contact_id=contact.id, next="/settings/contacts")
        for _ in range(2):
            calling.house.clock.turn(days=2)
            sent(calling)
        calling.house.clock.turn(days=2)
        own = page(calling.browser(Role.ADMIN), f"/settings/contacts/{contact.id}")
        assert "0 pending, 1 dead" in text_of(own)
        assert "given up" in part_of(own, "head")
        assert "ready" not in part_of(own, "head")


def test_a_refused_contact_point_keeps_its_form_and_shows_no_secret(calling: Fleet) -> None:
    browser = calling.browser(Role.ADMIN)
    answer = do(
        browser, "create_contact_point", body__name="night watch", body__url="nonsense://ann:s3cret@host",
        back="/settings/contacts", next="/settings/contacts",
    )  # fmt: skip
    assert answer.status_code == 422  # type: ignore[attr-defined]
    assert "s3cret" not in answer.text  # type: ignore[attr-defined]


def field_of(text: str, operation: str, name: str) -> str:
    """Return the value of a hidden field in the form of an operation."""
    form = re.search(rf'<form class="act" method="post" action="/do/{operation}".*?</form>', text, re.DOTALL)
    assert form is not None
    found = re.search(rf'name="{name}" value="([^"]*)"', form[0])
    assert found is not None
    return html.unescape(found[1])


def sent(fleet: Fleet) -> None:
    """Let a sender do what is due, and wait for it."""
    sender = build_webhook_sender(fleet.parts, "main", draw=lambda: 0.0)
    try:
        sender.tick()
        while sender._busy:
            sender._woken.wait(0.02)
    finally:
        sender.stop()


def test_preferences_are_kept_in_cookies_and_shape_every_page(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    assert '<html lang="en" data-theme="auto" data-zone="utc" data-density="comfortable">' in page(browser, "/settings")
    answer = browser.get("/preferences?theme=dark&zone=local&next=/models")
    assert (answer.status_code, answer.headers["location"]) == (303, "/models")
    assert (browser.cookies[THEME_COOKIE], browser.cookies[ZONE_COOKIE]) == ("dark", "local")
    assert all("HttpOnly" in one and "SameSite=strict" in one for one in answer.headers.get_list("set-cookie"))
    text = page(browser, "/models")
    assert '<html lang="en" data-theme="dark" data-zone="local" data-density="comfortable">' in text
    assert '<meta name="color-scheme" content="dark">' in text
    assert "/static/zone.js" in text
    browser.get("/preferences?zone=utc&density=compact")
    text = page(browser, "/models")
    assert 'data-theme="dark" data-zone="utc" data-density="compact"' in text
    assert "/static/zone.js" not in text


def test_preferences_take_nothing_else_and_lead_nowhere_else(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.VIEWER)
    answer = browser.get("/preferences?theme=%22onload%3D1&zone=mars&next=https://example.org/")
    assert answer.headers["location"] == "/"
    assert "set-cookie" not in answer.headers
    browser.cookies.set(THEME_COOKIE, "evil")
    assert 'data-theme="auto"' in page(browser, "/models")


def test_a_token_that_ended_is_shown_as_expired(fleet: Fleet) -> None:
    now = fleet.parts.clock.now()
    fleet.parts.access.create_token("short", [Role.VIEWER], by="ann", expires_at=now + timedelta(minutes=1))
    browser = fleet.browser(Role.ADMIN)
    fleet.house.clock.turn(minutes=2)
    assert "viewer expired" in part_of(page(browser, "/settings/tokens"), "tokens")


def test_old_addresses_lead_on_with_what_was_asked(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.OPERATOR)
    for old, new in (
        ("/alerts/contacts", "/settings/contacts"),
        ("/alerts/contacts/c-1", "/settings/contacts/c-1"),
        ("/alerts/receivers", "/settings/receivers"),
    ):
        for query in ("", "?state=dead"):
            answer = browser.get(old + query)
            assert (answer.status_code, answer.headers["location"]) == (303, new + query)
    away = browser.get("/alerts/contacts/%2F%2Fevil.example?x=%0d%0aa:b").headers.get("location", "/")
    assert away.startswith("/")
    assert not away.startswith("//")


def test_moves_and_rotations_of_the_ca_are_started_and_undone_on_their_pages(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server", broker_port=8883)
    fleet.parts.fleet.addresses.announce_broker("127.0.0.1", 8883, "5")
    browser = fleet.browser(Role.ADMIN)
    assert "was never moved" in text_of(page(browser, "/settings/place"))
    assert "was never rotated" in text_of(page(browser, "/settings/device-ca"))
    fleet.device("cam")
    do(browser, "start_ca_rotation", body__reason="it is old")
    assert "started" in text_of(page(browser, "/settings/device-ca"))
    assert "it is old" in text_of(page(browser, "/settings/device-ca"))
    (again,) = [one for one in forms(page(browser, "/settings/device-ca")) if one.action == "/do/start_ca_rotation"]
    assert "body.reason" not in dict(again.fields), "what is started is announced again, and nothing else is started"
    assert "There is one rotation at a time. Finish the one under way first, or call it back." in text_of(
        page(browser, "/settings/device-ca")
    )
    assert send(browser, again, {"body.spread_s": "60"}).status_code == 303
    assert "The rotation is announced again." in text_of(page(browser, "/settings/device-ca"))
    assert len(fleet.parts.fleet.ca_rotations.rotations()) == 1
    assert "Finish" not in text_of(page(fleet.browser(Role.OPERATOR), "/settings/device-ca"))
    do(browser, "undo_ca_rotation", confirm_word="undo", confirm="undo")
    assert "start_ca_rotation" not in page(browser, "/settings/device-ca")
    do(browser, "finish_ca_rotation", confirm_word="finish", confirm="finish", body__leave_behind="0")
    assert "undone" in text_of(page(browser, "/settings/device-ca"))
    fleet.parts.fleet.ca_rotations.step()
    do(browser, "plan_server_move", body__device_port="9443")
    assert "planned" in text_of(page(browser, "/settings/place"))
    assert "There is one move at a time. Start the planned one, or drop its plan." in text_of(
        page(browser, "/settings/place")
    )
    assert "plan_server_move" not in page(browser, "/settings/place")
    do(browser, "start_server_move", body__ahead="true")
    told = text_of(page(browser, "/settings/place"))
    assert "0 of 1 devices use the place that is announced first, 0 know it. Not yet: cam-" in told
    word = {"confirm_word": "undo", "confirm": "undo"}
    do(browser, "undo_server_move", **word)
    assert "undoing" in text_of(page(browser, "/settings/place"))
    assert "Finish the one under way first." in text_of(page(browser, "/settings/place"))
    assert "Finish" not in text_of(page(fleet.browser(Role.OPERATOR), "/settings/place"))
    fleet.close()


def test_protection_rules_are_made_set_aside_and_removed_on_their_page(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser(Role.ADMIN)
    assert "No rule." in text_of(page(browser, "/settings/protection"))
    do(browser, "create_protection_rule", body__name="pci", body__selector="env=prod")
    told = text_of(page(browser, "/settings/protection"))
    assert "pci env=prod 0 in force" in told
    reason = "the cameras are blind"
    word = {"confirm_word": "pci", "confirm": "pci"}
    do(browser, "break_glass", path__name="pci", body__reason=reason, body__minutes="15", **word)
    do(browser, "end_protection_rule", path__name="pci", **word)
    told = text_of(page(browser, "/settings/protection"))
    assert "set aside by test" in told
    assert "the cameras are blind" in told
    assert "asked by test" in told
    assert "Break glass" not in text_of(page(empty_fleet.browser(Role.OPERATOR), "/settings/protection"))
    empty_fleet.parts.alarm.engine.tick()
    alerts = page(browser, "/alerts")
    assert "Acknowledge<span" in alerts
    assert "Silence<span" not in alerts, "nobody can silence it"


def test_the_page_of_alert_rules_offers_no_change_of_what_tells_who_gets_past_a_protection_rule(
    empty_fleet: Fleet,
) -> None:
    told = page(empty_fleet.browser(Role.OPERATOR), "/alerts/rules")
    assert "Change device offline beyond its habit" in told
    assert "Change protection rule" not in told
