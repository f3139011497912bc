"""The fleet's pages in a real browser: from the overview to why a device failed, charts, ticks that stay while news come in."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.login import COOKIE
from tests.server.dashboard.fleet import NONFINITE, Device, Fleet, staged
from tests.server.dashboard.serving import served
from tests.support.browsers import binary, browser

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")


class Visit:
    """A fleet with a good and a bad rollout, served, and a browser that an operator is signed in with."""

    def __init__(self, fleet: Fleet, url: str, bad: str, context: BrowserContext) -> None:
        self.fleet, self.url, self.context = fleet, url, context
        self.failed = fleet.parts.rollout.reader.devices(bad)[0].device
        self.problems: list[str] = []

    def page(self, path: str) -> Page:
        """Return a tab that shows a page; what the console complains of is kept."""
        tab = self.context.new_page()
        tab.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.goto(self.url + path, wait_until="load")
        return tab


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Serve the fleet for all tests of this file."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet-visit") / "server")
    _good, bad = staged(fleet)
    cookie = fleet.browser(Role.OPERATOR).cookies[COOKIE]
    with served(fleet.house.own_app()) as url, browser() as chromium:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": url}])
        yield Visit(fleet, url, bad, context)
    fleet.close()


def test_why_a_device_failed_is_found_in_one_click_from_the_overview(visit: Visit) -> None:
    tab = visit.page("/")
    tab.click("#troubled a")
    tab.wait_for_url(f"**/devices/{visit.failed}")
    assert NONFINITE in tab.inner_text("#models")
    assert visit.problems == []
    tab.close()


def test_a_search_leads_to_the_device_by_keyboard_alone(visit: Visit) -> None:
    tab = visit.page("/devices")
    tab.focus("#q")
    tab.keyboard.type(visit.failed[:6])
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/devices?q=*")
    assert tab.locator("#devices tbody tr").count() == 1
    tab.focus("#devices tbody a")
    tab.keyboard.press("Enter")
    tab.wait_for_url(f"**/devices/{visit.failed}")
    assert visit.problems == []
    tab.close()


def test_charts_are_drawn_and_drawn_on_when_figures_come(visit: Visit) -> None:
    measure(visit.fleet, visit.fleet.by_id[visit.failed], 1, ago=120)
    tab = visit.page(f"/devices/{visit.failed}")
    tab.wait_for_selector(".plot canvas")
    titles = tab.eval_on_selector_all(
        "figure.chart", "all => all.filter(f => f.querySelector('canvas')).map(f => f.dataset.chart)"
    )
    assert {"latency-0", "requests-0", "memory", "temperature"} <= set(titles)
    before = _figures(tab)
    measure(visit.fleet, visit.fleet.by_id[visit.failed], 2, ago=60)
    visit.fleet.by_id[visit.failed].connect(on=False)
    for _ in range(300):
        if _figures(tab) != before:
            break
        tab.wait_for_timeout(100)
    assert _figures(tab) != before
    assert tab.locator(".plot canvas").count() == len(titles)
    visit.fleet.by_id[visit.failed].connect()
    assert visit.problems == []
    tab.close()


def test_ticks_stay_while_news_come_in(visit: Visit) -> None:
    tab = visit.page("/devices")
    box = tab.locator(f'input[name="device"][value="{visit.failed}"]')
    buttons = tab.locator("button[name=do]")
    assert buttons.evaluate_all("all => all.every((one) => one.disabled)")
    tab.get_by_label("Select all").check()
    assert "All that match" in tab.inner_text("fieldset.many")
    assert buttons.evaluate_all("all => all.every((one) => !one.disabled)")
    tab.get_by_label("Select all").uncheck()
    assert buttons.evaluate_all("all => all.every((one) => one.disabled)")
    box.check()
    assert "1 selected." in tab.inner_text("fieldset.many")
    other = next(one for name, one in sorted(visit.fleet.by_id.items()) if name != visit.failed)
    row = tab.locator("#devices tbody tr", has_text=str(other.id))
    assert "online" in row.inner_text() or "offline" in row.inner_text()
    was_on = "online" in row.inner_text()
    other.connect(on=not was_on)
    wanted = "offline" if was_on else "online"
    for _ in range(300):
        if wanted in row.inner_text():
            break
        tab.wait_for_timeout(100)
    assert wanted in row.inner_text()
    assert box.is_checked()
    tab.click("button[value=restart]")
    assert "Restart the agent of 1 device" in tab.inner_text("h1")
    other.connect(on=was_on)
    assert visit.problems == []
    tab.close()


def measure(fleet: Fleet, device: Device, seq: int, *, ago: int) -> None:
    """Let a device send one window, begun `ago` seconds before, with figures of its own."""
    sketch = LatencySketch()
    for n in range(50):
        sketch.add(0.003 + n / 10_000)
    ts = int(fleet.house.clock.now().timestamp())
    window = Window(
        t0=ts - ago,
        length_s=60,
        model="digits",
        lane="active",
        sha256="a" * 64,
        version="1.1.0",
        n=50,
        latency=sketch.packed(),
    )
    system = SystemFigures(memory_available_bytes=10**9, temperature_celsius=48.0)
    message = Telemetry(device=device.id, boot_id="chart", seq=seq, ts=ts * 1000, windows=[window], system=system)
    fleet.parts.telemetry.ingest([message])


def _figures(tab: Page) -> Any:
    return tab.eval_on_selector("#chart-data script", "one => one.textContent")
