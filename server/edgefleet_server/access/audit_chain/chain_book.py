"""The chain of the audit trail: appends one entry after the other, makes heads, proves entries, and reads all of it again.

Entries are written as the last thing of a transaction, so nobody waits for the whole of another's. SQLite has one writer at a time anyway.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import event
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.audit_chain import chain_store as store
from edgefleet_server.access.audit_chain.chain_model import ChainState, NewEntry, OwnCheck, ProvenEntry, Tail
from edgefleet_server.access.audit_chain.kept_tree import KeptTree
from edgefleet_server.access.errors import BrokenTrailError, UnknownEntryError
from edgefleet_server.access.tables import AuditHeadRow
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import GENESIS, ChainedEntry, entry_hash
from edgefleet_terms.audit_chain.merkle_tree import consistency_ranges, inclusion_ranges

_WAITING: Final = "edgefleet_audit_entries"
HEAD_EVERY: Final = timedelta(hours=1)
PIECE: Final = 2_000
"""Entries that are read at once."""
HEAD_ENTRIES: Final = 250_000
"""New entries that one head takes in: more have to wait for the next, so that the engine goes on with other things."""
CHECK_ENTRIES: Final = 20_000
"""Old entries that are read again each hour."""
_VERIFY: Final = "run `edgectl audit verify`: it names the entry and the heads around it"


class AuditChain:
    """The chain of one database. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._has_looked = False

    def append(self, entry: NewEntry) -> None:
        """Write an entry at the end of the caller's transaction, or now without one."""
        with self._db.session() as session:
            waiting = session.info.get(_WAITING)
            if waiting is None:
                waiting = session.info[_WAITING] = []
                event.listen(session, "before_commit", _write, once=True)
            waiting.append(entry)

    def entries(self, after: int, limit: int) -> list[ChainedEntry]:
        """Return entries behind a place, in their order."""
        with self._db.read() as session:
            return store.entries(session, after, limit)

    def state(self) -> ChainState:
        """Return how long the chain is, its newest head, and how far the server has read it again."""
        with self._db.read() as session:
            return ChainState(store.tail(session).n, store.newest_head(session), store.own_check(session))

    def own_check(self) -> OwnCheck:
        """Return what the server found when it read the trail again."""
        with self._db.read() as session:
            return store.own_check(session)

    def heads(self, page: PageRequest) -> Page[AuditHead]:
        """Return one page of heads, the newest first as usual."""
        with self._db.read() as session:
            return store.heads(session, page)

    def head(self, size: int) -> AuditHead:
        """Return the head over so many entries. Raises UnknownEntryError."""
        with self._db.read() as session:
            return _known_head(session, size)

    def prove(self, n: int, size: int | None, since: int | None) -> ProvenEntry:
        """Return an entry with its way to the root of a head, the newest unless `size` names one.

        since: size of an older head, for the way from it. Raises UnknownEntryError.
        """
        with self._db.read() as session:
            head = store.newest_head(session) if size is None else _known_head(session, size)
            if head is None or not 1 <= n <= head.size:
                covers = "there is no head yet" if head is None else f"the head covers entries 1 to {head.size}"
                raise UnknownEntryError(
                    f"entry {n} cannot be proven: {covers}",
                    next_step="a head is made once an hour; `edgectl audit list -o wide` shows the numbers of entries",
                )
            if since is not None and not 1 <= since <= head.size:
                raise UnknownEntryError(f"a head over {since} entries is not older than that over {head.size}")
            found = store.entries(session, n - 1, 1)
            if not found or found[0].n != n:
                raise UnknownEntryError(f"entry {n} is missing", next_step=_VERIFY)
            before = store.hashes(session, n - 2, n - 1) if n > 1 else [GENESIS]
            tree = KeptTree(session)
            path = [tree.root(one) for one in inclusion_ranges(n - 1, head.size)]
            older = [] if since is None else [tree.root(one) for one in consistency_ranges(since, head.size)]
            return ProvenEntry(before[0] if before else GENESIS, found[0], head, path, older)

    # -- the engine's ----------------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Tell whether a head is to be made or published: at the first look of this process, and when new entries wait for an hour.

        The first entries of all do not wait.
        """
        is_first, self._has_looked = not self._has_looked, True
        with self._db.read() as session:
            newest, end = store.newest_head(session), store.tail(session)
        if newest is None:
            return is_first or end.n > 0
        waits = self._clock.now() - datetime.fromisoformat(newest.at) >= HEAD_EVERY
        return is_first or (end.n > newest.size and waits)

    def make_head(self) -> AuditHead | None:
        """Make a head when there are new entries; return the newest.

        Raises BrokenTrailError when new entries do not follow the newest head: no head is made over them.
        """
        with self._db.session() as session:
            store.chain_strays(session, HEAD_ENTRIES)
        return self._make_head()

    def _make_head(self) -> AuditHead | None:
        with self._db.read() as session:
            last, end = store.newest_head(session), store.tail(session)
        begin = Tail(0, GENESIS) if last is None else Tail(last.size, bytes.fromhex(last.chain))
        until = min(end.n, begin.n + HEAD_ENTRIES)
        if until <= begin.n:
            return last
        held = self._follow(begin, until)
        if held.n < until:
            self._note_break(held.n + 1)
        self._keep_nodes(until)
        with self._db.session() as session:
            store.tail(session, for_update=True)  # another engine may be here as well
            newest = store.newest_head(session)
            if newest is not None and newest.size >= until:
                return newest
            root = KeptTree(session).root((0, until))
            row = AuditHeadRow(size=until, at=self._clock.now(), chain=held.hash.hex(), root=root.hex())
            store.add_head(session, row)
            return store.head(session, until)

    def _keep_nodes(self, until: int) -> None:
        """Keep the whole subtrees over the first entries, in pieces."""
        while True:
            with self._db.session() as session:
                store.tail(session, for_update=True)
                if not KeptTree(session).grow(until, PIECE):
                    return

    def _follow(self, begin: Tail, until: int) -> Tail:
        """Read on from an entry; return the last one that follows."""
        held = begin
        with self._db.read() as session:
            for piece in store.pieces(session, begin.n, until, PIECE):
                for entry in piece:
                    if entry.n != held.n + 1 or entry_hash(held.hash, entry.body(entry.n)).hex() != entry.hash:
                        return held
                    held = Tail(entry.n, bytes.fromhex(entry.hash))
        return held

    def read_again(self) -> None:
        """Read a part of the trail again, from the first entry on, round after round. Raises BrokenTrailError."""
        with self._db.read() as session:
            check, end = store.own_check(session), store.tail(session)
        until = min(end.n, check.n + CHECK_ENTRIES)
        held = self._follow(Tail(check.n, check.hash), until)
        if held.n < until:
            self._note_break(held.n + 1)
        now = self._clock.now()
        with self._db.session() as session:
            if held.n < end.n:
                store.put_check(session, OwnCheck(held.n, held.hash, check.whole_at, check.broken_n))
                return
            broken = self._lost_head(session, end)  # a round is over: what was broken before is not any more
            store.put_check(session, OwnCheck(0, GENESIS, check.whole_at if broken else now, broken))
        if broken:
            raise BrokenTrailError(
                f"entry {broken} of the audit trail is not what the newest head says", next_step=_VERIFY
            )

    def _lost_head(self, session: Session, end: Tail) -> int:
        """Return the first entry that a head covers and that is gone or another one, 0 when there is none."""
        newest = store.newest_head(session)
        if newest is None:
            return 0
        if newest.size > end.n:
            return end.n + 1
        last = store.hashes(session, newest.size - 1, newest.size)
        return 0 if last == [bytes.fromhex(newest.chain)] else newest.size

    def _note_break(self, n: int) -> None:
        """Remember the first entry that does not follow and raise BrokenTrailError."""
        with self._db.session() as session:
            check = store.own_check(session)
            store.put_check(session, OwnCheck(0, GENESIS, check.whole_at, n))
        raise BrokenTrailError(f"entry {n} of the audit trail does not follow entry {n - 1}", next_step=_VERIFY)


def _write(session: Session) -> None:
    store.append(session, session.info.pop(_WAITING))


def _known_head(session: Session, size: int) -> AuditHead:
    found = store.head(session, size)
    if found is None:
        raise UnknownEntryError(f"there is no head over {size} entries", next_step="`edgectl audit heads` lists them")
    return found


def lines(chain: AuditChain, after: int, limit: int) -> Iterator[ChainedEntry]:
    """Yield up to `limit` entries behind a place, read in pieces."""
    while limit > 0:
        found = chain.entries(after, min(limit, PIECE))
        if not found:
            return
        yield from found
        after, limit = found[-1].n, limit - len(found)
