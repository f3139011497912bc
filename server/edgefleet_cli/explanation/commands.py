"""`edgectl explain DEVICE TRACE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session

if TYPE_CHECKING:
    from edgefleet_cli.explanation.explained_sample import ExplainedSample


def explain(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", autocompletion=completion.devices)],
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="Trace id of an answer that was captured.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private capture key; it stays here.")],
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="NPZ", help="Usual inputs to compare with; default: the release's data."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PNG", help="Write the map of a picture into this file.")
    ] = None,
    shap: Annotated[
        bool, typer.Option("--shap", help="SHAP values too, in the tool environment `shap`, of a table.")
    ] = False,
) -> None:
    """Show which inputs made one captured answer, on this machine."""
    from edgefleet_cli.explanation.explained_sample import explain_sample
    from edgefleet_cli.explanation.render import map_of, show
    from edgefleet_terms.heat_picture import png_of

    session = Session.of(ctx)
    found = explain_sample(session.api, device, trace, key, compare, shap=shap)
    if out is not None:
        if found.result.map is None:
            raise UsageError(
                "there is no map to write",
                why="the model takes no pictures, or the policy keeps them changed",
                next_step="run it without --out",
            )
        _write(out, png_of(map_of(found.result.map)))
    document: dict[str, Any] = found.document
    session.out.document(document, lambda: show(session.out, found.result, found.facts(), found.names))
    _remarks(session, found, out)


def _remarks(session: Session, found: ExplainedSample, out: Path | None) -> None:
    for line in found.remarks():
        session.out.note(line)
    if out is not None:
        session.out.note(f"wrote {out}")


def _write(path: Path, data: bytes) -> None:
    from edgefleet_cli.core.files import write_private

    try:
        write_private(path, data)
    except OSError as error:
        raise UsageError(f"cannot write {path}", why=str(error), next_step="give another file with --out") from error
