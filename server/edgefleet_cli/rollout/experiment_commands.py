"""`edgectl experiment`: releases that run, or ran, as candidates next to the active version, and what they showed there."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import counted, milliseconds, moment, text
from edgefleet_cli.render.output import Column, Output, Sheet

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
    from edgefleet_cli.core.api_client import part

    session = Session.of(ctx)
    found = session.api.get(f"/experiments/{part(rollout_id)}")
    session.out.one(found, EXPERIMENTS, lambda one: show_experiment(session.out, one))


Json = dict[str, Any]


def modes_text(experiment: Json) -> str:
    """Return `shadow`, `split 20 %` or both, in their order."""
    share = f" {experiment.get('share_pct')} %"
    return ", ".join(f"{mode}{share if mode == 'split' else ''}" for mode in experiment.get("modes") or []) or "-"


EXPERIMENTS = Sheet(
    "experiments; begin one with `edgectl deploy REF --to SELECTOR --strategy shadow`",
    [
        Column("id", lambda e: text(e.get("id")), keep=True),
        Column("release", lambda e: text(e.get("release")), keep=True),
        Column("mode", modes_text),
        Column("state", lambda e: text(e.get("state"))),
        Column("devices", lambda e: text(e.get("selector") or "all"), spare=1),
        Column("created", lambda e: moment(e.get("created_at")), spare=2),
        Column("by", lambda e: text(e.get("created_by")), wide=True),
        Column("reason", lambda e: text(e.get("reason")), wide=True),
    ],
    lambda e: text(e.get("id")),
)

_ARMS = [
    Column("who", lambda a: "what serves" if a.get("lane") == "active" else "the release", keep=True),
    Column("devices", lambda a: text(a.get("devices")), right=True),
    Column("answers", lambda a: text(a.get("answers")), right=True),
    Column("errors", lambda a: _share(a.get("error_rate")), right=True),
    Column("not finite", lambda a: text(a.get("nonfinite")), right=True),
    Column("p50", lambda a: milliseconds(a.get("latency_p50_ms")), right=True),
    Column("p95", lambda a: milliseconds(a.get("latency_p95_ms")), right=True),
]

_METRICS = [
    Column("metric", lambda m: text(m.get("name")).replace("_", " "), keep=True),
    Column("verdict", lambda m: text(m.get("verdict"))),
    Column("value", lambda m: _valued(m, "value"), right=True),
    Column("between", lambda m: f"{_valued(m, 'low')} and {_valued(m, 'high')}"),
    Column("devices", lambda m: text(m.get("devices")), right=True),
    Column("unit", lambda m: text(m.get("unit"))),
]


def _share(value: Any) -> str:
    return f"{100 * value:.2f} %" if isinstance(value, int | float) else "-"


def _valued(metric: Json, name: str) -> str:
    value = metric.get(name)
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def show_experiment(out: Output, experiment: Json) -> None:
    """Write one experiment for eyes."""
    out.fields(
        [
            ("experiment", text(experiment.get("id"))),
            ("release", text(experiment.get("release"))),
            ("mode", modes_text(experiment)),
            ("state", text(experiment.get("state"))),
            ("reason", text(experiment.get("reason"))),
            ("devices", text(experiment.get("selector") or "all")),
            ("created", f"{moment(experiment.get('created_at'))} by {text(experiment.get('created_by'))}"),
        ]
    )
    for trial in experiment.get("trials") or []:
        out.heading(f"{text(trial.get('mode')).capitalize()}: stage {', '.join(trial.get('stages') or [])}")
        _show_trial(out, trial)


def _show_trial(out: Output, trial: Json) -> None:
    if not trial.get("began_at"):
        out.prose("not begun: the stage has not opened")
        return
    more = "; more did, these are the first by name" if trial.get("is_cut") else ""
    told = counted(trial.get("devices"), "device")
    out.prose(f"{told} told of it since {moment(trial.get('began_at'))}{more}")
    for result in trial.get("results") or []:
        out.heading(f"{text(result.get('stratum'))}, {counted(result.get('devices'), 'device')}")
        shadow = result.get("shadow")
        if isinstance(shadow, dict):
            out.fields(
                [
                    ("agreement", _share(shadow.get("agreement"))),
                    ("judged", f"{shadow.get('agreed')} of {shadow.get('judged')} the same"),
                    ("compared", f"{shadow.get('compared')}, {shadow.get('failed')} without an answer"),
                    ("dropped", f"{shadow.get('dropped')} of {shadow.get('offered')} inputs"),
                ]
            )
        if result.get("devices"):
            out.table([result["active"], result["candidate"]], _ARMS)
        asked = result.get("asked") or []
        rows = [
            one if one.get("name") in asked else {**one, "verdict": "not asked"} for one in result.get("metrics") or []
        ]
        if rows:
            out.table(rows, _METRICS)
