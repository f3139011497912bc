"""What an action on many devices or roles did, in a sentence for the next page. Pure."""

from typing import Any, Final

_NAMED: Final = 2


def outcome(operation_id: str, answer: Any) -> str:
    """Return what a decision about waiting devices or a restored server did; "" for other operations."""
    if operation_id == "sign_recovery" and isinstance(answer, dict):
        return _signed(answer)
    verbs = {"approve_pending_devices": "approved", "reject_pending_devices": "rejected"}
    if operation_id not in verbs or not isinstance(answer, dict):
        return ""
    done, skipped = len(answer["done"]), answer["skipped"]
    devices = "device" if answer["matched"] == 1 else "devices"
    message = f"{done} of {answer['matched']} {devices} {verbs[operation_id]}."
    for one in skipped[:_NAMED]:
        message += f" Skipped {one['id']}: {one['reason']}."
    return message + (f" {len(skipped) - _NAMED} more skipped." if len(skipped) > _NAMED else "")


def _signed(answer: dict[str, Any]) -> str:
    said = [f"Signed all roles above version {answer['version']}."] if answer["everything"] else []
    if answer["models"]:
        said.append(f"Added empty roles for {', '.join(answer['models'])}: publish these models again.")
    return " ".join(said)
