"""The Merkle tree of the audit trail as the database keeps it: whole subtrees of 256 entries, of 65,536, and so on.

So a head or a proof reads some hundred hashes, however long the trail is.
"""

from typing import Final

from sqlmodel import Session

from edgefleet_server.access.audit_chain import chain_store as store
from edgefleet_terms.audit_chain.merkle_tree import Range, leaf_hash, node_hash, range_root

STEP: Final = 8
"""Levels between those that are kept."""
_WIDTH: Final = 1 << STEP


class KeptTree:
    """The tree in one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def root(self, leaves: Range) -> bytes:
        """Return the root over a range of leaves."""
        return range_root(leaves, self._subtree)

    def grow(self, until: int, most: int) -> bool:
        """Keep subtrees over the first `until` leaves that are not kept yet, from about `most` leaves; return whether some were."""
        level, is_grown = STEP, False
        while until >> level:
            have, want = store.count_nodes(self._session, level), until >> level
            want = (
                min(want, have + max(1, most >> STEP))
                if level == STEP
                else min(want, store.count_nodes(self._session, level - STEP) >> STEP)
            )
            if want > have:
                store.add_nodes(self._session, level, have, [self._above(level, place) for place in range(have, want)])
                is_grown = True
            level += STEP
        return is_grown

    def _subtree(self, level: int, place: int) -> bytes:
        """Return the hash of a whole subtree, out of the kept ones below it."""
        kept = level - level % STEP
        if not kept:
            begin = place << level
            return _over([leaf_hash(one) for one in self._leaves(begin, 1 << level)])
        first, count = place << (level - kept), 1 << (level - kept)
        found = store.nodes(self._session, kept, first, count)
        if len(found) < count:  # not kept yet
            found = [self._above(kept, one) for one in range(first, first + count)]
        return _over(found)

    def _above(self, level: int, place: int) -> bytes:
        """Return the hash of a subtree of a level that is kept, out of those one step below."""
        first = place << STEP
        if level == STEP:
            return _over([leaf_hash(one) for one in self._leaves(first, _WIDTH)])
        below = store.nodes(self._session, level - STEP, first, _WIDTH)
        if len(below) < _WIDTH:
            below = [self._above(level - STEP, one) for one in range(first, first + _WIDTH)]
        return _over(below)

    def _leaves(self, begin: int, count: int) -> list[bytes]:
        found = store.hashes(self._session, begin, begin + count)
        if len(found) != count:
            raise ValueError(
                f"of the entries {begin + 1} to {begin + count} of the audit trail only {len(found)} are there"
            )
        return found


def _over(hashes: list[bytes]) -> bytes:
    """Return the root over 2^k hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]
