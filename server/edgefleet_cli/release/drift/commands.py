"""`edgectl drift`: show, features, explain; and what counts as normal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.drift.baseline_commands import baseline
from edgefleet_cli.release.drift.render import (
    MODELS,
    SIGNALS,
    show_model,
    show_signal,
    show_signals,
    strongest,
)

app = typer.Typer(help="Show whether what models are asked and answer has drifted.", no_args_is_help=True)
app.add_typer(baseline, name="baseline")

Model = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)]
MaybeModel = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Only this model; default: all.", autocompletion=completion.models),
]
MaybeSignal = Annotated[
    str | None,
    typer.Argument(metavar="[SIGNAL]", help="Default: what moved and matters most.", autocompletion=completion.signals),
]
Version = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="V",
        help="Version or alias; default: the one that most devices report.",
        autocompletion=completion.versions,
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--over",
        metavar="SPAN",
        help="5m, 1h or 1d of answers added up; default: 1h.",
        autocompletion=completion.drift_spans,
    ),
]


@app.command("show")
def show(ctx: typer.Context, model: MaybeModel = None, version: Version = None, over: Scale = None) -> None:
    """Show what drifts: of all models, or of one in words."""
    session = Session.of(ctx)
    if model is not None:
        found = _drift(session, model, version, over)
        session.out.one(found, MODELS, lambda one: show_model(session.out, one))
        return
    if version is not None:
        raise UsageError(
            "--version needs a model", why="versions belong to one", next_step="edgectl drift show MODEL --version V"
        )
    names = [one.name for one in session.api.pages("/models", api.model.Model)]
    replies = [_drift(session, name, None, over) for name in names]
    session.out.rows({"items": [one.raw for one in replies]}, [one.value for one in replies], MODELS)


@app.command("features")
def features(ctx: typer.Context, model: Model, version: Version = None, over: Scale = None) -> None:
    """Show each signal of a model: shift, effect, histograms before and after, and where it moved."""
    session = Session.of(ctx)
    found = _drift(session, model, version, over)
    if session.out.is_for_eyes:
        show_signals(session.out, found.value)
    else:
        session.out.rows(found.raw, found.value.signals, SIGNALS)


@app.command("explain")
def explain(
    ctx: typer.Context, model: Model, signal: MaybeSignal = None, version: Version = None, over: Scale = None
) -> None:
    """Show one signal in full: bin by bin, by site, profile and group, and the devices that moved."""
    session = Session.of(ctx)
    if signal is None:
        found = _drift(session, model, version, over).value
        signal = strongest(found.signals)
        if not signal:
            raise UsageError(
                f"there is nothing to explain of {model}",
                why=found.said,
                next_step=f"edgectl drift show {model}",
            )
    path = f"/models/{part(model)}/drift/{part(signal)}"
    detail = session.api.get(path, api.model.SignalDriftDetail, version=version, scale=over)
    if session.out.is_for_eyes:
        show_signal(session.out, detail.value)
    else:
        session.out.rows(detail.raw, [detail.value.signal], SIGNALS)


def _drift(session: Session, model: str, version: str | None, over: str | None) -> Any:
    return session.api.get(f"/models/{part(model)}/drift", api.model.ModelDrift, version=version, scale=over)
