"""The command tree of `edgectl`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer

from edgefleet_cli.commands import (
    alert_receiver,
    audit,
    bundle,
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
    experiment,
    group,
    importing,
    key,
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


_GROUPS: dict[str, Any] = {
    "server": server,
    "context": context,
    "model": model,
    "release": release,
    "bundle": bundle,
    "rollout": rollout,
    "experiment": experiment,
    "device": device,
    "group": group,
    "profile": profile,
    "token": token,
    "key": key,
    "capture-key": capture_key,
    "tool": tool,
    "webhook": webhook,
    "alert-receiver": alert_receiver,
    "fleet": event,
    "audit": audit,
    "config": config,
    "import": importing,
}


@cache
def build(only: str | None = None) -> Any:
    """Return the click command for all of `edgectl`, or with one word below it, as far as there is that word.

    Made once a process. To make all of it costs most of what a small command does, so a command line that names its word first gets
    that one alone.
    """
    app = typer.Typer(
        name="edgectl",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_root)
    for name, module in _GROUPS.items():
        if only in {None, name}:
            app.add_typer(module.app, name=name)

    def put(name: str) -> Callable[[Any], Any]:
        return app.command(name) if only in {None, name} else _left_out

    put("demo")(demo.demo)
    put("login")(login.login)
    put("whoami")(login.whoami)
    put("logout")(login.logout)
    put("publish")(publish.publish)
    put("convert")(convert.convert)
    put("deploy")(deploy.deploy)
    put("sim")(sim.sim)
    put("undo")(undo.undo)
    put("dashboard")(dashboard.dashboard)
    put("events")(event.events)
    put("top")(top.top)
    put("search")(search.search)
    put("apply")(declare.apply)
    put("diff")(declare.diff)
    put("get")(declare.get)
    put("export")(declare.export)
    put("delete")(declare.delete)
    put("doctor")(doctor.doctor)
    put("version")(system.version)
    put("completion")(system.completion)
    command = typer.main.get_command(app)
    attach_global_options(command)
    return command


def _left_out(function: Any) -> Any:
    return function


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from edgefleet_cli.version import own_version

        typer.echo(f"edgectl {own_version()}")
        raise typer.Exit
