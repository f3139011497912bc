"""Rollouts in the browser: find one, write a new one step by step, steer it, undo it; all of it without scripts."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.filters import assignment
from edgefleet_server.dashboard.rollouts.views import failure_groups
from edgefleet_server.rollout.status.failures import FailedDevice
from tests.server.dashboard.fleet import LITERT, ORT, STAGES, Device, Fleet, follow, staged
from tests.server.dashboard.forms_of import form, forms, send
from tests.server.dashboard.test_pages import part_of, text_of

NEW = "/rollouts/new"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str, str]]:
    """A fleet after a good and a bad rollout, and the ids of both; tests only look at it."""
    fleet = Fleet(tmp_path_factory.mktemp("story") / "server")
    yield (fleet, *staged(fleet))
    fleet.close()


def small(fleet: Fleet, count: int = 4) -> list[Device]:
    """Return devices that run 1.0.0 while 1.1.0 is published."""
    for version in ("1.0.0", "1.1.0"):
        fleet.release(f"digits@{version}", ORT)
    devices = [fleet.device(f"cam{n}", labels={"site": "hall"}) for n in range(count)]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    for device in devices:
        device.report(Phase.COMMITTED)
    return devices


def state_of(fleet: Fleet, rollout: str) -> str:
    return fleet.parts.rollout.reader.rollout(rollout).state


# ---- the list


def test_the_list_says_where_each_stands_and_what_would_move_it(story: tuple[Fleet, str, str]) -> None:
    fleet, good, bad = story
    browser = fleet.browser(Role.VIEWER)
    told = part_of(browser.get("/rollouts").text, "rollouts")
    assert told.startswith("2 rollouts, newest first")
    assert told.index(bad) < told.index(good)
    assert (
        "1 device was told to go back, not confirmed yet. Next: its confirmation, or it is listed as not back at 2026-"
        in told
    )
    assert "New rollout" not in browser.get("/rollouts").text
    assert f'href="{NEW}"' in fleet.browser(Role.OPERATOR).get("/rollouts").text


@pytest.mark.parametrize(
    ("query", "found"),
    [("state=open", "bad"), ("state=finished", "good"), ("state=rolling_back,finished", "both"), ("model=digits", "both"),
     ("state=paused", "none"), ("model=other", "none"), ("state=waiting", "none"), ("state=nonsense", "none")],
)  # fmt: skip
def test_the_list_is_cut_by_state_and_model(story: tuple[Fleet, str, str], query: str, found: str) -> None:
    fleet, good, bad = story
    told = part_of(fleet.browser(Role.VIEWER).get(f"/rollouts?{query}").text, "rollouts")
    assert (good in told, bad in told) == {
        "good": (True, False),
        "bad": (False, True),
        "both": (True, True),
        "none": (False, False),
    }[found]
    assert found != "none" or "No matching rollouts" in told


def test_an_empty_list_names_the_next_command(empty_fleet: Fleet) -> None:
    page = empty_fleet.browser(Role.VIEWER).get("/rollouts").text
    assert "edgectl rollout create NAME@VERSION --to SELECTOR" in page
    assert "edgectl publish" in empty_fleet.browser(Role.OPERATOR).get(NEW).text


# ---- four steps


def test_the_steps_follow_each_other_and_carry_what_was_written(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, _bad = story
    browser = fleet.browser(Role.OPERATOR)
    first = browser.get(NEW).text
    assert "digits@1.2.0" in text_of(first)
    second = send(browser, form(first, NEW), {"release": "digits@1.2.0"}, "step=devices").text
    assert "Enter a selector, or choose all devices" in second
    third = send(browser, form(second, NEW), {"selector": "site=hall"}, "step=how").text
    assert "canary 5 %, at least 2" in part_of(third, "plan")
    assert "digits@1.2.0 has no bundle for profile generic-x86_64-litert" in part_of(third, "plan")
    own = send(browser, form(third, NEW), {}, "edit=ab").text
    assert 'value="winner"' in own
    longer = send(browser, form(own, NEW), {"downloads": "5"}, "add=stage").text
    assert 'value="stage-1"' in longer
    fourth = send(browser, form(longer, NEW), {"supersede": "queue"}, "step=review").text
    assert "concurrent_downloads: 5" in fourth
    assert "edgectl rollout create -f -" in fourth
    plan = part_of(fourth, "plan")
    assert re.search(r"\d+ devices match , \d+ cannot take part", plan)
    assert "ab 20 %, at least 2, for 50 % of the requests" in plan
    assert "Fails on 10 %" in plan
    started = json.loads(dict(form(fourth, "/do/create_rollout").fields)["body"])
    assert [one["name"] for one in started["spec"]["stages"]] == ["ab", "stage-1", "winner"]
    assert started["spec"]["selector"] == "site=hall"


def test_the_count_says_who_is_meant_and_who_has_no_bundle(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, _bad = story
    browser = fleet.browser(Role.OPERATOR)
    page = browser.get(f"{NEW}?step=devices&release=digits@1.2.0&who=all").text
    told = text_of(page)
    assert "10 devices match now; 9 online; 3 with a profile that digits@1.2.0 has no bundle for" in told
    assert f"{LITERT} 3 none: excluded" in told
    assert "No matching devices" in browser.get(f"{NEW}?step=devices&selector=site=nowhere").text
    wrong = browser.get(f"{NEW}?step=devices&selector=a+in+(").text
    assert 'aria-invalid="true"' in wrong


@pytest.mark.parametrize(
    ("query", "title"),
    [("", "release"), ("release=digits@1.2.0", "devices"), ("selector=site=hall", "release"),
     ("release=digits@1.2.0&selector=site=hall", "strategy"), ("yaml=release:%20digits@1.2.0", "review")],
)  # fmt: skip
def test_a_link_leads_to_the_first_step_that_is_not_done(story: tuple[Fleet, str, str], query: str, title: str) -> None:
    page = story[0].browser(Role.OPERATOR).get(f"{NEW}?{query}").text
    assert f"New rollout: {title} " in text_of(page)


def test_what_cannot_be_started_says_why_and_has_no_button(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    browser = fleet.browser(Role.OPERATOR)

    def page(query: str) -> str:
        found = browser.get(f"{NEW}?step=review&{query}").text
        assert not [one for one in forms(found) if one.action == "/do/create_rollout"]
        return text_of(found)

    assert "$.spec.selector is missing" in page("release=digits@1.2.0")
    assert "no release digits@9.9.9" in page("release=digits@9.9.9&who=all")
    assert "error stage canary reaches 1 of 7 devices" in page(
        "release=digits@1.2.0&who=all&stage.name=canary&stage.size=1&stage.name=rest&stage.size=100%25"
    )
    assert "error no device matches" in page("release=digits@1.2.0&selector=site=nowhere")
    assert "this is not valid YAML" in page("yaml=a: [")
    open_ = text_of(browser.get(f"{NEW}?step=review&release=digits@1.2.0&who=all").text)
    assert re.search(rf"Rollout {bad} of digits@1\.2\.0 is open and includes \d of these devices", open_)
    assert "Queue" in open_


def test_hostile_text_in_an_address_stays_text(story: tuple[Fleet, str, str]) -> None:
    hostile = "</textarea><script>x</script>\"'"
    for name in ("release", "selector", "yaml", "strategy", "stage.name", "cron"):
        page = story[0].browser(Role.OPERATOR).get(NEW, params={name: hostile, "step": "how"}).text
        assert "<script>x" not in page


# ---- create, watch, pause, roll back


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
    assert "paused by test: lunch" in part_of(page, "head")
    assert "edgectl rollout resume" in part_of(page, "head")
    assert "1 rollout waiting for a person" in text_of(browser.get("/rollouts").text)

    back = form(page, "/do/abort_rollout", body__rollback="true")
    refused = send(browser, back, {"confirm": "digits"})
    assert refused.status_code == 422
    assert state_of(fleet, rollout) == "paused"
    done = send(browser, back, {"confirm": "digits@1.1.0", "body.reason": "it is slow"})
    assert done.status_code == 303
    fleet.tick(seconds=2)
    assert state_of(fleet, rollout) in ("rolling_back", "rolled_back")
    page = browser.get(path).text
    assert "it is slow" in part_of(page, "head")
    assert not [one for one in forms(page) if one.action == "/do/pause_rollout"]


def test_resume_promote_and_abort_do_what_their_button_says(fleet: Fleet) -> None:
    devices = small(fleet)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"
    follow(fleet, devices[:1])
    send(browser, form(browser.get(path).text, "/do/pause_rollout"))
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


def conflict_in(page: str) -> str:
    """Return what a step says of open rollouts that want the same devices."""
    return text_of(page.partition('id="conflict"')[2].partition("</div>")[0])


def test_a_conflict_is_said_in_the_second_step_and_never_loses_the_form(fleet: Fleet) -> None:
    small(fleet)
    other = fleet.rollout(release="digits@1.1.0", selector="site=hall", stages=STAGES)
    browser = fleet.browser(Role.OPERATOR)
    drafted = "release=digits%401.0.0&selector=site%3Dhall"
    page = browser.get(f"{NEW}?step=devices&{drafted}").text
    told = conflict_in(page)
    assert f"Rollout {other} of digits@1.1.0 is open and includes 4 of these devices." in told
    links = dict(
        re.findall(r'<a class="button" href="([^"]+)">(Queue|Stop the other)</a>', page.partition('id="conflict"')[2])
    )
    chosen = {name: html.unescape(link) for link, name in links.items()}
    assert "supersede=queue" in chosen["Queue"]
    queued = browser.get(chosen["Queue"]).text
    assert "the new rollout starts when it has ended" in conflict_in(queued)
    assert 'value="site=hall"' in queued
    stops = browser.get(chosen["Stop the other"]).text
    assert "devices that have switched keep its release until they get the new one" in conflict_in(stops)
    assert "conflict" not in browser.get(f"{NEW}?step=devices&release=digits%401.0.0&selector=site%3Dyard").text
    review = browser.get(f"{NEW}?step=review&{drafted}").text
    assert "/do/create_rollout" not in review, "it would be refused"
    assert "Stop the other" in part_of(review, "plan")
    ready = browser.get(f"{NEW}?step=review&{drafted}&supersede=queue").text
    start = form(ready, "/do/create_rollout")
    fields = dict(start.fields)
    assert "supersede=queue" in fields["back"]
    body = fields["body"].replace('"queue"', '"reject"')
    refused = send(browser, start, {"body": body})
    assert refused.status_code == 409
    assert f'<a href="{html.escape(fields["back"])}">Back</a>' in refused.text
    assert "`" not in text_of(refused.text)


def test_a_running_rollout_says_what_it_does_and_when_it_decides_next(fleet: Fleet) -> None:
    devices = small(fleet)
    canary = {**STAGES[0], "soak": "10m"}
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[canary, *STAGES[1:]])
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"

    def head() -> str:
        fleet.tick(seconds=2)
        return part_of(browser.get(path).text, "head")

    assert "running Waiting for the first devices Waiting for" in head()
    assert "2 devices have not accepted its offer yet. Next: its report, or it counts as unreachable at 2026-" in head()
    for device in fleet.offered(rollout, devices):
        device.report(Phase.DOWNLOADING)
        device.report(Phase.PROBATION)
    fleet.tick(seconds=2)
    fleet.tick(minutes=3)
    told = head()
    assert "Installing: 0 of 2 healthy, 2 on probation" in told
    assert (
        "2 devices are on probation for 3 min: passes after 500 answers or 30 min, unless set otherwise there" in told
    )
    for device in fleet.offered(rollout, devices):
        device.report(Phase.COMMITTED)
    told = head()
    soaks = fleet.parts.rollout.reader.rollout(rollout).outlook
    assert soaks is not None
    assert (soaks.phase, soaks.healthy, soaks.of, soaks.failed) == ("soaking", 2, 2, 0)
    assert f"Soaking: 2 of 2 healthy, next decision {soaks.next_decision_at:%Y-%m-%d %H:%M:%S} UTC" in told
    assert "2 devices are healthy and soaking until 2026-" in told
    for page in ("/", "/rollouts"):
        assert "Soaking: 2 of 2 healthy, next decision 2026-" in text_of(browser.get(page).text)


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
    assert '<rect class="b-healthy" x="0" y="0" width="100.0" height="8"/>' in page.partition('id="stage-0"')[2][:900]
    send(browser, form(page, "/do/abort_rollout", body__rollback="true"), {"confirm": "digits@1.1.0"})
    for _ in range(3):
        follow(fleet, devices)
    page = browser.get(path).text
    assert "rolled back by test" in part_of(page, "head")
    assert "half stopped by test" in part_of(page, "stages")
    assert '<span class="state bad">' not in page.partition('id="stages"')[2].partition('id="rollout-devices"')[0]
    for where in ("/", "/rollouts"):
        assert "half stopped by test" in text_of(browser.get(where).text)
        assert "failed" not in part_of(browser.get(where).text, "rollouts")


def test_a_device_that_ran_it_well_says_what_it_runs_now(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    device = next(one for one in fleet.parts.rollout.reader.devices(good) if one.state == "healthy")
    assert assignment(device, "digits@1.1.0") == "runs it"
    assert assignment(replace(device, running="digits@1.0.0"), "digits@1.1.0") == "was healthy; now runs digits@1.0.0"
    assert assignment(replace(device, running=""), "digits@1.1.0").startswith(
        "was healthy; now runs no version of this model"
    )
    assert assignment(replace(device, state="rolled_back", running=""), "digits@1.1.0") == "no longer runs it"


def test_devices_go_by_their_names_and_then_by_their_ids(fleet: Fleet) -> None:
    first, second = small(fleet, 2)
    fleet.parts.fleet.edits.update(first.id, {}, None, "Roof 3")
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES)
    names = {one.device: one.display_name for one in fleet.parts.rollout.reader.devices(rollout)}
    assert names == {first.id: "Roof 3", second.id: ""}
    told = part_of(fleet.browser(Role.VIEWER).get(f"/rollouts/{rollout}").text, "rollout-devices")
    assert f"Roof 3 {first.id}" in told
    assert told.count(second.id) == 1


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
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=stages, on_fail="pause")
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
    assert "2 devices were told to go back, not confirmed yet" in head


# ---- one rollout


def test_gates_show_their_evidence_beside_what_is_enough(story: tuple[Fleet, str, str]) -> None:
    fleet, good, bad = story
    told = part_of(fleet.browser(Role.VIEWER).get(f"/rollouts/{bad}").text, "stages")
    evidence = fleet.parts.rollout.reader.rollout(bad).stages[0].strata[0].e_abort
    assert f"To stop {evidence:.4g} of 100" in told
    assert "Passes when all are healthy" in told
    assert "passed advance weak: 2 of 2 healthy" in part_of(
        fleet.browser(Role.VIEWER).get(f"/rollouts/{good}").text, "stages"
    )


def test_failed_devices_are_told_by_reason_with_links(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{bad}").text
    device = next(one for one in fleet.parts.rollout.reader.devices(bad) if one.state == "rolled_back").device
    told = part_of(page, "failures")
    assert "1 rolled back nonfinite 31 of 240 answers were not finite (12.9 %, at most 1 %)" in told
    assert f'href="/devices/{device}"' in page


def test_reasons_that_differ_in_a_number_only_are_one_reason() -> None:
    crashes = [FailedDevice(f"d{n}", "rolled_back", "crash", f"crashed {n} times in 5.{n} s") for n in range(12)]
    found = failure_groups([*crashes, FailedDevice("x", "failed", "disk", "no space")])
    assert [(one.count, one.error_class, one.reason, len(one.devices)) for one in found] == [
        (12, "crash", "crashed 0 times in 5.0 s", 8),
        (1, "disk", "no space", 1),
    ]


def test_devices_come_in_pages_and_by_state_and_stage(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    browser = fleet.browser(Role.VIEWER)
    path = f"/rollouts/{good}"
    assert "10 devices" in part_of(browser.get(path).text, "rollout-devices")
    one = part_of(browser.get(f"{path}?state=unreachable").text, "rollout-devices")
    assert "1 device;" in one
    first = [one.device for one in fleet.parts.rollout.reader.devices(good) if one.stage == "canary"]
    told = part_of(browser.get(f"{path}?stage=canary").text, "rollout-devices")
    assert f"{len(first)} devices;" in told
    assert all(device in told for device in first)
    assert "No matching devices" in browser.get(f"{path}?state=lost").text


def test_decisions_are_paged_and_the_spec_is_there_as_a_file_and_a_command(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    browser = fleet.browser(Role.VIEWER)
    page = browser.get(f"/rollouts/{good}").text
    assert "all shown here agree" in page
    if older := re.search(r'href="(/rollouts/[^"]*before=\d+)#decisions">Older', page):
        assert "Newest decisions" in browser.get(older[1]).text
    assert "apiVersion: edgefleet/v1" in page
    assert "ack_deadline: 3m" in page
    assert "edgectl rollout create -f -" in page
    assert browser.get("/rollouts/r-none").status_code == 404


# ---- undo


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
    wrong = browser.get("/rollouts/undo?name=A+B")
    assert wrong.status_code == 200
    assert 'role="alert"' in wrong.text
