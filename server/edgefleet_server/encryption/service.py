"""Seals secrets before they are stored and opens them when they are used; at the start, seals what is plain.

Which key seals is a row of the database, so that all processes of it use the same one; the key itself comes from a source outside of it.
Thread-safe; calls block; writes join the caller's transaction. Keys are read once, and again when a text names one that is not known.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database, DatabaseUnavailableError
from edgefleet_server.encryption import rules, store
from edgefleet_server.encryption.errors import KeyMissingError, KeyUnreadableError, KeyWrongError
from edgefleet_server.encryption.key_sources import KeySource
from edgefleet_server.encryption.model import (
    KeyRing,
    Place,
    Resealed,
    SealedColumn,
    SealedValue,
    SealingKey,
    StoredSecret,
)
from edgefleet_server.encryption.rules import NEXT_FOR_KEY
from edgefleet_server.encryption.tables import SealingState

_log = logging.getLogger(__name__)
NO_KEY: Final = "the secrets of this database are sealed with the key {}, and there is none in {}"


class Sealer:
    """Seals and opens secrets of one database."""

    def __init__(self, db: Database, source: KeySource, clock: Clock) -> None:
        """Wire the parts; nothing is read before it is needed."""
        self._db = db
        self.source = source
        self._clock = clock
        self._guard = threading.Lock()
        self._ring: KeyRing | None = None

    def seal(self, place: Place, plain: str) -> str:
        """Return a secret as it is to be stored. Raises KeyMissingError, KeyWrongError, KeyUnreadableError."""
        with self._db.session() as session:
            key = self._sealing_key(session, ())
            return rules.seal(key, os.urandom(rules.NONCE_BYTES), place, plain)

    def open(self, value: SealedValue) -> str:
        """Return a stored secret. Raises NotOpenedError, KeyMissingError, KeyWrongError, KeyUnreadableError."""
        needed = rules.key_id_of(value.text)
        return rules.open_value(self._keys_with(needed or "", str(value.place)), value)

    def start(self, columns: Sequence[SealedColumn]) -> int:
        """See that there is the right key, making the first one; seal what is plain; return how many texts that were.

        What was plain is then taken out of the database's files; where that fails, the log says so and the next start tries again.
        Raises KeyMissingError, KeyWrongError, KeyUnreadableError: then nothing was changed.
        """
        with self._db.session() as session:
            key = self._sealing_key(session, columns)
            for key_id, place in store.key_ids(session, columns).items():
                self._keys_with(key_id, f"a secret in {place.table}.{place.column}")
            count = sum(self._reseal(session, one, key, only_plain=True) for one in columns)
            state = store.state(session)
            assert state is not None
            if count:
                state.cleaned_at = None
            is_due = state.cleaned_at is None
        if count:
            _log.warning("secrets were plain in the database; they are sealed now", extra={"secrets": count})
        if is_due:
            self.clean(columns)
        return count

    def seal_again(self, columns: Sequence[SealedColumn]) -> Resealed:
        """Seal everything with the newest key of the source, which seals from now on. Raises what `start` does."""
        self._forget()
        self.start(columns)
        with self._db.session() as session:
            sealed = self._seal_all(session, columns, self._held_keys(session))
        return self._done(columns, *sealed)

    def rotate(self, columns: Sequence[SealedColumn]) -> Resealed:
        """Make a new key in the source, keep the old ones there, and seal everything with it.

        Raises KeyChangeRefusedError where the source is not ours to write, and what `start` does.
        """
        self._forget()
        self.start(columns)
        with self._db.session() as session:
            ring = KeyRing((rules.key_of(os.urandom(rules.KEY_BYTES)), *self._held_keys(session).keys))
            self.source.write(
                ring
            )  # before the commit: a process that dies in between leaves a key that seals nothing yet
            self._forget()
            sealed = self._seal_all(session, columns, ring)
        return self._done(columns, *sealed)

    def forget_old(self, columns: Sequence[SealedColumn]) -> Resealed:
        """Seal everything with the newest key, then remove the others from the source. Raises what `rotate` does."""
        done = self.seal_again(columns)
        with self._db.session() as session:
            ring = self._held_keys(session)
            state = store.state(session)
            assert state is not None
            needed = {state.key_id, *store.key_ids(session, columns)}
            self.source.write(KeyRing(tuple(one for one in ring.keys if one.id in needed)))
            self._forget()
        return done

    def lost(self, columns: Sequence[SealedColumn]) -> tuple[list[StoredSecret], list[str]]:
        """Return the secrets whose key is not in the source, and the ids of all keys that are not, also of the one that seals.

        Raises KeyUnreadableError: the source cannot be read, so nobody knows.
        """
        ring = self._read()
        known = frozenset[str]() if ring is None else frozenset(one.id for one in ring.keys)
        with self._db.read() as session:
            found = [secret for one in columns for secret in store.secrets(session, one)]
            state = store.state(session)
        needed = {state.key_id} if state is not None else set[str]()
        needed |= {key for one in found if (key := rules.key_id_of(one.text)) is not None}
        return [one for one in found if rules.key_id_of(one.text) not in {None, *known}], sorted(needed - known)

    def drop_lost(self, columns: Sequence[SealedColumn], keys: Sequence[str], note: Callable[[int], None]) -> int:
        """Delete the secrets that these keys sealed, and seal with one that is there from now on; return how many were deleted.

        note: writes down that it was done, in the same transaction. All or nothing: after a crash it is done again.
        Raises KeyChangeRefusedError where a key has to be made and the source is not ours, KeyWrongError for a key that is there.
        """
        with self._db.session() as session:
            state = store.state(session, lock=True)
            ring = self._read()
            if ring is None:
                ring = KeyRing((rules.key_of(os.urandom(rules.KEY_BYTES)),))
                self.source.write(ring)  # before the commit, as in `rotate`
            if there := [one for one in keys if ring.find(one)]:
                raise KeyWrongError(
                    f"the key {there[0]} is there, so nothing of it is lost",
                    next_step="see what is: `edgectl server check`",
                )
            self._forget()
            count = sum(store.drop(session, one, key) for one in columns for key in keys)
            if state is not None and ring.find(state.key_id) is None:
                state.key_id, state.since, state.cleaned_at = ring.newest.id, self._clock.now(), None
            note(count)
        if state is not None:
            self.clean(columns)
        return count

    def clean(self, columns: Sequence[SealedColumn]) -> bool:
        """Take texts of before out of the database's files; return whether that was done."""
        try:
            self._db.scrub([*(one.table for one in columns)])
        except DatabaseUnavailableError as error:
            _log.warning("secrets of before may still be in the database's files: %s", error.message)
            return False
        with self._db.session() as session:
            state = store.state(session, lock=True)
            assert state is not None
            state.cleaned_at = self._clock.now()
        return True

    # ---- keys

    def _sealing_key(self, session: Session, columns: Sequence[SealedColumn]) -> SealingKey:
        state = store.state(session, lock=True)  # until the text is stored: nobody forgets its key meanwhile
        if state is None:
            state = self._begin(session, columns)
        key = self._keys_with(state.key_id, "the database").find(state.key_id)
        assert key is not None
        return key

    def _begin(self, session: Session, columns: Sequence[SealedColumn]) -> SealingState:
        """Choose the first key. Texts that are sealed all the same (the row was removed) need theirs: no other is made."""
        ring = self._read()
        if ring is not None:
            return store.begin(session, ring.newest.id, self._clock.now())
        if named := store.key_ids(session, columns):
            raise self._missing(next(iter(named)))
        ring = KeyRing((rules.key_of(os.urandom(rules.KEY_BYTES)),))
        state = store.begin(session, ring.newest.id, self._clock.now())
        if state.key_id == ring.newest.id:  # else another process was first, and its key must not be written over
            self.source.write(ring)
            self._forget()
        return state

    def _held_keys(self, session: Session) -> KeyRing:
        """Return the keys as they are now. Until the transaction ends no other process changes them."""
        state = store.state(session, lock=True)
        assert state is not None
        self._forget()
        return self._keys_with(state.key_id, "the database")

    def _seal_all(self, session: Session, columns: Sequence[SealedColumn], ring: KeyRing) -> tuple[str, int, bool]:
        """Seal everything with the newest of the keys; return its id, how many texts those were, and whether files must be cleaned."""
        state, key = store.state(session), ring.newest
        assert state is not None
        if state.key_id != key.id:
            state.key_id, state.since, state.cleaned_at = key.id, self._clock.now(), None
        count = sum(self._reseal(session, one, key) for one in columns)
        return key.id, count, state.cleaned_at is None

    def _done(self, columns: Sequence[SealedColumn], key_id: str, count: int, is_due: bool) -> Resealed:
        return Resealed(key_id, count, not is_due or self.clean(columns))

    def _keys_with(self, key_id: str, what: str) -> KeyRing:
        """Return the keys, one of which has this id ("": any). Raises KeyMissingError, KeyWrongError, KeyUnreadableError."""
        with self._guard:
            ring = self._ring
        if ring is None or (key_id and ring.find(key_id) is None):
            ring = self._read()
        if ring is None:
            raise self._missing(key_id)
        if key_id and ring.find(key_id) is None:
            raise rules.wrong_key(key_id, [one.id for one in ring.keys], what)
        with self._guard:
            self._ring = ring
        return ring

    def _read(self) -> KeyRing | None:
        try:
            return self.source.read()
        except UnicodeError:
            raise KeyUnreadableError(f"{self.source.where} holds no keys", next_step=NEXT_FOR_KEY) from None

    def _forget(self) -> None:
        with self._guard:
            self._ring = None

    def _missing(self, key_id: str) -> KeyMissingError:
        return KeyMissingError(NO_KEY.format(key_id or "of its server", self.source.where), next_step=NEXT_FOR_KEY)

    def _reseal(self, session: Session, one: SealedColumn, key: SealingKey, *, only_plain: bool = False) -> int:
        """Seal the texts of a column that another key sealed, or only the plain ones; return how many."""
        found = store.secrets(session, one, but=key.id, only_plain=only_plain)
        texts = []
        for stored in found:
            value = SealedValue(stored.place, stored.text)
            plain = stored.text if rules.key_id_of(stored.text) is None else self.open(value)
            texts.append((stored.place, rules.seal(key, os.urandom(rules.NONCE_BYTES), stored.place, plain)))
        store.write(session, one, texts)
        return len(texts)
