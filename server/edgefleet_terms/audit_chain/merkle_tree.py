"""The Merkle tree over the hashes of entries, as RFC 9162 has it: leaf SHA-256(0x00 ‖ data), node SHA-256(0x01 ‖ left ‖ right).

Leaves count from 0, so entry n is leaf n − 1. A tree of any size splits at the largest power of two below it (§2.1.1). Proofs of
inclusion are those of §2.1.3, proofs of consistency those of §2.1.4. The maker of a proof asks for whole subtrees by level and place:
it decides which of them it keeps.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

Subtree = Callable[[int, int], bytes]
"""(level, place) → hash of the whole subtree over leaves place · 2^level up to, but without, (place + 1) · 2^level."""
Range = tuple[int, int]
"""Leaves from the first number up to, but without, the second."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(_LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node above two others."""
    return hashlib.sha256(_NODE + left + right).digest()


class Frontier:
    """A tree that only grows, by the whole subtrees at its right edge: no more than one hash a bit of its size."""

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, edge: Sequence[bytes] = ()) -> None:
        """Begin with a tree. edge: its whole subtrees from left to right, as `edge` gave them."""
        if len(edge) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} whole subtrees, not {len(edge)}")
        self.size = size
        self._edge = list(edge)

    @property
    def edge(self) -> tuple[bytes, ...]:
        """The whole subtrees, the largest first."""
        return tuple(self._edge)

    def add(self, data: bytes) -> None:
        """Append a leaf."""
        found, size, edge = leaf_hash(data), self.size, self._edge
        while size & 1:
            found = node_hash(edge.pop(), found)
            size >>= 1
        edge.append(found)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the tree as it is."""
        if not self._edge:
            return EMPTY_ROOT
        return _folded(self._edge)


def whole_subtrees(begin: int, end: int) -> list[tuple[int, int]]:
    """Return the whole subtrees (level, place) that make up a range, from left to right.

    begin: a multiple of the largest power of two that is not above the length, as in every range that a proof names.
    """
    found, at = [], begin
    while at < end:
        level = (end - at).bit_length() - 1
        found.append((level, at >> level))
        at += 1 << level
    return found


def range_root(leaves: Range, subtree: Subtree) -> bytes:
    """Return the root over a range of leaves that is not empty."""
    return _folded([subtree(level, place) for level, place in whole_subtrees(*leaves)])


def inclusion_ranges(leaf: int, size: int) -> list[Range]:
    """Return the ranges whose roots prove that a leaf is in a tree, the lowest first. 0 ≤ leaf < size."""
    if not 0 <= leaf < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {leaf}")
    found, begin, end = list[Range](), 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if leaf < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin = middle
    return found[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """Return the ranges whose roots prove that a tree is the beginning of a larger one, lowest first. 0 < old ≤ new."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {old} leaves is not the beginning of one of {new}")
    found, begin, end, is_own = list[Range](), 0, new, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((begin, middle))
            begin, is_own = middle, False
    if not is_own:
        found.append((begin, end))
    return found[::-1]


def is_included(leaf: bytes, place: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether a proof leads from the hash of a leaf to the root of a tree (RFC 9162 §2.1.3.2)."""
    if not 0 <= place < size:
        return False
    at, last, found = place, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether a proof shows that the tree with one root is the beginning of that with the other (RFC 9162 §2.1.4.2)."""
    if old == new:
        return not proof and old_root == new_root
    if not 0 < old < new:
        return False
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, step)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _split(size: int) -> int:
    """Return the largest power of two below a size of two or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _folded(parts: Sequence[bytes]) -> bytes:
    """Return the root over whole subtrees from left to right, the largest first."""
    found = parts[-1]
    for part in reversed(parts[:-1]):
        found = node_hash(part, found)
    return found
