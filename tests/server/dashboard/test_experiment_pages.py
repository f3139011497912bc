"""Experiments in the browser: what a release showed beside what serves, and the decision; alerts that stop rollouts from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edgefleet_protocol.comparison import ShadowFigures, delta_bucket, pack_counts
from edgefleet_protocol.ids import ReleaseRef, target_path
from edgefleet_protocol.messages import Phase, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import ORT, Device, Fleet
from tests.server.dashboard.forms_of import form, forms, send
from tests.server.dashboard.test_pages import part_of, text_of
from tests.server.rollout.test_alerts import alert, notification

SHADOW: dict[str, Any] = {"name": "beside", "size": {"percent": 100}, "soak": "1h", "mode": "shadow"}
SPLIT: dict[str, Any] = {"name": "half", "size": {"percent": 100}, "soak": "1h", "mode": "split", "share_pct": 30}
REST: dict[str, Any] = {"name": "rest", "size": {"percent": 100}, "soak": "0s"}


def trying(fleet: Fleet, stage: dict[str, Any], **spec: Any) -> tuple[str, list[Device]]:
    """Return a rollout whose open stage runs 1.1.0 beside 1.0.0, and its devices."""
    for version in ("1.0.0", "1.1.0"):
        fleet.release(f"digits@{version}", ORT)
    devices = [fleet.device(f"cam{n}") for n in range(3)]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    for device in devices:
        device.report(Phase.COMMITTED)
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[stage, REST], **spec)
    fleet.tick(seconds=60)
    return rollout, devices


def latency(ms: float) -> list[int]:
    sketch = LatencySketch()
    for n in range(100):
        sketch.add(ms * (1 + n / 1000) / 1000)
    return sketch.packed()


def tell(fleet: Fleet, devices: Sequence[Device], **candidate: Any) -> None:
    """Let devices send a window of what serves and one of the candidate: 100 answers each, the candidate's are slower."""
    begin = int(fleet.house.clock.now().timestamp())
    digest = {v: fleet.digests[target_path("digits", v, ORT)] for v in ("1.0.0", "1.1.0")}  # type: ignore[arg-type]
    for device in devices:
        device.seq += 1
        common: dict[str, Any] = {"t0": begin, "length_s": 60, "model": "digits", "n": 100}
        active = Window(**common, lane="active", sha256=digest["1.0.0"], version="1.0.0", errors=1, latency=latency(20))
        beside = Window(
            **common, lane="candidate", sha256=digest["1.1.0"], version="1.1.0", latency=latency(30), **candidate
        )
        fleet.parts.telemetry.ingest(
            [Telemetry(device=device.id, boot_id="b1", seq=device.seq, ts=begin * 1000, windows=[active, beside])]
        )


FIGURES = ShadowFigures(
    offered=120, dropped=20, compared=100, failed=2, judged=100, agreed=97, deltas=pack_counts({delta_bucket(0.01): 100}),
    primary_latency=latency(20),
)  # fmt: skip


def test_a_shadow_shows_agreement_deltas_latency_and_drops(fleet: Fleet) -> None:
    rollout, devices = trying(fleet, SHADOW)
    browser = fleet.browser(Role.OPERATOR)
    assert "No figures yet" in browser.get(f"/experiments/{rollout}").text
    tell(fleet, devices, shadow=FIGURES)
    listed = text_of(browser.get("/experiments").text)
    assert "digits@1.1.0" in listed
    assert "shadow running all devices" in listed
    told = part_of(browser.get(f"/experiments/{rollout}").text, "trial-shadow")
    assert "3 devices have reported since" in told
    assert "97.00 %" in told
    assert "291 of 300 the same" in told
    assert re.search(r"50 % within 0\.0[01]\d*, 95 % within 0\.0[01]", told)
    assert "6 without an answer" in told
    assert "60 of 360 inputs" in told
    assert "active version 3 devices, 300 answers, 3 errors, 0 not finite" in told
    assert re.search(r"Latency p50 2\d(\.\d)? ms 3\d(\.\d)? ms [45]\d % more", told)
    assert re.search(r"Errors 1 % 0 % 100 % less", told)
    assert re.search(
        r"shadow agreement not judged: the spec sets no limit 0\.9[67]\d* 0\.\d+ to 0\.9\d+ .* 3 with a value",
        told,
    )
    assert re.search(r"latency p95 ms change in % .* \+(4[89]|5[012])(\.\d+)? % ", told)


def test_a_split_compares_its_arms_device_by_device(fleet: Fleet) -> None:
    rollout, devices = trying(fleet, SPLIT)
    tell(fleet, devices, errors=7)
    browser = fleet.browser(Role.OPERATOR)
    assert "split (30 % of the requests)" in text_of(browser.get("/experiments?model=digits").text)
    told = part_of(browser.get(f"/experiments/{rollout}").text, "trial-split")
    assert "digits@1.1.0 3 devices, 300 answers, 21 errors, 0 not finite" in told
    assert re.search(r"Errors 1 % 7 % 600 % more", told)
    assert re.search(r"inference error rate change not judged: the spec sets no limit \+0\.0[56]\d* ", told)
    assert "3 with a value" in told


def test_windows_of_other_releases_and_of_before_do_not_count(fleet: Fleet) -> None:
    rollout, devices = trying(fleet, SHADOW)
    fleet.house.clock.turn(seconds=-86_400)
    tell(fleet, devices, shadow=FIGURES)
    fleet.house.clock.turn(seconds=86_400)
    tell(fleet, devices[:1], shadow=FIGURES)
    told = part_of(fleet.browser(Role.VIEWER).get(f"/experiments/{rollout}").text, "trial-shadow")
    assert "97 of 100 the same" in told


def test_it_is_decided_by_the_rollouts_own_forms(fleet: Fleet) -> None:
    rollout, devices = trying(fleet, SHADOW)
    tell(fleet, devices, shadow=FIGURES)
    browser = fleet.browser(Role.OPERATOR)
    path = f"/experiments/{rollout}"
    answer = send(browser, form(browser.get(path).text, "/do/promote_rollout"), {"body.reason": "it agrees"})
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    assert fleet.parts.rollout.reader.rollout(rollout).stages[0].strength == "override"
    back = form(browser.get(path).text, "/do/abort_rollout", body__rollback="true")
    send(browser, back, {"confirm": "digits@1.1.0"})
    fleet.tick(seconds=2)
    assert "This experiment is over" in browser.get(path).text or "rolling back" in text_of(browser.get(path).text)


def test_no_experiment_names_the_next_command_and_a_plain_rollout_is_none(fleet: Fleet) -> None:
    assert "--strategy shadow" in fleet.browser(Role.VIEWER).get("/experiments").text
    fleet.release("digits@1.0.0", ORT)
    fleet.device("cam")
    fleet.device("cam")
    rollout = fleet.rollout(release="digits@1.0.0", selector="", stages=[REST])
    answer = fleet.browser(Role.VIEWER).get(f"/experiments/{rollout}")
    assert answer.status_code == 404
    assert "has no stage with a candidate" in answer.text


# ---- the quality gate on the page of a rollout


def test_a_quality_gate_shows_value_bounds_and_threshold(fleet: Fleet) -> None:
    for version in ("1.0.0", "1.1.0"):
        fleet.release(f"digits@{version}", ORT)
    devices = [fleet.device(f"cam{n}") for n in range(20)]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    for device in devices:
        device.report(Phase.COMMITTED)
    quality = {"control": "none", "metrics": [{"name": "latency_p95_ms", "max": 50}]}
    stage = {**REST, "name": "all", "promote": "all_healthy"}
    rollout = fleet.rollout(release="digits@1.1.0", selector="", stages=[stage], gates={"quality": quality})
    path, browser = f"/rollouts/{rollout}", fleet.browser(Role.VIEWER)
    told = part_of(browser.get(path).text, "stages")
    assert "latency p95 ms no data" in told
    assert "at most 50 ms" in told
    for device in devices:
        device.report(Phase.COMMITTED)
    fleet.tick(seconds=2)
    begin, digest = fleet.house.clock.now(), fleet.digests[target_path("digits", "1.1.0", ORT)]  # type: ignore[arg-type]
    window = Window(
        t0=int(begin.timestamp()), length_s=60, model="digits", lane="active", sha256=digest, version="1.1.0", n=100,
        latency=latency(30),
    )  # fmt: skip
    for device in devices:
        device.seq += 1
        message = Telemetry(device=device.id, boot_id="b1", seq=device.seq, ts=window.t0 * 1000, windows=[window])
        fleet.parts.telemetry.ingest([message])
    fleet.tick(seconds=7300)
    fleet.tick(seconds=2)
    page = browser.get(path).text
    told = part_of(page, "stages")
    assert re.search(r"latency p95 ms pass .* 3[23]\.\d+ ms \d+\.\d+ to 4\d\.\d+ ms", told), told
    assert "20 with a value" in told
    assert '<svg class="span"' in page
    assert fleet.parts.rollout.reader.rollout(rollout).state == "finished"


# ---- alerts


def test_a_receiver_is_made_once_shown_used_and_removed(fleet: Fleet) -> None:
    rollout, _devices = trying(fleet, SHADOW)
    admin = fleet.browser(Role.ADMIN)
    page = admin.get("/settings/receivers").text
    assert "No receivers yet" in page
    assert "No alert has affected" in page
    fields = {
        "body.name": "prod",
        "body.action": "pause",
        "body.matchers": 'severity="critical"\nteam=edge',
        "body.model": "digits",
    }
    shown = send(admin, form(page, "/do/create_alert_receiver"), fields)
    assert shown.status_code == 200
    hook = re.search(r"/api/v1/hooks/alertmanager/efh_[A-Za-z0-9_-]+", shown.text)
    assert hook is not None
    answer = admin.post(hook[0], json=notification(alert(edgefleet_rollout=rollout)))
    assert answer.status_code == 200, answer.text
    page = admin.get("/settings/receivers").text
    assert hook[0] not in page
    told = part_of(page, "receivers")
    assert 'severity="critical" and team=edge : rollouts of digits' in told
    assert " pause with the label edgefleet_rollout" in told
    deeds = part_of(page, "deeds")
    assert f"prod {rollout} acted alert EdgeErrors is firing" in deeds
    one = form(page, "/do/delete_alert_receiver")
    assert send(admin, one, {"confirm": "staging"}).status_code == 422
    assert send(admin, one, {"confirm": "prod"}).status_code == 303
    assert "No receivers yet" in admin.get("/settings/receivers").text


def test_alerts_are_an_operators_to_see_and_an_admins_to_change(fleet: Fleet) -> None:
    assert fleet.browser(Role.VIEWER).get("/settings/receivers").status_code == 403
    page = fleet.browser(Role.OPERATOR).get("/settings/receivers").text
    assert [one.action for one in forms(page) if one.action.startswith("/do/")] == []
    assert "Create receiver: needs the role admin" in text_of(page)
