"""The page of one model over HTTP: what is live, what runs where, why latency rose, where the newest version comes from."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.render import environment
from edgefleet_server.dashboard.models.version_totals import AnswerTotals
from edgefleet_server.fleet.inventory.fleet_counts import KEPT_S, VersionPlace, VersionPlaces
from tests.converters.test_report_html import report
from tests.server.dashboard.fleet import LITERT, ORT, Device, Fleet
from tests.server.dashboard.shelf import shelve
from tests.server.dashboard.test_pages import part_of, text_of
from tests.server.objectives.test_openslo import latency
from tests.server.telemetry.sending_fleet import WINDOW_S, message

STEPS = 30


def give(fleet: Fleet, device: Device, ref: str) -> None:
    """Let a device run a release."""
    fleet.parts.fleet.deployer.deploy(ReleaseRef.parse(ref), device=device.id)
    device.report(Phase.COMMITTED)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three devices at two sites; with 1.1.0 on two of them, latency doubled. A third version was refused. Tests only look."""
    fleet = Fleet(tmp_path_factory.mktemp("street") / "server")
    written = str(fleet.parts.registry.put_blob_bytes(msgspec.json.encode(report())))
    shelve(fleet, "digits@1.0.0", ORT, LITERT)
    devices = [fleet.device("cam", profile, labels) for profile, labels in PLACED]
    running: dict[str, str] = {one.id: "1.0.0" for one in devices}

    def say(_step: int, device: str, said: dict[str, Any]) -> None:
        said["version"] = running[device]
        said["ms"] = 20.0 if running[device] == "1.0.0" else 45.0

    def go_on() -> None:
        for step in range(STEPS):
            begin = int(fleet.house.clock.now().timestamp())
            fleet.parts.telemetry.ingest([message(step, one.id, begin, say) for one in devices])
            fleet.house.clock.turn(seconds=WINDOW_S)

    for one in devices:
        give(fleet, one, "digits@1.0.0")
    go_on()
    shelve(fleet, "digits@1.1.0", ORT, LITERT, report=written, lineage={"git_commit": "a" * 40})
    for one in devices[1:]:
        give(fleet, one, "digits@1.1.0")
        running[one.id] = "1.1.0"
    go_on()
    shelve(fleet, "digits@1.2.0", refuse={ORT: "top1 fell by 0.0412"})
    fleet.parts.objectives.put("digits-fast", latency(), "ann")
    devices[0].connect(on=False)
    yield fleet
    fleet.close()


PLACED = ((ORT, {"site": "hall"}), (ORT, {"site": "hall"}), (LITERT, None))


def shown(fleet: Fleet, path: str = "/models/digits", *roles: Role) -> str:
    return str(fleet.browser(*(roles or (Role.VIEWER,))).get(path).text)


def test_the_page_begins_with_what_is_live(street: Fleet) -> None:
    text = shown(street)
    told = part_of(text, "standing")
    assert told.startswith("digits 2 versions running 1.1.0 runs on 2 devices, 1.0.0 on 1.")
    assert "1 of them is not connected and counts as last reported." in told
    assert "Its objective is met." in told
    assert "state bad" not in text
    assert text.count("<h1") == 1


def test_why_latency_rose_is_three_clicks_from_the_overview(street: Fleet) -> None:
    browser = street.browser(Role.VIEWER)
    text = browser.get("/").text
    for path in ("/models", "/models/digits", r"/models/digits/latency\?[^\"]*"):
        [address, *_] = re.findall(f'href="({path})"', text) or [""]
        assert address, path
        text = browser.get(address.replace("&amp;", "&")).text
    assert "Latency p95 rose from" in part_of(shown(street), "standing")
    assert "See why" in part_of(shown(street), "standing")
    assert "rose" in part_of(text, "answer")


def test_bars_say_what_runs_where_and_lead_there(street: Fleet) -> None:
    text = shown(street)
    told = part_of(text, "where")
    assert "3 devices By site hall 2 devices" in told
    assert "devices without a site 1 device" in told
    assert f"By hardware profile {ORT} 2 devices" in told
    assert 'aria-label="hall: 1.1.0 on 1, 1.0.0 on 1"' in text
    found = re.search(r'href="(/devices\?selector=[^"]*)">1\.1\.0 <b>1</b>', text)
    assert found is not None
    listed = street.browser(Role.VIEWER).get(found[1]).text
    assert sum(f"/devices/{one}" in listed for one in street.by_id) == 1


def test_versions_have_one_colour_and_the_refused_are_a_small_line(street: Fleet) -> None:
    text = shown(street)
    told = part_of(text, "versions")
    assert "2 of 3" in told
    assert re.search(r"1\.1\.0 .*running 2 of 3 devices 97\.5 % top1 40\.0 KiB 4\d\.\d+ ms", told)
    assert re.search(r"1\.0\.0 .*not connected 1 of 3 devices 97\.5 % top1 40\.0 KiB \d\d\.\d+ ms", told)
    assert "1 refused attempt" in told
    rows = re.findall(r'<rect class="(f-s\d)" width="([\d.]+)%"', text[text.index('id="versions"') :])
    assert rows[:2] == [("f-s1", "66.67"), ("f-s2", "33.33")]


def test_the_newest_is_compared_with_what_runs_and_its_origin_is_shown(street: Fleet) -> None:
    text = shown(street)
    assert part_of(text, "short-compare").startswith("1.1.0 against 1.0.0 Full comparison")
    origin = part_of(text, "origin")
    assert re.search(
        r"Evaluation data .*Git commit .*digits\.onnx .*candidates .*2 bundles .*Signed .*2 devices", origin
    )
    assert "front-plot" in text
    assert "refused below" in text


def test_what_was_not_measured_is_never_drawn(fleet: Fleet) -> None:
    random = {"name": "agreement", "value": 1.0, "baseline": 1.0, "drop": 0.0, "n": 100, "data": "random input only"}
    shelve(fleet, "det@1.0.0", ORT, metric=random)
    text = shown(fleet, "/models/det")
    assert "Accuracy was not measured." in part_of(text, "front")
    assert "not measured" in part_of(text, "versions")
    assert "100.0 %" not in text
    assert "front-plot" not in text
    assert "No device runs it. No objective is set." in part_of(text, "standing")
    assert "No answers were reported" in text_of(text)


@pytest.mark.parametrize(
    ("failed", "nonfinite", "n", "words"),
    [
        (0, 0, 0, ("No answers were reported in the last 24h.",) * 2),
        (
            0,
            0,
            9000,
            (
                "No answer failed in the last 24h, of 9\u202f000.",
                "Every answer was finite in the last 24h, of 9\u202f000.",
            ),
        ),
        (3, 1, 9000, ("3 of 9\u202f000 answers failed.", "1 of 9\u202f000 answers were not finite.")),
    ],
)
def test_no_failure_is_said_only_where_none_was_counted(
    failed: int, nonfinite: int, n: int, words: tuple[str, str]
) -> None:
    """Charts have a place for some versions only, and round: that there is no chart does not say that nothing failed."""
    bits = environment().get_template("registry/model_bits.html").module
    answers, said = AnswerTotals(n, failed, nonfinite, None), "the last 24h"
    shown = SimpleNamespace(answers=answers, timeline=SimpleNamespace(range=SimpleNamespace(said=said)))
    assert (str(bits.none_failed(shown)), str(bits.none_nonfinite(shown))) == words  # type: ignore[attr-defined]


def test_acts_are_those_of_the_role(street: Fleet) -> None:
    text = shown(street, "/models/digits", Role.PUBLISHER, Role.OPERATOR)
    assert "/rollouts/undo?name=digits" in text
    assert "/publish?model=digits" in text
    assert 'value="digits"' in street.browser(Role.PUBLISHER).get("/publish?model=digits").text
    assert "/rollouts/undo" not in part_of(shown(street), "standing")


def test_places_are_counted_once_in_a_while(fleet: Fleet) -> None:
    fleet.release("digits@1.0.0", ORT)
    device = fleet.device("cam", labels={"site": "hall"})
    give(fleet, device, "digits@1.0.0")
    places = VersionPlaces(fleet.parts.db, fleet.parts.clock)
    assert places.of_model("digits") == [VersionPlace("1.0.0", ORT, "hall", 1, 0)]
    assert places.of_model("none") == []
    device.connect(on=False)
    assert places.of_model("digits")[0].silent == 0
    fleet.house.clock.turn(seconds=KEPT_S + 1)
    assert places.of_model("digits")[0].silent == 1
