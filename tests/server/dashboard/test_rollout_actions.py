"""A rollout steered from its page: paused, promoted, approved, retried, aborted and undone; all of it without scripts."""

from __future__ import annotations

import re
from typing import Any

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import ORT, STAGES, Device, Fleet, follow, small, state_of
from tests.server.dashboard.forms_of import form, forms, send
from tests.server.dashboard.test_pages import part_of, text_of

NEW = "/rollouts/new"


def test_create_watch_pause_and_roll_back(fleet: Fleet) -> None:
    devices = small(fleet)
    browser = fleet.browser(Role.OPERATOR)
    query = f"{NEW}?step=review&release=digits@1.1.0&selector=site=hall&strategy=canary&name=summer"
    answer = send(browser, form(browser.get(query).text, "/do/create_rollout"))
    assert answer.status_code == 303, text_of(answer.text)
    path = answer.headers["location"]
    rollout = path.rpartition("/")[2]
    page = browser.get(path).text
    assert "Rollout started." in page
    assert "summer" in page
    assert "Strategy canary" in text_of(page)
    fleet.tick()
    first = fleet.offered(rollout, devices)[0]
    first.report(Phase.DOWNLOADING)
    fleet.tick(seconds=2)
    assert "downloading the bundle" in text_of(browser.get(f"{path}?state=downloading").text)

    paused = send(browser, form(browser.get(path).text, "/do/pause_rollout"), {"body.reason": "lunch"})
    assert (paused.status_code, paused.headers["location"]) == (303, path)
    page = browser.get(path).text
    assert "Paused by test: lunch." in part_of(page, "head")
    assert "edgectl rollout resume" in part_of(page, "waits")
    assert "1 rollout waiting for a person" in text_of(browser.get("/rollouts").text)

    back = form(page, "/do/abort_rollout", body__rollback="true")
    assert "confirm_word" not in dict(back.fields), "what costs nothing needs no word"
    done = send(browser, back, {"body.reason": "it is slow"})
    assert done.status_code == 303
    fleet.tick(seconds=2)
    assert state_of(fleet, rollout) in ("rolling_back", "rolled_back")
    page = browser.get(path).text
    assert "it is slow" in part_of(page, "head")
    assert not [one for one in forms(page) if one.action == "/do/pause_rollout"]


def test_a_rollback_that_downloads_needs_the_release_typed(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"
    fleet.tick()
    for device in fleet.offered(rollout, devices):
        device.report(Phase.PROBATION)
    fleet.tick(seconds=2)
    assert "still holds its previous release. Nothing to download." in text_of(browser.get(path).text)
    for device in fleet.offered(rollout, devices):
        device.previous = ""  # its other slot holds something else by now
        device.report(Phase.PROBATION)
    fleet.tick(seconds=2)
    page = browser.get(path).text
    assert "2 of 2 devices have to download their previous release." in text_of(page)
    back = form(page, "/do/abort_rollout", body__rollback="true")
    assert send(browser, back, {"confirm": "digits"}).status_code == 422
    assert state_of(fleet, rollout) == "running"
    assert send(browser, back, {"confirm": "digits@1.1.0"}).status_code == 303
    assert state_of(fleet, rollout) == "rolling_back"


def test_resume_promote_and_abort_do_what_their_button_says(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"
    follow(fleet, devices[:1])
    send(browser, form(browser.get(path).text, "/do/pause_rollout"))
    assert "Undo" in text_of(browser.get(path).text), "the sentence about it has a button of its own, once"
    send(browser, form(browser.get(path).text, "/do/resume_rollout"))
    assert state_of(fleet, rollout) == "running"
    promote = form(browser.get(path).text, "/do/promote_rollout")
    assert send(browser, promote, {"body.reason": ""}).status_code == 422
    send(browser, promote, {"body.reason": "we saw enough"})
    assert fleet.parts.rollout.reader.rollout(rollout).stages[0].strength == "override"
    abort = next(
        one
        for one in forms(browser.get(path).text)
        if one.action == "/do/abort_rollout" and "body.rollback" not in dict(one.fields)
    )
    send(browser, abort, {"confirm": "digits@1.1.0"})
    assert state_of(fleet, rollout) == "cancelled"
    assert "Aborted by test." in part_of(browser.get(path).text, "head")
    assert "running → aborted" in text_of(browser.get("/events?view=all").text)


def test_a_stage_that_a_person_stopped_is_not_called_failed_and_one_that_passed_is_full(fleet: Fleet) -> None:
    devices = small(fleet, 8)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"
    follow(fleet, devices)
    fleet.tick(seconds=40)
    follow(fleet, devices)
    page = browser.get(path).text
    assert "canary passed 2 per stratum" in part_of(page, "stages")
    assert "passed: 2 of 2 healthy" in part_of(page, "stages")
    assert '<rect class="f-ok" x="0" y="0" width="100.0" height="8"/>' in page.partition('id="stage-0"')[2][:900]
    send(browser, form(page, "/do/abort_rollout", body__rollback="true"))
    for _ in range(3):
        follow(fleet, devices)
    page = browser.get(path).text
    assert "rolled back by test" in part_of(page, "head")
    assert "half stopped by test" in part_of(page, "stages")
    assert '<span class="state bad">' not in page.partition('id="stages"')[2].partition('id="rollout-devices"')[0]
    assert "half stopped by test" in text_of(browser.get("/rollouts").text)
    for where in ("/", "/rollouts"):
        assert "failed" not in part_of(browser.get(where).text, "rollouts")


def test_a_stage_that_has_not_opened_is_left_out_from_the_page(fleet: Fleet) -> None:
    small(fleet)
    sizes = {"first": 50, "second": 75, "last": 100}
    stages = [{"name": name, "size": {"percent": percent}} for name, percent in sizes.items()]
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=stages)
    fleet.tick(seconds=2)
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"
    page = browser.get(path).text
    box = page.partition('id="skip"')[2].partition("</details>")[0]
    assert re.findall(r"<option>(\w+)</option>", box) == ["second"], "neither what is open nor the last"
    assert send(browser, form(page, "/do/skip_rollout_stage"), {"body.stage": "second"}).status_code == 422
    send(browser, form(page, "/do/skip_rollout_stage"), {"body.stage": "second", "body.reason": "seen in the lab"})
    assert [one.state for one in fleet.parts.rollout.reader.rollout(rollout).stages][1] == "skipped"
    assert "/do/skip_rollout_stage" not in browser.get(path).text


def test_failed_devices_are_tried_again_from_the_page_and_stay_counted(fleet: Fleet) -> None:
    devices = small(fleet)
    stages = [{"name": "all", "size": {"percent": 100}, "soak": "0s"}]
    rollout = fleet.rollout(
        release="digits@1.1.0", selector="", stages=stages, on_fail="pause", on_unconfirmed="rollback"
    )
    path = f"/rollouts/{rollout}"
    browser = fleet.browser(Role.OPERATOR)
    fleet.tick(seconds=2)
    assert "/do/retry_rollout" not in browser.get(path).text, "nothing has failed"
    devices[0].report(
        Phase.FAILED, error_class=ErrorClass.GOLDEN, reason="it answers otherwise", error_code="golden.differs"
    )
    fleet.tick(seconds=2)
    fleet.tick(seconds=2)
    assert state_of(fleet, rollout) == "paused"
    again = form(browser.get(path).text, "/do/retry_rollout")
    assert "--failed" in send(browser, again, {"body.failed": "false"}).text, (
        "the failure lies in the release: that has to be said"
    )
    send(browser, again, {"body.failed": "true", "body.reason": "mended"})
    told = text_of(browser.get(path).text)
    assert "failed before (golden): counts as failed" in told
    assert "1 failed (1 of them retried)" in told
    assert f"edgectl rollout retry {rollout}" in browser.get(path).text


def test_who_may_not_steer_gets_no_form(fleet: Fleet) -> None:
    small(fleet, 2)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{rollout}").text
    assert [one.action for one in forms(page) if one.action.startswith("/do/")] == []
    assert "require the role operator" in text_of(page)


def approving(fleet: Fleet) -> tuple[str, list[Device]]:
    """Return a rollout that waits for an approver before its last stage, and its devices."""
    devices = small(fleet)
    canary: dict[str, Any] = {"name": "canary", "size": {"count": 2}, "soak": "0s"}
    rest = {"name": "rest", "size": {"percent": 100}, "approval": {"role": "approver", "timeout": "1h"}}
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[canary, rest])
    for _ in range(4):
        follow(fleet, devices)
    assert state_of(fleet, rollout) == "awaiting_approval"
    return rollout, devices


def test_an_approval_is_asked_of_the_role_and_given_by_a_form(fleet: Fleet) -> None:
    rollout, devices = approving(fleet)
    path = f"/rollouts/{rollout}"
    page = fleet.browser(Role.OPERATOR).get(path).text
    assert "It needs approval from the role approver" in text_of(page)
    assert not [one for one in forms(page) if one.action == "/do/approve_rollout"]
    waiting = text_of(fleet.browser(Role.VIEWER).get("/rollouts?state=finished").text)
    assert "1 rollout waiting for a person digits@1.1.0 awaiting approval" in waiting
    assert "Requires approval by: approver" in waiting
    approver = fleet.browser(Role.APPROVER)
    page = approver.get(path).text
    assert not [one for one in forms(page) if one.action == "/do/pause_rollout"]
    answer = send(approver, form(page, "/do/approve_rollout"), {"body.reason": "looks fine"})
    assert answer.status_code == 303
    for _ in range(3):
        follow(fleet, devices)
    assert state_of(fleet, rollout) == "finished"
    assert "approved by" in part_of(approver.get(path).text, "stages")


def test_a_denial_needs_a_reason_and_takes_back(fleet: Fleet) -> None:
    rollout, _devices = approving(fleet)
    approver, path = fleet.browser(Role.APPROVER), f"/rollouts/{rollout}"
    send(approver, form(approver.get(path).text, "/do/deny_rollout"), {"body.reason": "not on Fridays"})
    fleet.tick(seconds=2)
    assert "denied by test: not on Fridays" in part_of(approver.get(path).text, "stages")
    assert [one.state for one in fleet.parts.rollout.reader.rollout(rollout).stages] == ["passed", "failed"]
    assert {one.is_back for one in fleet.parts.rollout.reader.devices(rollout)} == {False}
    head = part_of(approver.get(path).text, "head")
    assert "Rolling back: 2 not confirmed yet" in head
    assert "No device has it, none failed." in head, "what was sent back is not counted as having it"
    assert "2 devices were sent back, not confirmed yet" in part_of(approver.get(path).text, "waits")


def test_an_undo_is_shown_before_it_is_done(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES[-1:])
    for _ in range(3):
        follow(fleet, devices)
    assert state_of(fleet, rollout) == "finished"
    assert fleet.browser(Role.VIEWER).get("/rollouts/undo?name=digits").status_code == 403
    browser = fleet.browser(Role.OPERATOR)
    assert "/rollouts/undo?name=digits" in browser.get(f"/rollouts/{rollout}").text
    page = browser.get("/rollouts/undo?name=digits").text
    told = text_of(page)
    assert "4 devices go back" in told
    assert f"digits@1.1.0 digits@1.0.0 {ORT} 4" in told
    one = form(page, "/do/undo_model")
    assert send(browser, one, {"confirm": "yes"}).status_code == 422
    assert {device.desired().models["digits"].active.target.split("/")[1] for device in devices} == {"1.1.0"}  # type: ignore[union-attr]
    assert send(browser, one, {"confirm": "digits"}).status_code == 303
    fleet.tick(seconds=2)
    assert {device.desired().models["digits"].active.target.split("/")[1] for device in devices} == {"1.0.0"}  # type: ignore[union-attr]
    nothing = browser.get("/rollouts/undo?name=digits@9.9.9").text
    assert "There is nothing to undo: no device should run digits@9.9.9. <code>edgectl model list</code>" in nothing
    wrong = browser.get("/rollouts/undo?name=A+B")
    assert wrong.status_code == 200
    assert 'role="alert"' in wrong.text
