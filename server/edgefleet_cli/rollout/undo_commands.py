"""`edgectl undo`: every device of a model back to what it ran before."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_OK
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.render.format import counted, named, size, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.rollout.render import exit_code
from edgefleet_cli.rollout.start import rollouts_of, watch

MOVES: Sheet[api.rollout.UndoMove] = Sheet(
    "devices to roll back",
    [
        Column("from", lambda m: text(m.runs), keep=True),
        Column("to", lambda m: text(m.back_to) if m.back_to else "nothing"),
        Column("profile", lambda m: text(m.profile)),
        Column("devices", lambda m: text(m.devices), right=True),
        Column("download", lambda m: size(m.bytes) if m.bytes else "0, kept slot", right=True),
    ],
    lambda m: f"{m.runs} {m.back_to} {m.profile}",
)
_LEFT_SHOWN = 10


def undo(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Model, or one release of it (name@version).", autocompletion=completion.models
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Reason; recorded with the rollout.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all are back. Exit codes: 0 all back, 7 not all, 8 timed out.")
    ] = False,
) -> None:
    """Roll back every device of a model to its previous release.

    It shows devices, versions and downloads, and asks first. A kept slot needs no download. While a rollout of the model is open, only that
    one is rolled back.
    """
    session = Session.of(ctx)
    plan = session.api.post(
        "/rollouts:undo", api.rollout.UndoIn(name=name, reason=reason, dry_run=True), api.rollout.Undo
    )
    if dry_run:
        _show(session, plan.raw, plan.value)
        raise typer.Exit(EXIT_OK)
    _show(session, None, plan.value)
    effect = f"{counted(plan.value.devices, 'device')}, {_cost(plan.value)}"
    session.confirm(f"Undo {name}: {effect}?")
    done = session.api.post(
        "/rollouts:undo", api.rollout.UndoIn(name=name, reason=reason, dry_run=False), api.rollout.Undo
    )
    if session.out.is_for_eyes:
        rollouts = done.value.rollouts
        session.out.note(f"rolling back {counted(done.value.devices, 'device')} in {', '.join(rollouts)}")
        session.out.note(f"watch: `edgectl rollout watch {rollouts[0] if rollouts else ''}`")
    if wait:
        raise typer.Exit(_wait(session, done))
    if not session.out.is_for_eyes:
        session.out.rows(done.raw, done.value.moves, MOVES)
    raise typer.Exit(EXIT_OK)


def _show(session: Session, answer: Document | None, plan: api.rollout.Undo) -> None:
    """Show a plan: on stdout when it is the answer, else as remarks before the question."""
    if answer is not None:
        session.out.rows(answer, plan.moves, MOVES)
    else:
        for move in plan.moves:
            back = text(move.back_to) if move.back_to else "nothing"
            kept = "0 bytes, from the kept slot" if move.back_to else "as before its first release"
            cost = f"{size(move.bytes)} to download" if move.bytes else kept
            session.out.note(f"{counted(move.devices, 'device')} of {move.profile}: {move.runs} -> {back}, {cost}")
    left = plan.left
    for one in left[:_LEFT_SHOWN]:
        session.out.note(f"unchanged: {named(one.device, one.display_name)}, on {one.runs}: {one.reason}")
    if len(left) > _LEFT_SHOWN:
        session.out.note(f"and {len(left) - _LEFT_SHOWN} more are unchanged: -o json lists all")


def _cost(plan: api.rollout.Undo) -> str:
    return f"{size(plan.bytes)} to download" if plan.bytes else "nothing to download"


def _wait(session: Session, done: Reply[api.rollout.Undo]) -> int:
    """Wait until the rollouts that take devices back are over; what a program reads is one answer, with how each ended."""
    code, ended = EXIT_OK, []
    rollouts = rollouts_of(session)
    for rollout_id in done.value.rollouts:
        if session.out.is_for_eyes:
            code = max(code, watch(session, rollouts.get(rollout_id), frozenset({"rolled_back"})))
            continue
        rollout = rollouts.await_end(rollouts.get(rollout_id), wait_s=session.options.timeout_s).value
        code = max(code, EXIT_OK if rollout.state == "rolled_back" else exit_code(rollout))
        ended.append({"id": rollout_id, "state": rollout.state, "reason": rollout.reason})
    if not session.out.is_for_eyes:
        session.out.rows({**done.raw, "ended": ended}, done.value.moves, MOVES)
    return code
