"""How a deployment is shown: which devices get the release, how each ended, and which were skipped and why."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

SET = Sheet(
    "devices",
    [
        Column("device", lambda d: text(d.get("device")), keep=True),
        Column("profile", lambda d: text(d.get("profile"))),
        Column("target", lambda d: text(d.get("target"))),
        Column("gen", lambda d: text(d.get("gen")), wide=True, right=True),
    ],
    lambda d: text(d.get("device")),
)

OUTCOME = Sheet(
    "devices",
    [
        Column("device", lambda d: text(d.get("device")), keep=True),
        Column("profile", lambda d: text(d.get("profile"))),
        Column("state", lambda d: text(d.get("state"))),
        Column("error", lambda d: text(d.get("error"))),
    ],
    lambda d: text(d.get("device")),
)


def note_skipped(session: Session, answer: dict[str, Any]) -> None:
    """Remark on each device that does not get the release, and why."""
    for entry in answer.get("skipped") or []:
        session.out.note(f"skipped {entry.get('device')} ({entry.get('profile')}): {entry.get('reason')}")
        if entry.get("next"):
            session.out.note(f"  next: {entry['next']}")
