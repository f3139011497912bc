"""What to sign again when devices have seen more of the repository than this server knows: it was restored from an older copy. Pure.

It decides without a key, a table or the library that signs; `repository` does what it says.

Rules:
- A role goes back when a device has seen any version as high as our lowest: then all are signed, above what was seen. What was signed
  after the backup is known to nobody but the devices, so which roles they were cannot be known.
- A client never accepts a snapshot that names fewer roles (TUF specification 5.5.5). A role of a model that we do not know is made again
  and names no bundle: it takes nothing away from a device, and publishing the model again fills it.
- What a device says is not signed: who is believed is `fleet.reported.recovery_agreement`, and a role is made only when an operator names
  its model. Versions are unix seconds or a little above, so no more than MAX_AHEAD above the time is believed; names must be roles of
  models, and at most MAX_EMPTY roles may be without a bundle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.errors import BadIdError
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.signing.trust import MODEL_PREFIX

MAX_AHEAD: Final = timedelta(days=1)
MAX_EMPTY: Final = 256


@dataclass(frozen=True)
class SignedVersions:
    """Our repository. versions: of the snapshot and of every role that it names. empty: roles of models without a bundle."""

    versions: Mapping[str, int]
    empty: int = 0


@dataclass(frozen=True)
class VersionsSeen:
    """What a device has seen. version: the highest of any role, 0 when none went back. roles: what it knows and our snapshot lacks."""

    version: int
    roles: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ResignPlan:
    """What is to be signed. above: every version must be higher. everything: all roles, not only `lost`. lost: to be made, by name."""

    above: int
    everything: bool
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoleChange:
    """A role that would be signed: its version now, 0 when it would be made, and the version it would get at least."""

    name: str
    version: int
    becomes: int


def resign_plan(ours: SignedVersions, seen: VersionsSeen, now: datetime) -> ResignPlan | None:
    """Return what to sign again, None when nothing would become better by it."""
    most = int((now + MAX_AHEAD).timestamp())
    version = min(seen.version, most)
    everything = seen.version > 0 and version >= min(ours.versions.values(), default=0)
    unknown = sorted(name for name in seen.roles if is_model_role(name) and name not in ours.versions)
    lost = tuple(unknown[: max(0, MAX_EMPTY - ours.empty)])
    if not (everything or lost):
        return None
    above = max(version if everything else 0, *(min(seen.roles[name], most) for name in lost), 0)
    return ResignPlan(above, everything, lost)


def role_changes(ours: SignedVersions, plan: ResignPlan, now: datetime) -> list[RoleChange]:
    """Return the roles that a plan signs, in order of name, with snapshot and timestamp."""
    named = set(ours.versions) if plan.everything else {"releases", "snapshot", "timestamp"}
    return [
        RoleChange(name, ours.versions.get(name, 0), next_version(ours.versions.get(name, 0), plan.above, now))
        for name in sorted(named.union(plan.lost))
    ]


def next_version(last: int, above: int, now: datetime) -> int:
    """Return the version that follows `last` and is higher than `above`."""
    return max(last + 1, int(now.timestamp()), above + 1)


def is_model_role(name: str) -> bool:
    """Return whether a role of this name can be the role of a model."""
    try:
        parse_model_name(name.removeprefix(MODEL_PREFIX))
    except BadIdError:
        return False
    return name.startswith(MODEL_PREFIX)
