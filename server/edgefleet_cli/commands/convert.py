"""`edgectl convert`: the server's conversion pipeline, run here, without a server and without keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli import model_flags as flags
from edgefleet_cli.errors import EXIT_FAILED, EXIT_OK
from edgefleet_cli.release_view import show_candidates, show_result
from edgefleet_cli.session import Session

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for bundles and report.json.")]


def convert(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    model: flags.ModelArgument,
    out: Out,
    name: flags.Name,
    version: flags.VersionOption,
    profile: flags.Profiles = None,
    calibration: flags.Calibration = None,
    evaluation: flags.Evaluation = None,
    metric: flags.Metric = None,
    golden: flags.Golden = None,
    reference: flags.Reference = None,
    labels: flags.Labels = None,
    preprocess: flags.Preprocess = None,
    postprocess: flags.Postprocess = None,
    precision: flags.PrecisionOption = flags.Precision.AUTO,
    max_drop: flags.MaxDrop = 0.01,
    recipe: flags.Recipe = None,
    shape: flags.Shapes = None,
    value: flags.Values = None,
    allow_pickle: flags.AllowPickle = False,
) -> None:
    """Convert a model here and write unsigned bundles. Exit 0 all made, 1 some refused."""
    session = Session.of(ctx)
    request = flags.make_request(
        model=model,
        name=name,
        version=version,
        profiles=profile,
        data={
            "calibration": calibration,
            "eval": evaluation,
            "golden": golden,
            "reference": reference,
            "labels": labels,
            "preprocess": preprocess,
            "postprocess": postprocess,
            "recipe": recipe,
        },
        precision=precision,
        metric=metric,
        max_drop=max_drop,
        reading=flags.import_flags(shape, value, allow_pickle),
    )
    raise typer.Exit(_convert(session, request, out))


def _convert(session: Session, request: flags.ModelRequest, folder: Path) -> int:
    from edgefleet_cli.converting import convert_here

    result = convert_here(request, folder, session.out)
    session.out.document(result, lambda: _show(session, result))
    return EXIT_FAILED if result.get("refused") or not result.get("bundles") else EXIT_OK


def _show(session: Session, result: dict[str, Any]) -> None:
    report = Path(str(result.get("report_path")))
    if report.is_file():
        show_candidates(session.out, json.loads(report.read_text(encoding="utf-8")))
    show_result(session.out, result)
    session.out.note(f"report: {result.get('report_path')}")
