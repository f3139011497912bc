"""Starting a rollout for a command: plan it, or start it, show what it will do, and watch it. Used by `rollout create`,
`deploy --strategy canary` and `publish --to`."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMEOUT, ApiError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Document, Reply
from edgefleet_cli.release.downgrade import ask_or_warn, warning_in
from edgefleet_cli.render.format import text
from edgefleet_cli.rollout.client import Rollouts
from edgefleet_cli.rollout.render import (
    PLAN_DEVICES,
    exit_code,
    next_steps,
    plan_devices,
    rollout_sheet,
    show_plan,
    show_short_plan,
    state_text,
)


def rollouts_of(session: Session) -> Rollouts:
    """Return the rollouts of the session's server."""
    return Rollouts(session.api, session.out, session.clock)


def dry_run(session: Session, document: Document) -> int:
    """Write what a document would do; return 0, or 1 when the server would refuse to start it."""
    plan = rollouts_of(session).plan(document)
    write_plan(session, plan)
    session.out.note("nothing was started" if plan.value.ok else "this rollout would be refused; nothing was started")
    return EXIT_OK if plan.value.ok else EXIT_FAILED


def write_plan(session: Session, plan: Reply[api.rollout.Plan]) -> None:
    """Write a plan in the format that was asked for."""
    if session.out.is_for_eyes:
        show_plan(session.out, plan.value)
    else:
        session.out.rows(plan.raw, plan_devices(plan.value), PLAN_DEVICES)


def start(session: Session, document: Document, *, wait: bool) -> int:
    """Start a rollout and show its id and plan; with `wait` watch it. Return the exit code."""
    rollouts = rollouts_of(session)
    warn_of_older(session, document)
    rollout = rollouts.create(document)
    out = session.out
    if not wait or out.is_live:
        out.one(rollout, rollout_sheet(session.clock.now()), lambda entry: _show_start(session, entry))
    if wait:
        return watch(session, rollout)
    out.note(next_steps(rollout.value))
    return EXIT_OK


def warn_of_older(session: Session, document: Document) -> None:
    """Ask, or warn where nobody can be asked, before a rollout of an older release than what devices run. Raises DeclinedError."""
    try:
        plan = rollouts_of(session).plan(document).value
    except ApiError:
        return  # what is wrong is said when it is started
    ask_or_warn(session, plan.release, warning_in(plan.findings))


def watch(session: Session, rollout: Reply[api.rollout.Rollout], wanted: frozenset[str] = frozenset()) -> int:
    """Watch a rollout for as long as `--timeout` says; return 0 (finished, or a `wanted` end), 7 or 8."""
    rollouts = rollouts_of(session)
    try:
        rollout = rollouts.watch(rollout, wait_s=session.options.timeout_s)
    except KeyboardInterrupt:
        session.out.note(f"the rollout continues; {next_steps(rollout.value)}")
        raise
    ended = rollout.value
    code = EXIT_OK if ended.state in wanted else exit_code(ended)
    if code == EXIT_TIMEOUT:
        session.out.note(f"timed out; the rollout continues: {next_steps(ended)}")
    elif session.out.is_live:
        rollouts.show_bad_devices(ended)
        if next_steps(ended):
            session.out.note(next_steps(ended))
    return code


def _show_start(session: Session, rollout: api.rollout.Rollout) -> None:
    rollout_id = text(rollout.id)
    session.out.fields([("rollout", rollout_id), ("release", text(rollout.release)), ("state", state_text(rollout))])
    session.out.line("")
    show_short_plan(session.out, rollouts_of(session).plan_of(rollout_id).value)


def settle(
    session: Session, rollout: Reply[api.rollout.Rollout], *, wait: bool, wanted: frozenset[str] = frozenset()
) -> int:
    """Write what became of a rollout that was paused, resumed, promoted or aborted; with `wait` watch it on.

    wanted: the states in which a wait ends well besides finished, such as those that an abort asks for.
    """
    if wait:
        return watch(session, rollout, wanted)
    sheet = rollout_sheet(session.clock.now())
    session.out.one(rollout, sheet, lambda entry: _note_state(session, entry))
    return EXIT_OK


def _note_state(session: Session, rollout: api.rollout.Rollout) -> None:
    reason = f": {rollout.reason}" if rollout.reason else ""
    session.out.note(f"{text(rollout.id)} is {state_text(rollout)}{reason}")
    if next_steps(rollout):
        session.out.note(f"next: {next_steps(rollout)}")
