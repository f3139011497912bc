"""`edgectl feedback`: upload, list, show: labels that came later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.ground_truth.render import UPLOADS, show_upload
from edgefleet_cli.release.ground_truth.upload import uploaded

app = typer.Typer(help="Send labels of earlier answers, and see how they fared.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)]


@app.command("upload")
def upload(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="Columns device, trace_id or key, label or value, …")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model that answered.", autocompletion=completion.models)
    ],
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until devices have looked for their answers.")
    ] = False,
    wait_s: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="Wait at most this long.")] = 120.0,
) -> None:
    """Send a CSV file of labels to the devices that answered, and count what they match."""
    session = Session.of(ctx)
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read", why=str(error), next_step="give a CSV file in UTF-8") from error
    found = uploaded(session, model, text, wait_s=0.0 if no_wait else wait_s)
    session.out.one(found, UPLOADS, lambda one: show_upload(session.out, one))
    if found.value.bad or found.value.failed:
        raise typer.Exit(1)


@app.command("list")
def list_uploads(ctx: typer.Context, model: Model) -> None:
    """List labels that were sent in bulk, newest first."""
    session = Session.of(ctx)
    session.out.items(session.api.page(f"/models/{part(model)}/feedback", api.model.FeedbackUpload), UPLOADS)


@app.command("show")
def show(ctx: typer.Context, model: Model, upload_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show how labels fared: matched, unmatched, late; bad rows by line; devices that did not take theirs."""
    session = Session.of(ctx)
    path = f"/models/{part(model)}/feedback/{part(upload_id)}"
    session.out.one(session.api.get(path, api.model.FeedbackUpload), UPLOADS, lambda one: show_upload(session.out, one))
