"""The public type of an event, as webhooks and streams name it: `edgefleet.rollout.paused`. Pure.

Feeds are filtered by type, and the reference page (docs/reference/events.md) is held against it.
Types are stable: a word of the machines that has no name here yet becomes `….changed` or its own kind, never another's name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

PREFIX: Final = "edgefleet"
PING: Final = f"{PREFIX}.ping"

ROLLOUT: Final[Mapping[str, str]] = {
    "validating": "created",
    "awaiting_approval": "awaiting_approval",
    "running": "started",
    "paused": "paused",
    "rolling_back": "rolling_back",
    "rolled_back": "rolledback",
    "rollback_incomplete": "failed",
    "finished": "completed",
    "regressed": "regressed",
    "superseded": "superseded",
    "cancelled": "cancelled",
}
"""What became of a rollout, by its new state; `running` after a pause, a wait for an approval or its end is `resumed`."""
STAGE: Final[Mapping[str, str]] = {
    "exposing": "opened",
    "soaking": "soaking",
    "judging": "judging",
    "passed": "completed",
    "failed": "failed",
    "held": "held",
    "skipped": "skipped",
}
CONFIRMATION: Final[Mapping[str, str]] = {
    "open": "opened",
    "confirmed": "confirmed",
    "proved": "proved",
    "refuted": "refuted",
    "unconfirmed": "unconfirmed",
    "timed_out": "timed_out",
    "over": "over",
}
"""What became of the question whether failures in a stratum are confirmed, by its new verdict."""
UPDATE: Final = (
    "eligible", "offered", "acked", "downloading", "staged", "parity_ok", "applying", "verifying", "healthy", "failed",
    "rolled_back", "lost", "unreachable", "incompatible", "superseded", "cancelled", "regressed",
)  # fmt: skip
"""States of a device in a rollout, each `edgefleet.device.update.STATE`."""
DEVICE: Final = (
    "enrolled", "revoked", "cut_off", "profile_set", "identity_renewed", "desired", "task_asked", "phase", "crash", "rollback",
    "refused", "boot", "golden_mismatch", "quarantined", "outbox_dropped", "task", "candidate", "pending", "approved", "rejected",
    "readmission_pending", "readmission_approved", "readmission_refused", "readmitted",
    "limited", "suspect", "suspicion_cleared", "drift", "drift_over", "drift_baseline",
    "withdrawn", "run_missed", "run_late", "run_failed", "prediction_gap", "prediction_conflict",
)  # fmt: skip
"""What else happens to a device, by the kind of the event."""
SERVER: Final = ("restored", "restore_suspected", "revocation_failed", "revocation_in_force", "subject_erased")
"""What happens to the server itself."""

RELEASE: Final = ("withdrawn", "deleted")
"""What becomes of a release, by the `to` of an event of kind `release`."""
PROTECTION: Final = ("added", "ending", "kept", "removed", "break_glass", "bypassed")
"""What becomes of a protection rule, by the `to` of an event of kind `protection`."""
RETRAINING: Final = (
    "awaiting_approval", "collecting", "queued", "training", "converting", "rolling_out", "promoted", "published", "stopped", "failed",
    "rejected", "cancelled", "expired", "drift_gone", "drift_still_there", "drift_unknown",
)  # fmt: skip
"""What becomes of a retraining, by the `to` of an event of kind `retraining`."""
ALERT: Final = ("firing", "resolved")
"""What becomes of a group of alerts, by the `to` of an event of kind `alert`."""

WAITING: Final = ("pending", "rejected")
"""Kinds that concern a device which has no id yet."""

_PATTERN: Final = re.compile(r"\*|edgefleet(\.[a-z][a-z_]*)*(\.\*)?")


def type_of(kind: str, device: str, detail: Mapping[str, Any]) -> str:
    """Return the type of an event; its kind, device and detail are those of the feed."""
    to = str(detail.get("to", ""))
    if kind == "rollout":
        is_again = to == "running" and detail.get("from") in ("paused", "awaiting_approval", "finished")
        word = "resumed" if is_again else ROLLOUT.get(to, "changed")
        return f"{PREFIX}.rollout.{word}"
    if kind == "stage":
        return f"{PREFIX}.rollout.stage.{STAGE.get(to, 'changed')}"
    if kind == "confirmation":
        return f"{PREFIX}.rollout.confirmation.{CONFIRMATION.get(to, 'changed')}"
    if kind == "assignment":
        return f"{PREFIX}.device.update.{to if to in UPDATE else 'changed'}"
    if kind == "release":
        return f"{PREFIX}.release.{to if to in RELEASE else 'changed'}"
    if kind == "protection":
        return f"{PREFIX}.protection.{to if to in PROTECTION else 'changed'}"
    if kind == "retraining":
        return f"{PREFIX}.retraining.{to if to in RETRAINING else 'changed'}"
    if kind == "alert":
        return f"{PREFIX}.alert.{to if to in ALERT else 'changed'}"
    return f"{PREFIX}.{'device' if device or kind in WAITING else 'server'}.{kind}"


def all_types() -> list[str]:
    """Return every type that has a name, sorted."""
    rollout = [*ROLLOUT.values(), "resumed", "changed", *(f"stage.{word}" for word in (*STAGE.values(), "changed"))]
    rollout += [f"confirmation.{word}" for word in (*CONFIRMATION.values(), "changed")]
    device = [*DEVICE, *(f"update.{word}" for word in (*UPDATE, "changed"))]
    named = [f"{PREFIX}.rollout.{word}" for word in rollout] + [f"{PREFIX}.device.{word}" for word in device]
    named += [f"{PREFIX}.server.{word}" for word in SERVER]
    named += [f"{PREFIX}.release.{word}" for word in (*RELEASE, "changed")]
    named += [f"{PREFIX}.protection.{word}" for word in (*PROTECTION, "changed")]
    named += [f"{PREFIX}.retraining.{word}" for word in (*RETRAINING, "changed")]
    named += [f"{PREFIX}.alert.{word}" for word in (*ALERT, "changed")]
    return sorted({*named, PING})


def is_pattern(text: str) -> bool:
    """Return whether a text can choose types: a type, `edgefleet.rollout.*` for all below it, or `*`."""
    return len(text) <= 80 and _PATTERN.fullmatch(text) is not None


def is_chosen(event_type: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns chooses a type; no pattern at all chooses every one."""
    return not patterns or any(_matches(event_type, pattern) for pattern in patterns)


def _matches(event_type: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    return event_type.startswith(pattern[:-1]) if pattern.endswith(".*") else event_type == pattern
