"""`edgectl device readmissions | readmit`: devices whose certificate ended while they were away, and that ask to come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import age, moment, text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from datetime import datetime

AT_ONCE = 500


def add_readmission_commands(app: typer.Typer) -> None:
    """Put the commands into `edgectl device`."""
    app.command("readmissions")(readmissions)
    app.command("readmit")(readmit)


def sheet(now: datetime) -> Sheet[api.device.Readmission]:
    """Return how requests are listed; ages are counted from `now`."""
    return Sheet(
        "devices that ask to come back",
        [
            Column("device", lambda r: text(r.device), keep=True),
            Column("state", lambda r: text(r.state)),
            Column("ended", lambda r: age(r.ended_at, now), right=True),
            Column("heard", lambda r: age(r.heard_at, now), right=True),
            Column("why", lambda r: text(r.why)),
            Column("by", lambda r: text(r.decided_by), spare=1),
            Column("asked", lambda r: moment(r.asked_at), wide=True),
            Column("decided", lambda r: moment(r.decided_at), wide=True),
            Column("readmitted", lambda r: moment(r.readmitted_at), wide=True),
        ],
        lambda r: text(r.device),
    )


def readmissions(
    ctx: typer.Context,
    state: Annotated[str, typer.Option("--state", help="pending, approved, refused or readmitted.")] = "pending",
) -> None:
    """List devices whose certificate ended while they were away and that wait for a person to let them come back."""
    session = Session.of(ctx)
    page = session.api.pages("/readmissions", api.device.Readmission, state=state)
    session.out.items(page, sheet(session.clock.now()))


def readmit(
    ctx: typer.Context,
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="DEVICE...", autocompletion=completion.readmissions)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All devices that wait.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="Do not let them come back.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why they are refused; the device logs it.")] = "",
) -> None:
    """Let devices come back whose certificate ended: each gets another the next time it asks, within seven days.

    Exit code 1 if some could not be decided about.
    """
    session = Session.of(ctx)
    ids = _chosen(session, devices or [], every, refuse)
    if reason and not refuse:
        raise UsageError("a reason is for a refusal", why="--reason without --refuse", next_step="add --refuse")
    done: list[api.device.Readmission] = []
    skipped: list[api.device.ReadmissionSkipped] = []
    document: dict[str, list[object]] = {"done": [], "skipped": []}
    for start in range(0, len(ids), AT_ONCE):
        part = tuple(ids[start : start + AT_ONCE])
        if refuse:
            body = api.device.ReadmissionRefusalIn(devices=part, reason=reason)
            answer = session.api.post("/readmissions:refuse", body, api.device.ReadmissionDecisions)
        else:
            answer = session.api.post(
                "/readmissions:approve", api.device.ReadmissionsIn(devices=part), api.device.ReadmissionDecisions
            )
        done += answer.value.done
        skipped += answer.value.skipped
        document = {key: [*document[key], *answer.raw[key]] for key in document}
    session.out.rows(document, done, sheet(session.clock.now()))
    for one in skipped:
        session.out.note(f"{one.device} skipped: {one.reason}. {one.next}")
    session.out.note(f"{'refused' if refuse else 'approved'}: {len(done)} of {len(ids)}")
    raise typer.Exit(EXIT_FAILED if skipped else EXIT_OK)


def _chosen(session: Session, ids: list[str], every: bool, refuse: bool) -> list[str]:
    """Return the devices that are meant; all are shown and asked about."""
    if bool(ids) == every:
        raise UsageError(
            "no devices are chosen" if not ids else "devices are chosen twice",
            why="expected device ids or --all",
            next_step="edgectl device readmissions",
        )
    if ids:
        return ids
    found = [one.device for one in session.api.pages("/readmissions", api.device.Readmission, state="pending")]
    if found:
        session.confirm(f"{'Refuse' if refuse else 'Let come back'}: {len(found)} device(s), all that wait?")
    return found
