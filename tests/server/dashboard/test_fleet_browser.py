"""The fleet's pages in a real browser: from the overview to why a device failed, charts, ticks that stay while news come in."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.login import COOKIE
from tests.server.dashboard.fleet import NONFINITE, Device, Fleet, staged
from tests.server.dashboard.serving import served
from tests.support.browsers import binary, browser

pytestmark = pytest.mark.skipif(binary() is None, reason="Chromium is not installed")


SAYS = """
  const button = () => document.querySelector("figure[data-chart] [data-copy]"), text = () => button().firstChild.data;
"""
COPIES = """
  const said = new Promise((done) => new MutationObserver(done).observe(button(), { characterData: true, subtree: true }));
  button().click();
  if (text() !== "Copied") await said;
"""
NEWS = """
  const place = button().closest("figure"), fresh = place.cloneNode(true);
  fresh.querySelector("[data-copy]").firstChild.data = drawn;
  place.replaceChildren(...fresh.childNodes);
  await null;
"""


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
    tab.click("#troubled li a")
    tab.wait_for_url(f"**/devices/{visit.failed}")
    assert NONFINITE in tab.inner_text("#models")
    assert visit.problems == []
    tab.close()


def test_compact_rows_are_lower_and_kept_without_a_script(visit: Visit) -> None:
    with_browser = visit.context.browser
    assert with_browser is not None
    plain = with_browser.new_context(viewport={"width": 1280, "height": 900}, java_script_enabled=False)
    plain.add_cookies([{"name": COOKIE, "value": visit.context.cookies()[0]["value"], "url": visit.url}])
    tab = plain.new_page()

    def heights() -> list[float]:
        found = []
        for path in ("/devices", "/models", "/profiles", "/rollouts/new"):
            tab.goto(visit.url + path)
            box = tab.locator("main tbody tr").first.bounding_box()
            assert box is not None
            found.append(box["height"])
        return found

    roomy = heights()
    tab.goto(f"{visit.url}/settings/preferences")
    tab.locator("select[name=density]").select_option("compact")
    tab.locator("select[name=theme]").select_option("dark")
    tab.get_by_role("button", name="Save").click()
    assert [low < high for low, high in zip(heights(), roomy, strict=True)] == [True] * 4
    tab.emulate_media(media="print", color_scheme="dark")  # on paper dark pages would be white on white
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color") == (
        "rgba(0, 0, 0, 0)rgb(18, 22, 27)"
    )
    assert not tab.locator("header.top").is_visible()
    tab.goto(
        f"{visit.url}/devices/{visit.failed}"
    )  # what asks once more opens on paper like all that is folded, above what stands there
    hidden = tab.locator(".confirm .pop, .range").all()
    assert hidden
    assert not any(one.is_visible() for one in hidden)
    assert tab.locator("h1").is_visible()
    plain.close()


def test_a_square_of_the_map_says_its_device_and_leads_to_it(visit: Visit) -> None:
    tab = visit.page("/")
    square = tab.locator("#map .map i.w").first
    square.hover()
    tab.wait_for_selector(f".tipcard:has-text('{visit.failed}')")
    assert "degraded" in tab.inner_text(".tipcard:visible")
    square.click()
    tab.wait_for_url(f"**/devices/{visit.failed}")
    assert visit.problems == []
    tab.close()


def test_a_square_under_a_still_pointer_says_its_device_after_news(visit: Visit) -> None:
    tab = visit.page("/")
    tab.click("#pause")  # no other news than those of this test
    tab.locator("#map .map i.w").first.hover()
    card = tab.locator(f".tipcard:has-text('{visit.failed}')")
    card.wait_for(state="visible")
    tab.evaluate(
        """async () => {
            const page = await (await fetch(location.href)).text();
            const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("map");
            fresh.setAttribute("hx-swap-oob", "innerMorph");
            document.addEventListener("htmx:after:swap", () => document.body.classList.add("is-swapped"), { once: true });
            const text = fresh.outerHTML;
            await htmx.swap({ sourceElement: document.getElementById("live"), target: "#live", swap: "none", text });
        }"""
    )
    tab.wait_for_selector("body.is-swapped")
    assert card.is_visible()
    tab.close()


def test_names_that_could_not_be_read_are_asked_for_again(visit: Visit) -> None:
    tab = visit.page("/")
    tab.route("**/map/names**", lambda route: route.fulfill(status=503), times=1)
    square = tab.locator("#map .map i.w").first
    with tab.expect_response("**/map/names**"):
        square.hover()
    tab.mouse.move(0, 0)
    square.hover()
    tab.wait_for_selector(f".tipcard:has-text('{visit.failed}')")
    visit.problems.clear()  # the browser itself complains of the 503
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


@pytest.mark.parametrize("look", ["light", "dark"])
def test_charts_stay_readable_while_figures_come(visit: Visit, look: Literal["light", "dark"]) -> None:
    fleet, device = visit.fleet, visit.fleet.by_id[visit.failed]
    tab = visit.page(f"/devices/{visit.failed}")
    tab.emulate_media(color_scheme=look)
    for n in range(3):
        before = _figures(tab)
        fleet.house.clock.turn(minutes=1)
        measure(fleet, device, 10 * (1 + (look == "dark")) + n, ago=60)
        device.connect(on=bool(n % 2))
        for _ in range(300):
            if _figures(tab) != before:
                break
            tab.wait_for_timeout(100)
        assert _figures(tab) != before
    titles = tab.eval_on_selector_all("figure.graph", "all => all.map((one) => one.dataset.chart)")
    expect(tab.locator("#charts-folded > summary")).to_have_text(re.compile(r"^\d+ more charts?$"))
    assert {"latency-0", "requests-0", "memory", "temperature"} <= set(titles)
    seen = set()
    for scheme in (look, "light" if look == "dark" else "dark"):
        tab.emulate_media(color_scheme=scheme)
        plot = _picture(tab)
        assert_readable(plot)
        seen.add(assert_drawn(tab, plot))
    assert len(seen) == 2, "light and dark have a series colour each"
    device.connect()
    assert visit.problems == []
    tab.close()


def test_all_charts_say_the_figures_of_the_moment_that_is_looked_at(visit: Visit) -> None:
    tab = visit.page(f"/devices/{visit.failed}")
    tab.evaluate("document.getElementById('charts-folded')?.setAttribute('open', '')")
    charts = {one["id"]: one for one in json.loads(_figures(tab))["charts"]}
    requests, latency = (tab.locator(f"figure[data-chart={one}]") for one in ("requests-0", "latency-0"))
    newest = [one.locator(".legend").inner_text() for one in (requests, latency)]
    requests.locator(".plot").hover(position={"x": 2, "y": 60})
    assert tab.locator(".cur.on").count() == len(charts)
    places = tab.eval_on_selector_all(".cur", "all => all.map((one) => Math.round(one.getBoundingClientRect().x))")
    assert len(set(places)) == 2, "all charts of a column have the cursor at the same place"
    for figure, name in ((requests, "requests-0"), (latency, "latency-0")):
        shown = figure.locator(".legend b").all_inner_texts()
        firsts = [f"{column[0]:.4g}" for column in charts[name]["data"][1:]]
        assert [one.partition(" ")[0] for one in shown] == firsts
    readout = tab.locator(".readout")
    assert readout.locator("b").all_inner_texts() == requests.locator(".legend b").all_inner_texts()
    tab.mouse.move(1, 1)
    expect(readout).to_be_hidden()
    assert tab.locator(".cur.on").count() == 0
    assert [one.locator(".legend").inner_text() for one in (requests, latency)] == newest
    assert visit.problems == []
    tab.close()


def test_a_chart_is_read_zoomed_and_copied_by_keyboard_and_pointer(visit: Visit) -> None:
    visit.fleet.house.clock.turn(minutes=1)
    for seq, ago in ((90, 1500), (91, 900), (92, 300)):
        measure(visit.fleet, visit.fleet.by_id[visit.failed], seq, ago=ago)
    tab = visit.page(f"/devices/{visit.failed}?span=1h&scale=linear")
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chart = next(one for one in json.loads(_figures(tab))["charts"] if one["id"] == "requests-0")
    figure, times = tab.locator("figure[data-chart=requests-0]"), chart["data"][0]
    readout = tab.locator(".readout .moment")
    tab.get_by_role("button", name="Copy as CSV digits: requests").click()
    tab.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('time,')")
    rows = list(csv.DictReader(io.StringIO(tab.evaluate("navigator.clipboard.readText()"))))
    assert [row["requests"] for row in rows] == [str(one) for one in chart["data"][1]]
    assert [datetime.fromisoformat(row["time"]).timestamp() for row in rows] == times
    figure.locator(".plot").focus()
    tab.keyboard.press("End")
    last = readout.inner_text()
    tab.keyboard.press("Home")
    assert readout.inner_text() == f"{datetime.fromtimestamp(times[0], UTC):%Y-%m-%d %H:%M}"
    tab.keyboard.press("Escape")
    expect(tab.locator(".readout")).to_be_hidden()
    tab.keyboard.press("Home")
    tab.keyboard.press("Shift+End")
    assert readout.inner_text() == last
    tab.keyboard.press("Enter")
    tab.wait_for_url("**from=*")
    query = parse_qs(urlsplit(tab.url).query)
    begin, end = (datetime.fromisoformat(query[one][0]).timestamp() for one in ("from", "to"))
    assert begin <= times[0] < times[-1] <= end
    assert (query["scale"], "span" in query) == (["linear"], False)
    tab.get_by_role("link", name="Back to the last 24h").click()
    tab.wait_for_url("**span=24h*")
    chart = next(one for one in json.loads(_figures(tab))["charts"] if one["id"] == "requests-0")
    box = figure.locator(".plot").bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60, steps=3)
    assert figure.locator(".brush").evaluate("one => one.getBoundingClientRect().width") == pytest.approx(
        box["width"] / 4, abs=2
    )
    tab.mouse.up()
    tab.wait_for_url("**from=*")
    query = parse_qs(urlsplit(tab.url).query)
    begin, end = (datetime.fromisoformat(query[one][0]).timestamp() for one in ("from", "to"))
    assert begin == pytest.approx(chart["begin"] + (chart["end"] - chart["begin"]) / 4, abs=200)
    assert end - begin == pytest.approx((chart["end"] - chart["begin"]) / 4, abs=400)
    assert visit.problems == []
    tab.close()


def test_a_button_says_that_it_copied_though_news_come_at_that_moment(visit: Visit) -> None:
    tab = visit.page(f"/devices/{visit.failed}?span=1h")
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.evaluate(f"() => {{ {SAYS} window.drawn = text(); }}")
    assert tab.evaluate(f"async () => {{ {SAYS} {COPIES} return text(); }}") == "Copied"
    # what a stream does that begins a moment after the click
    assert tab.evaluate(f"async () => {{ {SAYS} {COPIES} {NEWS} return text(); }}") == "Copied"
    tab.wait_for_function(f"() => {{ {SAYS} return text() === drawn && drawn === 'Copy as CSV'; }}")
    assert visit.problems == []
    tab.close()


def test_charts_are_whole_without_scripts(visit: Visit) -> None:
    assert visit.context.browser is not None
    context = visit.context.browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 740})
    context.add_cookies(visit.context.cookies(visit.url))  # type: ignore[arg-type]  # the same cookies, read and written
    tab = context.new_page()
    tab.goto(f"{visit.url}/devices/{visit.failed}")
    assert_readable(_picture(tab))
    context.close()


def _picture(tab: Page) -> Image.Image:
    return Image.open(io.BytesIO(tab.locator(".chart").first.screenshot())).convert("RGB")


def assert_drawn(tab: Page, plot: Image.Image) -> tuple[int, ...]:
    """Fail unless the first series is drawn in the colour that the style sheet gives it; return that."""
    said = tab.locator(".chart .ln.s1").first.evaluate("one => getComputedStyle(one).stroke")
    color = tuple(int(one) for one in re.findall(r"\d+", said))
    everything: Any = plot.get_flattened_data()
    assert Counter(everything)[color] > 20
    return color


def assert_readable(plot: Image.Image) -> None:
    """Fail unless the numbers at the left of a chart can be read, and its grid is there and grey."""
    width, height = plot.size
    pixels: Any = plot.load()
    assert pixels is not None
    everything: Any = plot.get_flattened_data()
    ground = Counter(everything).most_common(1)[0][0]
    numbers = {pixels[x, y] for x in range(46) for y in range(height)}
    assert max(_contrast(one, ground) for one in numbers) >= 4.5
    right = range(56, width - 2)
    rows = [Counter(pixels[x, y] for x in right).most_common(1)[0] for y in range(height - 20)]
    lines = [color for color, count in rows if color != ground and count > len(right) * 0.6]
    assert len(lines) >= 2
    assert all(max(color) - min(color) < 24 for color in lines), "the grid has the colour of a series"


def _contrast(one: Any, other: Any) -> float:
    """Return the contrast of two colours as WCAG defines it."""
    parts = [
        [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color)]
        for color in (one, other)
    ]
    darker, lighter = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in parts)
    return float((lighter + 0.05) / (darker + 0.05))


def test_ticks_stay_while_news_come_in(visit: Visit) -> None:
    tab = visit.page("/devices")
    box = tab.locator(f'input[name="device"][value="{visit.failed}"]')
    buttons = tab.locator("button[name=do]")
    assert buttons.evaluate_all("all => all.every((one) => one.disabled)")
    tab.get_by_label("Select all").check()
    assert "All matching devices" in tab.inner_text("fieldset.many")
    assert buttons.evaluate_all("all => all.every((one) => !one.disabled)")
    tab.get_by_label("Select all").uncheck()
    assert buttons.evaluate_all("all => all.every((one) => one.disabled)")
    box.check()
    assert "1 selected." in tab.inner_text("fieldset.many")
    other = next(one for name, one in sorted(visit.fleet.by_id.items()) if name != visit.failed)
    row = tab.locator("#devices tbody tr", has_text=str(other.id))
    was_on = "Offline" not in row.inner_text()
    other.connect(on=not was_on)

    def is_there() -> bool:
        return ("Offline" in row.inner_text()) is was_on

    for _ in range(300):
        if is_there():
            break
        tab.wait_for_timeout(100)
    assert is_there()
    assert box.is_checked()
    tab.click("button[value=restart]")
    assert "Restart the agent on 1 device" in tab.inner_text("h1")
    other.connect(on=was_on)
    assert visit.problems == []
    tab.close()


def measure(fleet: Fleet, device: Device, seq: int, *, ago: int) -> None:
    """Let a device send one window, begun `ago` seconds before, with figures of its own."""
    sketch = LatencySketch()
    for n in range(50):
        sketch.add(0.003 * (1 + seq % 5) + n / 10_000)
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
