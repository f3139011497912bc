"""How a deployment is shown: which devices get the release, how each ended, and which were skipped and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import named, text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.release.deployment.deployer import DeviceOutcome


SET: Sheet[api.release.Assigned] = Sheet(
    "devices",
    [
        Column("name", lambda d: text(d.display_name or None)),
        Column("device", lambda d: text(d.device), keep=True),
        Column("profile", lambda d: text(d.profile)),
        Column("target", lambda d: text(d.target)),
        Column("gen", lambda d: text(d.gen), wide=True, right=True),
    ],
    lambda d: text(d.device),
)

OUTCOME: Sheet[DeviceOutcome] = Sheet(
    "devices",
    [
        Column("name", lambda d: text(d.display_name or None)),
        Column("device", lambda d: text(d.device), keep=True),
        Column("profile", lambda d: text(d.profile)),
        Column("state", lambda d: d.shown),
        Column("error", lambda d: text(d.error), fold=True),
    ],
    lambda d: text(d.device),
)


def note_skipped(session: Session, answer: api.release.Deployment) -> None:
    """Remark on each device that does not get the release, and why."""
    for entry in answer.skipped:
        session.out.note(f"skipped {named(entry.device, entry.display_name)}, {entry.profile}: {entry.reason}")
        if entry.next:
            session.out.note(f"  next: {entry.next}")
