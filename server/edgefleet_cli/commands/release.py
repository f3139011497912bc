"""`edgectl release`: a model at a version, with its bundles and where they run."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli import completion
from edgefleet_cli.figures import text
from edgefleet_cli.output import Column, Sheet
from edgefleet_cli.release_view import PERFORMANCE, RELEASES, show_performance, show_release
from edgefleet_cli.session import Session

app = typer.Typer(help="Releases: a model at a version, one signed bundle a profile.", no_args_is_help=True)

Ref = Annotated[
    str, typer.Argument(metavar="REF", help="name@version, e.g. digits@1.1.0.", autocompletion=completion.releases)
]

DEVICES = Sheet(
    "devices that have or want this release",
    [
        Column("device", lambda d: text(d.get("device")), keep=True),
        Column("profile", lambda d: text(d.get("profile"))),
        Column("status", lambda d: text(d.get("status"))),
        Column("wanted", lambda d: text(d.get("wanted"))),
        Column("runs it", lambda d: text(d.get("active"))),
        Column("phase", lambda d: text(d.get("phase"))),
        Column("state", lambda d: text(d.get("state")), wide=True),
        Column("error", lambda d: text(d.get("error_class"))),
    ],
    lambda d: text(d.get("device")),
)


@app.command("list")
def list_releases(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option("--model", help="Only releases of this model.")] = None,
) -> None:
    """List releases, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/releases", model=model), RELEASES)


@app.command("show")
def show(ctx: typer.Context, ref: Ref) -> None:
    """Show a release: its bundles, what was refused and why."""
    from edgefleet_cli.api_client import part

    session = Session.of(ctx)
    release = session.api.get(f"/releases/{part(ref)}")
    session.out.one(release, RELEASES, lambda entry: show_release(session.out, entry))


@app.command("performance")
def performance(ctx: typer.Context, ref: Ref) -> None:
    """Compare what was predicted of a release, with its error, with what devices reported."""
    from edgefleet_cli.api_client import part

    session = Session.of(ctx)
    page = session.api.get(f"/releases/{part(ref)}/performance")
    if session.out.is_for_eyes and page["items"]:
        show_performance(session.out, page["items"])
    else:
        session.out.items(page, PERFORMANCE)


@app.command("devices")
def devices(ctx: typer.Context, ref: Ref) -> None:
    """List the devices that have or want a release."""
    from edgefleet_cli.api_client import part

    session = Session.of(ctx)
    session.out.items(session.api.pages(f"/releases/{part(ref)}/devices"), DEVICES)
