"""Retrainings as a table, and one of them in full."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet, visible

SHEET: Sheet[api.experiment.Retraining] = Sheet(
    "retrainings",
    [
        Column("id", lambda r: text(r.id), keep=True),
        Column("model", lambda r: text(r.model)),
        Column("trigger", lambda r: text(r.trigger)),
        Column("state", lambda r: text(r.state)),
        Column("began", lambda r: moment(r.created_at)),
        Column("release", lambda r: text(r.release or None)),
        Column("drift", lambda r: text(r.drift_after.state if r.drift_after else None)),
        Column("now", lambda r: text(r.says), spare=1),
        Column("runner", lambda r: text(r.holder or None), wide=True),
    ],
    lambda r: text(r.id),
)


def show_retraining(session: Session, reply: Reply[api.experiment.Retraining]) -> None:
    """Write one retraining in the format that was asked for."""
    session.out.one(reply, SHEET, lambda one: _show(session, one))


def _show(session: Session, run: api.experiment.Retraining) -> None:
    out = session.out
    out.fields(
        [
            ("retraining", text(run.id)),
            ("state", text(run.state)),
            ("now", text(run.says)),
            ("trigger", f"{text(run.trigger)} of {text(run.model)}"),
            ("cause", text(run.cause.words)),
            ("parent", text(run.parent or None)),
            ("created", f"{moment(run.created_at)} by {text(run.created_by)}"),
            *_answer(run),
            ("collected", _collected(run)),
            *_data_set(run),
            *_training(run),
            ("release", text(run.release or None)),
            ("rollout", text(run.rollout or None)),
            *_after(run),
        ]
    )
    for signal in run.cause.signals:
        out.line(visible(f"  {signal.name}: {signal.said}"))
    if run.error is not None:
        out.line(visible(f"failed: {run.error.code}"))
        for line in run.error.why.splitlines():
            out.line(visible(f"  {line}"))
        if run.error.next_step:
            out.note(run.error.next_step)


def _collected(run: api.experiment.Retraining) -> str:
    found = run.collected
    return f"{found.records} records; {found.answered} of {found.asked} devices that were asked answered"


def _answer(run: api.experiment.Retraining) -> list[tuple[str, str]]:
    return [("answered", f"{moment(run.answered_at)} by {text(run.answered_by)}")] if run.answered_by else []


def _data_set(run: api.experiment.Retraining) -> list[tuple[str, str]]:
    found = run.data_set
    if found is None:
        return []
    where = f", in {visible(found.where)}" if found.where else ""
    return [("data set", f"{found.records} records, {found.labelled} with a label, {found.digest[:16]}{where}")]


def _training(run: api.experiment.Retraining) -> list[tuple[str, str]]:
    if not run.holder and not run.progress:
        return []
    times = f", attempt {run.attempts}" if run.attempts > 1 else ""
    return [("training", f"{text(run.progress or None)} ({text(run.holder or None)}{times})")]


def _after(run: api.experiment.Retraining) -> list[tuple[str, str]]:
    found = run.drift_after
    return [] if found is None else [("drift after", f"{text(found.state)}: {text(found.words)}")]
