"""`edgectl alert`: what fires, who takes care of it; below it the rules, what suppresses them, and where messages go."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from edgefleet_cli.alerts import contact_commands, rule_commands, silence_commands, window_commands
from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show alerts, and who gets messages about them.", no_args_is_help=True)
app.add_typer(rule_commands.app, name="rules")
app.add_typer(silence_commands.app, name="silence")
app.add_typer(window_commands.app, name="window")
app.add_typer(contact_commands.app, name="contact")
AlertId = Annotated[int, typer.Argument(metavar="ID", min=1, autocompletion=completion.alerts)]
STATES: Final = ("pending", "firing", "resolved")


def state_of(alert: api.alert.Alert) -> str:
    """Return how an alert stands, in a word or two."""
    if alert.state == "firing" and alert.suppressed_by:
        return "suppressed"
    return "acknowledged" if alert.state == "firing" and alert.acked_at else alert.state


SHEET: Sheet[api.alert.Alert] = Sheet(
    "alerts",
    [
        Column("id", lambda a: text(a.id), right=True, keep=True),
        Column("severity", lambda a: text(a.severity)),
        Column("state", state_of),
        Column("since", lambda a: moment(a.since)),
        Column("subject", lambda a: text(a.shown)),
        Column("what", lambda a: text(a.summary)),
        Column("rule", lambda a: text(a.rule), spare=1),
        Column("quiet by", lambda a: text(a.suppressed_by), wide=True),
        Column("acknowledged by", lambda a: text(a.acked_by), wide=True),
    ],
    lambda a: text(a.id),
)


@app.command("list")
def list_alerts(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    state: Annotated[str | None, typer.Option("--state", help="Only pending, firing or resolved ones.")] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="Only of this rule.", autocompletion=completion.alert_rules)
    ] = None,
    severity: Annotated[str | None, typer.Option("--severity", help="Only critical, warning or info ones.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 200,
) -> None:
    """List what is pending or fires, newest first."""
    session = Session.of(ctx)
    states = STATES if every else state
    page = session.api.pages("/alerts", api.alert.Alert, limit=limit, state=states, rule=rule, severity=severity)
    session.out.items(page, SHEET)


@app.command("show")
def show(ctx: typer.Context, alert_id: AlertId) -> None:
    """Show an alert: since when, on what evidence, and what to do next."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/alerts/{alert_id}", api.alert.Alert), SHEET, lambda one: _show(session, one))


@app.command("ack")
def ack(
    ctx: typer.Context,
    alert_id: AlertId,
    comment: Annotated[str, typer.Option("--comment", "-m", help="What is being done about it.")] = "",
) -> None:
    """Say that you take care of an alert; it goes on firing, and everybody sees who does."""
    session = Session.of(ctx)
    done = session.api.post(f"/alerts/{alert_id}:ack", api.alert.AckIn(comment=comment), api.alert.Alert)
    session.out.one(done, SHEET, lambda one: _show(session, one))


def _show(session: Session, alert: api.alert.Alert) -> None:
    acked = f"{moment(alert.acked_at)} by {alert.acked_by}: {text(alert.ack_comment)}" if alert.acked_at else "-"
    session.out.fields(
        [
            ("alert", f"{alert.id}: {alert.title}"),
            ("subject", text(alert.shown)),
            ("what", text(alert.summary)),
            ("state", state_of(alert)),
            ("severity", text(alert.severity)),
            ("since", moment(alert.since)),
            ("measured", f"{text(alert.value)} {alert.unit}, threshold {text(alert.threshold)}"),
            *(("evidence", one) for one in alert.evidence),
            ("ended", moment(alert.resolved_at)),
            ("quiet by", text(alert.suppressed_by)),
            ("acknowledged", acked),
            ("next", text(alert.next_step)),
        ]
    )
