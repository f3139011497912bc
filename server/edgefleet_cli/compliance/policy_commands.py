"""`edgectl policy`: what a release has to have before it may be deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.compliance.policy_file import policies_in
from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Say what a release has to have before it may be deployed.", no_args_is_help=True)
NOT_MET = 1


def state_of(policy: api.release.ReleasePolicy) -> str:
    """Return how a policy stands, in a few words."""
    asked = policy.change
    if asked is None:
        return "in force"
    what = "ends" if asked.ends else f"requires only {text(', '.join(asked.require))}"
    return f"{what} from {moment(asked.begins_at)}, asked by {text(asked.asked_by)}"


POLICIES: Sheet[api.release.ReleasePolicy] = Sheet(
    "release policies",
    [
        Column("name", lambda p: text(p.name), keep=True),
        Column("models", lambda p: text(", ".join(p.models) or "all")),
        Column("requires", lambda p: text(", ".join(p.require))),
        Column("from", lambda p: moment(p.since)),
        Column("state", state_of),
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
    """Set a policy, or change it. What weakens one waits 24 hours, or for a second admin: `edgectl policy approve NAME`."""
    session = Session.of(ctx)
    begin = None if since is None else time_of(since, session.clock.now()).isoformat()
    body = api.release.ReleasePolicyIn(models=tuple(model or ()), require=tuple(require), since=begin)
    made = session.api.put(f"/release-policies/{part(name)}", body, api.release.ReleasePolicy)
    session.out.one(made, POLICIES)
    _note_wait(session, made.value)


@app.command("delete")
def delete(ctx: typer.Context, name: Name) -> None:
    """Ask for the end of a policy. It holds for 24 hours more, or until a second admin approves that."""
    session = Session.of(ctx)
    session.confirm(f"Delete the release policy {name}?")
    left = session.api.post(f"/release-policies/{part(name)}:end", NOTHING, api.release.EndingPolicy)
    _show_rest(session, name, left)


@app.command("keep")
def keep(ctx: typer.Context, name: Name) -> None:
    """Take back what was asked for and would weaken a policy, or end it."""
    session = Session.of(ctx)
    kept = session.api.post(f"/release-policies/{part(name)}:keep", NOTHING, api.release.ReleasePolicy)
    session.out.one(kept, POLICIES)


@app.command("approve")
def approve(
    ctx: typer.Context,
    name: Name,
    asked_at: Annotated[
        str | None,
        typer.Option(
            "--asked-at", metavar="T", help="When the change was asked for, RFC 3339; else it is shown first."
        ),
    ] = None,
) -> None:
    """Let what weakens or ends a policy begin now. For a second admin: a person who did not ask for it."""
    session = Session.of(ctx)
    if asked_at is None:
        policy = session.api.get(f"/release-policies/{part(name)}", api.release.ReleasePolicy).value
        if policy.change is None:
            raise UsageError(f"nothing weakens the policy {name}", next_step="`edgectl policy list` shows what waits")
        asked_at = policy.change.asked_at
        session.confirm(f"The release policy {name} {state_of(policy)}. Let it begin now?")
    else:
        session.confirm(f"Weaken the release policy {name} now?")
    body = api.release.ApprovePolicyIn(asked_at=asked_at)
    left = session.api.post(f"/release-policies/{part(name)}:approve", body, api.release.EndingPolicy)
    _show_rest(session, name, left)


def _show_rest(session: Session, name: str, reply: Reply[api.release.EndingPolicy]) -> None:
    left = reply.value.policy
    if left is None:
        session.out.note(f"deleted {name}")
        return
    session.out.one(reply_of(left), POLICIES)
    _note_wait(session, left)


def _note_wait(session: Session, policy: api.release.ReleasePolicy) -> None:
    if policy.change is not None:
        session.out.note(
            f"{policy.name} {state_of(policy)}; sooner when a second admin runs `edgectl policy approve {policy.name}`"
        )


@app.command("check")
def check(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="REF|FILE",
            help="A release, or a file of policies (`-`: standard input), which is checked without a server.",
            autocompletion=completion.releases,
        ),
    ],
) -> None:
    """Say whether a release may be deployed, and else what it lacks and how to mend that; or whether a file of policies is right.

    Exits with 1 for a release that may not be deployed, and with 2 for a file with mistakes: each is told with its line.
    """
    session = Session.of(ctx)
    if "@" in what and not Path(what).exists():
        _check_release(session, what)
        return
    names = policies_in(None if what == "-" else Path(what))

    def lines() -> None:
        session.out.line(
            f"{len(names)} release polic{'y' if len(names) == 1 else 'ies'} can be set: {', '.join(names)}"
        )

    session.out.document({"file": what, "policies": names}, lines)


def _check_release(session: Session, ref: str) -> None:
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
