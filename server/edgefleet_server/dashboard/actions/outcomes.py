"""What an action on many devices did, in one sentence for the next page. Pure."""

from typing import Any, Final

_NAMED: Final = 2


def outcome(operation_id: str, answer: Any) -> str:
    """Return what a decision about waiting devices did, in one sentence; "" for other operations."""
    verbs = {"approve_pending_devices": "approved", "reject_pending_devices": "rejected"}
    if operation_id not in verbs or not isinstance(answer, dict):
        return ""
    done, skipped = len(answer["done"]), answer["skipped"]
    devices = "device" if answer["matched"] == 1 else "devices"
    message = f"{done} of {answer['matched']} {devices} {verbs[operation_id]}."
    for one in skipped[:_NAMED]:
        message += f" Skipped {one['id']}: {one['reason']}."
    return message + (f" {len(skipped) - _NAMED} more skipped." if len(skipped) > _NAMED else "")
