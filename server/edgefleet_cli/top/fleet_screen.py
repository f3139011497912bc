"""`edgectl top` as a screen of its own (Textual): sentence and charts of the fleet, devices, rollouts with acts, alerts, events."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, Input, ListView, Static

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_TIMEOUT, CliError
from edgefleet_cli.core.session import Session
from edgefleet_cli.device.tasks.client import ask, result
from edgefleet_cli.render.output import visible
from edgefleet_cli.rollout.client import Rollouts as RolloutClient
from edgefleet_cli.top.device_screen import DeviceScreen
from edgefleet_cli.top.dialogs import HELP, Confirmation, Page
from edgefleet_cli.top.fleet_reader import DeviceDetails
from edgefleet_cli.top.fleet_view import SORTS, SPANS, FleetView, device_rows, online_tile, shown_span, tiles
from edgefleet_cli.top.live_feed import LiveFeed
from edgefleet_cli.top.panes import Alerts, Devices, Events, FleetLine, Rollouts, TileBox, alert_text
from edgefleet_cli.top.rollout_actions import Action, actions_of

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

T = TypeVar("T")
NARROW_COLUMNS, LOW_ROWS = 120, 34
"""Below either one pane is shown at a time."""
PANES = ("devices", "rollouts", "alerts", "events")
TITLES = {"devices": "Devices", "rollouts": "Rollouts", "alerts": "Alerts", "events": "Events"}
CSS = """
Screen { layout: vertical; }
#fleet { height: auto; max-height: 3; padding: 0 1; }
#tiles { height: 3; }
TileBox { width: 1fr; padding: 0 0 0 1; }
#tabs { height: 1; padding: 0 1; display: none; }
#panes { layout: grid; grid-size: 2 2; grid-columns: 3fr 2fr; grid-rows: 2fr 1fr; height: 1fr; }
.pane { border: round ansi_bright_black; border-title-style: bold; height: 100%; }
.pane:focus-within { border: round ansi_blue; }
DataTable, ListView, RichLog { height: 1fr; background: ansi_default; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
DataTable > .datatable--header { background: ansi_default; color: ansi_default; text-style: bold underline; }
DataTable > .datatable--cursor, DataTable:focus > .datatable--cursor {
  background: ansi_default; color: ansi_default; text-style: reverse;
}
.narrow #tabs { display: block; }
.narrow #panes { grid-size: 1 1; grid-columns: 1fr; grid-rows: 1fr; }
.narrow .pane { display: none; border: none; }
.narrow .pane.shown { display: block; }
#filter { display: none; height: 1; border: none; padding: 0 1; }
#filter.shown { display: block; }
ListItem { background: ansi_default; border-left: blank ansi_default; }
ListItem.rollout { padding: 0 0 1 0; height: auto; }
ListView > ListItem.-highlight, ListView:focus > ListItem.-highlight {
  background: ansi_default; color: ansi_default; text-style: none; border-left: thick ansi_bright_black;
}
ListView:focus > ListItem.-highlight { border-left: thick ansi_blue; }
Confirmation, Page { align: center middle; }
.dialog { width: 76; max-width: 100%; height: auto; max-height: 100%; border: round ansi_blue; padding: 1 2; background: ansi_default; }
.dialog.wide { width: 96; }
.dialog Label { width: 100%; height: auto; }
.dialog Input { border: none; height: 1; margin: 1 0; }
"""


class Dashboard(App[Exception | None]):
    """The fleet, live. Returns the error that ended it, None when a person did."""

    CSS = CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("t", "span", "1h/24h"),
        Binding("1", "pane('devices')", "Devices", show=False),
        Binding("2", "pane('rollouts')", "Rollouts", show=False),
        Binding("3", "pane('alerts')", "Alerts", show=False),
        Binding("4", "pane('events')", "Events", show=False),
        Binding("tab", "next_pane", "Next", key_display="Tab", priority=True),
        Binding("r", "again", "Look again", show=False),
    ]

    def __init__(self, session: Session, limit_s: float | None = None) -> None:
        """limit_s: when it ends by itself, with the exit code of a time that is up."""
        super().__init__(ansi_color=True)
        self.theme = "ansi-light" if os.environ.get("COLORFGBG", "").endswith((";7", ";15")) else "ansi-dark"
        # notes on stderr would draw over the screen
        self.session = Session(replace(session.options, quiet=True), session.clock)
        self.feed = LiveFeed(self.session.api, self.session.clock, self)
        self._view: FleetView | None = None
        self._timeline: api.device.Timeline | None = None
        self._away = ""
        self._limit_s = limit_s
        self._order, self._span, self._wanted, self._pane = "worst first", "1h", "", "devices"

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield FleetLine("Looking at the fleet …", id="fleet")
        with Horizontal(id="tiles"):
            for name in ("requests", "errors", "latency", "online"):
                yield TileBox(id=name)
        yield Static(id="tabs")
        with Container(id="panes"):
            with Container(classes="pane shown", id="pane-devices"):
                yield Input(placeholder="filter: words of name, id, labels, release, reason", id="filter")
                yield Devices(id="devices")
            with Container(classes="pane", id="pane-rollouts"):
                yield Rollouts(id="rollouts")
            with Container(classes="pane", id="pane-alerts"):
                yield Alerts(id="alerts")
            with Container(classes="pane", id="pane-events"):
                yield Events(id="events", max_lines=500, wrap=False, min_width=20)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#devices").focus()
        self.set_interval(1.0, self._tick)
        if self._limit_s is not None:
            self.set_timer(self._limit_s, lambda: self.exit(return_code=EXIT_TIMEOUT))
        self._look_when_laid_out()

    def _look_when_laid_out(self) -> None:
        """Begin to look once every pane is there: what came sooner would find nothing to be shown in."""
        if self._is_laid_out:
            self.feed.start()
        else:
            self.call_after_refresh(self._look_when_laid_out)

    def on_unmount(self) -> None:
        """Look no more."""
        self.feed.stop()

    def on_resize(self, event: events.Resize) -> None:
        """Show one pane at a time where there is no room for four."""
        self.screen_stack[0].set_class(event.size.width < NARROW_COLUMNS or event.size.height < LOW_ROWS, "narrow")
        self.call_after_refresh(self._redraw)

    # what the feed sees, called from its threads

    def fleet_seen(self, view: FleetView) -> None:
        """Show the fleet."""
        self._later(self._show_fleet, view)

    def figures_seen(self, timeline: api.device.Timeline) -> None:
        """Show figures."""
        self._later(self._show_figures, timeline)

    def event_seen(self, event: api.fleet.Event) -> None:
        """Show an event."""
        self._later(lambda one: self._base.query_one(Events).show(one), event)

    def server_away(self, why: str) -> None:
        """Say that the server is away, or is back."""
        self._later(self._show_away, why)

    def ended(self, error: Exception) -> None:
        """End with the error."""
        self._later(self.exit, error)

    def _later(self, run: Callable[[T], object], argument: T) -> None:
        """Run something in the loop of the app; nothing where the app has ended."""
        if self.is_running and not self.feed.is_over:
            with suppress(RuntimeError, NoMatches):
                self.call_from_thread(run, argument)

    # showing

    @property
    def _base(self):  # type: ignore[no-untyped-def]
        return self.screen_stack[0]

    @property
    def _is_laid_out(self) -> bool:
        return len(self._base.query(", ".join(f"#{name}" for name in PANES))) == len(PANES)

    async def _show_fleet(self, view: FleetView) -> None:
        self._view = view
        await self._base.query_one(Rollouts).show(view.rollouts, self.session.clock.now())
        self._redraw()

    def _show_figures(self, timeline: api.device.Timeline) -> None:
        self._timeline = timeline
        self._redraw()

    def _show_away(self, why: str) -> None:
        if why != self._away:
            self._away = why
            self._redraw()

    def _redraw(self) -> None:
        if not self._is_laid_out:  # the terminal got another size meanwhile
            return
        base, view = self._base, self._view
        base.query_one(FleetLine).show(view, self._away)
        for box, tile in zip(
            base.query(TileBox), (*tiles(self._timeline), online_tile(view, self._timeline)), strict=True
        ):
            box.show(tile, shown_span(self._timeline, self._span))
        self._show_titles()
        if view is not None:
            base.query_one(Devices).show(device_rows(view, self._order, self._wanted))
            base.query_one(Alerts).show(view.alerts, view.at)
            base.query_one(Rollouts).draw(self.session.clock.now())

    def _show_titles(self) -> None:
        view = self._view
        counts = dict.fromkeys(PANES, "")
        if view is not None:
            shown = f", first {len(view.devices)}" if len(view.devices) < view.total else ""
            wanted = f", with {self._wanted!r}" if self._wanted else ""
            counts |= {"devices": f" {view.total}{shown}, {self._order}{wanted}"}
            none = ": none open" if view.rollouts and not view.open_rollouts else ""
            counts |= {
                "rollouts": none or f" {view.open_rollouts}",
                "alerts": f" {len(view.alerts) + view.more_alerts}",
            }
        tabs = Text()
        for number, name in enumerate(PANES, 1):
            label = f"{number} {TITLES[name]}{visible(counts[name])}"
            self._base.query_one(f"#pane-{name}").border_title = Text(label)
            short = label.partition(",")[0]
            tabs.append(f" {short} ", "reverse" if name == self._pane else "dim").append(" ")
        tabs.append(f"  charts: {shown_span(self._timeline, self._span)}", "dim")
        self._base.query_one("#tabs", Static).update(tabs)

    def _tick(self) -> None:
        """Let the time that is left run on, where a rollout has any."""
        view = self._view if self._is_laid_out else None
        if view and any(cell.soak_until for one in view.rollouts for stage in one.stages for cell in stage.strata):
            self._base.query_one(Rollouts).draw(self.session.clock.now())

    # keys

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Page("Keys of edgectl top", Text(HELP)))

    def action_again(self) -> None:
        """Look at the fleet now."""
        self.feed.wake()

    def action_span(self) -> None:
        """Change between an hour and a day."""
        names = list(SPANS)
        self._span = names[(names.index(self._span) + 1) % len(names)]
        self.feed.show_span(self._span)
        self._show_titles()

    def action_sort(self) -> None:
        """Sort devices by the next order."""
        names = list(SORTS)
        self._order = names[(names.index(self._order) + 1) % len(names)]
        self._redraw()

    def action_pane(self, name: str) -> None:
        """Go to a pane."""
        self._pane = name
        for one in PANES:
            self._base.query_one(f"#pane-{one}").set_class(one == name, "shown")
        self._show_titles()
        self._base.query_one(f"#{name}").focus()
        self.call_after_refresh(self._redraw)

    def action_next_pane(self) -> None:
        """Go to the next pane; in a window, to its next part."""
        if self.screen is not self._base:
            self.screen.focus_next()
            return
        self.action_pane(PANES[(PANES.index(self._pane) + 1) % len(PANES)])

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Remember the pane that has the keys."""
        pane = event.widget.id
        if pane in PANES and pane != self._pane:
            self._pane = pane
            self._show_titles()

    def action_filter(self) -> None:
        """Ask for words that devices must have."""
        box = self._base.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    @on(Input.Changed, "#filter")
    def on_filter_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        self._wanted = event.value
        self._redraw()

    @on(Input.Submitted, "#filter")
    def on_filter_submitted(self) -> None:
        """Go back to the table; an empty filter is put away."""
        self._base.query_one("#filter", Input).set_class(bool(self._wanted), "shown")
        self._base.query_one("#devices").focus()

    def on_key(self, event: events.Key) -> None:
        """Escape empties the filter."""
        box = self._base.query_one("#filter", Input)
        if event.key == "escape" and self.screen is self._base and box.has_class("shown"):
            box.value = ""
            box.remove_class("shown")
            self._base.query_one("#devices").focus()

    @on(DataTable.RowSelected, "#devices")
    def on_device_chosen(self) -> None:
        """Show the device that the cursor is on."""
        if chosen := self._base.query_one(Devices).chosen:
            self.push_screen(DeviceScreen(chosen))

    @on(DataTable.RowSelected, "#alerts")
    def on_alert_chosen(self) -> None:
        """Show the alert that the cursor is on."""
        if chosen := self._base.query_one(Alerts).chosen:
            self.push_screen(Page(chosen.title or chosen.rule, alert_text(chosen)))

    @on(ListView.Selected, "#rollouts")
    def on_rollout_chosen(self) -> None:
        """Say what can be done to the rollout that the cursor is on."""
        if chosen := self._base.query_one(Rollouts).chosen:
            lines = [f"{key}  {one.name}: {one.effect}" for key, one in actions_of(chosen).items()]
            why = f"\nwhy it stands so: `edgectl rollout explain {chosen.id}`"
            self.push_screen(Page(f"{chosen.release} ({chosen.id})", Text(visible("\n".join([*lines, why])))))

    # acts

    def action_act(self, key: str) -> None:
        """Ask before an act on the rollout that the cursor is on, then do it."""
        rollout = self._base.query_one(Rollouts).chosen
        action = actions_of(rollout).get(key) if rollout is not None else None
        if rollout is None or action is None:
            self._say("That cannot be done to it now; Enter says what can.", "warning")
            return
        act, chosen = action, rollout

        def answered(reason: str | None) -> None:
            if reason is not None:
                self._act(act, chosen, reason)

        self.push_screen(Confirmation(act, chosen), answered)

    def _act(self, action: Action, rollout: api.rollout.Rollout, reason: str) -> None:
        client = RolloutClient(self.session.api, self.session.out, self.session.clock)

        def do() -> str:
            return client.act(rollout.id, action.verb, action.body(reason)).value.state

        def done(state: str) -> None:
            self._say(f"{rollout.release} is {state.replace('_', ' ')}. The same: {action.command(rollout, reason)}")
            self.feed.wake()

        self._apart(do, done)

    def _say(self, text: str, severity: SeverityLevel = "information") -> None:
        """Show a message over the screen, as it is: no markup, and nothing that steers a terminal."""
        self.notify(visible(text), severity=severity, timeout=10 if severity == "error" else None, markup=False)

    def read_device(self, name: str, then: Callable[[DeviceDetails], None]) -> None:
        """Read a device, then show it."""
        span = self._span
        self._apart(lambda: DeviceDetails(self.session.api, name, self.session.clock.now(), span), then)

    def read_log(self, name: str, lines: int, then: Callable[[str], None]) -> None:
        """Ask a device for its log, then show it."""

        def read() -> str:
            task = ask(self.session, name, api.task.TaskIn(kind="logs", lines=lines), wait=True)
            return result(self.session, name, task.value).decode("utf-8", "replace")

        self._apart(read, then)

    def _apart(self, do: Callable[[], T], then: Callable[[T], object]) -> None:
        """Do something that blocks in a thread that ends with the process; an error is a message on the screen."""

        def run() -> None:
            try:
                self._later(then, do())
            except CliError as error:
                self._later(lambda said: self._say(said, "error"), f"{error.message}. {error.next_step}")
            except Exception as error:  # noqa: BLE001  # the outermost call of a thread: it must not end without a word
                self.ended(error)

        threading.Thread(target=run, name="edgectl-top-act", daemon=True).start()
