"""`edgectl trigger`: when a model is trained again, how often at most, by what, and what happens with the result."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.shared_flags import with_flags_of
from edgefleet_cli.core.structs import UNSET
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import duration, moment, text
from edgefleet_cli.render.output import Column, Sheet, visible
from edgefleet_cli.retraining.render import show_retraining
from edgefleet_cli.retraining.trigger_terms import TriggerTerms

app = typer.Typer(help="Say when a model is trained again, and what happens then.", no_args_is_help=True)
ON: Final = "drift, accuracy, objective, schedule or hand."
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.triggers)]


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
@with_flags_of(TriggerTerms)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the trigger.")],
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="Model that is trained.", autocompletion=completion.models)
    ],
    on: Annotated[str, typer.Option("--on", metavar="CAUSE", help=ON)],
    *,
    asked: TriggerTerms,
    is_enabled: Annotated[bool, typer.Option("--on-now/--off", help="Whether it acts from now on.")] = True,
) -> None:
    """Retrain a model from now on by this rule, in your name."""
    session = Session.of(ctx)
    body = api.experiment.TriggerIn(name=name, model=model, on=on, enabled=is_enabled, **asked.fields({}))
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
@with_flags_of(TriggerTerms)
def change(
    ctx: typer.Context,
    name: Name,
    on: Annotated[str | None, typer.Option("--on", metavar="CAUSE", help=ON)] = None,
    *,
    asked: TriggerTerms,
    publish_only: Annotated[bool, typer.Option("--publish-only", help="Roll out no result.")] = False,
) -> None:
    """Change a trigger; what is not given stays. It acts in your name from now on."""
    session = Session.of(ctx)
    if publish_only and asked.rollout is not None:
        raise UsageError(
            "--publish-only and --rollout exclude each other", why="a result is rolled out or not", next_step="give one"
        )
    known = session.api.get(_path(name), api.experiment.Trigger).raw
    fields = asked.fields(known) | ({"rollout": None} if publish_only else {})
    body = api.experiment.TriggerChangeIn(on=UNSET if on is None else on, **fields)
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
