"""`edgectl top` on a screen: a real server with devices and a rollout, keys pressed by Textual's pilot, read back as text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import ListItem, Static

from edgefleet_cli.core.api.alert import Alert
from edgefleet_cli.core.api.device import Device, Timeline
from edgefleet_cli.core.api.rollout import Counts, Rollout
from edgefleet_cli.core.errors import ApiError, UntrustedServerError
from edgefleet_cli.core.options import GlobalOptions
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.top import commands, live_feed
from edgefleet_cli.top.fleet_screen import Dashboard
from edgefleet_cli.top.fleet_view import SORTS, DeviceRow, FleetView, device_rows, online_tile, sentence, shown_span
from edgefleet_cli.top.live_feed import LiveFeed
from edgefleet_cli.top.panes import Alerts, Devices, Rollouts, alert_text
from edgefleet_cli.top.rollout_actions import actions_of
from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import Role
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, page, problem, rollout, told, unknown_server
from tests.cli.terminal import Terminal
from tests.cli.test_timelines import STEPS, line, timeline
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served

Play = Pilot[Exception | None]
LOOKS = 1500
Steps = Callable[[Dashboard, Play], Awaitable[None]]
STAGES = [
    {"name": "canary", "size": {"count": 2}, "soak": "1h"},
    {"name": "rest", "size": {"percent": 100}, "soak": "0s"},
]


class There:
    """A server with three devices, one of them offline, and a rollout in its first stage."""

    def __init__(self, fleet: Fleet, url: str, started: str) -> None:
        self.fleet, self.url, self.rollout = fleet, url, started

    def session(self, *roles: Role) -> Session:
        """Return a session with a token of these roles."""
        return Session(GlobalOptions(server=self.url, token=self.fleet.house.token(*(roles or (Role.ADMIN,)))))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    """The server."""
    fleet = Fleet(tmp_path_factory.mktemp("top") / "server")
    fleet.release("digits@1.0.0", ORT)
    devices = [fleet.device(name) for name in ("cam-a", "cam-b", "cam-c")]
    started = fleet.rollout(release="digits@1.0.0", selector="", stages=STAGES)
    offered = fleet.offered(started, devices)
    offered[0].report(Phase.COMMITTED)
    offered[0].measure()
    next(one for one in devices if one not in offered).connect(on=False)
    with served(fleet.house.own_app()) as url:
        yield There(fleet, url, started)
    fleet.close()


def play(session: Session, steps: Steps, size: tuple[int, int] = (80, 24)) -> Dashboard:
    """Run the app, let `steps` press keys once devices are shown, and return it as it is then."""
    app = Dashboard(session)

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: bool(app.query_one(Devices).row_count))
            await steps(app, pilot)

    asyncio.run(run())
    return app


async def until(pilot: Play, holds: Callable[[], bool]) -> None:
    """Wait until something holds; fails with what stands on the screen after many looks."""
    for _ in range(LOOKS):
        if holds():
            return
        await pilot.pause(0.02)
    raise AssertionError(screen_text(pilot.app))


async def shows(app: App[Exception | None], pilot: Play, *words: str) -> str:
    """Wait until the screen shows words, and return what stands on it."""
    await until(pilot, lambda: all(word in screen_text(app) for word in words))
    return screen_text(app)


def screen_text(app: App[Exception | None]) -> str:
    """Return what stands on the screen."""
    rows = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in row).rstrip() for row in rows)


def test_the_share_online_is_drawn_over_time_where_it_was_sampled() -> None:
    view = FleetView(NOON, {"healthy": 3, "offline": 1}, 3, [], [], [])
    sampled = msgspec.convert(timeline(system={"online_ratio": [None, 1.0, None, 0.75]}), Timeline)
    found = online_tile(view, sampled)
    assert (found.value, found.picture, list(found.values)) == ("3 of 4", "", [None, 1.0, None, 0.75])
    assert online_tile(view, msgspec.convert(timeline(system={}), Timeline)).picture
    assert online_tile(None, sampled).value == ""


def test_a_small_terminal_shows_the_fleet_one_pane_at_a_time(there: There) -> None:
    async def steps(app: Dashboard, pilot: Play) -> None:
        first = await shows(
            app, pilot, "2 of 3 devices need attention", "It is offline", "?  cam", "q Quit", "Online 2 of 3"
        )
        assert max(map(len, first.splitlines())) <= 80
        names = [row.split()[1][:5] for row in first.splitlines() if " cam-" in row]
        assert first.index("◌") < first.index("It is offline") < first.index("?  cam"), names
        await pilot.press("s")
        await until(pilot, lambda: app.query_one("#pane-devices").border_title == "1 Devices 3, name")
        await pilot.press("slash", *"offline", "enter")
        await until(pilot, lambda: app.query_one(Devices).row_count == 1)
        await pilot.press("escape", "question_mark")
        await shows(app, pilot, "Keys of edgectl top", "✗ failing")
        await pilot.press("escape", "2")
        assert "canary 2 per stratum" in await shows(app, pilot, "digits@1.0.0  running")
        await pilot.press("4")
        await shows(app, pilot, "enrolled: ")
        await pilot.press("3")
        await shows(app, pilot, "No alert is pending or fires.")

    play(there.session(), steps)


def test_a_device_opens_with_its_reasons_and_its_events(there: There) -> None:
    async def steps(app: Dashboard, pilot: Play) -> None:
        await pilot.press("enter")
        seen = await shows(app, pilot, "◌ offline", "It is offline: its session ended", "edgectl device explain")
        assert "Last events" in seen
        await pilot.press("escape")
        await shows(app, pilot, "1 Devices 3")

    play(there.session(), steps)


def test_acts_name_their_command_and_are_asked_for(there: There) -> None:
    async def steps(app: Dashboard, pilot: Play) -> None:
        await shows(app, pilot, "2 Rollouts 1")
        await pilot.press("2", "p")
        await shows(app, pilot, f"edgectl rollout pause {there.rollout}", "Pause digits@1.0.0")
        await pilot.press(*"odd", "enter")
        await shows(app, pilot, "digits@1.0.0  paused", "paused by test: odd")
        await pilot.press("n", "enter")
        await shows(app, pilot, "A reason is needed", f"edgectl rollout promote {there.rollout} --reason R")
        await pilot.press("escape", "a")
        await shows(app, pilot, "cannot be done to it now")
        await pilot.press("p", "enter")
        await shows(app, pilot, "digits@1.0.0  running")

    play(there.session(), steps, (130, 40))


def test_a_viewer_is_refused_in_words(there: There) -> None:
    async def steps(app: Dashboard, pilot: Play) -> None:
        await shows(app, pilot, "2 Rollouts 1")
        await pilot.press("2", "x", "enter")
        await shows(app, pilot, "operator")

    play(there.session(Role.VIEWER), steps)


def says(fleet: Stub) -> None:
    """Let a stub answer what the screen asks for."""
    device = {"id": "d-1", "display_name": "cam", "health": "healthy", "status": "online", "models": [], "labels": {}}
    fleet.says("GET /devices", page([device]))
    fleet.says("GET /rollouts", page([rollout()]))
    fleet.says("GET /alerts", page([]))
    fleet.says("GET /fleet/summary", {"devices": 1, "status": {"online": 1}, "profiles": {}, "models": []})
    rates = line("", requests=[60] * STEPS, requests_per_s=[4.2] * STEPS, errors=[0] * STEPS, p95_ms=[7.0] * STEPS)
    fleet.says("GET /fleet/metrics", timeline(by="none", lines=[rates]))
    fleet.says("GET /events", page([]))
    fleet.says("GET /events/stream", told([]))


def test_a_table_that_is_drawn_the_moment_its_rows_come_has_room_for_them(fleet: Stub) -> None:
    says(fleet)
    name, why = "camera-of-the-north-gate", "It does not answer"
    row = DeviceRow("d-9", "failing", name, why, "digits@1.0.0", "2 min", "")
    alert = Alert(state="firing", severity="critical", summary=why, since="2026-01-03T00:00:00Z")

    async def steps(app: Dashboard, pilot: Play) -> None:
        app.feed.stop()
        app.query_one(Devices).show([row])
        screen_text(app)
        await shows(app, pilot, f"{name}  {why}  digits@1.0.0  2 min")
        await pilot.press("3")
        app.query_one(Alerts).show([alert], NOON)
        screen_text(app)
        await shows(app, pilot, f"critical firing  {why}")

    play(Session(GlobalOptions(server=fleet.url, token="t")), steps, (120, 30))


def test_a_lost_server_is_said_and_come_back_to(fleet: Stub) -> None:
    says(fleet)

    async def steps(app: Dashboard, pilot: Play) -> None:
        seen = await shows(app, pilot, "Requests 4.2/s", "Errors 0.00%", "Latency p95 7.00 ms")
        assert "⣀" in seen or "⠉" in seen
        away = problem(503, "server.database_unavailable", "the database is away")
        fleet.says("GET /alerts", away, page([]))
        await pilot.press("r")
        await shows(app, pilot, "trying again. What is below is old.")
        await until(pilot, lambda: "trying again" not in screen_text(app))

    play(Session(GlobalOptions(server=fleet.url, token="t")), steps)


def test_the_row_with_the_cursor_has_the_colours_of_the_terminal_turned_round(fleet: Stub) -> None:
    says(fleet)

    async def steps(app: Dashboard, pilot: Play) -> None:
        table = app.query_one(Devices)
        for pane in ("2", "1"):
            await pilot.press(pane)
            await pilot.pause()
            assert table.has_focus is (pane == "1")
            style = table.get_component_rich_style("datatable--cursor")
            assert style.reverse
            assert style.color is not None
            assert style.color.is_default
            assert style.bgcolor is not None
            assert style.bgcolor.is_default

    play(Session(GlobalOptions(server=fleet.url, token="t")), steps)


def test_neither_another_size_nor_a_second_ends_anything_while_a_pane_is_not_there(fleet: Stub) -> None:
    says(fleet)

    async def steps(app: Dashboard, pilot: Play) -> None:
        await app.query_one(Rollouts).remove()
        await pilot.resize_terminal(140, 50)
        await pilot.pause(1.1)  # a second goes by, too
        await shows(app, pilot, "1 Devices")

    assert play(Session(GlobalOptions(server=fleet.url, token="t")), steps).return_code in (None, 0)


def test_rollouts_can_be_drawn_while_their_places_are_made(fleet: Stub) -> None:
    says(fleet)

    async def steps(app: Dashboard, pilot: Play) -> None:
        pane = app.query_one(Rollouts)
        await shows(app, pilot, "2 Rollouts 1")
        await pane.clear()
        making = pane.extend([ListItem(Static(), classes="rollout")])
        pane.draw(NOON)
        await making
        pane.draw(NOON)
        await pilot.press("2")
        await shows(app, pilot, "digits@1.1.0  running")

    play(Session(GlobalOptions(server=fleet.url, token="t")), steps)


def test_events_are_followed_after_a_server_that_was_away_at_first(
    fleet: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "FIRST_PAUSE_S", 0.05)
    says(fleet)
    away = problem(503, "server.database_unavailable", "the database is away")
    event = {"id": 7, "at": NOON.isoformat(), "kind": "enrolled", "device": "d-1", "detail": {}}
    fleet.says("GET /events", away, page([event]))

    async def steps(app: Dashboard, pilot: Play) -> None:
        await pilot.press("4")
        await shows(app, pilot, "d-1 enrolled")

    play(Session(GlobalOptions(server=fleet.url, token="t")), steps)


def test_what_is_typed_and_what_devices_say_is_text_and_no_markup(fleet: Stub) -> None:
    hostile = "[/]\x1b]0;x\x07[bold"
    says(fleet)
    reason = {"health": "failing", "text": hostile}
    device = {"id": "d-1", "display_name": hostile, "health": "failing", "health_reasons": [reason], "models": []}
    fleet.says("GET /devices", page([device | {"labels": {"a": hostile}}]))
    fleet.says("GET /rollouts", page([rollout(state="running", reason=hostile)]))
    fleet.says("POST /rollouts/r-7f3a9c:pause", rollout(state="paused"))
    fleet.says("GET /devices/d-1", device | {"labels": {"a": hostile}})
    fleet.says("GET /devices/d-1/metrics", problem(404, "device.no_figures", "none"))
    event = {"id": 7, "at": f"2026-01-03T{hostile}", "kind": hostile, "device": hostile, "detail": {"reason": hostile}}
    fleet.says("GET /events", page([event]))

    async def steps(app: Dashboard, pilot: Play) -> None:
        assert "\x1b" not in await shows(app, pilot, "[/]\\x1b]0;x")
        await pilot.press("enter")
        assert "\x1b" not in await shows(app, pilot, "✗ failing", "[/]\\x1b]0;x")
        await pilot.press("escape", "2", "p", *"[/b]", "enter")
        await shows(app, pilot, "[/b]")
        await pilot.press("4")
        assert "\x1b" not in await shows(app, pilot, "[/]\\x1b]")

    play(Session(GlobalOptions(server=fleet.url, token="t")), steps)


def test_an_answer_that_cannot_be_shown_ends_it_with_the_error(fleet: Stub) -> None:
    says(fleet)
    broken = {"name": "canary", "state": "passed", "opened_at": "then", "ended_at": "now", "strata": []}
    fleet.says("GET /rollouts", page([rollout(stages=[broken], state="finished")]))
    app = Dashboard(Session(GlobalOptions(server=fleet.url, token="t")))
    asyncio.run(app.run_async(headless=True))
    assert isinstance(app.return_value, ValueError)


def test_a_server_that_does_not_know_the_question_ends_it_with_the_error(fleet: Stub) -> None:
    fleet.says("GET /devices", problem(400, "selector.unknown_key", "no such key: health"))
    app = Dashboard(Session(GlobalOptions(server=fleet.url, token="t")))
    asyncio.run(app.run_async(headless=True))
    assert isinstance(app.return_value, ApiError)


def test_a_token_that_is_not_valid_ends_it_with_the_error(fleet: Stub) -> None:
    fleet.says("GET /devices", problem(401, "auth.unknown_token", "this token is not known"))
    app = Dashboard(Session(GlobalOptions(server=fleet.url, token="t")))
    asyncio.run(app.run_async(headless=True))
    assert isinstance(app.return_value, ApiError)


def test_a_certificate_that_is_not_trusted_ends_it_with_the_error(tmp_path: Path) -> None:
    with unknown_server(tmp_path) as url:
        app = Dashboard(Session(GlobalOptions(server=url, token="t")))
        asyncio.run(asyncio.wait_for(app.run_async(headless=True), 60))
    assert isinstance(app.return_value, UntrustedServerError)


def test_on_a_terminal_and_without_textual(fleet: Stub, edgectl: Edgectl, monkeypatch: pytest.MonkeyPatch) -> None:
    says(fleet)
    terminal = Terminal(fleet, "top", "--timeout", "2s")
    assert terminal.end() == 8
    assert "cam" in terminal.shown
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    ran = edgectl("top")
    assert "1 device: 1 online" in ran.out
    assert commands.PLAIN_HINT in ran.err
    assert edgectl("top", "--plain").err == ""


def test_a_terminal_without_utf_8_gets_tables(fleet: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    says(fleet)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    terminal = Terminal(fleet, "top", "--timeout", "0.1s")
    assert terminal.end() == 8
    assert "1 device: 1 online" in terminal.shown
    assert commands.TERMINAL_HINT.partition(":")[0][:30] in " ".join(terminal.shown.split())
    drawn = Terminal(fleet, "fleet", "metrics", "--chart")
    assert drawn.end() == 0
    assert "Requests" in drawn.shown


@pytest.mark.parametrize("more", [(), ("--plain",)], ids=["top", "plain"])
def test_a_terminal_that_moves_no_cursor_gets_tables_once(fleet: Stub, more: tuple[str, ...]) -> None:
    says(fleet)
    terminal = Terminal(fleet, "top", *more, kind="dumb")
    assert terminal.end() == 0
    assert "1 device: 1 online" in terminal.shown
    assert not terminal.has_escapes


def view(alerts: int = 0, waiting: int = 0, back: int = 0, **counts: int) -> FleetView:
    """Return a fleet."""
    firing = [Alert(id=n, state="firing", severity="warning") for n in range(alerts)]
    states = ["paused"] * waiting + ["rolling_back"] * back
    return FleetView(NOON, counts, 0, [], [Rollout(id=str(n), state=one) for n, one in enumerate(states)], firing)


@pytest.mark.parametrize(
    ("seen", "kind", "said"),
    [
        (view(), "off", "No device is enrolled yet: `edgectl device enroll` makes the line that enrols one."),
        (view(healthy=8), "ok", "All 8 devices are healthy."),
        (view(healthy=1), "ok", "The only device is healthy."),
        (view(healthy=7, updating=1), "run", "The fleet works; 1 device is updating."),
        (view(updating=8, alerts=1), "warn", "The fleet works; 8 devices are updating, 1 alert fires."),
        (view(healthy=3, degraded=5), "warn", "5 of 8 devices need attention: 5 degraded."),
        (view(degraded=1), "bad", "The only device is not well: 1 degraded."),
        (view(healthy=8, alerts=1, waiting=2), "warn", "All 8 devices are healthy; 2 rollouts wait for a person, 1 alert fires."),
        (view(healthy=5, offline=2, degraded=1), "warn", "The fleet works, but 3 of 8 devices need attention: 2 offline, 1 degraded."),
        (view(healthy=7, failing=1), "bad", "The fleet works, but 1 of 8 devices needs attention: 1 failing."),
        (view(healthy=8, back=1), "bad", "All 8 devices are healthy; 1 rollout goes back."),
        (view(unknown=2), "bad", "No device is well: 2 unknown."),
    ],
)  # fmt: skip
def test_the_fleet_in_a_sentence(seen: FleetView, kind: str, said: str) -> None:
    assert sentence(seen) == (kind, said)


@pytest.mark.parametrize(
    ("minutes", "chosen", "said"), [(60, "1h", "1h"), (15, "1h", "15m"), (1440, "24h", "24h"), (60, "24h", "1h"), (None, "24h", "24h")]
)  # fmt: skip
def test_charts_say_which_time_they_are_of(minutes: int | None, chosen: str, said: str) -> None:
    since = NOON - timedelta(minutes=minutes or 0)
    seen = None if minutes is None else struct_of(timeline(since=since.isoformat(), until=NOON.isoformat()), Timeline)
    assert shown_span(seen, chosen) == said


def test_a_time_that_is_chosen_while_figures_are_read_is_read_next(
    fleet: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(fleet)
    asked = []

    def read(_reader: object, span: str) -> Timeline:
        asked.append(span)
        if span == "1h":
            feed.show_span("24h")
        return struct_of(timeline(), Timeline)

    monkeypatch.setattr(live_feed, "fleet_timeline", read)
    session = Session(GlobalOptions(server=fleet.url, token="t"))
    feed = LiveFeed(session.api, session.clock, Dashboard(session))
    for _ in range(3):
        feed._look()
    assert asked == ["1h", "24h"]


def test_an_alert_says_which_device_it_is_about() -> None:
    one = Alert(id=3, severity="warning", state="firing", summary="update was rolled back", shown="digits on cam (d-1)")
    assert alert_text(one).plain.splitlines()[:3] == [
        "warning, firing",
        "digits on cam (d-1)",
        "update was rolled back",
    ]


def test_rows_are_sorted_and_filtered() -> None:
    devices = [
        Device(id="d-1", display_name="zoe", health="healthy", labels={"site": "berlin"}, last_seen=NOON.isoformat()),
        Device(id="d-2", health="failing", last_seen=(NOON - timedelta(days=1)).isoformat()),
    ]
    fleet = FleetView(NOON, {"healthy": 1, "failing": 1}, 2, devices, [], [])
    orders = {order: [row.id for row in device_rows(fleet, order, "")] for order in SORTS}
    assert orders == {
        "worst first": ["d-2", "d-1"], "name": ["d-2", "d-1"], "seen last": ["d-2", "d-1"], "release": ["d-2", "d-1"],
    }  # fmt: skip
    assert [row.name for row in device_rows(fleet, "name", "SITE=berlin zoe")] == ["zoe"]


@pytest.mark.parametrize(
    ("state", "keys"), [("running", "pnx"), ("paused", "pnx"), ("awaiting_approval", "apx"), ("regressed", "x"), ("finished", "")]
)  # fmt: skip
def test_what_can_be_done_to_a_rollout(state: str, keys: str) -> None:
    one = Rollout(id="r-1", release="digits@1.1.0", state=state)
    assert "".join(actions_of(one)) == keys
    for action in actions_of(one).values():
        assert action.question(one) == f"{action.name} digits@1.1.0 (r-1; no device has it)?"
        assert action.question(replace(one, counts=Counts(exposed=2, members=3))).endswith(
            "2 of 3 have it, none failed)?"
        )
        assert action.command(one, "it's odd").endswith("""--reason 'it'"'"'s odd'""")
