"""New keys for roles on a running fleet, and keys that must never sign again.

A rotation is one transaction: the new private key is safe before it, all metadata that names or uses it is in it. Every process asks the
metadata which key signs, so all of them change over with the commit; a crash before it leaves a prepared key, which the next try uses.
What the director had signed is signed again by `fleet.desired`, a batch in each tick.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final, cast

from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__
from sqlmodel import Session
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.errors import BadKeyOrderError, KeyNotRotatableError, RoleOfflineError, RoleUnknownError
from edgefleet_server.signing.keys.inventory import KeyAlgorithm, KeyRecord, KeySource, KeyState
from edgefleet_server.signing.keys.key_keeper import KeyKeeper, root_signers
from edgefleet_server.signing.keys.role_keys import RoleKeys
from edgefleet_server.signing.keys.rotation import KeyOrder, KeysRotated, RoleRotation, parent_of, roles_to_rotate
from edgefleet_server.signing.keys.signer_uris import public_key_in
from edgefleet_server.signing.repository import SERIALIZER, TufRepository
from edgefleet_server.signing.teams.role_metadata import expiry

DIRECTOR_KEYS: Final = "signing_director"
"""Where a session remembers who the director is."""


class KeyRotation:
    """Rotates and revokes the keys of roles."""

    def __init__(self, db: Database, ring: KeyKeeper, repository: TufRepository, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._ring = ring
        self._repository = repository
        self._clock = clock

    def rotate(self, role: str, order: KeyOrder) -> KeysRotated:
        """Let a role be signed by a new key, and no longer by those it has. Joins the caller's transaction; blocks on fsync.

        Raises RoleUnknownError, KeyNotRotatableError, BadKeyOrderError, RoleOfflineError, RootOfflineError, KeysMissingError,
        SignerUnavailableError.
        """
        with self._db.session() as session:
            store.take_turn(session)
            return self._rotate(session, role, order)

    def revoke(
        self, role: str, order: KeyOrder, keyid: str = "", *, dry_run: bool = False
    ) -> tuple[KeysRotated, Callable[[], None]]:
        """Let a role be signed by a key that no thief can have, and revoke those it has, or only one that it had (`keyid`).

        Returns what was done, and what to call after the commit: it notes the revocation and deletes the files. Raises as `rotate`.
        """
        with self._db.session() as session:
            store.take_turn(session)
            keys = self._repository.role_keys(session)
            gone = {keyid} if keyid else set(_keys_of(keys, role))
            known = self._ring.inventory().settled(keys.named(), keys.root.version)
            record = known.key(keyid) if keyid else None
            if keyid and (record is None or (record.role != role and keyid not in _keys_of(keys, role))):
                raise RoleUnknownError(f"no key of {role[:80]!r} has the id {keyid[:80]!r}")
            if keyid and keyid not in keys.named():
                done = KeysRotated([], None, [keyid], self._clock.now())
            else:
                self._refuse_offline(session, role)
                # a key that was prepared next to a stolen one is stolen too
                gone |= {one.keyid for one in known.of_role(role) if one.state is KeyState.PREPARED}
                if not dry_run:
                    self._ring.discard([one.keyid for one in known.of_role(role) if one.state is KeyState.PREPARED])
                done = replace(self._rotate(session, role, order, gone), revoked=sorted(gone))
        return done, lambda: self._ring.discard(done.revoked)

    def _rotate(self, session: Session, role: str, order: KeyOrder, gone: Collection[str] = ()) -> KeysRotated:
        keys = self._repository.role_keys(session)
        before = {name: _keys_of(keys, name) for name in keys.names()}
        if role not in before:
            raise RoleUnknownError(f"no TUF role is called {role[:80]!r}")
        self._refuse_offline(session, role)
        if role == "root":
            raise KeyNotRotatableError(
                "the keys of root are not on a running server, and are replaced by their holders"
            )
        revoked = [one.keyid for one in self._ring.inventory().revoked_of(keys.named())]
        roles = roles_to_rotate(role, before, {*revoked, *gone})
        new = {one: self._new_key(one, order if one == role else KeyOrder(), keys) for one in roles}
        root_version = self._replace(session, new, keys)
        session.info.pop(DIRECTOR_KEYS, None)
        changed = [RoleRotation(one, before[one], new[one].keyid) for one in roles]
        return KeysRotated(changed, root_version, [], self._clock.now())

    def _refuse_offline(self, session: Session, role: str) -> None:
        """Refuse what needs signatures of holders: they are asked by a request. Raises RoleOfflineError."""
        offline = self._repository.offline(session)
        if role in self._repository.team_roles(session):
            raise RoleOfflineError(
                f"the keys of {role} are with its team, off this server",
                next_step=f"`edgectl key team {role[2:]} --key FILE` for each key of the team, the new one among them, replaces them",
            )
        if not offline:
            return
        offline |= {"root"}  # no root of a ceremony names itself
        if role in offline:
            raise RoleOfflineError(
                f"the keys of {role} are with its holders, off this server",
                next_step="`edgectl key ceremony --replace HOLDER --holder MEDIUM` asks the holders to replace those of one of them",
            )
        if parent_of(role) not in offline:
            return
        raise RoleOfflineError(
            f"a new key of {role} has to be signed by the holders of {parent_of(role)}, off this server",
            next_step=f"`edgectl key ceremony --new-key {role} --out request.json` asks them for it",
        )

    def _replace(self, session: Session, new: Mapping[str, SSlibKey], keys: RoleKeys) -> int | None:
        """Let each role be signed by its new key, and sign all that follows; return the version of a new root, or None."""
        changed: dict[str, Targets] = {}
        by_root = {role: key for role, key in new.items() if parent_of(role) == "root"}
        root_version = self._replace_in_root(session, by_root) if by_root else None
        if "targets" in by_root:
            changed["targets"] = self._repository.load(session, "targets")
        for role, key in new.items():
            if role in by_root:
                continue
            parent = changed.setdefault(parent_of(role), self._repository.load(session, parent_of(role)))
            for keyid in keys.of(role)[0]:
                parent.revoke_key(keyid, role)
            parent.add_key(key, role)
            assert parent.delegations is not None
            assert parent.delegations.roles is not None
            parent.delegations.roles[role].threshold = 1
            changed.setdefault(role, self._repository.load(session, role))
        self._repository.publish(session, changed, self._clock.now())
        return root_version

    def _replace_in_root(self, session: Session, new: Mapping[str, SSlibKey]) -> int:
        root, now = self._repository.today(session)[0].signed, self._clock.now()
        held = root.roles["root"]
        signers = root_signers(self._ring, ", ".join(sorted(new)), held.keyids, held.threshold)
        for role, key in new.items():
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(key, role)
            root.roles[role].threshold = 1
        root.version += 1
        root.expires = expiry("root", now)
        metadata = Metadata(root)
        for signer in signers:
            metadata.sign(cast("Any", signer), append=True)
        store.put(session, "root", root.version, metadata.to_bytes(SERIALIZER), now)
        return int(root.version)

    def _new_key(self, role: str, order: KeyOrder, keys: RoleKeys) -> SSlibKey:
        if not order.uri:
            try:
                algorithm = KeyAlgorithm(order.algorithm)
            except ValueError as error:
                raise BadKeyOrderError(f"{order.algorithm[:80]!r} is no algorithm that devices know") from error
            return self._ring.prepare(role, besides=keys.named(), algorithm=algorithm)
        public = public_key_in(order.public_key)
        if public.keyid in keys.named():
            raise BadKeyOrderError(f"the key {public.keyid[:12]} signs a role already; each role has a key of its own")
        record = KeyRecord(
            public.keyid,
            role,
            order.uri,
            KeyAlgorithm(public.scheme),
            str(public.keyval["public"]),
            KeyState.PREPARED,
            self._clock.now(),
            KeySource.GIVEN,
        )
        return self._ring.take_in(record)


def _keys_of(keys: RoleKeys, role: str) -> list[str]:
    return keys.of(role)[0]
