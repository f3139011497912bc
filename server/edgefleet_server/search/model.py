"""Values of the search. Kinds are public: never renamed."""

from dataclasses import dataclass
from enum import StrEnum


class HitKind(StrEnum):
    """What was found."""

    DEVICE = "device"
    GROUP = "group"
    MODEL = "model"
    RELEASE = "release"
    ROLLOUT = "rollout"


@dataclass(frozen=True)
class Hit:
    """One thing that was found: its kind, its id in that kind, a few words on it, and its address in this API.

    display_name: of a device that has one.
    """

    kind: HitKind
    id: str
    detail: str
    url: str
    display_name: str = ""
