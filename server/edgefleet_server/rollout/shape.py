"""Which form a rollout has: who may be in a stage and in which mode, who must approve it, and how rollouts meet. Pure values.

Its own module because the engine's values (`model`) hold one of each and nothing here knows the engine.
Source: fleet.md §5.2, ADR 0034, ADR 0035.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from edgefleet_server.access.model import Role

PREVIOUS: Final = "previous"
NO_WAY_BACK: Final = "none"
PROFILE: Final = "profile"
RUNTIME: Final = "runtime"
PIN_LABEL: Final = "edgefleet/pinned"
"""A device with this label takes part in no rollout; the label's value says why."""
NO_VALUE: Final = "-"
"""What stands in a stratum's name for a device without the label; no label can have this value."""


class Mode(StrEnum):
    """How the devices of a stage run the release: as the active version, or beside it (ADR 0032)."""

    SHADOW = "shadow"
    SPLIT = "split"
    ACTIVE = "active"


class Membership(StrEnum):
    """Whether devices that come to match the selector later take part."""

    DYNAMIC = "dynamic"
    SNAPSHOT = "snapshot"


class Supersede(StrEnum):
    """What a new rollout does about older ones of its model that are open on one of its devices."""

    CANCEL_OLDER = "cancel-older"
    QUEUE = "queue"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Approval:
    """Whose word a stage needs before it opens, and how long they have."""

    role: Role = Role.APPROVER
    timeout: timedelta = timedelta(hours=48)


@dataclass(frozen=True, slots=True)
class StageShape:
    """match: selector of the only devices that the stage takes; "" = all. share_pct: of the requests, in mode split (1 to 99)."""

    match: str = ""
    mode: Mode = Mode.ACTIVE
    share_pct: int = 0
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class SpecShape:
    """rollback_to: `previous`, `none`, or another release of the model. strata: `profile`, then label keys."""

    membership: Membership = Membership.DYNAMIC
    supersede: Supersede = Supersede.REJECT
    rollback_to: str = PREVIOUS
    strata: tuple[str, ...] = (PROFILE,)


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """What a device says of the candidate beside its active version, and which digest its document asks for there ("" = none).

    state, code, reason: as in `messages.CandidateState`.
    """

    sha256: str = ""
    state: str = ""
    code: str = ""
    reason: str = ""
    wanted_by_server: str = ""


PLAIN_STAGE: Final = StageShape()
PLAIN: Final = SpecShape()
NO_CANDIDATE: Final = CandidateReport()


def profile_of(stratum: str) -> str:
    """Return the profile of a stratum's devices."""
    return stratum.partition("/")[0]
