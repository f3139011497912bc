"""`edgectl experiment`: releases that run, or ran, as candidates next to the active version, and what they showed there."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import counted, milliseconds, moment, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_terms.rollout_states import shown_state

app = typer.Typer(help="Show experiments: rollouts with a shadow or split stage.", no_args_is_help=True)


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
    session.out.items(
        session.api.pages("/experiments", api.experiment.Experiment, model=model, limit=limit), EXPERIMENTS
    )


@app.command("show")
def show(
    ctx: typer.Context,
    rollout_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of its rollout.", autocompletion=completion.experiments)
    ],
) -> None:
    """Show how a candidate compared with the active version."""
    session = Session.of(ctx)
    found = session.api.get(f"/experiments/{part(rollout_id)}", api.experiment.ExperimentResult)
    session.out.one(found, EXPERIMENTS, lambda one: show_experiment(session.out, one))


def modes_text(experiment: api.experiment.Experiment | api.experiment.ExperimentResult) -> str:
    """Return `shadow`, `split 20 %` or both, in their order."""
    share = f" {experiment.share_pct} %"
    return ", ".join(f"{mode}{share if mode == 'split' else ''}" for mode in experiment.modes) or "-"


EXPERIMENTS: Sheet[api.experiment.Experiment | api.experiment.ExperimentResult] = Sheet(
    "experiments; start one with `edgectl deploy REF --to SELECTOR --strategy shadow`",
    [
        Column("id", lambda e: text(e.id), keep=True),
        Column("release", lambda e: text(e.release), keep=True),
        Column("mode", modes_text),
        Column("state", lambda e: shown_state(text(e.state))),
        Column("devices", lambda e: text(e.selector or "all"), spare=1),
        Column("created", lambda e: moment(e.created_at), spare=2),
        Column("by", lambda e: text(e.created_by), wide=True),
        Column("reason", lambda e: text(e.reason), wide=True),
    ],
    lambda e: text(e.id),
)

_ARMS: list[Column[api.experiment.Arm]] = [
    Column("who", lambda a: "what serves" if a.lane == "active" else "the release", keep=True),
    Column("devices", lambda a: text(a.devices), right=True),
    Column("answers", lambda a: text(a.answers), right=True),
    Column("errors", lambda a: _share(a.error_rate), right=True),
    Column("not finite", lambda a: text(a.nonfinite), right=True),
    Column("p50", lambda a: milliseconds(a.latency_p50_ms), right=True),
    Column("p95", lambda a: milliseconds(a.latency_p95_ms), right=True),
]

_METRICS: list[Column[tuple[api.rollout.Metric, bool]]] = [
    Column("metric", lambda m: text(m[0].name).replace("_", " "), keep=True),
    Column("verdict", lambda m: text(m[0].verdict) if m[1] else "not asked"),
    Column("value", lambda m: _short(m[0].value), right=True),
    Column("between", lambda m: f"{_short(m[0].low)} and {_short(m[0].high)}"),
    Column("devices", lambda m: text(m[0].devices), right=True),
    Column("unit", lambda m: text(m[0].unit)),
]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def show_experiment(out: Output, experiment: api.experiment.ExperimentResult) -> None:
    """Write one experiment for eyes."""
    out.fields(
        [
            ("experiment", text(experiment.id)),
            ("release", text(experiment.release)),
            ("mode", modes_text(experiment)),
            ("state", shown_state(text(experiment.state))),
            ("reason", text(experiment.reason)),
            ("devices", text(experiment.selector or "all")),
            ("created", f"{moment(experiment.created_at)} by {text(experiment.created_by)}"),
        ]
    )
    for trial in experiment.trials:
        out.heading(f"{text(trial.mode).capitalize()}: stage {', '.join(trial.stages)}")
        _show_trial(out, trial)


def _show_trial(out: Output, trial: api.experiment.Trial) -> None:
    if not trial.began_at:
        out.prose("not started: the stage has not opened")
        return
    more = "; more have, these are the first by id" if trial.is_cut else ""
    shown = counted(trial.devices, "device")
    out.prose(f"{shown} {'has' if trial.devices == 1 else 'have'} reported since {moment(trial.began_at)}{more}")
    for result in trial.results:
        out.heading(f"{text(result.stratum)}, {counted(result.devices, 'device')}")
        shadow = result.shadow
        if shadow is not None:
            out.fields(
                [
                    ("agreement", _share(shadow.agreement)),
                    ("judged", f"{shadow.agreed} of {shadow.judged} the same"),
                    ("compared", f"{shadow.compared}, {shadow.failed} without an answer"),
                    ("dropped", f"{shadow.dropped} of {shadow.offered} inputs"),
                ]
            )
        if result.devices:
            out.table([result.active, result.candidate], _ARMS)
        if result.metrics:
            out.table([(one, one.name in result.asked) for one in result.metrics], _METRICS)
