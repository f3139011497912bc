"""`edgectl policy`: what a release has to have before it may be deployed."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Say what a release has to have before it may be deployed.", no_args_is_help=True)
NOT_MET = 1
POLICIES: Sheet[api.release.ReleasePolicy] = Sheet(
    "release policies",
    [
        Column("name", lambda p: text(p.name), keep=True),
        Column("models", lambda p: text(", ".join(p.models) or "all")),
        Column("requires", lambda p: text(", ".join(p.require))),
        Column("from", lambda p: moment(p.since)),
        Column("changed by", lambda p: text(p.changed_by), wide=True),
    ],
    lambda p: text(p.name),
)
Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command("list")
def list_policies(ctx: typer.Context) -> None:
    """List policies by name."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/release-policies", api.release.ReleasePolicy), POLICIES)


@app.command("show")
def show(ctx: typer.Context, name: Name) -> None:
    """Show one policy."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/release-policies/{part(name)}", api.release.ReleasePolicy), POLICIES)


@app.command("set")
def set_policy(
    ctx: typer.Context,
    name: Name,
    require: Annotated[
        list[str],
        typer.Option(
            "--require",
            metavar="RULE",
            help="owner, licence, card, importance, sealed, hold_out>=N or signers>=N; may be repeated.",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="Only of this model, or `vision-*`; may be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="T", help="Of releases made since then: 90d, or RFC 3339. Else from now on."),
    ] = None,
) -> None:
    """Set a policy: make it, or put this one in the place of the one before."""
    session = Session.of(ctx)
    begin = None if since is None else time_of(since, session.clock.now()).isoformat()
    body = api.release.ReleasePolicyIn(models=tuple(model or ()), require=tuple(require), since=begin)
    made = session.api.put(f"/release-policies/{part(name)}", body, api.release.ReleasePolicy)
    session.out.one(made, POLICIES)


@app.command("delete")
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a policy; what it refused may be deployed from then on."""
    session = Session.of(ctx)
    session.confirm(f"Delete the release policy {name}?")
    session.api.delete(f"/release-policies/{part(name)}")
    session.out.note(f"deleted {name}")


@app.command("check")
def check(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", autocompletion=completion.releases)],
) -> None:
    """Say whether a release may be deployed, and else what it lacks and how to mend that. Exits with 1 for one that may not."""
    session = Session.of(ctx)
    found = session.api.get(f"/releases/{part(ref)}/policy-check", api.release.PolicyCheck)

    def lines() -> None:
        one = found.value
        if one.is_deployable:
            by = f" by {', '.join(one.policies)}" if one.policies else ": no policy is about it"
            session.out.line(f"{text(one.ref)} may be deployed{by}")
            return
        session.out.line(f"{text(one.ref)} may not be deployed:")
        for finding in one.findings:
            session.out.line(f"  {text(finding.policy)} requires {text(finding.rule)}: {text(finding.what)}")
            session.out.line(f"    {text(finding.next_step)}")

    session.out.document(found.raw, lines)
    if not found.value.is_deployable:
        raise typer.Exit(NOT_MET)
