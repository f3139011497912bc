"""What a request changes in the role of a model, from the files themselves, and whether that is all that it may change. Pure.

Whatever differs and is not what was asked for is a reason to refuse, known or not: a stolen server may write anything into a proposal.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.team_request import TeamAct, TeamRequest
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_version

LONGEST_LIFE: Final = timedelta(days=91)
"""Of the role: a stolen server must not make a signature hold longer than a team looks after it."""
CLOCKS_DIFFER: Final = timedelta(days=1)
CUSTOM, WITHDRAWN, FLOOR, NUMBER = "custom", "withdrawn", "sec_floor", "sec_version"
EMPTIED: Final = "x-edgefleet-emptied"
_OF_A_BUNDLE: Final = frozenset({"leaves", "leaf_bytes", "model", "version", "profile", NUMBER})
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHOWN: Final = 12


@dataclass(frozen=True)
class RoleChange:
    """How two contents of a role differ. numbered: targets that get a security version; other: differences of any further kind."""

    added: Mapping[str, TargetFile]
    removed: frozenset[str]
    numbered: Mapping[str, int]
    withdrawn: tuple[str, ...]
    floor: tuple[int, int]
    other: tuple[str, ...]


def change_of(current: Targets | None, proposed: Targets) -> RoleChange:
    """Return how a role changes. current: None before the first."""
    before = current or Targets(version=1)
    old, new = before.targets, proposed.targets
    changed = {path for path in old.keys() & new.keys() if old[path] != new[path]}
    numbered = {path: number for path in changed if (number := _new_number(old[path], new[path]))}
    old_custom, new_custom = _custom(before), _custom(proposed)
    gone, come = _versions(old_custom), _versions(new_custom)
    other = [f"the target {path} changes" for path in sorted(changed - numbered.keys())]
    other += [f"{version} is not withdrawn any more" for version in gone if version not in come]
    if not _are_versions(new_custom.get(WITHDRAWN, [])):
        other.append(f"{CUSTOM}.{WITHDRAWN} is no list of versions: devices could not read it")
    for field in sorted({*old_custom, *new_custom} - {WITHDRAWN, FLOOR}):
        if old_custom.get(field) != new_custom.get(field):
            other.append(f"{CUSTOM}.{field[:40]} changes")
    fields = [one.to_dict() for one in (before, proposed)]
    known = {"version", "expires", "targets", CUSTOM, EMPTIED, "_type"}
    other += [f"{field[:40]} changes" for field in sorted({*fields[0], *fields[1]} - known) if _differs(fields, field)]
    if _differs(fields, EMPTIED) and (proposed.targets or fields[1].get(EMPTIED) is not True):
        other.append("it is marked as emptied, and is not")
    return RoleChange(
        added={path: new[path] for path in sorted(new.keys() - old.keys())},
        removed=frozenset(old.keys() - new.keys()),
        numbered=numbered,
        withdrawn=tuple(version for version in come if version not in gone),
        floor=(_floor(old_custom), _floor(new_custom)),
        other=tuple(other),
    )


def change_lines(request: TeamRequest) -> list[str]:
    """Return what a request changes, a sentence each."""
    change = change_of(None if request.current is None else request.current.signed, request.proposed.signed)
    was = 0 if request.current is None else request.current.signed.version
    signed = request.proposed.signed
    lines = [f"{request.role}: version {was} becomes {signed.version}, valid until {signed.expires:%Y-%m-%d}"]
    lines += [
        f"adds {path}: {one.length} bytes, sha256 {one.hashes.get('sha256')}" for path, one in change.added.items()
    ]
    lines += [f"removes {path}" for path in sorted(change.removed)]
    lines += [f"withdraws version {version}: devices never install it again" for version in change.withdrawn]
    if change.floor[0] != change.floor[1]:
        lines.append(f"security floor {change.floor[0]} becomes {change.floor[1]}: devices refuse what is older")
    lines += [f"{path} gets the security version {number}" for path, number in sorted(change.numbered.items())]
    return [*lines, *(f"ALSO: {one}" for one in change.other)]


def refusals(request: TeamRequest, now: datetime) -> list[str]:
    """Return why a request is not just what it says it is; empty when it is. now: aware, of who signs."""
    change = change_of(None if request.current is None else request.current.signed, request.proposed.signed)
    return [*_always(request, change, now), *_OF_ACT[request.act](request, change, now)]


def _always(request: TeamRequest, change: RoleChange, now: datetime) -> Iterator[str]:
    signed = request.proposed.signed
    was = 0 if request.current is None else request.current.signed.version
    if signed.version <= was:
        yield f"its version {signed.version} does not follow {was}"
    if signed.version > max(was + 1, int((now + CLOCKS_DIFFER).timestamp())):
        yield f"its version {signed.version} leaves no room for later ones"
    if not now < signed.expires <= now + LONGEST_LIFE + CLOCKS_DIFFER:
        yield f"it would be valid until {signed.expires:%Y-%m-%d}: not between now and {LONGEST_LIFE.days} days from now"
    latest = int((now + CLOCKS_DIFFER).timestamp())
    if max(change.floor[1], *change.numbered.values(), 0) > latest:
        yield "a security floor or version is a moment that has not come yet: nothing lowers it again"
    if min(change.numbered.values(), default=1) < 1:
        yield "a bundle gets a security version that is none"
    if change.floor[1] < change.floor[0]:
        yield f"it lowers the security floor from {change.floor[0]} to {change.floor[1]}"
    yield from change.other


def _team(_request: TeamRequest, change: RoleChange, _now: datetime) -> Iterator[str]:
    if change.added or change.removed or change.numbered or change.withdrawn or change.floor[0] != change.floor[1]:
        yield "it changes what the role names, and should only have it signed by other keys"


def _release(request: TeamRequest, change: RoleChange, now: datetime) -> Iterator[str]:
    if not change.added:
        yield "it adds no bundle"
    if change.removed or change.numbered or change.withdrawn or change.floor[0] != change.floor[1]:
        yield "it changes more than the bundles of one release"
    numbers = {_number(one) for one in change.added.values()}
    current = {} if request.current is None else request.current.signed.targets
    prefix = f"{request.model}/{request.version}/"
    own = {_number(one) for path, one in current.items() if path.startswith(prefix)}
    if min(numbers, default=0) < 0:
        yield "its security version is none"
    if len(numbers | own) > 1:
        yield "its bundles have different security versions"
    latest = int((now + CLOCKS_DIFFER).timestamp())
    if max(numbers, default=0) > max(latest, max(map(_number, current.values()), default=0) + 1):
        yield "its security version is a moment that has not come yet"
    if request.version in _versions(_custom(request.proposed.signed)):
        yield f"version {request.version} was withdrawn"
    for path, one in change.added.items():
        yield from _bundle(request, prefix, path, one)


def _bundle(request: TeamRequest, prefix: str, path: str, target: TargetFile) -> Iterator[str]:
    profile = path.removeprefix(prefix).removesuffix(".bundle")
    if path != f"{prefix}{profile}.bundle" or "/" in profile or not profile:
        yield f"{path} is no bundle of {request.model}@{request.version}"
    custom = dict(target.custom or {})
    said = {"model": request.model, "version": request.version, "profile": profile}
    if {name: custom.get(name) for name in said} != said or not set(custom) <= _OF_A_BUNDLE:
        yield f"{path} says of itself what is not so"
    if set(target.unrecognized_fields) - {CUSTOM} or not _DIGEST.fullmatch(str(custom.get("leaves"))):
        yield f"{path} has a field of its own, or not the digest of its leaf index"
    if set(target.hashes) != {"sha256"} or not _DIGEST.fullmatch(str(target.hashes.get("sha256"))):
        yield f"{path} is not named by one sha256"


def _withdraw(request: TeamRequest, change: RoleChange, _now: datetime) -> Iterator[str]:
    gone = _versions(_custom(request.proposed.signed))
    if change.added:
        yield "it adds a bundle, and should only withdraw"
    if not change.withdrawn and not change.removed and change.floor[0] == change.floor[1]:
        yield "it withdraws nothing"
    for path in sorted(change.removed):
        if path.split("/")[1:2] and path.split("/")[1] not in gone:
            yield f"it removes {path}, whose version is not withdrawn"


def _renew(_request: TeamRequest, change: RoleChange, now: datetime) -> Iterator[str]:
    yield from (f"{one}, and should only be valid for longer" for one in _team(_request, change, now))


_OF_ACT: Final = {
    TeamAct.TEAM: _team,
    TeamAct.RELEASE: _release,
    TeamAct.WITHDRAW: _withdraw,
    TeamAct.RENEW: _renew,
}


def _new_number(old: TargetFile, new: TargetFile) -> int:
    """Return the security version that a target gets, where that is all that changes of it; else 0."""
    number = _number(new)
    if _number(old) or not number:
        return 0
    custom = {**(old.custom or {}), NUMBER: number}
    fields = {**old.unrecognized_fields, CUSTOM: custom}
    same = TargetFile(old.length, dict(old.hashes), old.path, unrecognized_fields=fields)
    return number if same == new else 0


def _differs(fields: list[dict[str, Any]], name: str) -> bool:
    return bool(fields[0].get(name) != fields[1].get(name))


def _number(target: TargetFile) -> int:
    found = (target.custom or {}).get(NUMBER, 0)
    return found if isinstance(found, int) and not isinstance(found, bool) else -1


def _custom(role: Targets) -> dict[str, Any]:
    found = role.unrecognized_fields.get(CUSTOM)
    return dict(found) if isinstance(found, dict) else {} if found is None else {"form": found}


def _versions(custom: Mapping[str, Any]) -> list[str]:
    found = custom.get(WITHDRAWN)
    return [str(one) for one in found] if isinstance(found, list) else []


def _are_versions(found: Any) -> bool:
    try:
        return isinstance(found, list) and all(isinstance(one, str) and parse_version(one) for one in found)
    except EdgefleetError:
        return False


def _floor(custom: Mapping[str, Any]) -> int:
    found = custom.get(FLOOR, 0)
    return found if isinstance(found, int) and not isinstance(found, bool) else -1
