"""The next content of a model's role, not signed yet. Pure: it builds content from content."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.team_change import EMPTIED
from edgefleet_ceremony.team_request import role_of
from edgefleet_server.signing.fast_forward_recovery import next_version
from edgefleet_server.signing.named_files import release_numbers
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.teams.role_metadata import expiry


@dataclass(frozen=True, slots=True)
class NewTarget:
    """A bundle that is to be signed. length: bytes of the whole bundle; custom: without its security version."""

    path: str
    length: int
    sha256: str
    custom: Mapping[str, Any]


def next_role(current: Targets | None, model: str, now: datetime) -> Targets:
    """Return what a role says, with its next version and end. current: None before the first."""
    found = Targets(version=1) if current is None else copy.deepcopy(current)
    found.version = next_version(0 if current is None else current.version, 0, now)
    found.expires = expiry(role_of(model), now)
    return found


def with_bundles(role: Targets, bundles: Sequence[NewTarget], now: datetime) -> Targets:
    """Add bundles of one release to a role; return it."""
    for one in bundles:
        number = release_numbers.of_new(role, one.path, now)
        custom = {**one.custom, **({release_numbers.FIELD: number} if number else {})}
        role.targets[one.path] = TargetFile(
            one.length, {"sha256": one.sha256}, one.path, unrecognized_fields={"custom": custom}
        )
    return role


def with_withdrawal(role: Targets, withdrawal: TargetWithdrawal, now: datetime) -> bool:
    """Take all bundles of withdrawn versions out of a role, and say so in it; return whether anything changed."""
    paths = {*withdrawal.paths, *(path for path in role.targets if path.split("/")[1] in withdrawal.versions)}
    whole = TargetWithdrawal(withdrawal.model, sorted(paths), withdrawal.versions, withdrawal.floor, withdrawal.numbers)
    is_changed = release_numbers.withdraw(role, whole, now)
    if is_changed and not role.targets:
        role.unrecognized_fields[EMPTIED] = True
    return is_changed
