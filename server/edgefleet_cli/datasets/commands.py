"""`edgectl data`: captured records as a data set for training, and a person's data erased."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.options import time_of
from edgefleet_cli.core.session import Session
from edgefleet_cli.datasets.model import DataFormat
from edgefleet_cli.predictions.erasure_commands import app
from edgefleet_cli.render.format import counted, moment, text
from edgefleet_cli.render.output import Column, Sheet

STATES = {"there": "there", "purged": "purged", "holds_erased": "holds an erased subject"}
DATA_SETS: Sheet[api.capture.WrittenDataSet] = Sheet(
    "data sets",
    [
        Column("id", lambda one: text(one.id), keep=True),
        Column("model", lambda one: text(one.model)),
        Column("format", lambda one: text(one.format)),
        Column("records", lambda one: text(one.records), right=True),
        Column("state", lambda one: STATES.get(one.state, text(one.state))),
        Column("made", lambda one: moment(one.made_at)),
        Column("by", lambda one: text(one.made_by)),
        Column("place", lambda one: text(one.place), spare=1),
        Column("retraining", lambda one: text(one.retraining), wide=True),
        Column("digest", lambda one: text(one.digest), wide=True),
    ],
    lambda one: text(one.id),
)


@app.command("export")
def export(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private capture key; it stays here.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="New folder, or s3://BUCKET/PREFIX.")],
    format_: Annotated[DataFormat, typer.Option("--format", help="How it is written.")] = DataFormat.FOLDER,
    run: Annotated[str, typer.Option("--run", metavar="RT", help="Only the records of this retraining.")] = "",
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", metavar="ID", help="Only this device; may be repeated.", autocompletion=completion.devices
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="Captured from then on: 24h, 7d, or RFC 3339.")
    ] = None,
    reason: Annotated[
        list[str] | None, typer.Option("--reason", help="Only captured for this reason; may be repeated.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="With ground truth by trace id.")] = True,
    labels_file: Annotated[
        Path | None, typer.Option("--labels-file", metavar="CSV", help="More ground truth: trace_id,label.")
    ] = None,
    dvc: Annotated[bool, typer.Option("--dvc", help="Also run `dvc add` for the folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier data set.")] = False,
) -> None:
    """Write captured records, as the privacy policy keeps them, as a data set."""
    from edgefleet_cli.datasets.export import ExportOrder, export_data_set
    from edgefleet_cli.datasets.record_source import Wanted

    session = Session.of(ctx)
    wanted = Wanted(
        model,
        run,
        tuple(device or ()),
        None if since is None else time_of(since, session.clock.now()),
        tuple(reason or ()),
    )
    order = ExportOrder(key, out, format_, os.environ, labels_file, labels, dvc, force)
    made = export_data_set(session, wanted, order)
    session.out.document(
        made.document,
        lambda: session.out.line(
            f"{text(out)}: {counted(len(made.manifest.records), 'record')}, "
            f"{len(made.manifest.records) - made.manifest.unlabelled} with a label"
        ),
    )
    if made.manifest.left_out:
        names = ", ".join(f"{name} of {count}" for name, count in made.manifest.left_out.items())
        session.out.note(f"left out, as the privacy policy does not keep it: {names}")
    if made.other_key:
        session.out.note(f"left sealed: {counted(made.other_key, 'record')} for another key")


@app.command("purge")
def purge(
    ctx: typer.Context,
    place: Annotated[str, typer.Argument(metavar="DIR", help="The data set: its folder, or s3://BUCKET/PREFIX.")],
    receipt: Annotated[
        str, typer.Option("--receipt", metavar="ID", help="The erasure, as `edgectl data list` has it.")
    ],
) -> None:
    """Remove the records of an erased person from a data set, and tell the server."""
    from edgefleet_cli.datasets.data_set_notes import purge_data_set
    from edgefleet_cli.datasets.dataset_writer import encoded
    from edgefleet_cli.datasets.places import place_of

    session = Session.of(ctx)
    manifest, count = purge_data_set(session.api, place_of(place, os.environ), receipt)
    session.out.document(
        json.loads(encoded(manifest)),
        lambda: session.out.line(f"{text(place)}: {counted(count, 'record')} removed, {len(manifest.records)} left"),
    )
    if not count:
        session.out.note(f"{text(receipt)} asks nothing of it, or that is done; see `edgectl data sets`")


@app.command("sets")
def list_data_sets(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Only of this model.", autocompletion=completion.models),
    ] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="Oldest first.")] = False,
) -> None:
    """List the data sets that were written from captured records, newest first."""
    session = Session.of(ctx)
    sort = "made_at" if oldest else None
    session.out.items(session.api.pages("/data-sets", api.capture.WrittenDataSet, model=model, sort=sort), DATA_SETS)
