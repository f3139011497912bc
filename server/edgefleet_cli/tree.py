"""The command tree of `edgectl`."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import typer

from edgefleet_cli.commands import (
    alert_receiver,
    audit,
    capture_key,
    config,
    context,
    convert,
    dashboard,
    declare,
    deploy,
    device,
    doctor,
    event,
    group,
    importing,
    login,
    model,
    profile,
    publish,
    release,
    rollout,
    search,
    server,
    sim,
    system,
    token,
    tool,
    top,
    undo,
    webhook,
)
from edgefleet_cli.demo import command as demo
from edgefleet_cli.options import attach_global_options

_HELP = """Ship ML models to edge devices: publish, deploy, watch.

Start with `edgectl demo`, or `edgectl login URL` for a server that runs already."""


@cache
def build() -> Any:
    """Return the click command for all of `edgectl`; made once a process, which costs most of what a small command does."""
    app = typer.Typer(
        name="edgectl",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_root)
    for name, module in {
        "server": server,
        "context": context,
        "model": model,
        "release": release,
        "rollout": rollout,
        "device": device,
        "group": group,
        "profile": profile,
        "token": token,
        "capture-key": capture_key,
        "tool": tool,
        "webhook": webhook,
        "alert-receiver": alert_receiver,
        "fleet": event,
        "audit": audit,
        "config": config,
        "import": importing,
    }.items():
        app.add_typer(module.app, name=name)
    app.command("demo")(demo.demo)
    app.command("login")(login.login)
    app.command("whoami")(login.whoami)
    app.command("logout")(login.logout)
    app.command("publish")(publish.publish)
    app.command("convert")(convert.convert)
    app.command("deploy")(deploy.deploy)
    app.command("sim")(sim.sim)
    app.command("undo")(undo.undo)
    app.command("dashboard")(dashboard.dashboard)
    app.command("events")(event.events)
    app.command("top")(top.top)
    app.command("search")(search.search)
    app.command("apply")(declare.apply)
    app.command("diff")(declare.diff)
    app.command("get")(declare.get)
    app.command("export")(declare.export)
    app.command("delete")(declare.delete)
    app.command("doctor")(doctor.doctor)
    app.command("version")(system.version)
    app.command("completion")(system.completion)
    command = typer.main.get_command(app)
    attach_global_options(command)
    return command


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from edgefleet_cli.version import own_version

        typer.echo(f"edgectl {own_version()}")
        raise typer.Exit
