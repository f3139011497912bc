"""Block requests and data: round trips, limits, leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol import blocks
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import BadMessageError

prefixes = st.binary(min_size=8, max_size=8)


@st.composite
def requests(draw: st.DrawFn) -> blocks.BlockRequest:
    first = draw(st.integers(0, 2**31))
    rest = draw(st.sets(st.integers(first, first + blocks.MAX_REQUEST_LEAVES - 1), max_size=60))
    return blocks.BlockRequest(
        draw(st.integers(1, 2**32 - 1)),
        draw(prefixes),
        tuple(sorted(rest | {first})),
        draw(st.integers(1, blocks.MAX_MESSAGE_LEAVES)),
        draw(st.integers(1, blocks.MAX_CREDIT)),
        draw(st.integers(0, blocks.MAX_REPEATS)),
    )


@given(requests())
def test_request_round_trip(request: blocks.BlockRequest) -> None:
    assert blocks.decode_request(blocks.encode_request(request)) == request


@given(
    st.integers(0, 2**32 - 1), prefixes, st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, blocks.LEAF_BYTES)
)
def test_data_round_trip(req_id: int, prefix: bytes, first: int, count: int, last: int) -> None:
    payload = b"x" * ((count - 1) * blocks.LEAF_BYTES + last)
    data = blocks.BlockData(req_id, prefix, first, count, payload)
    decoded = blocks.decode_data(blocks.encode_data(data))
    assert decoded == data
    assert isinstance(decoded, blocks.BlockData)
    assert b"".join(leaf for _, leaf in decoded.leaves()) == payload
    assert [n for n, _ in decoded.leaves()] == list(range(first, first + count))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused_cleanly(data: bytes) -> None:
    for decode in (blocks.decode_request, blocks.decode_data):
        try:
            decode(data)
        except BadMessageError:
            continue


@pytest.mark.parametrize("wanted", [(), (3, 3), (4, 3), (0, 256)])
def test_encode_refuses_wrong_leaves(wanted: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="lea"):
        blocks.encode_request(blocks.BlockRequest(1, b"12345678", wanted))


@given(st.binary(max_size=3 * blocks.LEAF_BYTES), st.integers(1, 50_000))
def test_leaf_index_does_not_depend_on_chunks(data: bytes, step: int) -> None:
    whole = blocks.leaf_index(data)
    assert blocks.leaf_index(data[i : i + step] for i in range(0, len(data), step)) == whole
    assert len(whole) == 32 * blocks.leaf_count(len(data))


@given(st.binary(min_size=1, max_size=2 * blocks.LEAF_BYTES), st.data())
def test_no_flipped_bit_passes_a_leaf_check(data: bytes, draw: st.DataObject) -> None:
    index = blocks.leaf_index(data)
    leaf = draw.draw(st.integers(0, blocks.leaf_count(len(data)) - 1))
    good = data[leaf * blocks.LEAF_BYTES : (leaf + 1) * blocks.LEAF_BYTES]
    assert blocks.check_leaf(index, leaf, good)
    bit = draw.draw(st.integers(0, len(good) * 8 - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << (bit % 8)
    assert not blocks.check_leaf(index, leaf, bytes(bad))
    assert not blocks.check_leaf(index, blocks.leaf_count(len(data)), good)


def test_prefix_is_the_first_8_bytes_of_the_digest() -> None:
    digest = sha256_hex(b"x")
    assert blocks.blob_prefix(digest).hex() == digest[:16]
