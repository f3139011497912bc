"""`edgectl experiment`: releases that run, or ran, beside what serves, and what they showed there."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli import completion
from edgefleet_cli.experiment_view import EXPERIMENTS, show_experiment
from edgefleet_cli.session import Session

app = typer.Typer(help="Experiments: rollouts with a stage beside what serves.", no_args_is_help=True)


@app.command("list")
def list_experiments(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Only of this model.", autocompletion=completion.models),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many.")] = None,
) -> None:
    """List experiments, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/experiments", model=model, limit=limit), EXPERIMENTS)


@app.command("show")
def show(
    ctx: typer.Context,
    rollout_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of its rollout.", autocompletion=completion.experiments)
    ],
) -> None:
    """Show what a release did beside what serves: agreement, both versions' figures, and what each difference lies between."""
    from edgefleet_cli.api_client import part

    session = Session.of(ctx)
    found = session.api.get(f"/experiments/{part(rollout_id)}")
    session.out.one(found, EXPERIMENTS, lambda one: show_experiment(session.out, one))
