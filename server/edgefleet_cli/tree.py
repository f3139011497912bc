"""The command tree of `edgectl`."""

from __future__ import annotations

import copy
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from edgefleet_cli.command_aliases import WORDS, AliasGroup, with_aliases
from edgefleet_cli.core.fast_params import use_fast_params
from edgefleet_cli.core.options import attach_global_options
from edgefleet_cli.summaries import SUMMARIES

_HELP = """Ship ML models to edge devices: publish, deploy, watch.

Start with `edgectl demo`, or `edgectl login URL` for a server that runs already."""

_GROUPS: Final = {
    "server": "admin.server_commands",
    "model": "release.model_commands",
    "release": "release.commands",
    "bundle": "release.bundle.commands",
    "drift": "release.drift.commands",
    "feedback": "release.ground_truth.feedback_commands",
    "trigger": "retraining.trigger_commands",
    "retrain": "retraining.commands",
    "profile": "admin.profile_commands",
    "tool": "admin.installation.tool_commands",
    "import": "importing.commands",
    "rollout": "rollout.commands",
    "sim": "rollout.simulation.sim_commands",
    "experiment": "rollout.experiment_commands",
    "device": "device.commands",
    "group": "fleet.group_commands",
    "protection": "fleet.protection_commands",
    "fleet": "fleet.commands",
    "token": "admin.access.token_commands",
    "person": "admin.access.person_commands",
    "identity": "admin.access.identity_commands",
    "trusted-pipeline": "admin.access.pipeline_commands",
    "key": "admin.key_commands",
    "capture-key": "device.captures.commands",
    "predictions": "predictions.commands",
    "data": "datasets.commands",
    "slo": "objectives.commands",
    "prices": "costs.commands",
    "alert": "alerts.commands",
    "webhook": "admin.webhook_commands",
    "alert-receiver": "admin.alert_receiver_commands",
    "audit": "audit.commands",
    "report": "compliance.commands",
    "policy": "compliance.policy_commands",
    "context": "admin.access.context_commands",
    "config": "admin.access.config_commands",
}
"""Words with commands below them, each with the module below `edgefleet_cli` whose `app` it is."""

_COMMANDS: Final = {
    "demo": "demo.commands:demo",
    "login": "admin.access.login_commands:login",
    "dashboard": "admin.access.dashboard_commands:dashboard",
    "doctor": "admin.installation.system_commands:doctor",
    "publish": "release.publish_commands:publish",
    "convert": "release.conversion.commands:convert",
    "explain": "explanation.commands:explain",
    "deploy": "release.deployment.commands:deploy",
    "undo": "rollout.undo_commands:undo",
    "events": "fleet.commands:events",
    "top": "top.commands:top",
    "cost": "costs.commands:cost",
    "search": "fleet.search_commands:search",
    "get": "declarative.commands:get",
    "apply": "declarative.commands:apply",
    "diff": "declarative.commands:diff",
    "delete": "declarative.commands:delete",
    "export": "declarative.commands:export",
    "whoami": "admin.access.login_commands:whoami",
    "logout": "admin.access.login_commands:logout",
    "completion": "admin.installation.system_commands:completion",
    "version": "admin.installation.system_commands:version",
    "options": "admin.installation.system_commands:options",
}
"""Commands of one word, each with its module below `edgefleet_cli` and its function."""

_PANELS: Final = {
    "Start": ("demo", "login", "server", "dashboard", "doctor"),
    "Models": (
        "publish",
        "convert",
        "explain",
        "model",
        "release",
        "bundle",
        "profile",
        "tool",
        "import",
        "trigger",
        "retrain",
    ),
    "Rollouts": ("deploy", "rollout", "undo", "experiment", "sim"),
    "Fleet": (
        *(
            "device",
            "group",
            "protection",
            "fleet",
            "drift",
            "slo",
            "feedback",
            "alert",
            "events",
            "top",
            "cost",
            "prices",
            "search",
        ),
        *("get", "apply", "diff", "delete", "export"),
    ),
    "Admin": (
        *(
            "person",
            "token",
            "identity",
            "trusted-pipeline",
            "key",
            "capture-key",
            "predictions",
            "data",
            "webhook",
            "alert-receiver",
            "audit",
            "report",
            "policy",
            "context",
            "config",
            "whoami",
            "logout",
        ),
        *("completion", "version", "options"),
    ),
}
"""The groups of `edgectl --help`."""

_PANEL_OF: Final = {name: panel for panel, names in _PANELS.items() for name in names}


@cache
def build(word: str | None = None, below: str | None = None) -> Any:
    """Return the click command for all of `edgectl`, or with one word below it, and one below that, as far as there are those words.

    Made once a process. To import and make all of it costs more than what a small command does, so a command line that names its words
    first gets those alone. A word that there is none of makes all that its place has, so that a refusal can name what there is.
    """
    app = _empty_app()
    is_known = word in _GROUPS or word in _COMMANDS or word in WORDS
    for name, module in _GROUPS.items():
        if name == word or not is_known:
            group = _narrowed(with_aliases(import_module(f"edgefleet_cli.{module}").app, name), below)
            app.add_typer(group, name=name, cls=AliasGroup, short_help=SUMMARIES[name], rich_help_panel=_PANEL_OF[name])
    for name, place in (_COMMANDS | WORDS).items():
        if name == word or not is_known:
            module, _, function = place.partition(":")
            is_alias = name in WORDS
            app.command(
                name,
                hidden=is_alias,
                short_help=None if is_alias else SUMMARIES[name],
                rich_help_panel=_PANEL_OF.get(name),
            )(getattr(import_module(f"edgefleet_cli.{module}"), function))
    return _finished(app)


def front_page() -> Any:
    """Return the click command that `edgectl --help` asks: every name with its summary, and nothing behind it."""
    app = _empty_app()
    for name in (name for names in _PANELS.values() for name in names):
        app.command(name, short_help=SUMMARIES[name], rich_help_panel=_PANEL_OF[name])(_nothing)
    return _finished(app)


def _empty_app() -> typer.Typer:
    app = typer.Typer(
        name="edgectl",
        cls=AliasGroup,
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_root)
    return app


def _finished(app: typer.Typer) -> Any:
    command = typer.main.get_command(app)
    attach_global_options(command)
    use_fast_params(command)
    return command


def _nothing() -> None:
    """Stand for a command on the front page."""


def _narrowed(app: typer.Typer, word: str | None) -> typer.Typer:
    """Return a group with one of its commands alone, all of it when it has no command of that name."""
    commands = [one for one in app.registered_commands if one.name == word]
    groups = [one for one in app.registered_groups if one.name == word]
    if word is None or not (commands or groups):
        return app
    alone = copy.copy(app)
    alone.registered_commands, alone.registered_groups = commands, groups
    return alone


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from edgefleet_cli.core.version import own_version

        typer.echo(f"edgectl {own_version()}")
        raise typer.Exit
