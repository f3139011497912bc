"""`edgectl model`: named lines of releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release import card_commands
from edgefleet_cli.release.ground_truth.accuracy_command import accuracy
from edgefleet_cli.release.render import RELEASES
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.timelines.commands import explain_model, model_metrics

app = typer.Typer(help="Manage models.", no_args_is_help=True)
aliases = typer.Typer(help="Manage aliases, such as `model@prod`.", no_args_is_help=True)
app.add_typer(aliases, name="alias")
app.add_typer(card_commands.app, name="card")

Name = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="e.g. stable.", autocompletion=completion.aliases)]

ALIASES: Sheet[api.model.Alias] = Sheet(
    "aliases of this model; set one with `edgectl model alias set MODEL ALIAS VERSION`",
    [
        Column("alias", lambda a: f"{a.model}@{a.alias}", keep=True),
        Column("version", lambda a: text(a.version)),
        Column("set", lambda a: moment(a.set_at)),
        Column("by", lambda a: text(a.set_by)),
    ],
    lambda a: f"{a.model}@{a.alias}",
)


SHEET: Sheet[api.model.Model] = Sheet(
    "models; publish one with `edgectl publish MODEL --name N --version V`",
    [
        Column("name", lambda m: text(m.name), keep=True),
        Column("releases", lambda m: text(m.releases), right=True),
        Column("latest", lambda m: text(m.latest)),
        Column("state", lambda m: text(m.latest_state)),
        Column("created", lambda m: moment(m.created_at)),
    ],
    lambda m: text(m.name),
)


@app.command("list")
def list_models(ctx: typer.Context) -> None:
    """List all models."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/models", api.model.Model), SHEET)


@app.command("show")
def show(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.models)]
) -> None:
    """Show a model and its releases."""
    session = Session.of(ctx)
    model = session.api.get(f"/models/{part(name)}", api.model.Model)

    def for_eyes(entry: api.model.Model) -> None:
        session.out.fields((column.header, column.cell(entry)) for column in SHEET.columns)
        session.out.heading("Releases")
        session.out.items(session.api.pages("/releases", api.release.Release, model=name), RELEASES)

    session.out.one(model, SHEET, for_eyes)


app.command("metrics")(model_metrics)
app.command("explain")(explain_model)
app.command("accuracy")(accuracy)


@app.command("compare")
def compare(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="A B | MODEL A B",
            help="Two releases (name@version or name@alias), or a model and two of its versions.",
            autocompletion=completion.releases,
        ),
    ],
) -> None:
    """Compare two versions of a model, profile by profile."""
    from edgefleet_cli.release.version_comparison import CHANGES, rows_of, show_comparison

    model, old, new = _compared(words)
    session = Session.of(ctx)
    found = session.api.get(f"/models/{part(model)}/compare", api.model.Comparison, a=old, b=new)
    if session.out.is_for_eyes:
        show_comparison(session.out, found.value)
    else:
        session.out.rows(found.raw, rows_of(found.value), CHANGES)


def _compared(words: list[str]) -> tuple[str, str, str]:
    """Return model and two versions from `digits@1.0.0 digits@1.1.0`, `digits@1.0.0 1.1.0` or `digits 1.0.0 1.1.0`. Raises UsageError."""
    if len(words) == 3:
        first, old, new = words
        words = [f"{first}@{old.removeprefix(f'{first}@')}", new]
    if len(words) == 2:
        model, at, old = words[0].partition("@")
        named, _, new = words[1].rpartition("@")
        if at and (not named or named == model):
            return model, old, new
    raise UsageError(
        f"{' '.join(words)!r} does not name two versions of one model",
        why="versions are compared within a model",
        next_step="`edgectl model compare digits@1.0.0 digits@1.1.0`, or `edgectl model compare digits 1.0.0 1.1.0`",
    )


@app.command("pull")
def pull(
    ctx: typer.Context,
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="name@version or name@alias.", autocompletion=completion.releases)
    ],
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="P",
            help="Profile of the bundle; needed if there are several.",
            autocompletion=completion.profiles,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", "-d", metavar="DIR", help="Where to write it.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Download the signed bundle of a release, and check its digest."""
    from edgefleet_cli.release.bundle import pull as bundle_pull

    session = Session.of(ctx)
    found = bundle_pull.pull(session, ref, profile=profile, folder=folder, force=force)
    session.out.one(found, bundle_pull.PULLED, lambda one: session.out.line(one.file))


def _alias_path(model: str, alias: str = "") -> str:
    path = f"/models/{part(model)}/aliases"
    return f"{path}/{part(alias)}" if alias else path


@aliases.command("list")
def list_aliases(ctx: typer.Context, model: Name) -> None:
    """List the aliases of a model and their versions."""
    session = Session.of(ctx)
    session.out.items(session.api.page(_alias_path(model), api.model.Alias), ALIASES)


@aliases.command("set")
def set_alias(
    ctx: typer.Context,
    model: Name,
    alias: Alias,
    version: Annotated[str, typer.Argument(metavar="VERSION", autocompletion=completion.versions)],
) -> None:
    """Point an alias at a version. Open rollouts do not follow it."""
    session = Session.of(ctx)
    found = session.api.put(_alias_path(model, alias), api.model.AliasIn(version=version), api.model.Alias)
    session.out.one(found, ALIASES, lambda one: session.out.note(f"{model}@{alias} is {text(one.ref)} now"))


@aliases.command("remove")
def remove_alias(ctx: typer.Context, model: Name, alias: Alias) -> None:
    """Remove an alias; its release stays."""
    session = Session.of(ctx)
    session.confirm(f"Remove the alias {model}@{alias}?")
    session.api.delete(_alias_path(model, alias))
    session.out.note(f"removed {model}@{alias}")
