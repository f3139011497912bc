"""The next root and targets, not signed yet. Pure: it builds files from files.

What does not have to change stays as it is, byte by byte. Source: TUF specification 1.0.31, section 6.1.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Key,
    Metadata,
    Root,
    Targets,
)

from edgefleet_ceremony.public_part import MAX_HOLDERS, PublicPart
from edgefleet_ceremony.root_fields import CEREMONY_FIELD, OFFLINE_ROLES, holder_names
from edgefleet_ceremony.signature_request import SigningRequest
from edgefleet_server.signing.errors import BadHolderError
from edgefleet_server.signing.fast_forward_recovery import next_version

_FORBIDDEN: Final = "a key that the server has cannot be a holder's key"


@dataclass(frozen=True)
class SignedToday:
    """Root and targets as they are, and how long new ones live. server_keys: ids of the keys that other roles have."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    root_life: timedelta
    targets_life: timedelta
    server_keys: frozenset[str]

    def next_targets(self) -> Targets:
        """Return a copy of targets that may be changed."""
        return copy.deepcopy(self.targets.signed)

    def request(
        self, purpose: str, now: datetime, root: Root | None, targets: Targets | None, *, above: int = 0
    ) -> SigningRequest:
        """Return a request for these files, with their next versions and new ends. above: a version that targets must exceed."""
        proposed: dict[str, Metadata[Any]] = {}
        if root is not None:
            root.version, root.expires = self.root.signed.version + 1, _end(now, self.root_life)
            proposed["root"] = Metadata(root)
        if targets is not None:
            targets.version = next_version(self.targets.signed.version, above, now)
            targets.expires = _end(now, self.targets_life)
            proposed["targets"] = Metadata(targets)
        current: dict[str, Metadata[Any]] = {"root": self.root, "targets": self.targets}
        return SigningRequest(purpose=purpose, made_at=now, current=current, proposed=proposed)


def with_holders(today: SignedToday, parts: Sequence[PublicPart], threshold: int, now: datetime) -> SigningRequest:
    """Return the request that gives root and targets to holders. Raises BadHolderError."""
    root = _given(today, {part.holder: part.keys for part in parts}, threshold, len(parts))
    return today.request("give root and targets to their holders", now, root, today.next_targets())


def with_other_holder(today: SignedToday, name: str, part: PublicPart, now: datetime) -> SigningRequest:
    """Return the request that takes one holder's keys out of root and targets, and a new one's in. Raises BadHolderError."""
    root = today.root.signed
    keys: dict[str, dict[str, Key]] = {}
    for role in OFFLINE_ROLES:
        for keyid in root.roles[role].keyids:
            keys.setdefault(holder_names(root.to_dict()).get(keyid, keyid[:12]), {})[role] = root.keys[keyid]
    if name not in keys:
        raise BadHolderError(
            f"no holder is called {name[:40]!r}; there are {', '.join(sorted(keys))}",
            next_step="`edgectl key ceremony` shows the holders",
        )
    del keys[name]
    if part.holder in keys:
        raise BadHolderError(
            f"there is a holder called {part.holder!r} already", next_step="give the new one another name"
        )
    after = _given(today, {**keys, part.holder: part.keys}, root.roles["root"].threshold, len(keys) + 1)
    after.roles["targets"].threshold = root.roles["targets"].threshold
    purpose = f"replace the keys of {name} by those of {part.holder}"
    return today.request(purpose, now, after, today.next_targets())


def renewed(today: SignedToday, roles: Sequence[str], now: datetime, *, above: int = 0) -> SigningRequest:
    """Return the request that signs root, targets or both again as they are, for a new life. above: a version for targets to exceed."""
    root = copy.deepcopy(today.root.signed) if "root" in roles else None
    targets = today.next_targets() if "targets" in roles else None
    return today.request(f"renew {' and '.join(sorted(roles))}", now, root, targets, above=above)


def with_role_keys(today: SignedToday, new: Mapping[str, Key], now: datetime) -> SigningRequest:
    """Return the request in which each of these roles has one key, the given one. Raises BadHolderError for root and targets."""
    held = sorted(set(new) & set(OFFLINE_ROLES))
    if held:
        raise BadHolderError(
            f"the keys of {' and '.join(held)} are their holders': one is replaced by another holder's"
        )
    root, targets = copy.deepcopy(today.root.signed), today.next_targets()
    in_root = set(new) & set(root.roles)
    for role, key in sorted(new.items()):
        parent = root if role in in_root else targets
        found = parent.get_delegated_role(role)
        for keyid in list(found.keyids):
            parent.revoke_key(keyid, role)
        parent.add_key(key, role)
        found.threshold = 1
    purpose = f"give {', '.join(sorted(new))} {'a new key' if len(new) == 1 else 'new keys'}"
    return today.request(purpose, now, root if in_root else None, targets if set(new) - in_root else None)


def _given(today: SignedToday, holders: Mapping[str, Mapping[str, Key]], threshold: int, count: int) -> Root:
    ids = [key.keyid for keys in holders.values() for key in keys.values()]
    if len(holders) != count or len(set(ids)) != len(ids):
        raise BadHolderError("each holder must have a name and keys of its own, and two are alike")
    if not 1 <= threshold <= count <= MAX_HOLDERS:
        raise BadHolderError(f"a threshold of {threshold} does not go with {count} holders (at most {MAX_HOLDERS})")
    if today.server_keys.intersection(ids):
        raise BadHolderError(_FORBIDDEN)
    root = copy.deepcopy(today.root.signed)
    for role in OFFLINE_ROLES:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for keys in holders.values():
            root.add_key(keys[role], role)
        root.roles[role].threshold = threshold
    names = {key.keyid: name for name, keys in holders.items() for key in keys.values()}
    root.unrecognized_fields[CEREMONY_FIELD] = {"holders": names, "offline": sorted(set(OFFLINE_ROLES) - {"root"})}
    return root


def _end(now: datetime, life: timedelta) -> datetime:
    return (now + life).replace(microsecond=0)
