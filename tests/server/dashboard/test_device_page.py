"""The page of one device by HTTP: its figures, its log, what its forms change, its history."""

import html
import re
from typing import Any

from sqlalchemy import update

from edgefleet_protocol.ids import DeviceId, ProfileName, ReleaseRef
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.desired.model import TaskOrder
from edgefleet_server.fleet.enrolment.model import DeviceIdentity, DeviceKeys
from edgefleet_server.fleet.tables import FleetDevice
from tests.server.dashboard.fleet import LITERT, ORT, Fleet, follow
from tests.server.dashboard.test_fleet_pages import Story, form_of, part_of, rows_of, send
from tests.server.dashboard.test_pages import text_of
from tests.server.fleet.house import KeyedDevice


def chart_names(page: str) -> list[str]:
    """Return the titles of the charts of a page."""
    return re.findall(r"<figcaption><span>(.*?)(?: <span|</span>)", page)


def test_a_device_shows_its_figures_over_time_and_as_tables(story: Story) -> None:
    fleet, _good, bad = story
    device = fleet.parts.rollout.reader.devices(bad)[0].device
    browser = fleet.browser(Role.VIEWER)
    page = browser.get(f"/devices/{device}").text
    assert chart_names(page)[:2] == ["digits: latency", "digits: failed answers"]
    assert "2026-11-25" in text_of(page[page.index('id="about"') :])
    assert re.search(r"240 1 0 31", text_of(page[page.index("chart-figures") :]))
    other = next(one for one in fleet.by_id if one != device)
    assert "No measurements in the last 1h" in text_of(browser.get(f"/devices/{other}?span=1h").text)


def test_a_device_can_be_asked_for_its_log_and_the_log_is_shown(fleet: Fleet) -> None:
    device = fleet.device("one")
    browser, path = fleet.browser(Role.OPERATOR), f"/devices/{device.id}"
    fields = form_of(browser.get(path).text, "create_device_task", "Request log") | {"body.lines": "50"}
    assert send(browser, "create_device_task", fields).status_code == 303
    (task,) = fleet.parts.fleet.tasks.tasks(device.id)
    assert (task.kind, task.args) == ("logs", {"lines": 50})
    device.connect(on=False)
    assert "waiting for the device to connect" in part_of(browser.get(path).text, "tasks")
    fleet.parts.fleet.tasks.take_result(device.id, task.id, b"first\nlast <b>line</b>\n")
    page = browser.get(path).text
    assert "first\nlast &lt;b&gt;line&lt;/b&gt;" in page
    got = browser.get(f"{path}/tasks/{task.id}")
    assert got.content == b"first\nlast <b>line</b>\n"
    assert "attachment" in got.headers["content-disposition"]
    assert "last &lt;b&gt;" not in fleet.browser(Role.VIEWER).get(path).text
    assert fleet.browser(Role.VIEWER).get(f"{path}/tasks/{task.id}").status_code in (303, 403)


def test_labels_pins_and_profile_are_changed_by_forms(fleet: Fleet) -> None:
    device = fleet.device("one", ORT, {"site": "hall", "old": "1"})
    browser, path = fleet.browser(Role.OPERATOR), f"/devices/{device.id}"

    def change(marked: str, **fields: str) -> None:
        form = form_of(browser.get(path).text, "update_device", marked)
        answer = send(browser, "update_device", form | fields)
        assert answer.status_code == 303, answer.text

    change("Set labels", **{"body.labels": "site=yard\nold-\nline=4"})
    assert fleet.parts.fleet.reader.device(device.id).labels == {"site": "yard", "line": "4"}
    change("Pin", **{"body.labels": "edgefleet/pinned=under-repair"})
    assert "pinned: under-repair" in part_of(browser.get(path).text, "head")
    change("Unpin")
    change("Set profile", **{"body.profile": LITERT})
    view = fleet.parts.fleet.reader.device(device.id)
    assert (view.labels, view.profile) == ({"site": "yard", "line": "4"}, LITERT)


def test_too_many_labels_are_refused_with_what_to_do_next_and_none_is_set(fleet: Fleet) -> None:
    device = fleet.device("one", ORT, {"site": "hall"})
    browser = fleet.browser(Role.OPERATOR)
    form = form_of(browser.get(f"/devices/{device.id}").text, "update_device", "Set labels")
    many = "\n".join(f"k{n}=v" for n in range(10_000))
    answer = send(browser, "update_device", form | {"body.labels": many})
    assert answer.status_code == 422
    assert "10001 labels are more than the 64 that a device can have Leave some of them out" in text_of(answer.text)
    assert fleet.parts.fleet.reader.device(device.id).labels == {"site": "hall"}


def test_a_suspect_device_is_shown_with_its_reason_and_cleared_by_a_form(fleet: Fleet) -> None:
    device, path = fleet.device("one"), "/devices?selector=suspect"
    fleet.device("two")
    browser = fleet.browser(Role.OPERATOR)
    assert "suspect" not in browser.get("/").text
    fleet.parts.fleet.suspicion.mark(device.id, "nobody else sees <its> golden failure")
    fleet.parts.fleet.lists.forget()
    assert path in browser.get("/").text
    assert "edgefleet_suspect_devices 1.0" in fleet.house.client(Role.VIEWER).get("/metrics").text
    [row] = rows_of(browser.get(path).text)
    assert "suspect" in row
    assert "suspect 1" in part_of(browser.get("/devices").text, "facets")
    page = browser.get(f"/devices/{device.id}").text
    assert "nobody else sees &lt;its&gt; golden failure" in page
    assert "Suspect" in part_of(page, "head")
    assert "Rollouts give it releases in their last stage only" in text_of(page[page.index('id="suspicion"') :])
    viewer = fleet.browser(Role.VIEWER).get(f"/devices/{device.id}").text
    assert "needs the role operator" in viewer
    fields = form_of(page, "clear_device_suspicion")
    assert send(browser, "clear_device_suspicion", fields | {"body.reason": "new memory"}).status_code == 303
    assert fleet.parts.fleet.suspicion.suspects() == frozenset()
    assert "clear_device_suspicion" not in browser.get(f"/devices/{device.id}").text


def test_a_device_goes_back_to_what_its_other_slot_holds(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    fleet.release("digits@1.1.0", ORT)
    device = fleet.device("one")
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        fleet.parts.fleet.deployer.deploy(ReleaseRef.parse(ref), device=device.id, by="ann")
        for phase in (Phase.DOWNLOADING, Phase.PROBATION):
            device.report(phase)
    follow(fleet, [])
    browser = fleet.browser(Role.OPERATOR)
    device.previous = "digits/1.0.0/" + ORT + ".bundle"
    device.report(Phase.PROBATION)
    page = browser.get(f"/devices/{device.id}").text
    assert re.search(
        r'<details class="confirm"><summary class="btn[^>]*>(<svg.*?</svg>)?Back to digits@1.0.0</summary>', page
    )
    fields = form_of(page, "deploy_release", "Roll back to digits@1.0.0")
    assert "confirm_word" not in fields
    assert send(browser, "deploy_release", fields).status_code == 303
    active = device.desired().models["digits"].active
    assert active is not None
    assert active.target.startswith("digits/1.0.0/")


def test_a_device_says_how_far_a_version_on_probation_is(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    device = fleet.device("one")
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), device=device.id, by="ann")
    browser, api = fleet.browser(Role.VIEWER), fleet.house.client(Role.VIEWER)
    path, why = f"/devices/{device.id}", f"/api/v1/devices/{device.id}/explain"
    far = {"answers": 132, "enough": 200, "within_s": 1800}
    for facts in (
        {},
        {"probation": 7},
        {"probation": {"digits": {**far, "answers": -1}}},
        {"probation": {"mnist": far}},
    ):
        device.report(Phase.PROBATION, facts=facts)
        assert "answers reported so far" not in text_of(part_of(browser.get(path).text, "models"))
    device.report(Phase.PROBATION, facts={"probation": {"digits": far}})
    shown = text_of(part_of(browser.get(path).text, "models"))
    assert re.search(r"since .*: 132 of 200 answers reported so far; it passes after 200, or after 30 min", shown)
    assert "132 of 200 answers" in api.get(why).json()["items"][0]["why"]
    assert api.get(f"/api/v1/devices/{device.id}").json()["models"][0]["probation"] == far
    device.report(Phase.COMMITTED, facts={"probation": {"digits": far}})
    assert "132 of 200" not in browser.get(path).text


def test_revoking_needs_the_typed_name(fleet: Fleet) -> None:
    device = fleet.device("one")
    browser, path = fleet.browser(Role.OPERATOR), f"/devices/{device.id}"
    fields = form_of(browser.get(path).text, "revoke_device")
    assert send(browser, "revoke_device", fields | {"confirm": "one"}).status_code != 303
    assert fleet.parts.fleet.reader.device(device.id).status.value == "online"
    assert send(browser, "revoke_device", fields | {"confirm": device.id}).status_code == 303
    page = browser.get(path).text
    assert "This device was revoked" in part_of(page, "head")
    assert "The broker has not cut it off yet" in part_of(page, "head")
    fleet.parts.fleet.revocation.cut_off([DeviceId(device.id)])
    assert "It was cut off the broker at" in part_of(browser.get(path).text, "head")
    assert "/do/" not in page.replace("/do/operation", "")


def test_a_device_says_where_its_keys_are(fleet: Fleet) -> None:
    device, browser = fleet.device("one"), fleet.browser(Role.VIEWER)
    with fleet.parts.db.session() as session:
        session.execute(update(FleetDevice).values(facts={"arch": "aarch64"}))  # an agent of before told nothing of it
    assert "<dt>Device keys</dt><dd>–</dd>" in browser.get(f"/devices/{device.id}").text
    caller = DeviceIdentity(device.id, ProfileName(ORT), "")
    for told, shown in (("", "–"), ("file", "in files"), ("tpm", "wrapped by its TPM")):
        fleet.parts.fleet.enrolment.renew(caller, KeyedDevice().csr(), DeviceKeys(key_storage=told))
        assert f"<dt>Device keys</dt><dd>{shown}</dd>" in browser.get(f"/devices/{device.id}").text


def test_history_goes_back_in_pages(fleet: Fleet) -> None:
    device = fleet.device("one")
    for _ in range(70):
        fleet.parts.fleet.tasks.create(device.id, TaskOrder("diag", {}), "ann") if _ < 3 else None
        fleet.parts.fleet.feed.add([_event(device.id)])
    browser = fleet.browser(Role.VIEWER)
    page = browser.get(f"/devices/{device.id}").text
    older = html.unescape(re.findall(r'<a rel="next" href="([^"]+)">older', page)[0])
    told = part_of(browser.get(older.partition("#")[0]).text, "events")
    assert "enrolled" in told
    assert "enrolled" not in part_of(page, "events")
    assert browser.get(f"/devices/{device.id}?events=YQ").status_code == 422


def _event(device: str) -> Any:
    from edgefleet_server.events.model import NewEvent

    return NewEvent("desired", device, "digits", detail={"release": "digits@1.0.0"})


def test_answers_of_a_device_are_watched_by_a_button(fleet: Fleet) -> None:
    device = fleet.device("one")
    browser, path = fleet.browser(Role.OPERATOR), f"/devices/{device.id}/predictions"
    page = browser.get(path).text
    assert "Nobody is watching" in part_of(page, "watch")
    assert send(browser, "watch_device", form_of(page, "watch_device")).status_code == 303
    assert "Watching until" in part_of(browser.get(path).text, "watch")


def test_a_device_says_how_the_schedule_of_a_model_stands(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    device = fleet.device("one")
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), device=device.id, by="ann")
    browser = fleet.browser(Role.VIEWER)
    for facts in ({}, {"schedules": [1]}, {"schedules": {"mnist": {"every": "1h"}}}):
        device.report(Phase.COMMITTED, facts=facts)
        assert "Schedule:" not in text_of(part_of(browser.get(f"/devices/{device.id}").text, "models"))
    stands = {"every": "<b>1h</b>", "state": "ok", "due_s": 1_780_318_800, "runs": 8, "missed": 4}
    device.report(Phase.COMMITTED, facts={"schedules": {"digits": stands}})
    shown = browser.get(f"/devices/{device.id}").text
    assert "Schedule: each &lt;b&gt;1h&lt;/b&gt;; next 2026-06-01 13:00 UTC; 8 runs, 4 missed" in shown
