"""Whether devices agree that this server was restored from an older copy, and how many to ask about it next. Pure.

One device that says so may lie. Rules (ADR 0059):
- AGREEING devices that the server drew must say the same after they were drawn, and the one that spoke first is not among them.
- The version that counts is one that two of them have seen, so that a single device lifts no version above the time.
- SAMPLE devices are asked at once, more after ASK_AGAIN; a device at most once a day, MAX_ASKED in all: a liar costs as many signatures.
- Nothing here creates a role of a model: that is an operator's word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId

AGREEING: Final = 2
SAMPLE: Final = 5
ASK_AGAIN: Final = timedelta(minutes=10)
ANSWER_WITHIN: Final = timedelta(hours=1)
MAX_ASKED: Final = 20
A_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Word:
    """What a device has seen of the repository, and whether the server asked it.

    version: the highest of any role, 0 when none went back. first_at, said_at: when it said so first and last, None: not at all.
    asked_at: when the server drew it last, None: never.
    """

    device: DeviceId
    version: int = 0
    first_at: datetime | None = None
    said_at: datetime | None = None
    asked_at: datetime | None = None


@dataclass(frozen=True)
class Agreement:
    """version: what two of the devices have seen. first: who spoke first. confirmed_by: the drawn ones, in order of id."""

    version: int
    first: DeviceId
    confirmed_by: tuple[DeviceId, ...]


@dataclass(frozen=True)
class Question:
    """count: how many devices to draw. without: those that must not be drawn."""

    count: int
    without: frozenset[DeviceId]


def next_step(words: Sequence[Word], lowest: int, now: datetime) -> Agreement | Question | None:
    """Return what devices agree on, whom to ask otherwise, None when there is nothing to do. lowest: version of any role of ours."""
    spoken = [(word.first_at, word.device, word) for word in words if word.first_at and 0 < word.version >= lowest]
    if not spoken:
        return None
    first = min(spoken)[1]
    confirming = [word for _, device, word in spoken if device != first and _is_answer(word)]
    if len(confirming) >= AGREEING:
        of_first = next(word.version for _, device, word in spoken if device == first)
        version = sorted([of_first, *(word.version for word in confirming)])[-2]
        return Agreement(version, first, tuple(sorted(word.device for word in confirming)))
    asked = {word.device: word.asked_at for word in words if word.asked_at and now - word.asked_at < A_DAY}
    lately = sum(now - at < ASK_AGAIN for at in asked.values())
    count = min(SAMPLE - lately, MAX_ASKED - len(asked))
    return Question(count, frozenset({first, *asked})) if count > 0 else None


def _is_answer(word: Word) -> bool:
    """Return whether a device said it because it was asked."""
    if word.asked_at is None or word.said_at is None:
        return False
    return word.asked_at <= word.said_at < word.asked_at + ANSWER_WITHIN
