"""`edgectl predictions`: logs of what models answer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.predictions.render import CHECKED, FILES, LOGS, kept, show_check
from edgefleet_cli.render.format import counted, text

app = typer.Typer(help="Keep logs of what models answer, and prove that they are whole.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)]
NOT_WHOLE = 1


def _path(model: str) -> str:
    return f"/prediction-logs/{part(model)}"


@app.command("list")
def list_logs(ctx: typer.Context) -> None:
    """List the models whose answers are kept or were."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/prediction-logs", api.capture.PredictionLog), LOGS)


@app.command("show")
def show(ctx: typer.Context, model: Model) -> None:
    """Show what is kept of a model's answers."""
    session = Session.of(ctx)
    session.out.one(session.api.get(_path(model), api.capture.PredictionLog), LOGS)


@app.command("keep")
def keep(
    ctx: typer.Context,
    model: Model,
    sample: Annotated[float, typer.Option("--sample", metavar="SHARE", help="Share of the answers, 0.01 = 1 %.")] = 1.0,
    inputs: Annotated[
        bool, typer.Option("--inputs/--no-inputs", help="Also what the bundle's privacy policy keeps of the inputs.")
    ] = False,
    days: Annotated[int, typer.Option("--days", metavar="N", help="Delete rows after so many days.")] = 180,
) -> None:
    """Keep a model's answers from now on, on every device that runs it."""
    session = Session.of(ctx)
    body = api.capture.PredictionLogIn(ratio=sample, inputs=inputs, keep_days=days)
    made = session.api.put(_path(model), body, api.capture.PredictionLog)
    session.out.one(
        made,
        LOGS,
        lambda one: session.out.line(
            f"{text(one.model)}: {kept(one)} of its answers are kept for {counted(one.keep_days, 'day')}"
        ),
    )
    if not made.value.is_sealed:
        session.out.note(
            "answers are readable on the server; `edgectl capture-key create --out FILE` makes a key that seals them"
        )


@app.command("stop")
def stop(ctx: typer.Context, model: Model) -> None:
    """Keep no more of a model's answers. What is kept stays for its days."""
    session = Session.of(ctx)
    session.confirm(f"Keep no more answers of {model}?")
    session.api.delete(_path(model))
    session.out.note(f"no more answers of {model} are kept; devices hear of it within a minute or so")


@app.command("verify")
def verify(
    ctx: typer.Context,
    model: Model,
    device: Annotated[
        str | None, typer.Option("--device", metavar="ID", help="Only this device.", autocompletion=completion.devices)
    ] = None,
) -> None:
    """Check that no number of a log is missing without a reason and nothing was changed. Exit code 1 if not."""
    session = Session.of(ctx)
    found = session.api.get(f"{_path(model)}/verification", api.capture.PredictionLogVerification, device=device)
    session.out.rows(found.raw, found.value.logs, CHECKED)
    if session.out.is_for_eyes:
        show_check(session.out, found.value)
    if not found.value.is_whole:
        raise typer.Exit(NOT_WHOLE)


@app.command("files")
def files(ctx: typer.Context, model: Model) -> None:
    """List the Parquet files of a log."""
    session = Session.of(ctx)
    session.out.items(session.api.pages(f"{_path(model)}/files", api.capture.PredictionLogFile), FILES)


@app.command("export")
def export(
    ctx: typer.Context,
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the files; those that the server has no more go.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="Private capture key: also write the files with the answers to DIR/_opened."
        ),
    ] = None,
) -> None:
    """Fetch the Parquet files of a log. Sealed answers stay sealed without --key."""
    from edgefleet_cli.device.captures.capture_files import read_key
    from edgefleet_cli.predictions.export_files import fetch_file, open_file, remove_others
    from edgefleet_protocol.hpke import SealedError

    session = Session.of(ctx)
    private_key = read_key(key) if key is not None else None
    listed = list(session.api.pages(f"{_path(model)}/files", api.capture.PredictionLogFile))
    gone = remove_others(out, model, {one.id for one in listed})
    written: list[Path] = []
    answers = left = 0
    for one in listed:
        path = fetch_file(out, model, one.id, partial(session.api.read, f"{_path(model)}/files/{part(one.id)}"))
        written.append(path)
        if private_key is not None:
            made = open_file(path, private_key)
            written += [made.path] if made.path is not None else []
            answers, left = answers + made.answers, left + made.left
    if left and not answers:
        raise SealedError(
            f"none of {left} sealed answers opens with this key: they are for another one, or were altered",
            next_step="give the private key of `edgectl capture-key show`, or the one before it",
        )
    session.out.document(
        {"files": [str(path) for path in written]},
        lambda: session.out.line(f"{counted(len(written), 'file')} in {text(out)}"),
    )
    if left:
        session.out.note(f"left sealed: {counted(left, 'answer')} for another key, or altered")
    if gone:
        session.out.note(f"{counted(gone, 'file')} removed that the server has no more")
