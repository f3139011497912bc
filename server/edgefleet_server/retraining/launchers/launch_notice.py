"""The message that a training gets, as small as its receiver needs it. Pure.

One JSON object for every launcher. Where it does not fit, signals that moved least are left out first and counted in `moved_left_out`, then
the words are cut: what the training reads the records with is always there.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from edgefleet_server.retraining.launchers.errors import LaunchTooLargeError
from edgefleet_server.retraining.launchers.model import LaunchNotice

MOST_MOVED: Final = 50
MOST_WORDS: Final = 1000


def message_of(notice: LaunchNotice, moved: int = MOST_MOVED, words: int = MOST_WORDS) -> dict[str, Any]:
    """Return the message. moved: signals in it; words: characters of the cause. Paths are below `server`."""
    run = f"/api/v1/retrainings/{notice.retraining}"
    left_out = max(len(notice.moved) - moved, 0)
    cause: dict[str, Any] = {"words": notice.words[:words], "alert": notice.alert or None}
    cause["moved"] = [dict(one) for one in notice.moved[:moved]]
    if left_out:
        cause["moved_left_out"] = left_out
    return {
        "retraining": notice.retraining,
        "trigger": notice.trigger,
        "model": notice.model,
        "parent": notice.parent,
        "server": notice.server,
        "captures": f"{run}/captures",
        "complete": f"{run}:complete",
        "fail": f"{run}:fail",
        "deadline": notice.deadline.isoformat(),
        "cause": cause,
    }


def message_text(notice: LaunchNotice, fits: Callable[[str], bool]) -> str:
    """Return the message as JSON, cut until `fits` is true of it. Raises LaunchTooLargeError when it never is."""
    moved, words = min(len(notice.moved), MOST_MOVED), MOST_WORDS
    while True:
        text = msgspec.json.encode(message_of(notice, moved, words)).decode()
        if fits(text):
            return text
        if moved == 0 and words == 0:
            raise LaunchTooLargeError(
                f"the message of {notice.retraining} is too large for its launcher even without a cause",
                next_step="send fewer or shorter inputs of your own with it",
            )
        moved, words = (moved // 2, words) if moved else (0, words // 2)
