"""Fifty devices ask to be let in; an operator lets all but one in with one command; one of them really runs."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.enrolment.enroll import enroll
from edgefleet_agent.errors import EnrollRejectedError
from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.support.browsers import binary, browser
from tests.support.device_python import DEVICE_PYTHON, PATIENCE

pytestmark = pytest.mark.slow
MANY = 49


def waiting(road: Road) -> list[dict[str, Any]]:
    """Return `edgectl device pending`."""
    items: list[dict[str, Any]] = road.edgectl("device", "pending")["items"]
    return items


@pytest.fixture
def process(road: Road, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`edge-agent enroll`, the process, which waits."""
    token = road.edgectl("device", "enroll", "--approval", "--label", "site=real")["tokens"][0]["token"]
    command = [DEVICE_PYTHON, "-m", "edgefleet_agent", "enroll", token, "--state", str(tmp_path / "real")]
    made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield made
    made.kill()
    made.wait()


def test_fifty_are_let_in_and_one_is_not(road: Road, process: subprocess.Popen[str], tmp_path: Path) -> None:
    token = road.edgectl("device", "enroll", "--approval", "--uses", "60", "--label", "site=crowd")["tokens"][0]
    with ThreadPoolExecutor(MANY + 1) as pool:
        asking = [pool.submit(enroll, token["token"], tmp_path / f"d{number}") for number in range(MANY + 1)]
        assert eventually(lambda: len(waiting(road)) == MANY + 2, PATIENCE_S, 0.5)
        assert road.edgectl("device", "list")["items"] == []
        stranger = road.edgectl("device", "pending", "-l", "site=crowd")["items"][3]["id"]
        refused = road.edgectl("device", "reject", stranger, "--reason", "nobody knows it")
        assert refused["done"] == [{"id": stranger, "state": "rejected", "device": ""}]
        let_in = road.edgectl("device", "approve", "--all", "--yes")
        assert (let_in["matched"], let_in["skipped"]) == (MANY + 1, [])
        ended = [one.exception(60 * PATIENCE) for one in asking]
    assert sum(one is None for one in ended) == MANY
    assert [type(one) for one in ended if one is not None] == [EnrollRejectedError]
    assert len(road.edgectl("device", "list")["items"]) == MANY + 1
    out, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, err
    assert "compare it" in err
    assert "enrolled as" in out
    device = road.edgectl("device", "list", "-l", "site=real")["items"][0]
    told = [event["type"] for event in road.edgectl("device", "events", device["id"])["items"]]
    assert told == ["edgefleet.device.approved", "edgefleet.device.enrolled"]
    assert waiting(road) == []
    rows = [one["action"] for one in audit(road)]
    assert {"approve_pending_devices", "reject_pending_devices"} <= set(rows)


def audit(road: Road) -> list[dict[str, Any]]:
    """Return the newest rows of the audit trail."""
    with road.server.client() as client:
        items: list[dict[str, Any]] = client.get("/api/v1/audit").json()["items"]
    return items


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_fifty_are_let_in_from_the_page_with_a_token_made_there(road: Road, tmp_path: Path) -> None:
    with browser() as chromium, ThreadPoolExecutor(50) as pool:
        page = chromium.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(road.edgectl("dashboard")["url"])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="Fleet", exact=True).first.click()
        page.get_by_role("link", name="Enrolment", exact=True).click()
        page.get_by_label("Number of devices").fill("50")
        page.get_by_label("Require approval").select_option("yes")
        page.get_by_text("Other labels, names").click()
        page.get_by_label("Labels, one key=value per line").fill("site=paged")
        page.get_by_role("button", name="Create token").click()
        line = page.locator("pre code").inner_text()
        token = line.removeprefix("edge-agent enroll ").removesuffix(" && edge-agent run")
        page.get_by_role("link", name="Continue").click()
        asking = [pool.submit(enroll, token, tmp_path / f"p{number}") for number in range(50)]
        page.get_by_text("50 devices waiting for approval.").wait_for(
            timeout=PATIENCE_S * 1_000
        )  # by itself: the count is live
        page.get_by_role("link", name="Show them").click()
        page.get_by_label("Select all 50").check()
        page.get_by_role("button", name="Approve selected").click()
        page.get_by_text("50 of 50 devices approved.").wait_for(timeout=PATIENCE_S * 1_000)
        devices = {one.result(60 * PATIENCE).device for one in asking}
        assert problems == []
    assert {one["id"] for one in road.edgectl("device", "list", "-l", "site=paged")["items"]} == devices
    assert len(devices) == 50


def test_a_server_that_is_killed_meanwhile_is_waited_for(road: Road, tmp_path: Path) -> None:
    token = road.edgectl("device", "enroll", "--approval")["tokens"][0]["token"]
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(enroll, token, tmp_path / "patient")
        assert eventually(lambda: waiting(road), PATIENCE_S, 0.2)
        road.kill()
        time.sleep(5)
        assert not asking.done()
        road.start()
        let_in = road.edgectl("device", "approve", "--all", "--yes")["done"][0]["device"]
        assert asking.result(60 * PATIENCE).device == let_in


class Late(Traveller):
    """An agent that had to wait for an operator."""

    CLAIM = ("--approval",)

    def while_it_enrols(self) -> None:
        """Let it in."""
        assert eventually(lambda: waiting(self.road), PATIENCE_S, 0.2)
        self.road.edgectl("device", "approve", waiting(self.road)[0]["id"])


def test_who_was_let_in_gets_and_runs_a_release(road: Road) -> None:
    device = Late(road, "late")
    road.release("digits@1.0.0", bundle_bytes(classifier_onnx()))
    device.told("digits", release="digits@1.0.0", serving=True)
    assert device.ask_four("digits").is_success
