"""Undo after an action on a page: everything is as it was, and nobody but the user's own session can offer one."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.actions.routes import offer_of
from edgefleet_server.dashboard.core.layout import SAID_COOKIE
from edgefleet_server.dashboard.operations.internal_client import Answer
from edgefleet_server.dashboard.operations.reversal import (
    MAX_CHARS,
    Done,
    Undo,
    can_undo,
    opened,
    sealed,
    undo_of,
)
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import ORT, STAGES, Fleet
from tests.server.objectives.test_openslo import share

TEXTS = st.text(max_size=40)
TEMPLATES = ROOT / "server/edgefleet_server/dashboard/templates"


def toast(browser: TestClient, path: str = "/glossary") -> str:
    """Return what the next page says was done, with its button."""
    found = re.search(r'<div class="toast said".*?</div>', browser.get(path).text, re.DOTALL)
    return found[0] if found else ""


def fields_of(text: str) -> tuple[str, dict[str, str]]:
    """Return where the form in a text goes, and its fields."""
    action = re.search(r'action="([^"]+)"', text)
    assert action is not None, text
    pairs = re.findall(r'name="([^"]+)" value="([^"]*)"', text)
    return action[1], {html.unescape(name): html.unescape(value) for name, value in pairs}


def undone(browser: TestClient) -> None:
    """Press the button."""
    action, fields = fields_of(toast(browser))
    answer = browser.post(action, data=fields)
    assert answer.status_code == 303, answer.text
    assert "Undone." in toast(browser)


def key_of(browser: TestClient) -> str:
    """Return the key of the session."""
    found = re.search(r'name="form_key" value="([^"]+)"', browser.get("/glossary").text)
    assert found is not None
    return html.unescape(found[1])


def do(browser: TestClient, operation: str, **fields: str) -> None:
    """Send a form as our own page does."""
    given = {name.replace("__", "."): value for name, value in fields.items()}
    answer = browser.post(f"/do/{operation}", data={"form_key": key_of(browser), "next": "/glossary", **given})
    assert answer.status_code == 303, answer.text


def read(fleet: Fleet, path: str) -> Any:
    """Return what the API shows there, without who touched it last and when; None when nothing is there."""
    answer = fleet.house.client(Role.ADMIN).get(f"/api/v1{path}")
    if answer.status_code == 404:
        return None
    gone = ("created_at", "created_by", "changed_at", "changed_by", "set_at", "set_by", "id", "last_seen", "source")
    known = answer.json()
    for one in known.get("items", [known]):
        for name in gone:
            one.pop(name, None)
    return known


def check_that_each_is_undone(fleet: Fleet, cases: Sequence[tuple[str, dict[str, str], str]]) -> None:
    """Do each operation with its fields, and see that its button brings back what the API shows at its path."""
    browser = fleet.browser(Role.ADMIN)
    for operation, fields, path in cases:
        before = read(fleet, path)
        do(browser, operation, **fields)
        assert read(fleet, path) != before, operation
        undone(browser)
        assert read(fleet, path) == before, operation


def test_everything_is_as_it_was(fleet: Fleet) -> None:
    device = fleet.device("cam", labels={"site": "hall", "line": "4"}).id
    admin = fleet.house.client(Role.ADMIN)
    admin.post("/api/v1/groups", json={"name": "hall", "selector": "site=hall"})
    fleet.release("digits@1.0.0", ORT)
    slo = {"body": json.dumps(share("success") | {"metadata": {"name": "ok"}})}
    contact = admin.post("/api/v1/contact-points", json={"name": "on call", "url": "ntfy://edgefleet"}).json()["id"]
    admin.put("/api/v1/prediction-logs/digits", json={"ratio": 0.5})
    cases = [
        ("update_device", {"path__device_id": device, "body__display_name": "Press 7"}, f"/devices/{device}"),
        ("update_device", {"path__device_id": device, "body__labels": "site=yard\nnew=1"}, f"/devices/{device}"),
        ("create_group", {"body__name": "yard", "body__selector": "site=yard"}, "/groups"),
        ("update_group", {"path__name": "hall", "body__selector": "site=yard"}, "/groups/hall"),
        ("delete_group", {"path__name": "hall"}, "/groups"),
        (
            "create_maintenance_window",
            {"body__name": "night", "body__cron": "0 1 * * *", "body__duration_s": "3600"},
            "/maintenance-windows",
        ),
        ("update_alert_rule", {"path__rule": "device_offline", "body__for_s": "1200"}, "/alert-rules/device_offline"),
        ("put_slo", {"path__name": "ok", **slo}, "/slos"),
        ("create_contact_point", {"body__name": "night", "body__url": "ntfy://edgefleet"}, "/contact-points"),
        ("update_contact_point", {"path__contact_id": contact, "body__name": "day"}, f"/contact-points/{contact}"),
        ("stop_prediction_log", {"path__model": "digits"}, "/prediction-logs/digits"),
    ]
    check_that_each_is_undone(fleet, cases)


def test_what_was_removed_comes_back(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    admin = fleet.house.client(Role.ADMIN)
    silence = {"matchers": ['rule="device_offline"'], "for_s": 7200}
    made = admin.post("/api/v1/alert-silences", json=silence).json()["id"]
    window = {"name": "night", "cron": "0 1 * * *", "duration_s": 3600, "tz": "Europe/Berlin", "selector": "site=hall"}
    nightly = admin.post("/api/v1/maintenance-windows", json=window).json()["id"]
    admin.put("/api/v1/models/digits/aliases/stable", json={"version": "1.0.0"})
    admin.put("/api/v1/slos/ok", json=share("success") | {"metadata": {"name": "ok"}})
    alias = {"path__name": "digits", "path__alias": "stable"}
    cases = [
        ("delete_maintenance_window", {"path__window_id": nightly}, "/maintenance-windows"),
        ("remove_alias", alias, "/models/digits/aliases"),
        ("delete_slo", {"path__name": "ok"}, "/slos"),
    ]
    check_that_each_is_undone(fleet, cases)
    browser = fleet.browser(Role.ADMIN)
    until = read(fleet, f"/alert-silences/{made}")["until"]
    do(browser, "end_alert_silence", path__silence_id=made)
    undone(browser)
    (again,) = [one for one in read(fleet, "/alert-silences")["items"] if not one["is_over"]]
    assert (again["until"], again["matchers"], again["selector"]) == (until, silence["matchers"], "")


def test_a_rule_without_a_threshold_gets_back_what_was_changed(fleet: Fleet) -> None:
    rules = {one["name"]: one for one in fleet.house.client(Role.ADMIN).get("/api/v1/alert-rules").json()["items"]}
    rule = next(name for name, one in rules.items() if one["least"] == one["most"] and one["severity"] != "info")
    browser = fleet.browser(Role.ADMIN)
    do(browser, "update_alert_rule", path__rule=rule, body__severity="info")
    changed = read(fleet, f"/alert-rules/{rule}")
    defaults = '{"threshold": null, "for_s": null, "severity": null, "selector": null, "is_enabled": null}'
    do(browser, "update_alert_rule", path__rule=rule, body=defaults)
    undone(browser)
    assert read(fleet, f"/alert-rules/{rule}") == changed


def test_a_new_url_of_a_contact_point_is_not_undone() -> None:
    done = Done("update_contact_point", {"contact_id": "c"}, {"url": "ntfy://b", "name": "b"}, {"name": "a"})
    assert undo_of(done) is None


def test_undoing_what_was_made_leads_to_a_page_that_is_there(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    do(browser, "create_group", body__name="yard", body__selector="site=yard")
    action, fields = fields_of(toast(browser, "/groups/yard"))
    answer = browser.post(action, data=fields)
    assert answer.headers["location"] == "/groups"
    assert "Undone." in toast(browser, "/groups")


def test_what_changed_since_is_not_overwritten(fleet: Fleet) -> None:
    device = fleet.device("cam").id
    browser = fleet.browser(Role.ADMIN)
    do(browser, "update_device", path__device_id=device, body__display_name="Press 7")
    action, fields = fields_of(toast(browser))
    fleet.house.client(Role.ADMIN).patch(f"/api/v1/devices/{device}", json={"display_name": "Press 8"})
    answer = browser.post(action, data=fields)
    assert answer.status_code == 412
    assert "nothing was undone" in answer.text
    assert read(fleet, f"/devices/{device}")["display_name"] == "Press 8"


def test_what_was_made_again_since_is_not_overwritten(fleet: Fleet) -> None:
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.release(ref, ORT)
    admin, path = fleet.house.client(Role.ADMIN), "/api/v1/models/digits/aliases/stable"
    admin.put(path, json={"version": "1.0.0"})
    browser = fleet.browser(Role.ADMIN)
    do(browser, "remove_alias", path__name="digits", path__alias="stable")
    action, fields = fields_of(toast(browser))
    admin.put(path, json={"version": "1.1.0"})
    answer = browser.post(action, data=fields)
    assert answer.status_code == 412
    assert "nothing was undone" in answer.text
    assert admin.get(path).json()["version"] == "1.1.0"


def test_a_second_click_says_that_it_may_be_undone_already(fleet: Fleet) -> None:
    device = fleet.device("cam").id
    browser = fleet.browser(Role.ADMIN)
    do(browser, "update_device", path__device_id=device, body__display_name="Press 7")
    action, fields = fields_of(toast(browser))
    assert browser.post(action, data=fields).status_code == 303
    second = browser.post(action, data=fields)
    assert second.status_code == 412
    assert "It was changed since then, or is undone already: nothing was undone now" in second.text


def test_a_rollout_that_is_paused_again_keeps_the_reason(fleet: Fleet) -> None:
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.release(ref, ORT)
    fleet.device("cam")
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    fleet.parts.rollout.pause(rollout, "ann", "the cameras are cleaned")
    browser = fleet.browser(Role.OPERATOR)
    do(browser, "resume_rollout", path__rollout_id=rollout)
    undone(browser)
    now = read(fleet, f"/rollouts/{rollout}")
    assert now["state"] == "paused"
    assert "paused by ann: the cameras are cleaned" in now["reason"]


def test_a_pause_of_a_rollout_that_ended_meanwhile_is_not_undone(fleet: Fleet) -> None:
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.release(ref, ORT)
    fleet.device("cam")
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser = fleet.browser(Role.OPERATOR)
    do(browser, "pause_rollout", path__rollout_id=rollout)
    action, fields = fields_of(toast(browser))
    fleet.parts.rollout.abort(rollout, "ann", "wrong model", rollback=False)
    assert browser.post(action, data=fields).status_code == 412
    assert browser.post(action, data=fields | {"form_key": "of another page"}).status_code == 403
    assert read(fleet, f"/rollouts/{rollout}")["state"] == "cancelled"


def test_nothing_is_offered_where_nobody_knows_what_was_there() -> None:
    done = Done("put_slo", {"name": "ok"}, {"kind": "SLO"})
    assert offer_of(done, Answer(503, {}, {})) is None
    assert offer_of(done, Answer(404, {}, {})) == Undo("delete_slo", {"path.name": "ok"})


def test_a_paused_rollout_goes_on(fleet: Fleet) -> None:
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.release(ref, ORT)
    fleet.device("cam")
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser = fleet.browser(Role.OPERATOR)
    do(browser, "pause_rollout", path__rollout_id=rollout)
    assert read(fleet, f"/rollouts/{rollout}")["state"] == "paused"
    undone(browser)
    assert read(fleet, f"/rollouts/{rollout}")["state"] == "running"


def test_a_rollout_that_was_paused_again_stays_paused(fleet: Fleet) -> None:
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.release(ref, ORT)
    fleet.device("cam")
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser = fleet.browser(Role.OPERATOR)
    do(browser, "pause_rollout", path__rollout_id=rollout)
    action, fields = fields_of(toast(browser))
    api = fleet.house.client(Role.ADMIN)
    api.post(f"/api/v1/rollouts/{rollout}:resume", json={})
    api.post(f"/api/v1/rollouts/{rollout}:pause", json={"reason": "the cameras are cleaned"})
    answer = browser.post(action, data=fields)
    assert answer.status_code == 412
    assert "nothing was undone" in answer.text
    assert read(fleet, f"/rollouts/{rollout}")["state"] == "paused"


@pytest.mark.parametrize(
    "operation", ["revoke_device", "abort_rollout", "promote_rollout", "withdraw_release", "undo_model"]
)
def test_what_cannot_be_put_back_is_not_offered(operation: str) -> None:
    assert undo_of(Done(operation, {"device_id": "d-1"}, {"reason": "x"}, {}, {"id": "1"})) is None


NEVER = {
    "it ends something for good": """abort_rollout cancel_release cancel_retraining deny_rollout delete_alert_receiver delete_contact_point
        delete_release delete_trigger delete_trusted_pipeline delete_webhook end_release_search erase_subject reject_retraining
        remove_capture_key revoke_device revoke_enrollment revoke_key revoke_own_token revoke_token sign_recovery update_person
        withdraw_release""",
    "devices have begun to follow it": """approve_pending_devices approve_readmissions approve_retraining approve_rollout create_rollout
        deploy_release promote_rollout retry_rollout rotate_key skip_rollout_stage undo_model""",
    "it only asks, sends or notes something": """ack_alert create_device_task create_tasks fetch_captures ping_webhook redeliver_webhook
        send_feedback test_contact_point watch_device""",
    "its secret is shown only once, on a page of its own": """create_alert_receiver create_enrollments create_invitation create_login_link
        create_own_token create_token create_webhook rotate_webhook""",
    "a name stays that owner's, so that the audit trail is not about two": "create_person",
    "its page removes it again, and asks first, since its tokens end": "create_trusted_pipeline",
    "it is a longer work, which its page shows and ends": "create_release start_retraining",
    "holders carry it: what they signed or were asked is not taken from them": """ask_team create_signing_request
        drop_signing_request renew_team set_team sign_signing_request sign_team_request""",
    "its page has both: what was granted, and the button that takes it": "grant_role link_identity revoke_grant unlink_identity",
    "its page has what calls devices back, until the key of a CA is destroyed": """finish_ca_rotation start_ca_rotation
        undo_ca_rotation""",
    "its page has what ends it: devices are called back in a move like any other": """finish_server_move plan_server_move start_server_move
        undo_server_move""",
    "who gets past protection is alarmed, and its page has what ends it": """break_glass create_protection_rule end_protection_rule
        keep_protection_rule""",
    "what weakens a policy waits, and its page takes that back": """approve_release_policy end_release_policy keep_release_policy
        set_release_policy""",
    "the same page takes it back while the device waits": "refuse_readmissions",
    "what was there is not known in full": "clear_drift_baseline label_devices set_capture_key set_drift_baseline clear_device_suspicion",
}
"""Why an act has no button that undoes it."""


def test_every_act_of_the_pages_can_be_undone_or_has_a_reason() -> None:
    texts = [one.read_text("utf-8") for one in TEMPLATES.rglob("*.html")]
    acts = {name for text in texts for name in re.findall(r'\b(?:act|careful)\((?:"[^"]*", )?"([a-z]+_[a-z_]+)"', text)}
    never = {name for names in NEVER.values() for name in names.split()}
    assert "pause_rollout" in acts
    assert {name for name in acts if not can_undo(name)} == never & acts
    assert not {name for name in never if can_undo(name)}
    assert never <= acts, "an act that is on no page"


@pytest.mark.parametrize(
    ("of", "by", "body"), [("a@1", "ann", {"owner": "Line team"}), ("a@0", "ann", None), ("", "", {})]
)
def test_what_a_card_stated_is_stated_again_but_not_what_its_parent_did(
    of: str, by: str, body: dict[str, str] | None
) -> None:
    stated: dict[str, object] = {"owner": "Line team" if by else "", "limits": [], "of": of, "by": by, "at": None}
    undo = undo_of(Done("put_model_card", {"ref": "a@1"}, {"owner": "bo"}, {"ref": "a@1", "stated": stated}))
    assert (None if undo is None else json.loads(undo.fields["body"])) == body


def test_what_changed_nothing_is_not_offered() -> None:
    assert undo_of(Done("update_device", {"device_id": "d"}, {"display_name": "a"}, {"display_name": "a"})) is None


@given(
    said=TEXTS, operation=TEXTS, fields=st.dictionaries(TEXTS, TEXTS, max_size=4), key=st.text(min_size=1, max_size=40)
)
def test_a_sealed_offer_opens_with_its_key_alone(said: str, operation: str, fields: dict[str, str], key: str) -> None:
    undo = Undo(operation, fields)
    value = sealed(said, undo, key)
    assert opened(value, key) == (said, undo)
    assert opened(value, key + "x") == ("", None)
    assert opened("A" + value, key) == ("", None)


def test_an_offer_that_no_cookie_holds_is_left_out() -> None:
    undo = Undo("update_device", {"body": "x" * MAX_CHARS})
    assert opened(sealed("Done.", undo, "key"), "key") == ("Done.", None)


def test_a_cookie_of_somebody_else_says_nothing(fleet: Fleet) -> None:
    browser = fleet.browser(Role.ADMIN)
    planted = sealed("Press here.", Undo("revoke_device", {"path.device_id": "d-1"}), "another key")
    browser.cookies.set(SAID_COOKIE, planted)
    assert "Press here." not in browser.get("/glossary").text
