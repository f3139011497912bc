"""`edgectl device label -l SELECTOR`: labels of many devices at once. The server says first how many; a person is asked."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import counted, pairs, text
from edgefleet_cli.render.output import Column, Sheet

Json = dict[str, Any]

LABELLED = Sheet(
    "devices that change",
    [Column("device", lambda d: text(d.get("device")), keep=True)],
    lambda d: text(d.get("device")),
)


def label_many(session: Session, selector: str, labels: dict[str, str | None], *, dry_run: bool) -> None:
    """Set (None: remove) labels on every device that a selector matches, after saying how many those are."""
    body: Json = {"selector": selector, "labels": labels}
    told = pairs({key: "-" if value is None else value for key, value in labels.items()})
    answer = session.api.post("/devices:label", {**body, "dry_run": True})
    if not dry_run and answer.get("changed"):
        session.confirm(f"Label {counted(answer['changed'], 'device')} of {answer['matched']} that match with {told}?")
        answer = session.api.post("/devices:label", {**body, "dry_run": False})
    rows = [{"device": name} for name in answer.get("sample") or []]
    session.out.rows(answer, rows, LABELLED)
    changed = int(answer.get("changed") or 0)
    left = f"; {changed - len(rows)} more are not named" if changed > len(rows) else ""
    verb = "would be" if answer.get("dry_run") else "are"
    session.out.note(f"{counted(changed, 'device')} of {answer.get('matched')} that match {verb} labelled {told}{left}")
