"""The parts of the screen of `edgectl top`: the sentence with tiles, devices, rollouts, alerts, events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, ListItem, ListView, RichLog, Static

from edgefleet_cli.alerts.commands import state_of
from edgefleet_cli.core import api
from edgefleet_cli.fleet.render import what
from edgefleet_cli.render.braille_chart import small_rows
from edgefleet_cli.render.format import age, moment, text
from edgefleet_cli.render.output import one_line, visible
from edgefleet_cli.render.width import cut
from edgefleet_cli.rollout.stage_pipeline import pipeline_text
from edgefleet_cli.top.fleet_view import KIND_MARKS, KIND_STYLES, MARKS, STYLES, DeviceRow, FleetView, Tile, sentence

TILE_ROWS = 2
WITH_SPAN = 28
"""Columns of a tile that also says which time its line is of."""
NAME, RUNS = 24, 20
"""Most columns of a name and of releases; the reason has the rest."""
DEVICE_TITLES = (" ", "Name", "Why", "Runs", "Seen")
ALERT_TITLES = ("Since", "State", "What")
PADDED = 5
"""Columns of the table: each has a blank on both sides."""
SEVERITIES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class FleetLine(Static):
    """How the fleet is, in one sentence; while the server is away, that instead."""

    def show(self, view: FleetView | None, away: str) -> None:
        """Show a sentence."""
        if away:
            self.update(Text(f"✗ {visible(away)}; trying again. What is below is old.", "bold red"))
        elif view is not None:
            said = sentence(view)
            self.update(Text(f"{KIND_MARKS[said.kind]} {visible(said.text)}", KIND_STYLES[said.kind]))


class TileBox(Static):
    """One figure with its line."""

    def show(self, tile: Tile, span: str) -> None:
        """Show a figure. span: the time that its line is of, said where there is room."""
        columns = max(8, self.size.width - 1)
        is_measured = any(value is not None for value in tile.values) or tile.picture
        shown = Text(tile.title, "dim").append(
            f" {tile.value}" if is_measured else "\nnot measured", "bold" if is_measured else "dim"
        )
        if is_measured and not tile.picture and columns >= WITH_SPAN:
            shown.append(f"  {span}", "dim")
        for row in [tile.picture] if tile.picture else small_rows(tile.values, columns, TILE_ROWS):
            shown.append("\n").append(row, "bright_blue")
        self.update(shown)


def fill(table: DataTable[Text], titles: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """Show rows, a cell for each title. Columns get their widths here: what the table measures by itself, it may draw too late."""
    table.clear(columns=True)
    for place, title in enumerate(titles):
        table.add_column(title, width=max([len(title), *(cells[place].cell_len for cells in rows)]))
    for cells in rows:
        table.add_row(*cells)


class Devices(DataTable[Text]):
    """Devices, the worst first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Details"),
        Binding("slash", "app.filter", "Filter", key_display="/"),
        Binding("s", "app.sort", "Sort"),
    ]
    _shown: tuple[Sequence[DeviceRow], int] = ((), 0)

    def on_mount(self) -> None:
        """Make the columns."""
        self.cursor_type = "row"
        fill(self, DEVICE_TITLES, [])

    def show(self, rows: Sequence[DeviceRow]) -> None:
        """Show rows; the cursor stays on its device."""
        width = self.size.width
        if (rows, width) == self._shown:
            return
        chosen = self.chosen
        self._shown = (rows, width)
        runs = min(RUNS, max((len(row.runs) for row in rows), default=0) or 4)
        name = min(NAME, max((len(row.name) for row in rows), default=0))
        room = max(12, width - name - max(runs, 4) - 2 * PADDED - 6)
        lines = []
        for row in rows:
            style = STYLES.get(row.health, "")
            cells = [Text(MARKS.get(row.health, "?"), style), Text(cut(visible(row.name), name))]
            cells += [Text(cut(visible(row.why or row.health), room), style), Text(cut(visible(row.runs), runs))]
            lines.append([*cells, Text(row.seen, justify="right")])
        fill(self, DEVICE_TITLES, lines)
        place = next((n for n, row in enumerate(rows) if row.id == chosen), 0)
        self.move_cursor(row=place)

    @property
    def chosen(self) -> str | None:
        """Return the id of the device that the cursor is on."""
        rows = self._shown[0]
        return rows[self.cursor_row].id if 0 <= self.cursor_row < len(rows) else None


class Rollouts(ListView):
    """Open rollouts as pipelines."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "app.act('p')", "Pause/resume"),
        Binding("n", "app.act('n')", "Promote"),
        Binding("a", "app.act('a')", "Approve"),
        Binding("x", "app.act('x')", "Roll back"),
    ]
    rollouts: Sequence[api.rollout.Rollout] = ()

    async def show(self, rollouts: Sequence[api.rollout.Rollout], now: datetime) -> None:
        """Show rollouts; items are made again only when there are others."""
        known = [one.id for one in self.rollouts]
        place = self.index
        self.rollouts = rollouts
        if known != [one.id for one in rollouts] or not self.children:
            await self.clear()
            items = [ListItem(Static(), classes="rollout") for _ in rollouts]
            await self.extend(
                items or [ListItem(Static(Text("No rollout yet: `edgectl rollout create RELEASE --to ''`", "dim")))]
            )
            self.index = min(place or 0, max(0, len(rollouts) - 1))
        self.draw(now)

    def draw(self, now: datetime) -> None:
        """Draw pipelines again: time goes on."""
        width = max(30, self.size.width - 3)
        for item, rollout in zip(self.children, self.rollouts, strict=False):
            for place in item.query(Static):  # none yet in an item that is being made
                place.update(pipeline_text(rollout, now, width))

    @property
    def chosen(self) -> api.rollout.Rollout | None:
        """Return the rollout that the cursor is on."""
        place = self.index
        return self.rollouts[place] if place is not None and place < len(self.rollouts) else None


class Alerts(DataTable[Text]):
    """Alerts that are pending or fire."""

    alerts: Sequence[api.alert.Alert] = ()

    def on_mount(self) -> None:
        """Make the columns."""
        self.cursor_type = "row"
        fill(self, ALERT_TITLES, [])

    def show(self, alerts: Sequence[api.alert.Alert], now: datetime) -> None:
        """Show alerts, the newest first."""
        self.alerts = alerts
        place = self.cursor_row
        rows = [(age(one.since, now), visible(f"{one.severity} {state_of(one)}")) for one in alerts]
        room = max(12, self.size.width - sum(max(map(len, one), default=0) for one in zip(*rows, strict=True)) - 7)
        lines = []
        for one, (since, state) in zip(alerts, rows, strict=True):
            said = f"{one.summary}: {one.shown}" if one.shown else one.summary
            style = SEVERITIES.get(one.severity, "")
            lines.append([Text(since), Text(state, style), Text(cut(visible(said), room))])
        if not alerts:
            lines.append([Text(""), Text("none", "dim"), Text("No alert is pending or fires.", "dim")])
        fill(self, ALERT_TITLES, lines)
        self.move_cursor(row=place)

    @property
    def chosen(self) -> api.alert.Alert | None:
        """Return the alert that the cursor is on."""
        return self.alerts[self.cursor_row] if 0 <= self.cursor_row < len(self.alerts) else None


class Events(RichLog):
    """Events as they come, the newest last."""

    def show(self, event: api.fleet.Event) -> None:
        """Add an event."""
        who = event.display_name or event.device or event.model
        said = one_line(f"{who} {event.kind}: {what(event)}")
        self.write(Text(visible(f"{moment(event.at)[11:]} "), "dim", no_wrap=True).append(said, "none"))


def alert_text(alert: api.alert.Alert) -> Text:
    """Return an alert in full."""
    shown = Text(visible(f"{alert.severity}, {state_of(alert)}\n"), SEVERITIES.get(alert.severity, ""))
    shown.append(visible(f"{alert.shown}\n" if alert.shown else ""), "bold")
    shown.append(visible(f"{alert.summary}\n"), "none")
    for one in alert.evidence:
        shown.append(visible(f"  {one}\n"), "none")
    if alert.next_step:
        shown.append(visible(f"next: {alert.next_step}\n"), "none")
    return shown.append(f"take care of it: `edgectl alert ack {text(alert.id)}`", "dim")
