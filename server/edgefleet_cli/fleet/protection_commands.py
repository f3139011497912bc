"""`edgectl protection`: deployment protection rules. Devices under one take releases only by an approved rollout."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Let devices take releases only by an approved rollout.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]


def state_of(rule: api.fleet.ProtectionRule) -> str:
    """Return how a rule stands, in a few words."""
    found = [f"set aside by {one.by} until {moment(one.until)}" for one in rule.broken]
    found += [f"ends {moment(rule.ends_at)}, asked by {rule.ending_by}"] if rule.ends_at else []
    return "; ".join(found) or "in force"


SHEET: Sheet[api.fleet.ProtectionRule] = Sheet(
    "protection rules; make one with `edgectl protection add NAME -l SELECTOR`",
    [
        Column("name", lambda r: text(r.name), keep=True),
        Column("selector", lambda r: text(r.selector or "all devices")),
        Column("devices", lambda r: text(r.devices), right=True),
        Column("state", state_of),
        Column("created", lambda r: moment(r.created_at), wide=True),
        Column("by", lambda r: text(r.created_by), wide=True),
    ],
    lambda r: text(r.name),
)
GLASS: Sheet[api.fleet.BreakGlass] = Sheet(
    "broken glass",
    [
        Column("id", lambda g: text(g.id), keep=True),
        Column("rule", lambda g: text(g.rule)),
        Column("by", lambda g: text(g.by)),
        Column("until", lambda g: moment(g.until)),
        Column("reason", lambda g: text(g.reason)),
    ],
    lambda g: text(g.id),
)


@app.command("list")
def list_rules(ctx: typer.Context) -> None:
    """List protection rules, their devices, and who has set them aside."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/protection-rules", api.fleet.ProtectionRule), SHEET)


@app.command("show")
def show(ctx: typer.Context, name: Name) -> None:
    """Show a protection rule."""
    session = Session.of(ctx)
    session.out.one(session.api.get(_path(name), api.fleet.ProtectionRule), SHEET)


@app.command("add")
def add(
    ctx: typer.Context,
    name: Name,
    selector: Annotated[str, completion.selector_option("Devices to protect, by labels, groups, profile and id")],
) -> None:
    """Protect the devices that match now, and all that ever will. A device that matched once stays under the rule."""
    session = Session.of(ctx)
    body = api.fleet.ProtectionRuleIn(name=name, selector=selector)
    session.out.one(session.api.post("/protection-rules", body, api.fleet.ProtectionRule), SHEET)


@app.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Ask to remove a rule: it stays in force for 24 hours more, and an alert fires until then."""
    session = Session.of(ctx)
    session.confirm(f"Remove the protection rule {name} in 24 hours?")
    session.out.one(session.api.post(f"{_path(name)}:end", NOTHING, api.fleet.ProtectionRule), SHEET)


@app.command("keep")
def keep(ctx: typer.Context, name: Name) -> None:
    """Keep a rule that was to be removed."""
    session = Session.of(ctx)
    session.out.one(session.api.post(f"{_path(name)}:keep", NOTHING, api.fleet.ProtectionRule), SHEET)


@app.command("break-glass")
def break_glass(
    ctx: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="What happened; at least 10 characters.")],
    minutes: Annotated[int, typer.Option("--minutes", min=1, max=240, help="How long.")] = 60,
) -> None:
    """Set a rule aside for yourself in an emergency, so that you may deploy at once. An alert fires as long as that lasts."""
    session = Session.of(ctx)
    session.confirm(f"Set the protection rule {name} aside for {minutes} minutes? Everybody gets an alert.")
    body = api.fleet.BreakGlassIn(reason=reason, minutes=minutes)
    session.out.one(session.api.post(f"{_path(name)}:break-glass", body, api.fleet.BreakGlass), GLASS)


def _path(name: str) -> str:
    return f"/protection-rules/{part(name)}"
