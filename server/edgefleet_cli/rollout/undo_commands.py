"""`edgectl undo`: every device of a model back to what it ran before."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.errors import EXIT_OK
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import counted, size, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.rollout.render import exit_code

Json = dict[str, Any]

MOVES = Sheet(
    "devices to take back",
    [
        Column("from", lambda m: text(m.get("runs")), keep=True),
        Column("to", lambda m: text(m.get("back_to")) if m.get("back_to") else "nothing"),
        Column("profile", lambda m: text(m.get("profile"))),
        Column("devices", lambda m: text(m.get("devices")), right=True),
        Column("download", lambda m: size(m.get("bytes")) if m.get("bytes") else "0, kept slot", right=True),
    ],
    lambda m: f"{m.get('runs')} {m.get('back_to')} {m.get('profile')}",
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
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Why; it is kept with the rollout.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all are back: exit 0, else 7; 8 timed out.")] = False,
) -> None:
    """Take every device of a model back to the release that it ran before, at once and without a download where it kept it.

    It first shows which devices, from what, to what and at what cost, and asks. While a rollout of the model is open, only that
    one is taken back.
    """
    session = Session.of(ctx)
    body = {"name": name, "reason": reason}
    plan = session.api.post("/rollouts:undo", {**body, "dry_run": True})
    if dry_run:
        _show(session, plan, plan)
        raise typer.Exit(EXIT_OK)
    _show(session, None, plan)
    told = f"{counted(plan.get('devices') or 0, 'device')}, {_cost(plan)}"
    session.confirm(f"Undo {name}: {told}?")
    done = session.api.post("/rollouts:undo", {**body, "dry_run": False})
    if session.out.is_for_eyes:
        ids = ", ".join(done.get("rollouts") or [])
        session.out.note(f"{counted(done.get('devices') or 0, 'device')} going back in {ids}")
        session.out.note(f"watch: `edgectl rollout watch {(done.get('rollouts') or [''])[0]}`")
    if wait:
        raise typer.Exit(_wait(session, done))
    if not session.out.is_for_eyes:
        session.out.rows(done, done.get("moves") or [], MOVES)
    raise typer.Exit(EXIT_OK)


def _show(session: Session, answer: Json | None, plan: Json) -> None:
    """Show a plan: on stdout when it is the answer, else as remarks before the question."""
    moves = plan.get("moves") or []
    if answer is not None:
        session.out.rows(answer, moves, MOVES)
    else:
        for move in moves:
            cost = f"{size(move.get('bytes'))} to download" if move.get("bytes") else "0 bytes, from the kept slot"
            back = text(move.get("back_to")) if move.get("back_to") else "nothing"
            session.out.note(
                f"{counted(move.get('devices') or 0, 'device')} of {move.get('profile')}: {move.get('runs')} -> {back}, {cost}"
            )
    left = plan.get("left") or []
    for one in left[:_LEFT_SHOWN]:
        session.out.note(f"stays: {one.get('device')} ({one.get('runs')}): {one.get('reason')}")
    if len(left) > _LEFT_SHOWN:
        session.out.note(f"and {len(left) - _LEFT_SHOWN} more stay as they are: -o json names all")


def _cost(plan: Json) -> str:
    return f"{size(plan.get('bytes'))} to download" if plan.get("bytes") else "nothing to download"


def _wait(session: Session, done: Json) -> int:
    """Wait until the rollouts that take devices back are over; what a program reads is one answer, with how each ended."""
    from edgefleet_cli.rollout.start import rollouts_of, watch

    code, ended = EXIT_OK, []
    rollouts = rollouts_of(session)
    for rollout_id in done.get("rollouts") or []:
        if session.out.is_for_eyes:
            code = max(code, watch(session, rollouts.get(rollout_id), frozenset({"rolled_back"})))
            continue
        rollout = rollouts.await_end(rollouts.get(rollout_id), wait_s=session.options.timeout_s)
        code = max(code, EXIT_OK if rollout.get("state") == "rolled_back" else exit_code(rollout))
        ended.append({"id": rollout_id, "state": rollout.get("state"), "reason": rollout.get("reason")})
    if not session.out.is_for_eyes:
        session.out.rows({**done, "ended": ended}, done.get("moves") or [], MOVES)
    return code
