"""Every page for everyone: no violation of WCAG 2.2 AA that axe-core finds, in light and dark; nothing in the console; whole at 360 px.

A page is loaded once as a desk has it, once as a phone does, and once without scripts: only what differs between looks is loaded anew.
Screenshots of all pages lie in `build/screenshots` afterwards, for whoever wants to look at them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, expect

from edgefleet_server.access.model import Role
from edgefleet_server.db.keyset import encode_cursor
from edgefleet_server.fleet.inventory.device_list import Place
from tests.converters.test_report_html import report
from tests.server.dashboard.drifting_fleet import pumps, say
from tests.server.dashboard.fleet import ORT, Fleet, staged
from tests.server.dashboard.labelled_fleet import tell_labels
from tests.server.dashboard.looking import Windows, in_peace, violations
from tests.server.dashboard.retrained_fleet import retrained
from tests.server.dashboard.serving import served
from tests.server.dashboard.shelf import shelve
from tests.server.dashboard.test_enrolment_page import crowd
from tests.server.dashboard.test_experiment_pages import FIGURES, SHADOW, tell, trying
from tests.server.dashboard.test_settings_pages import sent
from tests.server.objectives.test_openslo import share
from tests.server.rollout.test_alerts import alert, notification
from tests.server.telemetry.sending_fleet import Say, tell_past
from tests.server.telemetry.test_watching import shown
from tests.support.browsers import binary, browser
from tests.support.receivers import LOOPBACK, receiving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(binary() is None, reason="Chromium is not installed")]

PAGES = (
    "/", "/devices", "/devices?selector=status%3Doffline", "/devices?after={second_page}",
    "/devices/{device}", "/groups", "/groups/berlin", "/enrolment",
    "/models", "/models/digits", "/models/digits/1.1.0", "/models/digits/1.1.0/card", "/models/digits/compare?a=1.0.0&b=1.1.0",
    "/rollouts", "/rollouts/new", "/rollouts/new?release=digits@1.1.0&step=devices&who=all",
    "/rollouts/new?release=digits@1.1.0&who=all&step=how", "/rollouts/new?release=digits@1.1.0&who=all&step=review",
    "/rollouts/{good}", "/rollouts/{bad}", "/experiments", "/alerts", "/events", "/bundles", "/profiles",
    "/profiles/generic-x86_64-ort", "/audit", "/settings", "/settings/preferences", "/settings/tokens", "/settings/webhooks",
    "/settings/people", "/settings/account", "/settings/identities", "/settings/pipelines", "/settings/place", "/settings/device-ca",
    "/settings/protection", "/data-sets",
    "/events?view=all", "/find?q=nothing%20at%20all", "/glossary", "/shortcuts", "/styleguide", "/views",
    "/devices/nobody", "/find?q=cam", "/login", "/invitation?code={invitation}",
)  # fmt: skip


OTHERS = (
    "/experiments/{trial}", "/rollouts/undo", "/rollouts/undo?name=digits", "/publish", "/fleet/bulk?do=label&all=1&selector=site%3Dhall",
    "/fleet/bulk?do=deploy&all=1&selector=site%3Dhall", "/fleet/bulk?do=restart&all=1&selector=site%3Dhall",
    "/devices/{device}/predictions",
    "/", "/fleet?by=site", "/models/digits/latency", "/models/digits/latency?device={hot}", "/models/digits", "/groups/hall",
    "/devices/{hot}",
    "/models/pump/drift", "/models/pump/drift/temperature", "/models/pump/accuracy", "/devices/{warm}",
    "/models/told/1.0.0", "/enrolment", "/enrolment?state=rejected", "/alerts", "/settings/receivers", "/alerts/{alert}", "/alerts/rules",
    "/alerts/silences", "/settings/contacts", "/settings/contacts/{contact}", "/slos", "/slos/{slo}", "/slos/new", "/drift", "/cost",
    "/", "/find", "/settings/protection", "/settings/policies",
    "/retraining", "/retraining/new", "/retraining/new?on=schedule&launcher=github", "/retraining/start?model=digits",
    "/retraining/triggers/digits-drift", "/retraining/{awaits}", "/retraining/{promoted}", "/retraining/{failed}",
)  # fmt: skip
"""Pages that need something going on: seen at a second house."""
SHOWN_ONCE = {
    "token": ("/settings/tokens", "create_token", {"body.name": "ci"}),
    "claim": ("/enrolment", "create_enrollments", {"body.uses": "3"}),
    "receiver": ("/settings/receivers", "create_alert_receiver", {"body.name": "staging"}),
}
"""Pages that only a form leads to: where it stands, what it does, what is typed."""


class House:
    """A served fleet with a story, and windows that show it."""

    def __init__(self, fleet: Fleet, windows: Windows) -> None:
        good, bad = staged(fleet)
        device = fleet.parts.rollout.reader.devices(bad)[0].device
        fleet.house.client(Role.ADMIN).post("/api/v1/groups", json={"name": "berlin", "selector": "site=hall"})
        fleet.parts.predictions.set("digits", "ann", ratio=1.0, inputs=False, keep_days=180)
        second_page = encode_cursor(Place(0, "", min(fleet.by_id)).text())
        zoe = fleet.house.client(Role.ADMIN).post("/api/v1/invitations", json={"person": "zoe", "roles": ["viewer"]})
        self.names = {"good": good, "bad": bad, "device": device, "second_page": second_page}
        self.names["invitation"] = zoe.json()["url_path"].partition("code=")[2]
        self.windows = windows


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for both houses: a process can drive no second one beside it."""
    with browser() as made:
        yield made


@contextmanager
def opened(folder: Path, chromium: Browser) -> Iterator[tuple[Fleet, Windows]]:
    """Serve an empty fleet, with windows to look at it."""
    fleet = Fleet(folder / "server", webhook_networks=LOOPBACK)
    with served(fleet.house.own_app()) as url:
        windows = Windows(fleet, url, chromium)
        yield fleet, windows
        windows.close()
    fleet.close()


@pytest.fixture(scope="module")
def house(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for all tests of this file."""
    with opened(tmp_path_factory.mktemp("axe"), chromium) as (fleet, windows):
        yield House(fleet, windows)


class BusyHouse:
    """A served fleet where much waits for somebody: an experiment that an alert paused, devices to be let in, one that is watched."""

    def __init__(self, fleet: Fleet, windows: Windows) -> None:
        self.fleet = fleet
        stored = fleet.parts.registry.put_blob_bytes(msgspec.json.encode(report()))
        shelve(
            fleet,
            "told@1.0.0",
            ORT,
            report=str(stored),
            lineage={"git_commit": "a" * 40, "uri": "https://ml.example/x"},
        )
        trial, devices = trying(fleet, SHADOW)
        tell(fleet, devices, shadow=FIGURES)
        device = devices[0].id
        admin = fleet.house.client(Role.ADMIN)
        admin.patch(f"/api/v1/devices/{device}", json={"labels": {"site": "hall"}})
        assert admin.post(f"/api/v1/devices/{device}:watch").status_code == 200
        assert fleet.parts.telemetry.ingest_watched([shown(device, 1, "t1", "t2")]) == 1
        made = admin.post(
            "/api/v1/alert-receivers", json={"name": "prod", "matchers": ["team=edge"], "model": "digits"}
        ).json()
        assert admin.post(made["url_path"], json=notification(alert(edgefleet_rollout=trial))).status_code == 200
        first, *_others = crowd(fleet, 3)
        told = {"ids": [first], "reason": "not one of ours"}
        assert admin.post("/api/v1/enrollments/pending:reject", json=told).status_code == 200
        tell_past(fleet, devices, _heats(devices[1].id))
        admin.post("/api/v1/groups", json={"name": "hall", "selector": "site=hall"})
        every = pumps(fleet)
        tell_labels(fleet, every)
        warm = every[5]
        say(fleet, warm)
        contact = admin.post("/api/v1/contact-points", json={"name": "on call", "url": "ntfy://edgefleet"}).json()["id"]
        admin.post(f"/api/v1/contact-points/{contact}:test", json={})
        slos = {"pump-ok": share("success"), "pump-up": share("availability")}
        for name, document in slos.items():
            document["spec"]["service"] = "pump"
            assert admin.put(f"/api/v1/slos/{name}", json=document | {"metadata": {"name": name}}).status_code == 201
        fleet.parts.objectives.tick()
        admin.post("/api/v1/alert-silences", json={"matchers": ["site=lab"], "for_s": 3600, "comment": "new router"})
        admin.post("/api/v1/maintenance-windows", json={"name": "nightly", "cron": "0 1 * * *", "duration_s": 3600})
        for other in devices[:2]:
            fleet.parts.fleet.suspicion.mark(other.id, "it reported a golden failure that nobody else sees")
        fleet.parts.alarm.engine.tick()
        (one, *_rest) = fleet.parts.alarm.alerts.firing(5)
        admin.post(f"/api/v1/alerts/{one.id}:ack", json={"comment": "on my way"})
        for name, selector in {"gate": "site=hall", "hot": f"id={devices[1].id}"}.items():
            rule = {"name": name, "selector": selector}
            assert admin.post("/api/v1/protection-rules", json=rule).status_code == 201
        why = {"reason": "the cameras at gate 4 are blind"}
        assert admin.post("/api/v1/protection-rules/gate:break-glass", json=why).status_code == 201
        assert admin.post("/api/v1/protection-rules/gate:end").status_code == 200
        self.names = {
            "trial": trial,
            "device": device,
            "alert": str(one.id),
            "contact": contact,
            "warm": warm.id,
            "hot": devices[1].id,
        }
        self.names["slo"] = "pump-ok"
        retrainings = retrained(fleet)
        self.names |= {
            "awaits": retrainings["awaiting_approval"],
            "promoted": retrainings["promoted"],
            "failed": retrainings["failed"],
        }
        self.windows = windows


def _heats(hot: str) -> Say:
    """Return what lets one device get hot, and all of them answer by a version that came before."""

    def say(step: int, device: str, said: dict[str, Any]) -> None:
        said["n"] = 600 + 300 * (step % 96 > 30)
        if step >= 40:
            said.update(version="1.1.0", ms=16.0)
        if device == hot and step >= 60:
            said.update(ms=45.0, throttled_ratio=0.5, temperature_celsius=85.0, errors=4)

    return say


@pytest.fixture(scope="module")
def busy(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyHouse]:
    """The second house."""
    with opened(tmp_path_factory.mktemp("busy"), chromium) as (fleet, windows):
        yield BusyHouse(fleet, windows)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_shuts_anybody_out(house: House, page: str) -> None:
    house.windows.look_at_the_desk(page.format(**house.names), page)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_fits_a_phone(house: House, page: str) -> None:
    house.windows.look_at_the_phone(page.format(**house.names), page)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_without_scripts(house: House, page: str) -> None:
    house.windows.look_without_scripts(page.format(**house.names))


@pytest.mark.parametrize("page", OTHERS)
def test_no_busy_page_shuts_anybody_out(busy: BusyHouse, page: str) -> None:
    path, shot = page.format(**busy.names), f"busy {page}"
    busy.windows.look_at_the_desk(path, shot)
    busy.windows.look_at_the_phone(path, shot)
    busy.windows.look_without_scripts(path)


@pytest.mark.parametrize("what", SHOWN_ONCE)
def test_no_page_that_is_shown_once_shuts_anybody_out(busy: BusyHouse, what: str) -> None:
    path, operation, typed = SHOWN_ONCE[what]
    for page, look in (
        (busy.windows.desk, busy.windows.look_at_what_the_desk_shows),
        (busy.windows.phone, busy.windows.look_at_what_the_phone_shows),
    ):
        with in_peace(page):
            page.goto(busy.windows.url + path)
            form = page.locator(f"form[data-operation={operation}]")
            for name, text in typed.items():
                form.locator(f"[name='{name}']").fill(text)
            form.locator("button.primary").click()
            expect(page.get_by_text("This is shown only once")).to_be_visible()
            look(f"once {what}")


def test_a_conversion_report_shuts_nobody_out(busy: BusyHouse) -> None:
    windows = busy.windows
    served_so = windows.desk.context.request.get(f"{windows.url}/models/told/1.0.0/report")
    assert "What went in" in served_so.text()
    for page in (windows.desk, windows.phone):
        page.goto("about:blank")
        page.set_content(served_so.text())  # where it is served, its policy lets no script run, axe-core neither
        for look in ("light", "dark"):
            page.emulate_media(color_scheme=look)
            assert violations(page) == [], look
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), look
        page.emulate_media(color_scheme="light")


def test_which_sites_drift_is_two_clicks_away(busy: BusyHouse) -> None:
    desk, phone, url = busy.windows.desk, busy.windows.phone, busy.windows.url
    for page, bar in ((desk, "Main"), (phone, "Main, on phones")):
        page.goto(url + "/")
        page.get_by_role("navigation", name=bar, exact=True).get_by_role("link", name="Observe").click()
        page.get_by_role("navigation", name="Observe").get_by_role("link", name="Drift").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("most at site lyon")
        expect(page.locator("#sites a.strong")).to_have_attribute("href", "/devices?selector=site%3Dlyon")
    desk.goto(url + "/")
    desk.keyboard.type("gi")
    expect(desk.get_by_role("heading", level=1)).to_contain_text("most at site lyon")


def test_deliveries_of_a_webhook_shut_nobody_out(busy: BusyHouse) -> None:
    fleet, windows, page = busy.fleet, busy.windows, busy.windows.desk
    webhook = fleet.parts.webhooks
    statuses = iter([500, 204, *[204] * 20])
    with receiving() as receiver:
        receiver.answer = lambda _got: (next(statuses), {}, b"thank you")
        page.goto(windows.url + "/settings/webhooks")
        form = page.locator("form[data-operation=create_webhook]")
        form.get_by_label("URL").fill(receiver.url)
        form.get_by_label("Name").fill("operations")
        form.get_by_label("Events").fill("edgefleet.device.*")
        form.get_by_role("button", name="Create webhook").click()
        expect(page.get_by_text("This is shown only once")).to_be_visible()
        (made,) = webhook.webhooks()
        own = f"/settings/webhooks/{made.id}"
        page.goto(windows.url + own)
        expect(page.locator("#head")).to_contain_text("Nothing was sent yet")
        page.get_by_role("button", name="Send test").click()
        expect(page.locator("#delivery")).to_contain_text("Not sent yet")
        sent(fleet)
        expect(page.locator("#delivery")).to_contain_text("HTTP 500")  # by itself
        expect(page.locator("#delivery")).to_contain_text("The receiver has not accepted it yet. Next attempt")
        expect(page.get_by_role("button", name="Resend")).to_be_visible()  # also while it waits for its next attempt
        delivery = page.url.removeprefix(windows.url).partition("?")[0]
        for path in ("/settings/webhooks", own, delivery):
            windows.look_at_the_desk(path, f"failing {path.replace(made.id, 'id')}")
            windows.look_at_the_phone(path, f"failing {path.replace(made.id, 'id')}")
        page.goto(windows.url + own)
        expect(page.locator("#head")).to_contain_text(
            "The receiver has not accepted 1 of them yet; it is sent again by itself."
        )
        fleet.house.clock.turn(hours=1)
        page.goto(windows.url + delivery)
        sent(fleet)
        expect(page.locator("#delivery")).to_contain_text("The receiver accepted it.")
        page.goto(windows.url + delivery)
        page.get_by_role("button", name="Resend").click()
        expect(page.locator(".said")).to_contain_text("On its way again: this page shows what the receiver answers.")
        sent(fleet)
        expect(page.locator("#delivery")).to_contain_text("The receiver accepted it.")
    for path in (own, delivery):
        windows.look_at_the_desk(path, f"redelivered {path.replace(made.id, 'id')}")
        windows.look_at_the_phone(path, f"redelivered {path.replace(made.id, 'id')}")
        windows.look_without_scripts(path)
