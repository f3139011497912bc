"""`edgectl retrain`: retrainings, the answers of people, and the runner that trains."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.subprocesses import ended_by_sigterm
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.datasets.model import DataFormat
from edgefleet_cli.retraining.render import SHEET, show_retraining
from edgefleet_cli.retraining.trigger_commands import start

app = typer.Typer(help="Follow, approve and run retrainings.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.retrainings)]
Reason = Annotated[str, typer.Option("--reason", metavar="R", help="Reason; recorded with the retraining.")]


@app.command("list")
def list_retrainings(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Only of this model.", autocompletion=completion.models)
    ] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only in these states, with commas between.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
) -> None:
    """List retrainings, newest first."""
    session = Session.of(ctx)
    found = session.api.pages("/retrainings", api.experiment.Retraining, limit=limit, model=model, state=state)
    session.out.items(found, SHEET)


@app.command("show")
def show(ctx: typer.Context, retraining_id: Id) -> None:
    """Show a retraining: cause, data, training, release, rollout, and whether its cause is gone."""
    session = Session.of(ctx)
    show_retraining(session, session.api.get(_path(retraining_id), api.experiment.Retraining))


@app.command("approve")
def approve(ctx: typer.Context, retraining_id: Id, reason: Reason = "") -> None:
    """Let a retraining begin. Its trigger's maker cannot."""
    _answer(ctx, retraining_id, "approve", reason)


@app.command("reject")
def reject(ctx: typer.Context, retraining_id: Id, reason: Reason = "") -> None:
    """Refuse a retraining before it begins."""
    _answer(ctx, retraining_id, "reject", reason)


@app.command("cancel")
def cancel(ctx: typer.Context, retraining_id: Id, reason: Reason = "") -> None:
    """End a retraining whose release is not being rolled out yet."""
    _answer(ctx, retraining_id, "cancel", reason)


@app.command("fail")
def fail(
    ctx: typer.Context,
    retraining_id: Id,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="What went wrong; its last lines.")],
    code: Annotated[
        str, typer.Option("--code", metavar="CODE", help="A dotted word, such as training.no_memory.")
    ] = "training.failed",
    next_step: Annotated[str, typer.Option("--next-step", metavar="TEXT", help="What a person can do.")] = "",
) -> None:
    """Say that a training of another system failed: a job of CI does so, a runner does it by itself."""
    session = Session.of(ctx)
    body = api.experiment.FailIn(code=code, why=why, next_step=next_step)
    show_retraining(session, session.api.post(f"{_path(retraining_id)}:fail", body, api.experiment.Retraining))


app.command("start")(start)


@app.command("worker")
def worker(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What trains, after `--`.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private capture key; it stays here.")],
    holder: Annotated[str | None, typer.Option("--holder", help="Name of this runner; default: the host's.")] = None,
    format_: Annotated[DataFormat, typer.Option("--format", help="Format of the data set.")] = DataFormat.NPZ,
    labels_file: Annotated[
        Path | None, typer.Option("--labels-file", metavar="CSV", help="Ground truth, read again each time.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the folder of each retraining there.")
    ] = None,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="How often to ask for work.")] = "10s",
    once: Annotated[bool, typer.Option("--once", help="Train what waits now, then end.")] = False,
) -> None:
    """Train what waits for a runner, with your command. Ctrl-C or SIGTERM gives a retraining back."""
    from edgefleet_cli.retraining.runner import Runner, RunnerOrder

    session = Session.of(ctx)
    every_s = parse_duration_s(every)
    if every_s < 1:
        raise UsageError(
            "--every is too short", why="a server is asked at most once a second", next_step="give 1s or more"
        )
    order = RunnerOrder(
        model, key, command, (holder or socket.gethostname())[:120], format_, keep, every_s, once, labels_file
    )
    runner = Runner(session, order)
    with ended_by_sigterm():
        try:
            runner.work()
        except KeyboardInterrupt:
            session.out.note("the runner has ended")


def _answer(ctx: typer.Context, retraining_id: str, verb: str, reason: str) -> None:
    session = Session.of(ctx)
    body = api.experiment.AnswerRetrainingIn(reason=reason)
    show_retraining(session, session.api.post(f"{_path(retraining_id)}:{verb}", body, api.experiment.Retraining))


def _path(retraining_id: str) -> str:
    return f"/retrainings/{part(retraining_id)}"
