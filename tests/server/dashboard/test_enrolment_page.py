"""The page of enrolment: what it shows, what its forms do, and fifty devices let in by keyboard in a real browser."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.actions.outcomes import outcome
from edgefleet_server.dashboard.core.qr_code import MAX_CHARS, qr
from edgefleet_server.dashboard.enrolment.views import token_choices
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.enrolment.approval import Choice
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError
from edgefleet_server.fleet.inventory.device_list import Facets
from edgefleet_server.fleet.readmission.model import ReadmissionState
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served
from tests.server.dashboard.test_acting import key_of, signed_in
from tests.server.dashboard.test_login_pages import assert_headers, code_of, link_of
from tests.server.dashboard.test_pages import HOSTILE, part_of, text_of
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.browsers import binary, browser

CHROMIUM = binary()


def crowd(fleet: Fleet, count: int = 1, **facts: Any) -> list[str]:
    """Let devices wait; return their fingerprints."""
    order: dict[str, Any] = {"approval": True, "uses": 100, "labels": {"site": "lab"}, "created_by": "ann"}
    claims = fleet.parts.fleet.enrolment.create_claims(count=1 + count // 100, **order)
    found = []
    for number in range(count):
        made = claims[number // 100]
        told = {**FACTS, "hostname": f"cam-{number:02}", "board": "Raspberry Pi 4", **facts}
        with pytest.raises(ApprovalPendingError) as caught:
            fleet.parts.fleet.enrolment.enroll(made.token, KeyedDevice().csr(), told)
        found.append(caught.value.waiting.fingerprint)
        fleet.house.clock.turn(seconds=1)
    return found


def send(browser: TestClient, operation: str, fields: dict[str, Any]) -> Any:
    """Send a form as our own page does; lists are boxes that were ticked."""
    return browser.post(f"/do/{operation}", data={"form_key": key_of(browser), "next": "/enrolment", **fields})


def test_an_empty_page_says_what_to_do_next(empty_fleet: Fleet) -> None:
    answer = empty_fleet.browser(Role.VIEWER).get("/enrolment")
    assert answer.status_code == 200
    assert_headers(answer)
    for told in ("No pending devices", "edgectl device enroll --approval", "No claim tokens yet"):
        assert told in answer.text
    assert "needs the role operator" in answer.text


def test_a_device_that_asks_to_come_back_is_let_in_or_refused_on_the_page(fleet: Fleet) -> None:
    device = fleet.device("cam-9")
    device.ask_to_come_back()
    told = text_of(signed_in(fleet, Role.VIEWER).get("/enrolment").text)
    assert "Devices that ask to come back" in told
    assert "its certificate ended 45 days ago; the rule lets in up to 30 days" in told
    page = signed_in(fleet, Role.OPERATOR)
    refused = send(page, "refuse_readmissions", {"body.devices": [device.id], "body.reason": "it was stolen"})
    assert refused.status_code == 303
    assert "ask to come back" not in page.get("/enrolment").text
    found, _ = fleet.parts.fleet.readmissions.page(PageRequest(), ReadmissionState.REFUSED)
    assert [(one.device, one.why) for one in found] == [(device.id, "it was stolen")]


def test_who_waits_is_shown_with_what_to_compare(fleet: Fleet) -> None:
    [fingerprint] = crowd(fleet)
    told = text_of(fleet.browser(Role.OPERATOR).get("/enrolment").text)
    assert "1 device waiting for approval" in told
    for word in (fingerprint, "cam-00", "Raspberry Pi 4, 2048 MiB", "site=lab", "generic-x86_64-ort"):
        assert word in told
    looked = fleet.browser(Role.VIEWER).get("/enrolment").text
    assert fingerprint in looked
    assert 'type="checkbox"' not in looked
    fleet.house.clock.turn(minutes=10)
    assert "no, last heard from 10 min ago" in text_of(fleet.browser(Role.VIEWER).get("/enrolment").text)


def test_the_page_begins_with_how_many_wait_and_how_many_more_may_come(fleet: Fleet) -> None:
    browser = fleet.browser(Role.OPERATOR)
    assert "No token is open, so no new device can enrol." in part_of(browser.get("/enrolment").text, "waiting-count")
    crowd(fleet)
    told = part_of(browser.get("/enrolment?state=approved").text, "waiting-count")
    assert "1 device waiting for approval. Show it With 1 open token, 100 more devices can enrol." in told


def test_labels_of_a_new_token_are_picked_from_those_of_the_fleet(fleet: Fleet) -> None:
    fleet.device("cam0", labels={"site": "hall", "edgefleet/pinned": "by-hand"})
    fleet.device("cam1", labels={"site": "hall", "line": "4"})
    page = signed_in(fleet, Role.OPERATOR)
    shown = page.get("/enrolment").text
    assert '<option value="site=hall">hall (2 devices)</option>' in shown
    assert "pinned" not in shown.partition('action="/do/create_enrollments"')[2].partition("</form>")[0]
    send(page, "create_enrollments", {"body.uses": "1", "body.labels": ["site=hall", "", "row=2"]})
    assert "row=2, site=hall" in text_of(page.get("/enrolment").text)


def test_counts_of_a_choice_are_written_as_everywhere() -> None:
    found = token_choices(Facets({}, {ORT: 12_345}, (), (), 12_345, 0, [("site", "hall", 1_234)]), [ORT])
    assert found.labels == {"site": [("site=hall", "hall (1\N{NARROW NO-BREAK SPACE}234 devices)")]}
    assert found.profiles == [(ORT, f"{ORT} (12\N{NARROW NO-BREAK SPACE}345 devices)")]


def test_ticked_ones_are_let_in_and_others_wait_on(fleet: Fleet) -> None:
    waiting = crowd(fleet, 5)
    page = signed_in(fleet, Role.OPERATOR)
    answer = send(page, "approve_pending_devices", {"body.ids": waiting[:3]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/enrolment")
    shown = page.get("/enrolment").text
    assert "3 of 3 devices approved." in shown
    assert [one in shown for one in waiting] == [False, False, False, True, True]
    let_in = text_of(page.get("/enrolment?state=approved").text)
    assert all(one in let_in for one in waiting[:3])
    assert len(fleet.parts.fleet.devices.select("site=lab")) == 3
    row = fleet.house.client(Role.ADMIN).get("/api/v1/audit").json()["items"][0]
    assert (row["action"], row["status"]) == ("approve_pending_devices", 200)


def test_a_rejection_says_why_and_who(fleet: Fleet) -> None:
    [fingerprint] = crowd(fleet)
    page = signed_in(fleet, Role.OPERATOR)
    send(page, "reject_pending_devices", {"body.ids": [fingerprint], "body.reason": "nobody knows it"})
    assert "1 of 1 device rejected." in page.get("/enrolment").text
    told = text_of(page.get("/enrolment?state=rejected").text)
    assert fingerprint in told
    assert "nobody knows it" in told
    twice = send(page, "approve_pending_devices", {"body.ids": [fingerprint]})
    assert twice.status_code == 303
    assert f"0 of 1 device approved. Skipped {fingerprint}: it was rejected" in html.unescape(
        page.get("/enrolment").text
    )


def test_nothing_ticked_is_told(fleet: Fleet) -> None:
    crowd(fleet)
    page = signed_in(fleet, Role.OPERATOR)
    assert '<input type="hidden" name="picks" value="body.ids">' in page.get("/enrolment").text
    for operation in ("approve_pending_devices", "reject_pending_devices"):
        answer = send(page, operation, {"picks": "body.ids"})
        assert answer.status_code == 422
        assert "Nothing is selected" in answer.text
        assert 'href="/enrolment">Back</a>' in answer.text
    assert fleet.parts.fleet.devices.select("") == []


def test_a_viewer_s_form_does_nothing(fleet: Fleet) -> None:
    [fingerprint] = crowd(fleet)
    assert (
        send(signed_in(fleet, Role.VIEWER), "approve_pending_devices", {"body.ids": [fingerprint]}).status_code == 403
    )
    assert fleet.parts.fleet.devices.select("") == []


def test_a_new_token_is_shown_once_with_its_line_and_a_picture(fleet: Fleet) -> None:
    page = signed_in(fleet, Role.OPERATOR)
    fields = {"body.uses": "50", "body.ttl_s": "3600", "body.approval": "true", "body.labels": "site=lab\nrow=2"}
    answer = send(page, "create_enrollments", fields)
    assert answer.status_code == 200
    assert_headers(answer)
    token = re.search(r"edge-agent enroll (efc1\.\S+) &amp;&amp; edge-agent run", answer.text)
    assert token is not None
    assert 'class="qr"' in answer.text
    assert "style=" not in answer.text
    assert "fingerprint" in answer.text
    with pytest.raises(ApprovalPendingError):
        fleet.parts.fleet.enrolment.enroll(token[1], KeyedDevice().csr(), FACTS)
    listed = page.get("/enrolment").text
    assert token[1] not in listed
    told = text_of(listed)
    assert "50 of 50" in told
    assert "row=2, site=lab" in told


def test_a_token_is_revoked_from_its_row(fleet: Fleet) -> None:
    [fingerprint] = crowd(fleet)
    claim = fleet.parts.fleet.enroller.claims(None, 1)[0][0].id
    page = signed_in(fleet, Role.OPERATOR)
    assert "Revoke…" in page.get("/enrolment").text
    send(page, "revoke_enrollment", {"path.claim_id": claim, "said": "gone"})
    shown = page.get("/enrolment").text
    assert fingerprint not in shown
    assert "Revoke…" not in shown
    assert fingerprint in page.get("/enrolment?state=expired").text


def test_pages_and_selectors_lead_on(fleet: Fleet) -> None:
    waiting = crowd(fleet, 103)
    page = fleet.browser(Role.OPERATOR)
    first = page.get("/enrolment?selector=site%3Dlab").text
    onward = re.search(r'rel="next" href="([^"]+)"', first)
    assert onward is not None
    second = page.get(html.unescape(onward[1])).text
    assert [one for one in waiting if one not in first] == [one for one in waiting if one in second]
    assert len([one for one in waiting if one in second]) == 3
    assert "No matching devices" in page.get("/enrolment?selector=site%3Delsewhere").text
    wrong = page.get("/enrolment?selector=a+in+(").text
    assert 'role="alert"' in wrong
    assert waiting[0] in wrong
    assert page.get("/enrolment?state=nonsense").status_code == 422


def test_hostile_words_of_a_device_are_words(fleet: Fleet) -> None:
    crowd(fleet, hostname=HOSTILE, board=HOSTILE)
    shown = fleet.browser(Role.OPERATOR).get("/enrolment").text
    assert "<script>window" not in shown
    assert "<img src=x" not in shown
    assert html.escape("<script>window.hostile = 1</script>", quote=False) in shown


def test_what_was_done_is_one_sentence() -> None:
    skipped = [{"id": f"f{n}", "reason": "it gave up", "next": ""} for n in range(4)]
    told = outcome("approve_pending_devices", {"matched": 5, "done": [{}], "skipped": skipped})
    assert told == "1 of 5 devices approved. Skipped f0: it gave up. Skipped f1: it gave up. 2 more skipped."
    assert outcome("create_group", {"matched": 1}) == ""


def test_a_picture_holds_its_text_or_is_left_out() -> None:
    assert qr("efc1.abc", "a <title>").startswith('<svg viewBox="0 0 29 29" class="qr">')
    assert "a &lt;title&gt;" in qr("efc1.abc", "a <title>")
    assert qr("x" * (MAX_CHARS + 1)) == ""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_fifty_are_let_in_by_keyboard_alone(fleet: Fleet, tmp_path: Path) -> None:
    crowd(fleet, 50)
    with served(fleet.house.own_app()) as url, browser() as chromium:
        page = chromium.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{url}/login?code={code_of(link_of(fleet, Role.OPERATOR))}")
        page.locator("button").first.press("Enter")
        page.wait_for_url(f"{url}/")
        page.get_by_role("navigation", name="Main", exact=True).get_by_role("link", name="Fleet").press("Enter")
        page.get_by_role("link", name="Enrolment", exact=True).first.press("Enter")
        every = page.get_by_label("Select all 50")
        every.focus()
        page.keyboard.press("Space")
        assert page.locator("input[name='body.ids']:checked").count() == 50
        boxes = page.locator("input[name='body.ids']")
        boxes.nth(7).focus()
        page.keyboard.press("Space")
        page.get_by_role("button", name="Approve selected").focus()
        page.keyboard.press("Enter")
        page.get_by_text("49 of 49 devices approved.").wait_for()
        assert page.locator("input[name='body.ids']").count() == 1
        assert problems == []
    assert len(fleet.parts.fleet.devices.select("site=lab")) == 49
    assert fleet.parts.fleet.approvals.approve(Choice(selector=""), "ann").matched == 1
