"""`edgectl trigger`: when a model is trained again, how often at most, by what, and what happens with the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import read_text
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import UNSET
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import duration, moment, text
from edgefleet_cli.render.output import Column, Sheet, visible
from edgefleet_cli.retraining.render import show_retraining

app = typer.Typer(help="Say when a model is trained again, and what happens then.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.triggers)]
On = Annotated[str | None, typer.Option("--on", metavar="CAUSE", help="drift, accuracy, objective, schedule or hand.")]
Objective = Annotated[
    str | None, typer.Option("--objective", metavar="SLO", help="Only this objective.", autocompletion=completion.slos)
]
Schedule = Annotated[str | None, typer.Option("--schedule", metavar="CRON", help="When, e.g. '0 3 * * 1'.")]
Zone = Annotated[str | None, typer.Option("--tz", metavar="ZONE", help="Time zone of the schedule; default: UTC.")]
Lasting = Annotated[str | None, typer.Option("--lasting", metavar="TIME", help="How long the cause must be there.")]
CoolDown = Annotated[
    str | None, typer.Option("--cool-down", metavar="TIME", help="Least time between two; default: 1d.")
]
Budget = Annotated[int | None, typer.Option("--budget", min=0, max=100, help="Most in a period; default: 4.")]
Period = Annotated[str | None, typer.Option("--per", metavar="TIME", help="The period of the budget; default: 30d.")]
Approval = Annotated[
    bool | None, typer.Option("--approval/--no-approval", help="A second person agrees first; default: yes.")
]
LauncherKind = Annotated[
    str | None, typer.Option("--launcher", metavar="KIND", help="runner, github, gitlab, mlflow or webhook.")
]
Settings = Annotated[list[str] | None, typer.Option("--setting", metavar="NAME=V", help="Of the launcher; repeatable.")]
SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", metavar="F", help="File with the secret of the launcher.")
]
Deadline = Annotated[str | None, typer.Option("--deadline", metavar="TIME", help="How long it may train; default: 6h.")]
Most = Annotated[int | None, typer.Option("--most", min=1, max=10_000, help="Most records; default: 1000.")]
Devices = Annotated[int | None, typer.Option("--devices", min=1, max=200, help="Most devices asked; default: 20.")]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", metavar="R", help="Only records captured for it; repeatable.")
]
Collecting = Annotated[
    str | None, typer.Option("--collect-for", metavar="TIME", help="How long records are waited for; default: 10m.")
]
Rollout = Annotated[
    Path | None,
    typer.Option("--rollout", metavar="F", help="Rollout spec without a release; without it: only publish."),
]


def launcher_of(trigger: api.experiment.Trigger) -> str:
    """Return what starts its trainings."""
    return trigger.launcher.kind


SHEET: Sheet[api.experiment.Trigger] = Sheet(
    "triggers; create one with `edgectl trigger create NAME --model MODEL --on drift`",
    [
        Column("name", lambda t: text(t.name), keep=True),
        Column("model", lambda t: text(t.model)),
        Column("on", lambda t: text(t.on)),
        Column("enabled", lambda t: text(t.enabled)),
        Column("launcher", launcher_of),
        Column("used", lambda t: f"{t.used} of {t.budget}", right=True),
        Column("now", lambda t: text(t.says), spare=1),
        Column("by", lambda t: text(t.created_by), wide=True),
    ],
    lambda t: text(t.name),
)


@app.command("create")
def create(  # noqa: PLR0913, PLR0917  # one option for each thing that can be said
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the trigger.")],
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="Model that is trained.", autocompletion=completion.models)
    ],
    on: Annotated[str, typer.Option("--on", metavar="CAUSE", help="drift, accuracy, objective, schedule or hand.")],
    objective: Objective = None,
    schedule: Schedule = None,
    tz: Zone = None,
    lasting: Lasting = None,
    cool_down: CoolDown = None,
    budget: Budget = None,
    period: Period = None,
    approval: Approval = None,
    launcher: LauncherKind = None,
    setting: Settings = None,
    secret_file: SecretFile = None,
    deadline: Deadline = None,
    most: Most = None,
    devices: Devices = None,
    reason: Reasons = None,
    collect_for: Collecting = None,
    rollout: Rollout = None,
    is_enabled: Annotated[bool, typer.Option("--on-now/--off", help="Whether it acts from now on.")] = True,
) -> None:
    """Retrain a model from now on by this rule, in your name."""
    session = Session.of(ctx)
    launch = _launcher({}, launcher, setting, secret_file, deadline)
    body = api.experiment.TriggerIn(
        name=name,
        model=model,
        on=on,
        objective=_given(objective),
        schedule=_given(schedule),
        tz=_given(tz),
        lasting_s=_seconds(lasting),
        cool_down_s=_seconds(cool_down),
        budget=_given(budget),
        budget_period_s=_seconds(period),
        approval=_given(approval),
        launcher=UNSET if launch is None else launch,
        data=_given(_data({}, most, devices, reason, collect_for)),
        rollout=UNSET if rollout is None else _rollout(rollout),
        enabled=is_enabled,
    )
    made = session.api.post("/triggers", body, api.experiment.Trigger)
    session.out.one(made, SHEET, lambda one: _show(session, one))


@app.command("list")
def list_triggers(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Only of this model.", autocompletion=completion.models)
    ] = None,
) -> None:
    """List triggers, each with what it waits for."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/triggers", api.experiment.Trigger, model=model), SHEET)


@app.command("show")
def show(ctx: typer.Context, name: Name) -> None:
    """Show a trigger: its terms, what it started, and why it starts nothing now."""
    session = Session.of(ctx)
    found = session.api.get(_path(name), api.experiment.Trigger)
    session.out.one(found, SHEET, lambda one: _show(session, one))


@app.command("change")
def change(  # noqa: PLR0913, PLR0917  # one option for each thing that can be changed
    ctx: typer.Context,
    name: Name,
    on: On = None,
    objective: Objective = None,
    schedule: Schedule = None,
    tz: Zone = None,
    lasting: Lasting = None,
    cool_down: CoolDown = None,
    budget: Budget = None,
    period: Period = None,
    approval: Approval = None,
    launcher: LauncherKind = None,
    setting: Settings = None,
    secret_file: SecretFile = None,
    deadline: Deadline = None,
    most: Most = None,
    devices: Devices = None,
    reason: Reasons = None,
    collect_for: Collecting = None,
    rollout: Rollout = None,
    publish_only: Annotated[bool, typer.Option("--publish-only", help="Roll out no result.")] = False,
) -> None:
    """Change a trigger; what is not given stays. It acts in your name from now on."""
    session = Session.of(ctx)
    if publish_only and rollout is not None:
        raise UsageError(
            "--publish-only and --rollout exclude each other", why="a result is rolled out or not", next_step="give one"
        )
    known = session.api.get(_path(name), api.experiment.Trigger).raw
    launch = _launcher(known["launcher"], launcher, setting, secret_file, deadline)
    body = api.experiment.TriggerChangeIn(
        on=_given(on),
        objective=_given(objective),
        schedule=_given(schedule),
        tz=_given(tz),
        lasting_s=_seconds(lasting),
        cool_down_s=_seconds(cool_down),
        budget=_given(budget),
        budget_period_s=_seconds(period),
        approval=_given(approval),
        launcher=_given(launch),
        data=_given(_data(known["data"], most, devices, reason, collect_for)),
        rollout=None if publish_only else UNSET if rollout is None else _rollout(rollout),
    )
    changed = session.api.patch(_path(name), body, api.experiment.Trigger)
    session.out.one(changed, SHEET, lambda one: _show(session, one))


@app.command("start")
def start(
    ctx: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Reason; recorded with the retraining.")] = "",
) -> None:
    """Start a retraining now. It counts for the budget; the cool-down does not hold it."""
    session = Session.of(ctx)
    body = api.experiment.AnswerRetrainingIn(reason=reason)
    made = session.api.post(f"{_path(name)}:start", body, api.experiment.Retraining)
    show_retraining(session, made)


@app.command("enable")
def enable(ctx: typer.Context, name: Name) -> None:
    """Let a trigger act again."""
    _switch(ctx, name, is_enabled=True)


@app.command("disable")
def disable(ctx: typer.Context, name: Name) -> None:
    """Let a trigger start nothing; what runs goes on."""
    _switch(ctx, name, is_enabled=False)


@app.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a trigger; its retrainings stay."""
    session = Session.of(ctx)
    session.confirm(f"Remove the trigger {name}?")
    session.api.delete(_path(name))
    session.out.note(f"removed the trigger {name}")


def _switch(ctx: typer.Context, name: str, *, is_enabled: bool) -> None:
    session = Session.of(ctx)
    changed = session.api.patch(_path(name), api.experiment.TriggerChangeIn(enabled=is_enabled), api.experiment.Trigger)
    session.out.one(changed, SHEET, lambda one: _show(session, one))


def _show(session: Session, trigger: api.experiment.Trigger) -> None:
    data = trigger.data
    session.out.fields(
        [
            ("trigger", text(trigger.name)),
            ("model", text(trigger.model)),
            ("on", visible(" ".join(filter(None, (trigger.on, trigger.objective, trigger.schedule, _zone(trigger)))))),
            ("lasting", duration(trigger.lasting_s)),
            ("cool-down", duration(trigger.cool_down_s)),
            ("budget", f"{trigger.used} of {trigger.budget} used in {duration(trigger.budget_period_s)}"),
            ("approval", "by a second person" if trigger.approval else "none"),
            ("launcher", text(launcher_of(trigger))),
            (
                "data",
                f"at most {data.most} records of {data.devices} devices, waited for {duration(data.wait_s)}"
                + (f", captured for {visible(', '.join(data.reasons))}" if data.reasons else ""),
            ),
            ("result", "published only" if trigger.rollout is None else "published and rolled out"),
            ("enabled", text(trigger.enabled)),
            ("changed", f"{moment(trigger.changed_at)} by {text(trigger.changed_by)}"),
            ("now", text(trigger.says)),
        ]
    )


def _zone(trigger: api.experiment.Trigger) -> str:
    return trigger.tz if trigger.schedule else ""


def _path(name: str) -> str:
    return f"/triggers/{part(name)}"


def _given(value: Any) -> Any:
    return UNSET if value is None else value


def _seconds(given: str | None) -> Any:
    return UNSET if given is None else int(parse_duration_s(given))


def _data(
    known: dict[str, Any], most: int | None, devices: int | None, reasons: list[str] | None, collect_for: str | None
) -> api.experiment.CollectIn | None:
    """Return what is collected, where something of it was given: the rest stays as known."""
    given = {
        "most": most,
        "devices": devices,
        "reasons": None if reasons is None else tuple(reasons),
        "wait_s": None if collect_for is None else int(parse_duration_s(collect_for)),
    }
    if all(value is None for value in given.values()):
        return None
    merged = {**known, **{name: value for name, value in given.items() if value is not None}}
    return api.experiment.CollectIn(**{name: merged[name] for name in given if name in merged})


def _launcher(
    known: dict[str, Any],
    kind: str | None,
    settings: list[str] | None,
    secret_file: Path | None,
    deadline: str | None,
) -> api.experiment.LauncherIn | None:
    """Return the launcher, where something of it was given: the rest stays as known. Raises UsageError."""
    if kind is None and settings is None and secret_file is None and deadline is None:
        return None
    pairs = dict(_pair(one) for one in settings or ())
    is_same = kind is None or kind == known.get("kind")
    return api.experiment.LauncherIn(
        kind=kind or known.get("kind", "runner"),
        settings={**(known.get("settings") or {} if is_same else {}), **pairs},
        secret=UNSET if secret_file is None else read_text(secret_file, 4001).strip(),
        deadline_s=int(parse_duration_s(deadline)) if deadline else known.get("deadline_s", UNSET),
    )


def _pair(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise UsageError(
            f"{given!r} is not NAME=VALUE", why="a launcher's settings have names", next_step="for example ref=main"
        )
    return name, value


def _rollout(file: Path) -> dict[str, Any]:
    from edgefleet_cli.rollout.spec import read_document

    return dict(read_document(str(file)))
