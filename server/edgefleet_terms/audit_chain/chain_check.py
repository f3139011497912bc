"""Finding out whether an audit trail is whole, and saying what was done to it where it is not: which entry, between which heads.

Entries are read once, in their order. What is wrong is found by hashes; the words for it come from trying what a change of that kind
would leave behind, with the entries from there on.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.hash_chain import GENESIS, ChainedEntry, entry_hash, hash_of
from edgefleet_terms.audit_chain.merkle_tree import Frontier


class Damage(StrEnum):
    """What was done to an audit trail. Public: never renamed."""

    CHANGED = "changed"
    REMOVED = "removed"
    SWAPPED = "swapped"
    ADDED = "added"
    CUT_OFF = "cut_off"
    REWRITTEN = "rewritten"
    HEAD_CHANGED = "head_changed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first damage. n: the entry; other: the last one of several, or the one it was swapped with; 0 = there is none.

    after, before: sizes of the last head that still holds and of the first one that does not; 0 = there is none.
    """

    kind: Damage
    n: int
    other: int = 0
    after: int = 0
    before: int = 0

    @property
    def words(self) -> str:
        """A sentence without its full stop."""
        return f"{self._what()}{self._where()}"

    def _what(self) -> str:
        match self.kind:
            case Damage.CHANGED:
                return f"entry {self.n} was changed"
            case Damage.REMOVED if self.other > self.n:
                return f"entries {self.n} to {self.other} were removed"
            case Damage.REMOVED:
                return f"entry {self.n} was removed"
            case Damage.SWAPPED:
                return f"entries {self.n} and {self.other} were swapped"
            case Damage.ADDED:
                return f"entry {self.n} was added"
            case Damage.CUT_OFF if self.other > self.n:
                return f"entries {self.n} to {self.other} were cut off the end"
            case Damage.CUT_OFF:
                return f"entry {self.n} was cut off the end"
            case Damage.REWRITTEN:
                return f"entries {self.n} to {self.other} were rewritten together with their hashes"
            case Damage.HEAD_CHANGED:
                return f"the stored head over {self.n} entries was changed; the entries hold"

    def _where(self) -> str:
        after = f"after the head over {self.after} entries" if self.after else ""
        before = f"before that over {self.before}" if self.before and after else ""
        before = before or (f"before the head over {self.before} entries" if self.before else "")
        return f", {', '.join(part for part in (after, before) if part)}" if after or before else ""


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found. size, chain, root: of the entries that hold; finding: None when all do."""

    size: int
    chain: bytes
    root: bytes
    finding: Finding | None


class _Heads:
    """The heads that a check comes by. Those that only the database has may have been changed with it; `sworn` ones are from outside."""

    def __init__(self, known: Mapping[int, AuditHead], sworn: Collection[int]) -> None:
        self._known = known
        self._sworn = sworn
        self.held = 0
        self._held_sworn = 0
        self._doubted = 0

    def meet(self, n: int, chain: str, tree: Frontier) -> Finding | None:
        """Take the head over the first `n` entries; return what it shows to be wrong."""
        head = self._known[n]
        is_right = head.chain == chain and head.root == tree.root().hex()
        if n not in self._sworn:
            if is_right and not self._doubted:
                self.held = n
            elif not is_right:
                self._doubted = self._doubted or n
            return None
        if not is_right:
            held = self._held_sworn if not self._doubted else min(self.held, self._doubted)
            return Finding(Damage.REWRITTEN, held + 1, n, held, n)
        if self._doubted:
            return Finding(Damage.HEAD_CHANGED, self._doubted)
        self.held = self._held_sworn = n
        return None

    def at_end(self, size: int) -> Finding | None:
        """Return what is wrong once all entries were read."""
        longest = max(self._known, default=0)
        if longest > size:
            return _around(Finding(Damage.CUT_OFF, size + 1, longest), self.held, self._known)
        if self._doubted:
            return Finding(Damage.REWRITTEN, self.held + 1, self._doubted, self.held, self._doubted)
        return None


def check(
    entries: Iterable[ChainedEntry],
    heads: Mapping[int, AuditHead],
    sworn: Collection[int],
    again: Callable[[int], Iterator[ChainedEntry]],
    advance: Callable[[int], None] = lambda _count: None,
) -> Check:
    """Check chain and tree from the first entry on, and that each head is that of its entries.

    heads: by size; sworn: sizes of those that are known from outside the database; again: yields the entries from a place on once more
    (0 = the first), for the words; advance: called with each 1000.
    """
    tree, before, met = Frontier(), GENESIS, _Heads(heads, sworn)
    for entry in entries:
        n = tree.size + 1
        if entry.n != n or entry_hash(before, entry.body(n)).hex() != entry.hash:
            return Check(tree.size, before, tree.root(), _around(_damage(before, n, entry, again), met.held, heads))
        before = bytes.fromhex(entry.hash)
        tree.add(before)
        finding = met.meet(n, entry.hash, tree) if n in heads else None
        if finding is not None:
            return Check(tree.size, before, tree.root(), finding)
        if not n % 1000:
            advance(1000)
    return Check(tree.size, before, tree.root(), met.at_end(tree.size))


def _around(finding: Finding, held: int, heads: Mapping[int, AuditHead]) -> Finding:
    above = min((size for size in heads if size > held and size >= finding.n), default=0)
    return Finding(finding.kind, finding.n, finding.other, held, above)


def _damage(before: bytes, n: int, entry: ChainedEntry, again: Callable[[int], Iterator[ChainedEntry]]) -> Finding:
    """Return what was done at the first entry that does not follow. before: the hash that it should follow."""
    if entry.n > n:
        return Finding(Damage.REMOVED, n, entry.n - 1)
    following = again(n)
    second = next(following, None)
    if entry.n < n:
        return Finding(Damage.ADDED, entry.n)
    if second is not None and _follows(before, n, second):
        if second.n == n or not _follows(bytes.fromhex(second.hash), n + 1, entry):
            return Finding(Damage.ADDED, n)
        return Finding(Damage.SWAPPED, n, n + 1)
    stored = hash_of(entry.hash)
    if second is not None and stored is not None and not _follows(stored, n + 1, second):
        if _follows(stored, n + 2, second):  # it is the next one, renumbered
            return Finding(Damage.REMOVED, n)
        if _follows(stored, n, second):  # it is the one before, renumbered
            return Finding(Damage.ADDED, n - 1)
        for place, other in enumerate(following, n + 2):
            if _follows(before, n, other):
                return Finding(Damage.SWAPPED, n, place)
    return Finding(Damage.CHANGED, n)


def _follows(before: bytes, n: int, entry: ChainedEntry) -> bool:
    """Tell whether an entry was number `n`, after the one with this hash."""
    return entry_hash(before, entry.body(n)).hex() == entry.hash
