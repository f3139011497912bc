"""One device in `edgectl top`: its health with reasons, what it runs, charts, events, and its log on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from edgefleet_cli.fleet.follow import event_line
from edgefleet_cli.render.chart_text import chart_text
from edgefleet_cli.render.format import age, pairs, text
from edgefleet_cli.render.output import one_line, visible
from edgefleet_cli.timelines.timeline_chart import timeline_charts
from edgefleet_cli.top.fleet_reader import DeviceDetails
from edgefleet_cli.top.fleet_view import MARKS, STYLES

if TYPE_CHECKING:
    from edgefleet_cli.top.fleet_screen import Dashboard

LOG_LINES = 60


class DeviceScreen(Screen[None]):
    """Details of one device."""

    app: Dashboard
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Back"),
        Binding("l", "log", "Log"),
        Binding("t", "span", "1h/24h"),
        Binding("r", "again", "Look again"),
    ]

    def __init__(self, name: str) -> None:
        super().__init__()
        self._device = name

    def compose(self) -> ComposeResult:
        """Lay out head, charts and log."""
        with VerticalScroll():
            yield Static(Text(f"{visible(self._device)}: reading …"), id="device-head")
            yield Static("", id="device-charts")
            yield Static("", id="device-events")
            yield Static(Text("l asks the device for its last log lines.", "dim"), id="device-log")
        yield Footer()

    def on_mount(self) -> None:
        """Read the device."""
        self.action_again()

    def action_again(self) -> None:
        """Read the device again."""
        self.app.read_device(self._device, self._show)

    def action_span(self) -> None:
        """Change between an hour and a day."""
        self.app.action_span()
        self.action_again()

    def action_close(self) -> None:
        """Go back to the fleet."""
        self.app.pop_screen()

    def action_log(self) -> None:
        """Ask the device for its log."""
        log = self.query_one("#device-log", Static)
        log.update(Text(visible(f"`edgectl device logs {self._device}`: asked the device, waiting for it …"), "dim"))
        self.app.read_log(self._device, LOG_LINES, lambda lines: log.update(Text(visible(lines))))

    def _show(self, found: DeviceDetails) -> None:
        self.query_one("#device-head", Static).update(head(found))
        width = max(40, self.size.width - 4)
        charts = (
            [] if found.timeline is None else [chart_text(one, width, 4) for one in timeline_charts(found.timeline)]
        )
        none = Text("No figures in this time: devices report them every 15 minutes.", "dim")
        self.query_one("#device-charts", Static).update(Text("\n\n").join(charts) if charts else none)
        lines = [event_line(event) for event in found.events]
        said = Text("\nLast events\n", "bold").append("\n".join(lines) or "none", "none")
        self.query_one("#device-events", Static).update(said)


def head(found: DeviceDetails) -> Text:
    """Return what a device is and how it is, the worst reason first."""
    device = found.device
    health = device.health or "unknown"
    shown = Text(one_line(device.display_name or device.id), "bold")
    shown.append(visible(f"  {MARKS.get(health, '?')} {health}"), STYLES.get(health, ""))
    shown.append(
        f"  {visible(device.id)}  {visible(device.profile)}  seen {age(device.last_seen, found.at)} ago\n", "dim"
    )
    for reason in device.health_reasons:
        shown.append(f"  {MARKS.get(reason.health, '?')} ", STYLES.get(reason.health, ""))
        since = f" since {age(reason.since, found.at)}" if reason.since else ""
        shown.append(f"{one_line(reason.text)}{since}\n", "none")
    runs = ", ".join(f"{one.release or one.model} ({one.phase.replace('_', ' ')})" for one in device.models)
    shown.append(
        visible(f"runs {text(runs)}   labels {pairs(device.labels)}   agent {text(device.agent_version)}\n"), "none"
    )
    shown.append(f"next: `edgectl device explain {visible(device.id)}`\n", "dim")
    return shown
