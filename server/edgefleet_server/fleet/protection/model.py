"""Values of deployment protection rules: the rules, warrants for changes of documents, a broken glass. Pure.

Those that routes return are public: a field is never renamed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

REMOVAL_DELAY: Final = timedelta(hours=24)
"""So long a rule stays in force after somebody asked to remove it."""
LONGEST_BREAK: Final = timedelta(hours=4)
SHORTEST_REASON: Final = 10
"""Characters of the reason for breaking the glass."""


@dataclass(frozen=True, slots=True)
class RolloutWarrant:
    """What a rollout has to show for a change of a document.

    approved_by: who approved its first stage for the device's stratum, "" = nobody. is_rollback: the change takes the device back.
    before: digest of what the rollout noted that the device ran when it offered its release, "" = nothing.
    """

    rollout: str
    approved_by: str = ""
    is_rollback: bool = False
    before: str = ""


@dataclass(frozen=True, slots=True)
class PersonWarrant:
    """A person who changes documents at once, by the id of the token or session that asked: good while they have broken the glass."""

    principal: str


Warrant = RolloutWarrant | PersonWarrant | None
"""Why a document may change. None: nothing is shown, which protected devices refuse."""


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """A rule that one person set aside for a while. by: their name and the id of their token."""

    id: str
    rule: str
    by: str
    reason: str
    at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class ProtectionRule:
    """A deployment protection rule. devices: live ones under it. ends_at: when it ends, null while nobody asked for that.

    broken: who has set it aside now.
    """

    name: str
    selector: str
    devices: int
    created_at: datetime
    created_by: str
    ends_at: datetime | None = None
    ending_by: str = ""
    broken: Sequence[BreakGlass] = ()


@dataclass(frozen=True, slots=True)
class Covered:
    """How many devices of a crowd a rule protects, and the first of them by id."""

    rule: str
    devices: int
    first: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A device whose document stays as it is: by which rules, and why."""

    device: str
    rules: tuple[str, ...]
    reason: str
