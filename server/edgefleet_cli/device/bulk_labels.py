"""`edgectl device label -l SELECTOR`: labels of many devices at once. The server says first how many; a person is asked."""

from __future__ import annotations

from edgefleet_cli.core.api.device import LabelChange
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import counted, pairs, text
from edgefleet_cli.render.output import Column, Sheet

LABELLED: Sheet[str] = Sheet(
    "devices that change",
    [Column("device", text, keep=True)],
    text,
)


def label_many(session: Session, selector: str, labels: dict[str, str | None], *, dry_run: bool) -> None:
    """Set (None: remove) labels on every device that a selector matches, after saying how many those are."""
    body = {"selector": selector, "labels": labels}
    told = pairs({key: "-" if value is None else value for key, value in labels.items()})
    answer = session.api.post("/devices:label", {**body, "dry_run": True}, LabelChange)
    if not dry_run and answer.value.changed:
        session.confirm(
            f"Label {counted(answer.value.changed, 'device')} of {answer.value.matched} that match with {told}?"
        )
        answer = session.api.post("/devices:label", {**body, "dry_run": False}, LabelChange)
    change = answer.value
    session.out.rows(answer.raw, change.sample, LABELLED)
    named = len(change.sample)
    left = f"; {change.changed - named} more are not named" if change.changed > named else ""
    verb = "would be" if change.dry_run else "are"
    session.out.note(f"{counted(change.changed, 'device')} of {change.matched} that match {verb} labelled {told}{left}")
