"""What a request changes, in sentences, from the files themselves. Nothing that differs goes without a line, known or not."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edgefleet_ceremony.root_fields import CEREMONY_FIELD, holder_names, offline_roles
from edgefleet_ceremony.signature_request import SigningRequest

SHOWN = 12


def changes_of(request: SigningRequest) -> list[str]:
    """Return what a request changes, a sentence each."""
    names = {
        **holder_names(request.current["root"].signed.to_dict()),
        **holder_names(request.root_after().to_dict()),
    }
    lines = []
    for role in ("root", "targets"):
        if role in request.proposed:
            old, new = request.current[role].signed.to_dict(), request.proposed[role].signed.to_dict()
            lines.append(
                f"{role}: version {old['version']} becomes {new['version']}, valid until {str(new['expires'])[:10]} "
                f"(now {str(old['expires'])[:10]})"
            )
            lines += _root(old, new, names) if role == "root" else _targets(old, new)
    return lines


def state_after(request: SigningRequest) -> list[str]:
    """Return whose keys sign root and targets, and what targets delegate, once a request is in force."""
    root = request.root_after()
    names = holder_names(root.to_dict())
    lines = []
    for role in ("root", "targets"):
        found = root.roles[role]
        holders = ", ".join(sorted(_named(keyid, names) for keyid in found.keyids))
        lines.append(f"{role}: {found.threshold} of {len(found.keyids)}: {holders}")
    targets = request.proposed.get("targets", request.current["targets"]).signed.to_dict()
    for one in (targets.get("delegations") or {}).get("roles") or ():
        keys = ", ".join(sorted(keyid[:SHOWN] for keyid in one["keyids"]))
        lines.append(
            f"{one['name']} ({', '.join(one.get('paths') or ())}): {one['threshold']} of {len(one['keyids'])}: {keys}"
        )
    return lines


def _root(old: Mapping[str, Any], new: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    for role in sorted({*old["roles"], *new["roles"]}):
        before, after = old["roles"].get(role, {}), new["roles"].get(role, {})
        yield from _keys(f"root: {role}", before, after, names)
        yield from _rest(f"root: {role}", before, after, {"keyids", "threshold"})
    yield from _key_list("root", old["keys"], new["keys"], old["roles"].values(), new["roles"].values())
    for role in sorted(offline_roles(new) - offline_roles(old)):
        yield f"root: {role} is signed off the server from now on"
    for role in sorted(offline_roles(old) - offline_roles(new)):
        yield f"root: {role} is signed by the server from now on"
    before, after = old.get(CEREMONY_FIELD) or {}, new.get(CEREMONY_FIELD) or {}
    if holder_names(old) != holder_names(new):
        yield f"root: its holders are {', '.join(sorted(set(holder_names(new).values()))) or 'nobody'}"
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _rest("root", before, after, {"offline", "holders"})
    yield from _rest("root", old, new, {"version", "expires", "roles", "keys", CEREMONY_FIELD})


def _targets(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = old.get("delegations") or {}, new.get("delegations") or {}
    roles = [{one["name"]: one for one in found.get("roles") or ()} for found in (before, after)]
    for name in sorted({*roles[0], *roles[1]}):
        one, other = roles[0].get(name), roles[1].get(name)
        if one is None or other is None:
            paths = ", ".join((other or one or {}).get("paths") or ())
            yield f"targets: the delegation of {paths or 'nothing'} to {name} is {'added' if one is None else 'removed'}"
        yield from _keys(f"targets: {name}", one or {}, other or {}, {})
        if one is not None and other is not None:
            yield from _rest(f"targets: {name}", one, other, {"keyids", "threshold", "name"})
    if list(roles[0]) != list(roles[1]) and set(roles[0]) == set(roles[1]):
        yield "targets: the order of its delegations changes"
    known = [found.get("keys") or {} for found in (before, after)]
    yield from _key_list("targets", known[0], known[1], roles[0].values(), roles[1].values())
    yield from _rest("targets: delegations", before, after, {"keys", "roles"})
    for path in sorted({*old["targets"], *new["targets"]}):
        if old["targets"].get(path) != new["targets"].get(path):
            what = "added" if path not in old["targets"] else "removed" if path not in new["targets"] else "changed"
            yield f"targets: the file {path[:100]} is {what}"
    yield from _rest("targets", old, new, {"version", "expires", "delegations", "targets"})


def _keys(where: str, old: Mapping[str, Any], new: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    before, after = list(old.get("keyids") or ()), list(new.get("keyids") or ())
    if (old.get("threshold"), len(before)) != (new.get("threshold"), len(after)):
        was = f" (now {old['threshold']} of {len(before)})" if old else ""
        yield f"{where} needs {new.get('threshold', 0)} of {len(after)} keys{was}"
    for keyid in [one for one in before if one not in after]:
        yield f"{where} loses the key {_named(keyid, names)}"
    for keyid in [one for one in after if one not in before]:
        yield f"{where} gains the key {_named(keyid, names, digits=len(keyid))}"


def _key_list(
    where: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_roles: Iterable[Mapping[str, Any]],
    new_roles: Iterable[Mapping[str, Any]],
) -> Iterator[str]:
    """Say what differs in the list of keys and does not follow from the keys that roles gain and lose."""
    before, after = (frozenset(one for role in roles for one in role["keyids"]) for roles in (old_roles, new_roles))
    for keyid in sorted({*old, *new}):
        follows = (keyid in old) == (keyid in before) and (keyid in new) == (keyid in after)
        if keyid in old and keyid in new and old[keyid] != new[keyid]:
            yield f"{where}: what is known of key {keyid[:SHOWN]} changes"
        elif (keyid in old) != (keyid in new) and not follows:
            yield f"{where}: the list of keys {'gains' if keyid in new else 'loses'} {keyid[:SHOWN]}"


def _named(keyid: str, names: Mapping[str, str], *, digits: int = SHOWN) -> str:
    """Return a key's id and holder. digits: all of them where a holder has to compare it, since a short one can be searched for."""
    return f"{keyid[:digits]} of {names[keyid]}" if keyid in names else keyid[:digits]


def _rest(where: str, old: Mapping[str, Any], new: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    for field in sorted({*old, *new} - known):
        if old.get(field) != new.get(field):
            yield f"{where}: {field[:60]} changes from {str(old.get(field))[:80]} to {str(new.get(field))[:80]}"
