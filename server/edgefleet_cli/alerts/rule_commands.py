"""`edgectl alert rules`: the built-in rules, and what is in force of each."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import UNSET
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show and change the rules of alerts.", no_args_is_help=True)
Rule = Annotated[str, typer.Argument(metavar="RULE", autocompletion=completion.alert_rules)]


def threshold_of(rule: api.alert.Rule) -> str:
    """Return the threshold with its unit, `-` for a rule without one."""
    return f"{rule.threshold:g} {rule.unit}" if rule.unit else "-"


SHEET: Sheet[api.alert.Rule] = Sheet(
    "rules",
    [
        Column("rule", lambda r: text(r.name), keep=True),
        Column("on", lambda r: text(r.is_enabled)),
        Column("threshold", threshold_of),
        Column("severity", lambda r: text(r.severity)),
        Column("firing", lambda r: text(r.firing), right=True),
        Column("devices", lambda r: text(r.selector or "all")),
        Column("what", lambda r: text(r.title), spare=1),
        Column("changed", lambda r: moment(r.changed_at), wide=True),
        Column("by", lambda r: text(r.changed_by), wide=True),
    ],
    lambda r: text(r.name),
)


@app.command("list")
def list_rules(ctx: typer.Context) -> None:
    """List the rules."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/alert-rules", api.alert.Rule), SHEET)


@app.command("show")
def show(ctx: typer.Context, rule: Rule) -> None:
    """Show a rule: what it finds, its threshold, and where that comes from."""
    session = Session.of(ctx)
    found = session.api.get(f"/alert-rules/{part(rule)}", api.alert.Rule)
    session.out.one(found, SHEET, lambda one: _show(session, one))


@app.command("set")
def set_rule(  # noqa: PLR0913, PLR0917  # one option for each thing that can be changed
    ctx: typer.Context,
    rule: Rule,
    threshold: Annotated[float | None, typer.Option("--threshold", help="In the unit of the rule.")] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", help="How long it must be so before the alert fires, e.g. 5m.")
    ] = None,
    severity: Annotated[str | None, typer.Option("--severity", help="critical, warning or info.")] = None,
    selector: Annotated[str | None, completion.selector_option("Only devices that match")] = None,
    is_enabled: Annotated[bool | None, typer.Option("--on/--off", help="Switch the rule on or off.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Take back all changes first.")] = False,
) -> None:
    """Change a rule; what is not given stays."""
    none = None if default else UNSET
    body = api.alert.RuleChangeIn(
        threshold=none if threshold is None else threshold,
        for_s=none if lasting is None else int(parse_duration_s(lasting)),
        severity=none if severity is None else severity,
        selector=none if selector is None else selector,
        is_enabled=none if is_enabled is None else is_enabled,
    )
    if not default and all(one is None for one in (threshold, lasting, severity, selector, is_enabled)):
        raise UsageError(
            "nothing to change", next_step=f"`edgectl alert rules set {rule} --threshold NUMBER`, or --off"
        )
    session = Session.of(ctx)
    changed = session.api.patch(f"/alert-rules/{part(rule)}", body, api.alert.Rule)
    session.out.one(changed, SHEET, lambda one: _show(session, one))


def _show(session: Session, rule: api.alert.Rule) -> None:
    changed = f"{moment(rule.changed_at)} by {rule.changed_by}" if rule.changed_at else "never"
    session.out.fields(
        [
            ("rule", f"{rule.name}: {rule.title}"),
            ("finds", text(rule.description)),
            ("on", text(rule.is_enabled)),
            ("threshold", f"{threshold_of(rule)}, default {rule.default:g}" if rule.unit else "-"),
            ("from", text(rule.source)),
            ("fires after", f"{rule.for_s} s"),
            ("severity", text(rule.severity)),
            ("devices", text(rule.selector or "all")),
            ("firing", text(rule.firing)),
            ("changed", changed),
            ("next", text(rule.next_step)),
        ]
    )
