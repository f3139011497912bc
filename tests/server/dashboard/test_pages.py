"""What the pages show of a real fleet: counts, stages, reasons, devices, events; and what they do with hostile text."""

import html
import re

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.access.model import Role
from tests.house.tree import ROOT
from tests.server.dashboard.fleet import LITERT, NONFINITE, ORT, STAGES, Fleet, follow
from tests.server.dashboard.test_login_pages import assert_headers

TEMPLATES = ROOT / "server/edgefleet_server/dashboard/templates"
HOSTILE = "</td><script>window.hostile = 1</script><img src=x onerror=window.hostile=1>\"'&{{ 7 * 7 }}"


def text_of(page: str) -> str:
    """Return what a reader of a page sees, with single blanks."""
    visible = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", visible)).split())


def part_of(page: str, section: str) -> str:
    """Return the text of one part of a page."""
    found = re.search(rf'<(section|div) id="{section}".*?</section>', page, flags=re.DOTALL)
    assert found is not None, section
    return text_of(found[0])


def test_an_empty_server_says_what_to_do_next(empty_fleet: Fleet) -> None:
    answer = empty_fleet.browser(Role.VIEWER).get("/")
    assert answer.status_code == 200
    assert_headers(answer)
    for command in ("edgectl rollout create", "edgectl device enroll", "edgectl publish"):
        assert command in answer.text


def test_the_overview_counts_devices_and_open_rollouts(story: tuple[Fleet, str, str]) -> None:
    page = story[0].browser(Role.VIEWER).get("/").text
    assert "7 healthy" in part_of(page, "map")
    assert "1 offline" in part_of(page, "map")
    assert "90.0 % 9 of 10 devices now" in text_of(page)
    assert "1 open" in part_of(page, "rollouts")


def test_the_story_of_today_says_what_happened_and_why(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    page = fleet.browser(Role.VIEWER).get("/").text
    told = part_of(page, "today")
    assert f"digits@1.2.0 is going back automatically {ORT}: 1 of 1 devices failed" in told
    assert "digits@1.2.0 failed on cam" in told
    assert "ann started the rollout of digits@1.2.0" in told
    assert f'href="/rollouts/{bad}"' in page
    assert re.search(r'href="/events\?ids=[0-9.-]+">\d+ events<', page), "the events of a line, and no others"


def test_a_rollout_shows_its_stages_by_stratum_with_rule_strength_bound_and_reason(
    story: tuple[Fleet, str, str],
) -> None:
    fleet, good, _bad = story
    answer = fleet.browser(Role.VIEWER).get(f"/rollouts/{good}")
    assert answer.status_code == 200
    assert_headers(answer)
    told = part_of(answer.text, "stages")
    for stage in ("canary passed 2 per stratum, soak 30 s", "half passed 50 %, soak 1 min", "rest passed 100 %"):
        assert stage in told
    assert told.count(ORT) >= 3
    assert told.count(LITERT) >= 3
    assert "weak: 2 of 2 healthy: failure below 78 % at 95 %" in told
    assert "1 unreachable" in told


def test_a_rollout_says_in_words_what_its_odd_devices_did(story: tuple[Fleet, str, str]) -> None:
    fleet, good, bad = story
    browser = fleet.browser(Role.VIEWER)
    told = part_of(browser.get(f"/rollouts/{good}").text, "rollout-devices")
    assert "unreachable did not accept it in time; not counted – did not take up its document within 3 min" in told
    assert "healthy joined later runs it; joined during the stage" in told
    assert f"nonfinite : is back on its previous release – {NONFINITE}" in part_of(
        browser.get(f"/rollouts/{bad}").text, "rollout-devices"
    )


def test_decisions_are_computed_again_from_their_evidence(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    told = part_of(fleet.browser(Role.VIEWER).get(f"/rollouts/{bad}").text, "decisions")
    assert "roll back" in told
    assert "agrees" in told
    assert "differs" not in told
    assert f"edgectl rollout explain {bad}" in told


def test_a_rollouts_timeline_holds_its_own_events_only(story: tuple[Fleet, str, str]) -> None:
    fleet, good, bad = story
    page = fleet.browser(Role.VIEWER).get(f"/rollouts/{bad}").text
    assert "draft → validating" in part_of(page, "timeline")
    assert good not in page


def test_a_device_shows_wanted_and_reported_slots_figures_and_events(story: tuple[Fleet, str, str]) -> None:
    fleet, _good, bad = story
    device = next(one for one in fleet.parts.rollout.reader.devices(bad) if one.state == "rolled_back")
    answer = fleet.browser(Role.VIEWER).get(f"/devices/{device.device}")
    assert answer.status_code == 200
    assert "runs digits@1.1.0" in part_of(answer.text, "head")
    slots = part_of(answer.text, "models")
    assert "Slot B Active digits@1.1.0 generic-x86_64-ort, 35 B" in slots
    assert "Slot A Standby" in slots
    about = part_of(answer.text, "about")
    assert "Presence online" in about
    assert "Its MQTT session is open; it sends its state only when that changes, and figures every" in about
    figures = part_of(answer.text, "figures")
    assert re.search(r"digits@1\.1\.0 1 min from 2026-11-25 [0-9:]+ 240 1 31 0", figures)
    assert f"digits was rolled back and runs 1.1.0: {NONFINITE}" in part_of(answer.text, "health")
    assert "Find out why digits@1.1.0 did not run" in part_of(answer.text, "fix")
    assert NONFINITE in part_of(answer.text, "events")


def test_a_device_that_does_not_run_what_it_should_says_why(story: tuple[Fleet, str, str]) -> None:
    fleet = story[0]
    away = next(one.id for one in fleet.parts.fleet.devices.select("status=offline"))
    told = part_of(fleet.browser(Role.VIEWER).get(f"/devices/{away}").text, "head")
    assert "digits@1.1.0 is desired, digits@1.0.0 is running: it is offline and was last seen" in told
    assert "it gets its document when it connects." in told


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/devices/nobody", 404),
        ("/rollouts/r-nothing", 404),
        ("/rollouts/%3Cscript%3E", 404),
        ("/devices?after=%FF", 422),
        ("/devices?before=***", 422),
        ("/devices?after=YQ", 422),
        ("/devices?q=" + "a" * 5000, 422),
        ("/groups/none", 404),
        ("/static/nothing.css", 404),
        ("/static/..%2Froutes.py", 404),
    ],
)
def test_what_is_not_there_is_a_page_with_a_way_back(empty_fleet: Fleet, path: str, status: int) -> None:
    answer = empty_fleet.browser(Role.VIEWER).get(path)
    assert answer.status_code == status
    if not path.startswith("/static/.."):
        assert_headers(answer)
        assert 'href="/">Overview</a>' in answer.text
    assert "<script>" not in answer.text


def test_what_devices_say_is_shown_as_text(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    device = fleet.device("odd", ORT, {"a": "b"})
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by=HOSTILE
    )
    device.report(Phase.FAILED, error_class=ErrorClass.LOAD, reason=HOSTILE, error_code=HOSTILE)
    document = device.desired()
    device.say(document.gen, [], refused_gen=document.gen + 1, refused_code=HOSTILE, refused_reason=HOSTILE)
    browser = fleet.browser(Role.VIEWER)
    for path in ("/", f"/devices/{device.id}"):
        page = browser.get(path).text
        assert "window.hostile" in html.unescape(page)
        assert "<img" not in page.replace('<img src="/static/icon.svg', "")
        assert "<script>window" not in page
        assert "{{ 7 * 7 }}" in html.unescape(page)
        assert "49&#" not in page


def test_what_people_write_is_shown_as_text(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    fleet.device("one")
    rollout = fleet.rollout(release="digits@1.0.0", selector="", stages=STAGES)
    fleet.parts.rollout.pause(rollout, HOSTILE, HOSTILE)
    fleet.tick(seconds=1)
    browser = fleet.browser(Role.VIEWER)
    pages = [browser.get(path).text for path in ("/", f"/rollouts/{rollout}")]
    pages += [browser.get("/devices", params={"q": HOSTILE}).text]
    pages += [fleet.browser().get("/login", params={"code": HOSTILE[:100], "next": HOSTILE[:100]}).text]
    for page in pages:
        assert "window.hostile" in html.unescape(page)
        assert "<script>window" not in page
        assert "onerror=window.hostile=1>" not in page


def test_a_device_that_goes_silent_after_its_switch_is_lost_with_its_reason(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    fleet.release("digits@1.1.0", ORT)
    devices = [fleet.device(f"cam{n}") for n in range(4)]
    fleet.parts.fleet.deployer.deploy(
        ReleaseRef.parse("digits@1.0.0"), selector="", device=None, dry_run=False, by="ann"
    )
    follow(fleet, devices)
    rollout = fleet.rollout(
        release="digits@1.1.0", selector="", stages=STAGES, device={"verify_deadline": "2m"}, on_fail="pause"
    )
    dying, *rest = fleet.offered(rollout, devices)
    dying.report(Phase.DOWNLOADING)
    dying.report(Phase.PROBATION)
    follow(fleet, rest)
    dying.connect(on=False)
    for _ in range(6):
        fleet.tick(minutes=1)
    told = part_of(fleet.browser(Role.VIEWER).get(f"/rollouts/{rollout}").text, "rollout-devices")
    assert "lost" in told
    assert "accepted it, then went silent; counts as failed – " in told
    assert "silent" in told


def test_files_are_served_with_their_kind_and_kept_by_what_is_in_them(empty_fleet: Fleet) -> None:
    browser = empty_fleet.browser()
    addresses = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', browser.get("/login").text))
    addresses |= set(re.findall(r'src="(/static/[^"]+)"', empty_fleet.browser(Role.VIEWER).get("/").text))
    assert {address.partition("?")[0] for address in addresses} == {
        "/static/charts.js",
        "/static/command.js",
        "/static/fleet_map.js",
        "/static/components.css",
        "/static/htmx-4.0.1.min.js",
        "/static/hx-sse-4.0.1.min.js",
        "/static/icon.svg",
        "/static/live.js",
        "/static/palette.js",
        "/static/tokens.css",
    }
    for address in addresses:
        answer = browser.get(address)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]
        plain = browser.get(address.partition("?")[0])
        assert plain.headers["cache-control"] == "no-cache"
        again = browser.get(address, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_no_page_has_inline_code_or_style_or_loads_from_elsewhere(story: tuple[Fleet, str, str]) -> None:
    fleet, good, _bad = story
    browser = fleet.browser(Role.VIEWER)
    device = fleet.parts.rollout.reader.devices(good)[0].device
    for path in ("/", f"/rollouts/{good}", f"/devices/{device}", "/login"):
        page = browser.get(path).text
        data = r' type="application/json"'  # figures for charts, not code
        assert not re.search(rf"<script(?![^>]*(?: src=|{data}))|<style|\sstyle=|\son[a-z]+=|javascript:", page)
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page)
        assert page.count("<h1") == 1
        assert '<html lang="en"' in page


def test_reading_the_pages_is_not_audited_and_changes_nothing(empty_fleet: Fleet) -> None:
    from edgefleet_server.db.keyset import PageRequest

    browser = empty_fleet.browser(Role.VIEWER)
    before = empty_fleet.parts.access.audit(PageRequest()).total
    for path in ("/", "/login", "/devices/x", "/rollouts/x", "/static/components.css"):
        browser.get(path)
    assert empty_fleet.parts.access.audit(PageRequest()).total == before


def test_no_link_that_a_template_names_leads_nowhere(empty_fleet: Fleet) -> None:
    sources = "\n".join(one.read_text("utf-8") for one in sorted(TEMPLATES.rglob("*.html")))
    named = set(re.findall(r'href="/([a-z.-]+)', sources))
    assert len(named) > 10
    browser = empty_fleet.browser(Role.ADMIN)
    assert [one for one in sorted(named) if browser.get(f"/{one}").status_code == 404] == []
