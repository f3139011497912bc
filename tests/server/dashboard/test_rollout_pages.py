"""Rollouts in the browser: the list, and the page of one with its stages, devices, failures and decisions."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.filters import assignment
from edgefleet_server.dashboard.rollouts.views import failure_groups
from edgefleet_server.rollout.status.failures import FailedDevice
from tests.server.dashboard.fleet import ORT, STAGES, Fleet, follow, small
from tests.server.dashboard.test_pages import part_of, text_of

NEW = "/rollouts/new"


def test_the_list_says_where_each_stands_and_what_would_move_it(story: tuple[Fleet, str, str]) -> None:
    fleet, good, bad = story
    browser = fleet.browser(Role.VIEWER)
    told = part_of(browser.get("/rollouts").text, "rollouts")
    assert told.startswith("2 rollouts, newest first")
    assert told.index(bad) < told.index(good)
    assert (
        "1 device was sent back, not confirmed yet. Next: its confirmation, or it is listed as not back at 2026-"
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


def test_a_running_rollout_says_what_it_does_and_when_it_decides_next(fleet: Fleet) -> None:
    devices = small(fleet)
    canary = {**STAGES[0], "soak": "10m"}
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[canary, *STAGES[1:]])
    browser, path = fleet.browser(Role.OPERATOR), f"/rollouts/{rollout}"

    def told_of() -> str:
        fleet.tick(seconds=2)
        page = browser.get(path).text
        return " ".join(part_of(page, name) for name in ("head", "answer", "waits"))

    told = told_of()
    assert "Running" in told
    assert "Replaces 1.0.0 on 4 devices. No device has it, none failed." in told
    assert "Waiting for the first devices" in told
    assert "2 devices have not accepted its offer yet Next: its report, or it counts as unreachable at 2026-" in told
    assert "Not yet No device has accepted it: nothing is known yet." in told
    for device in fleet.offered(rollout, devices):
        device.report(Phase.DOWNLOADING)
        device.report(Phase.PROBATION)
    fleet.tick(seconds=2)
    fleet.tick(minutes=3)
    told = told_of()
    assert "No device has it, none failed. Started 3 min ago by ann. Installing." in told
    assert (
        "2 devices are on probation for 3 min: passes after 500 answers or 30 min, unless set otherwise there" in told
    )
    for device in fleet.offered(rollout, devices):
        device.report(Phase.COMMITTED)
    told = told_of()
    soaks = fleet.parts.rollout.reader.rollout(rollout).outlook
    assert soaks is not None
    assert (soaks.phase, soaks.soaking, soaks.healthy, soaks.of, soaks.failed) == ("soaking", 2, 0, 2, 0)
    assert f"Soaking; next decision {soaks.next_decision_at:%H:%M} ." in told
    assert "2 devices are healthy and soaking: the soak ends at" in told
    assert "2 have it, none failed." in told
    assert "Not yet The soak ends at" in told, "a soak that goes on is no yes"
    assert "Soaking: 2 of 2, next decision 2026-" in text_of(browser.get("/rollouts").text)
    assert "Soaking: 2 of 2" in text_of(browser.get("/").text)


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


def test_plans_deployments_and_undos_have_the_names_of_devices(fleet: Fleet) -> None:
    first, second = small(fleet, 2)
    fleet.parts.fleet.edits.update(first.id, {}, None, "Roof 3")
    client = fleet.house.client(Role.OPERATOR)
    names = {first.id: "Roof 3", second.id: ""}

    def named(found: list[dict[str, Any]]) -> dict[str, str]:
        return {one["device"]: one["display_name"] for one in found}

    spec = {"release": "digits@1.1.0", "selector": "", "stages": STAGES[-1:]}
    plan = client.post("/api/v1/rollouts:plan", json={"apiVersion": "edgefleet/v1", "kind": "Rollout", "spec": spec})
    assert named(plan.json()["stages"][0]["strata"][0]["devices"]) == names
    deployed = client.post("/api/v1/releases/digits@1.1.0:deploy", json={"selector": "", "dry_run": True}).json()
    assert named(deployed["set"]) == names
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=STAGES[-1:])
    follow(fleet, [first, second])
    undo = client.post("/api/v1/rollouts:undo", json={"name": "digits", "dry_run": True}).json()
    assert named(undo["devices_shown"]) == names, rollout


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


CANARY_OF_3 = [{"name": "canary", "size": {"count": 3}, "soak": "30s"}, *STAGES[1:]]


def test_the_page_shows_a_confirmation_while_it_is_open_and_what_a_person_can_do_after_it(fleet: Fleet) -> None:
    devices = small(fleet, 8)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=CANARY_OF_3)
    browser, address = fleet.browser(Role.VIEWER), f"/rollouts/{rollout}"
    assert "Confirmation in" not in browser.get(address).text
    first, *drawn = fleet.offered(rollout, devices)
    for device in (first, *drawn):
        device.report(Phase.PROBATION)
    fleet.tick(seconds=4)
    first.report(Phase.ROLLED_BACK, error_class=ErrorClass.CRASH, reason="it crashed", error_code="probation.crash")
    fleet.tick(seconds=4)
    page = browser.get(address).text
    card = text_of(card_of(page))
    assert (
        f"Confirmation in {ORT} open The crash failure waits for confirmation: none of 2 drawn devices has answered; "
        in card
    )
    assert "No other device of the stratum is offered the release meanwhile" in card
    assert f"Reported by {first.id}" in card
    assert all(f"Drawn: {one.id} , no answer yet" in card for one in drawn)
    for one in (first, *drawn):
        assert f'href="/devices/{one.id}"' in card_of(page)
    assert "answer due 2026-" in card
    assert "a failure waits for confirmation" in part_of(page, "head")
    told = text_of(browser.get(f"/events?rollout={rollout}&kind=confirmation").text)
    assert f"confirmation canary/{ORT} open crash: none of 2 drawn devices has answered" in told

    for device in drawn:
        device.report(Phase.COMMITTED)
    for _ in range(3):
        fleet.tick(seconds=16)
        for device in drawn:
            device.report(Phase.COMMITTED)
    fleet.tick(seconds=2)
    card = text_of(card_of(browser.get(address).text))
    assert (
        f"Confirmation in {ORT} unconfirmed The crash failure is not confirmed: 2 of 2 drawn devices are healthy"
        in card
    )
    assert f"edgectl rollout promote {rollout} --reason R accepts the failure" in card
    assert "answer due" not in card
    (view,) = fleet.parts.rollout.reader.rollout(rollout).stages[0].strata[0].confirmations
    assert (view.verdict, [one.showed for one in view.drawn]) == ("unconfirmed", ["healthy", "healthy"])


def card_of(page: str) -> str:
    """Return the element of the one confirmation on a page."""
    (found,) = re.findall(r'<div class="(?:callout|settled)" id="confirmation-.*?</div>', page, re.DOTALL)
    return str(found)
