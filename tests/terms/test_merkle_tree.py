"""The Merkle tree of the audit trail: roots that others have published, and proofs as RFC 9162 defines them."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_terms.audit_chain.merkle_tree import (
    EMPTY_ROOT,
    Frontier,
    consistency_ranges,
    inclusion_ranges,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    range_root,
)

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Of the first one, two … leaves, as Certificate Transparency's own tests have them."""


def plain_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(plain_root(leaves[:k]), plain_root(leaves[k:]))


def plain_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 9162 §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*plain_path(m, leaves[:k]), plain_root(leaves[k:])]
    return [*plain_path(m - k, leaves[k:]), plain_root(leaves[:k])]


def plain_consistency(m: int, leaves: Sequence[bytes], *, is_own: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 9162 §2.1.4.1."""
    if m == len(leaves):
        return [] if is_own else [plain_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*plain_consistency(m, leaves[:k], is_own=is_own), plain_root(leaves[k:])]
    return [*plain_consistency(m - k, leaves[k:], is_own=False), plain_root(leaves[:k])]


def made(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(count)]


def roots_of(leaves: Sequence[bytes], ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    def subtree(level: int, place: int) -> bytes:
        return plain_root(leaves[place << level : (place + 1) << level])

    return [range_root(one, subtree) for one in ranges]


def test_roots_are_those_of_certificate_transparency() -> None:
    tree = Frontier()
    assert tree.root() == EMPTY_ROOT
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        tree.add(leaf)
        assert tree.root().hex() == root


@given(st.integers(1, 300))
def test_a_frontier_goes_on_where_it_was_left(count: int) -> None:
    leaves = made(count)
    tree = Frontier()
    for leaf in leaves[: count // 2]:
        tree.add(leaf)
    again = Frontier(tree.size, tree.edge)
    for leaf in leaves[count // 2 :]:
        again.add(leaf)
    assert again.root() == plain_root(leaves)


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="2 whole subtrees"):
        Frontier(5, [b"x"])


@settings(max_examples=200)
@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_inclusion_is_proven_as_the_rfc_says_and_nothing_else_is(case: tuple[int, int]) -> None:
    leaf, size = case
    leaves = made(size)
    proof, root = roots_of(leaves, inclusion_ranges(leaf, size)), plain_root(leaves)
    assert proof == plain_path(leaf, leaves)
    assert is_included(leaf_hash(leaves[leaf]), leaf, size, proof, root)
    assert not is_included(leaf_hash(b"other"), leaf, size, proof, root)
    assert not is_included(leaf_hash(leaves[leaf]), leaf, size, [*proof, root], root)
    assert not is_included(leaf_hash(leaves[leaf]), size, size, proof, root)
    if proof:
        assert not is_included(leaf_hash(leaves[leaf]), leaf, size, proof[:-1], root)
        assert not is_included(leaf_hash(leaves[leaf]), leaf ^ 1, size, proof, root)


@settings(max_examples=200)
@given(st.integers(1, 200).flatmap(lambda new: st.tuples(st.integers(1, new), st.just(new))))
def test_consistency_is_proven_as_the_rfc_says_and_nothing_else_is(case: tuple[int, int]) -> None:
    old, new = case
    leaves = made(new)
    proof = roots_of(leaves, consistency_ranges(old, new))
    before, now = plain_root(leaves[:old]), plain_root(leaves)
    assert proof == plain_consistency(old, leaves)
    assert is_consistent(old, before, new, now, proof)
    other = plain_root([b"other", *leaves[1:old]])
    assert not is_consistent(old, other, new, now, proof)
    assert not is_consistent(old, before, new, other, proof)
    if proof:
        assert not is_consistent(old, before, new, now, proof[:-1])
    assert not is_consistent(old, before, new, now, [*proof, now])
    assert not is_consistent(new + 1, before, new, now, proof)


def test_what_no_tree_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_ranges(3, 3)
    for old, new in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="not the beginning"):
            consistency_ranges(old, new)
