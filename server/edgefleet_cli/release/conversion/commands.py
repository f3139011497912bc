"""`edgectl convert`: the server's conversion pipeline, run here, without a server and without keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.release.conversion import conversion_options as flags
from edgefleet_cli.release.importance_bars import show_importance
from edgefleet_cli.release.render import BUNDLES, Report, is_unproven, show_candidates, show_result

if TYPE_CHECKING:
    from edgefleet_cli.release.conversion.local_conversion import Conversion

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder for bundles and report; default: bundles/NAME-VERSION.", show_default=False
    ),
]


@flags.converting
def convert(
    ctx: typer.Context,
    model: flags.ModelArgument,
    out: Out = None,
    name: flags.OwnName = None,
    version: flags.OwnVersion = None,
    *,
    asked: flags.Conversion,
    mlflow_url: flags.MlflowUrl = None,
) -> None:
    """Convert a model on this machine into unsigned bundles.

    Exit codes: 0 all converted, 1 some refused.
    """
    session = Session.of(ctx)
    from edgefleet_cli.importing.release_names import pinned, registered
    from edgefleet_cli.importing.resolver import resolved

    address = pinned(session, model, mlflow_url)
    name, version = registered(address, name, version)
    with resolved(session, model, address, mlflow_url) as source:
        own_name, own_version = flags.named_by(str(source.path), name, version)
        request = asked.request(model=str(source.path), name=own_name, version=own_version)
        folder = out or Path("bundles") / f"{own_name}-{own_version}"
        raise typer.Exit(_convert(session, request, folder))


def _convert(session: Session, request: flags.ModelRequest, folder: Path) -> int:
    from edgefleet_cli.release.conversion.local_conversion import convert_here

    result = convert_here(request, folder, session.out)
    if session.out.is_for_eyes:
        _show(session, result.value)
    else:
        session.out.rows(result.raw, result.value.made(), BUNDLES)
    return EXIT_FAILED if result.value.refused or not result.value.bundles else EXIT_OK


def _show(session: Session, result: Conversion) -> None:
    file = Path(result.report_path)
    report = struct_of(json.loads(file.read_text(encoding="utf-8")), Report) if file.is_file() else Report()
    show_candidates(session.out, report)
    show_result(session.out, api.release.Release(bundles=result.made(), refused=result.refused))
    if result.bundles:
        show_importance(session.out, report.importance)
    judged_on = report.data.judged_on
    bundles = result.made()
    if judged_on and not is_unproven(bundles):
        session.out.note(f"judged on {judged_on}")
    if bundles:
        folder = _short(Path(bundles[0].path).parent)
        session.out.note(f"{len(bundles)} bundle{'s' if len(bundles) != 1 else ''} in {folder}")
    session.out.note(f"report: {_short(Path(result.report_html_path))}")


def _short(path: Path) -> Path:
    """Return a path as the user would write it: from the working folder where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
