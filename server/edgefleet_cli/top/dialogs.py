"""Small windows over `edgectl top`: a question before an act, help, and longer text."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from edgefleet_cli.core import api
from edgefleet_cli.render.output import visible
from edgefleet_cli.top.rollout_actions import Action

HELP = """\
1 2 3 4    devices, rollouts, alerts, events; Tab goes on
↑ ↓ Enter  choose; details of a device, rollout or alert
/          filter devices: words of name, id, labels, release
s          sort them: worst first, name, seen last, release
t          charts over 1 h or 24 h
p n        pause or resume a rollout; promote its stage
a x        approve a stage; roll back or deny
l          in a device's details: its last log lines
r          look now; by itself when something happens
q          quit

Devices  ● healthy  ◐ updating  ▲ degraded
         ? unknown  ◌ offline   ✗ failing
Stages   ● passed   ◐ open      ‖ held
         – skipped  ○ pending   ✗ failed

`edgectl top --plain` has no keys and no screen of its own."""


class Confirmation(ModalScreen[str | None]):
    """Asks before an act on a rollout and names the command that does the same. Returns the reason, None for no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "no", "Cancel")]

    def __init__(self, action: Action, rollout: api.rollout.Rollout) -> None:
        super().__init__()
        self._act, self._rollout = action, rollout

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        style = "bold red" if self._act.is_danger else "bold"
        with Vertical(classes="dialog"):
            yield Label(Text(visible(self._act.question(self._rollout)), style))
            yield Label(Text(self._act.effect))
            needs = "needed" if self._act.needs_reason else "may be empty"
            yield Input(placeholder=f"Reason, recorded with your name; {needs}", id="reason")
            yield Label(Text("The same as a command:", "dim"))
            yield Label(self._command(""), id="command")
            yield Label(Text("Enter: do it   Esc: cancel", "dim"), id="keys")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the command with the reason that is typed."""
        self.query_one("#command", Label).update(self._command(event.value.strip()))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Do it, unless the reason is missing."""
        reason = event.value.strip()
        if self._act.needs_reason and not reason:
            self.query_one("#keys", Label).update(Text("A reason is needed. Esc: cancel", "bold yellow"))
            return
        self.dismiss(reason)

    def _command(self, reason: str) -> Text:
        return Text(visible(self._act.command(self._rollout, reason)))

    def action_no(self) -> None:
        """Do nothing."""
        self.dismiss(None)


class Page(ModalScreen[None]):
    """Text that is read and closed."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,question_mark", "close", "Close")]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Lay out the text."""
        with VerticalScroll(classes="dialog wide"):
            yield Label(Text(visible(self._title), "bold"))
            yield Static(self._text)
            yield Label(Text("Esc: close", "dim"))

    def action_close(self) -> None:
        """Close it."""
        self.dismiss(None)
