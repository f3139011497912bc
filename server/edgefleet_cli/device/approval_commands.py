"""`edgectl device pending | approve | reject | claims | revoke-claim`: who wants to become a device, and with which token.

What is decided about is what was shown: a selector is looked up once, and the fingerprints found are what the server gets.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import age, pairs, text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SHOWN = 10
AT_ONCE = 500

Fingerprints = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FINGERPRINT...", help="Fingerprint as the device shows it.", autocompletion=completion.pending
    ),
]
Selector = Annotated[str | None, completion.selector_option("Pending devices that it matches")]
Claim = Annotated[
    str | None,
    typer.Option(
        "--claim",
        metavar="ID",
        help="Only devices that enrolled with this claim token.",
        autocompletion=completion.claims,
    ),
]
All = Annotated[bool, typer.Option("--all", help="All pending devices.")]


def add_approval_commands(app: typer.Typer) -> None:
    """Put the commands into `edgectl device`."""
    app.command("pending")(pending)
    app.command("approve")(approve)
    app.command("reject")(reject)
    app.command("claims")(claims)
    app.command("revoke-claim")(revoke_claim)


def pending_sheet(now: datetime) -> Sheet[api.enrollment.Pending]:
    """Return how waiting devices are listed; ages are counted from `now`."""

    def fact(name: str) -> Callable[[api.enrollment.Pending], str]:
        return lambda d: text(d.facts.get(name))

    return Sheet(
        "pending devices",
        [
            Column("fingerprint", lambda d: text(d.id), keep=True),
            Column("state", lambda d: text(d.state)),
            Column("hostname", fact("hostname")),
            Column("profile", lambda d: text(d.profile)),
            Column("labels", lambda d: pairs(d.labels), spare=1),
            Column("asked", lambda d: age(d.asked_at, now), right=True),
            Column("heard", lambda d: age(d.heard_at, now), right=True, spare=2),
            Column("device", lambda d: text(d.device), spare=3),
            Column("claim", lambda d: text(d.claim), wide=True),
            Column("arch", fact("arch"), wide=True),
            Column("board", fact("board"), wide=True),
            Column("until", lambda d: text(d.expires_at)[:19], wide=True),
            Column("by", lambda d: text(d.decided_by), wide=True),
            Column("reason", lambda d: text(d.reason), wide=True),
            Column("key sha256", lambda d: text(d.key_sha256), wide=True),
        ],
        lambda d: text(d.id),
    )


class DecisionRow(NamedTuple):
    """What became of one key."""

    fingerprint: str
    state: str
    device: str = ""
    why_not: str = ""


DECISIONS: Sheet[DecisionRow] = Sheet(
    "devices",
    [
        Column("fingerprint", lambda d: text(d.fingerprint), keep=True),
        Column("state", lambda d: text(d.state)),
        Column("device", lambda d: text(d.device)),
        Column("why not", lambda d: text(d.why_not)),
    ],
    lambda d: text(d.device or d.fingerprint),
)

CLAIMS: Sheet[api.enrollment.Claim] = Sheet(
    "claim tokens; create one with `edgectl device enroll`",
    [
        Column("id", lambda c: text(c.id), keep=True),
        Column("left", lambda c: f"{c.uses_left}/{c.uses}", right=True),
        Column("until", lambda c: text(c.expires_at)[:19]),
        Column("approval", lambda c: "yes" if c.approval else "no"),
        Column("waiting", lambda c: text(c.pending), right=True),
        Column("devices", lambda c: str(len(c.devices)), right=True),
        Column("labels", lambda c: pairs(c.labels), spare=1),
        Column("by", lambda c: text(c.created_by), wide=True),
        Column("profile", lambda c: text(c.profile), wide=True),
    ],
    lambda c: text(c.id),
)


def pending(
    ctx: typer.Context,
    selector: Selector = None,
    claim: Claim = None,
    state: Annotated[str, typer.Option("--state", help="pending, approved, rejected or expired.")] = "pending",
) -> None:
    """List pending devices. Compare each fingerprint with the one the device shows."""
    session = Session.of(ctx)
    page = session.api.pages(
        "/enrollments/pending", api.enrollment.Pending, selector=selector, claim=claim, state=state
    )
    session.out.items(page, pending_sheet(session.clock.now()))


def approve(
    ctx: typer.Context,
    fingerprints: Fingerprints = None,
    selector: Selector = None,
    claim: Claim = None,
    every: All = False,
) -> None:
    """Approve pending devices by fingerprint, selector or all.

    Exit code 1 if some could not be approved.
    """
    session = Session.of(ctx)
    ids = _chosen(session, fingerprints or [], selector, claim, every, "Approve")
    _decide(session, "approve", ids)


def reject(
    ctx: typer.Context,
    fingerprints: Fingerprints = None,
    selector: Selector = None,
    claim: Claim = None,
    every: All = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; the device shows it.")] = "",
) -> None:
    """Reject pending devices; final for their keys.

    Exit code 1 if some could not be rejected.
    """
    session = Session.of(ctx)
    ids = _chosen(session, fingerprints or [], selector, claim, every, "Reject")
    _decide(session, "reject", ids, reason)


def _chosen(
    session: Session, ids: list[str], selector: str | None, claim: str | None, every: bool, verb: str
) -> list[str]:
    """Return the fingerprints that are meant; what was not named one by one is shown and asked about."""
    choices = bool(ids) + (selector is not None) + (every or (claim is not None and selector is None and not ids))
    if choices != 1 or (ids and claim is not None):
        raise UsageError(
            "no devices are chosen",
            why="expected fingerprints, -l SELECTOR, --claim ID or --all",
            next_step="edgectl device pending",
        )
    if ids:
        return ids

    found = list(session.api.pages("/enrollments/pending", api.enrollment.Pending, selector=selector, claim=claim))
    if found and not session.options.yes:
        for one in found[:MAX_SHOWN]:
            hostname = text(one.facts.get("hostname"))
            session.out.note(f"  {one.id}  {hostname}  {pairs(one.labels)}")
        if len(found) > MAX_SHOWN:
            session.out.note(f"  and {len(found) - MAX_SHOWN} more")
        session.confirm(f"{verb} {len(found)} device(s)?")
    return [one.id for one in found]


def _decide(session: Session, verb: str, ids: list[str], reason: str = "") -> None:
    from edgefleet_cli.core.structs import UNSET

    path = f"/enrollments/pending:{verb}"
    parts = [
        session.api.post(
            path,
            api.enrollment.RejectIn(ids=tuple(ids[start : start + AT_ONCE]), reason=reason or UNSET),
            api.enrollment.Decisions,
        )
        for start in range(0, len(ids), AT_ONCE)
    ]
    matched = sum(part.value.matched for part in parts)
    document = {
        "matched": matched,
        "done": [one for part in parts for one in part.raw["done"]],
        "skipped": [one for part in parts for one in part.raw["skipped"]],
    }
    done = [DecisionRow(one.id, one.state, one.device) for part in parts for one in part.value.done]
    skipped = [one for part in parts for one in part.value.skipped]
    session.out.rows(
        document, [*done, *(DecisionRow(one.id, "skipped", why_not=one.reason) for one in skipped)], DECISIONS
    )
    session.out.note(f"{'approved' if verb == 'approve' else 'rejected'}: {len(done)} of {matched}")
    for step in sorted({one.next for one in skipped if one.next}):
        session.out.note(f"next: {step}")
    raise typer.Exit(EXIT_FAILED if skipped else EXIT_OK)


def claims(ctx: typer.Context) -> None:
    """List claim tokens with their remaining uses and pending devices, without their secrets."""
    session = Session.of(ctx)

    session.out.items(session.api.pages("/enrollments", api.enrollment.Claim), CLAIMS)


def revoke_claim(
    ctx: typer.Context,
    claim: Annotated[
        str, typer.Argument(metavar="ID", help="Id of the claim token.", autocompletion=completion.claims)
    ],
) -> None:
    """Revoke a claim token. Enrolled devices stay; pending devices of this token are dropped."""
    session = Session.of(ctx)
    session.confirm(f"Revoke the claim token {claim}? No device can enrol with it any more.")
    session.api.delete(f"/enrollments/{part(claim)}")
    session.out.note(f"revoked {claim}")
