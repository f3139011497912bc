"""Security versions of releases, and what the role of a model says of withdrawn ones (ADR 0114). No I/O: it changes the given role.

- A release's number is the unix second in which its first bundle was signed, and higher than every number of the model before it.
- All bundles of a release have the same number. One whose first bundle was signed without a number gets none, until a floor needs it.
- `custom` of the role: `withdrawn`, versions in the order in which they were withdrawn, and `sec_floor`. Both only ever grow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

FIELD: Final = "sec_version"
CUSTOM: Final = "custom"
FLOOR: Final = "sec_floor"
WITHDRAWN: Final = "withdrawn"


@dataclass(frozen=True, slots=True)
class TargetWithdrawal:
    """What to say of a model. paths: targets that go; versions: all that were withdrawn of it, oldest first.

    numbers: by version, of all releases of the model, when a floor is set: then those that stay are signed with theirs. floor: 0 = none.
    """

    model: str
    paths: Sequence[str]
    versions: Sequence[str]
    floor: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict)


def of_new(role: Targets, path: str, now: datetime) -> int:
    """Return the number of the release that a new bundle belongs to; 0 when it has bundles already and none of them has one."""
    version = _version(path)
    siblings = [target for name, target in role.targets.items() if _version(name) == version]
    if siblings:
        return max(_number(target) for target in siblings)
    highest = max(map(_number, role.targets.values()), default=0)
    return max(int(now.timestamp()), highest + 1, int(_custom(role).get(FLOOR, 0)))


def of_all(role: Targets, made: Mapping[str, datetime]) -> dict[str, int]:
    """Return the number of each release: as signed, else from when it was published, in that order and each its own."""
    found = {_version(path): number for path, target in role.targets.items() if (number := _number(target))}
    last = 0
    for at, version in sorted((at, version) for version, at in made.items() if version not in found):
        last = max(int(at.timestamp()), last + 1)
        found[version] = last
    return found


def withdraw(role: Targets, withdrawal: TargetWithdrawal, now: datetime) -> bool:
    """Take bundles out of a role and say in it what was withdrawn; return whether anything changed.

    The floor is never later than now: devices refuse a moment that has not come yet.
    """
    before = _custom(role)
    known = list(before.get(WITHDRAWN, ()))
    versions = [*known, *(one for one in withdrawal.versions if one not in known)]
    floor = max(before.get(FLOOR, 0), min(withdrawal.floor, int(now.timestamp())))
    gone = [path for path in withdrawal.paths if path in role.targets]
    for path in gone:
        del role.targets[path]
    for path, target in role.targets.items():
        _set_number(target, withdrawal.numbers.get(_version(path), 0))
    after = {**before, **({WITHDRAWN: versions} if versions else {}), **({FLOOR: floor} if floor else {})}
    if after == before and not gone:
        return False
    role.unrecognized_fields[CUSTOM] = after
    return True


def _set_number(target: TargetFile, number: int) -> None:
    if number and not _number(target):
        target.unrecognized_fields[CUSTOM] = {**(target.custom or {}), FIELD: number}


def _number(target: TargetFile) -> int:
    return int((target.custom or {}).get(FIELD, 0))


def _custom(role: Targets) -> dict[str, Any]:
    return dict(role.unrecognized_fields.get(CUSTOM) or {})


def _version(path: str) -> str:
    return path.split("/")[1]
