"""A sealed model opens whole, in its own bundle and with its own key, or not at all."""

import io
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from edgefleet_protocol import sealed_model
from edgefleet_protocol.bundle import MemberDigestError
from edgefleet_protocol.manifest import CHUNK_BYTES, TAG_BYTES, Manifest, ManifestError, Member, Sealed, decode_manifest
from edgefleet_protocol.manifest import encode_manifest as encoded
from edgefleet_protocol.sealed_model import KEY_BYTES, key_id, open_model, seal_model
from tests.support.samples import MANIFEST

KEY, OTHER = b"k" * KEY_BYTES, b"o" * KEY_BYTES
SMALL = 7
models = st.binary(min_size=1, max_size=5 * SMALL)


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Make chunks so small that a few bytes have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_model, "CHUNK_BYTES", SMALL)
        yield


def named(length: int, **changes: str) -> Manifest:
    """Return the manifest of a sealed model of so many bytes."""
    return msgspec.structs.replace(MANIFEST, v=2, sealed=Sealed(length=length, key=key_id(KEY)), **changes)


def opened(chunks: list[bytes], manifest: Manifest, key: bytes = KEY) -> bytes:
    """Open chunks as they lie in a bundle."""
    return open_model(key, io.BytesIO(b"".join(chunks)).read, manifest)


@given(models)
def test_what_was_sealed_opens(plain: bytes) -> None:
    chunks = list(seal_model(KEY, plain, MANIFEST))
    assert opened(chunks, named(len(plain))) == plain
    assert sum(map(len, chunks)) == len(plain) + len(chunks) * TAG_BYTES


@given(models, st.data())
def test_no_changed_byte_opens(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(b"".join(seal_model(KEY, plain, MANIFEST)))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MemberDigestError):
        opened([bytes(sealed)], named(len(plain)))


@given(st.binary(min_size=2 * SMALL, max_size=5 * SMALL), st.data())
def test_no_other_order_or_number_of_chunks_opens(plain: bytes, data: st.DataObject) -> None:
    chunks = list(seal_model(KEY, plain, MANIFEST))
    places = st.lists(st.integers(0, len(chunks) - 1), max_size=len(chunks) + 1)
    wrong = data.draw(places.filter(lambda order: order != list(range(len(chunks)))))
    moved = [chunks[place] for place in wrong]
    for length in {len(plain), max(1, sum(map(len, moved)) - TAG_BYTES * len(moved)), SMALL}:
        if length == len(plain) and wrong[: len(chunks)] == list(range(len(chunks))):
            continue  # a chunk more behind the last is not read: the manifest's length does not allow it in the first place
        with pytest.raises(MemberDigestError):
            opened(moved, named(length))


@given(models, st.sampled_from(["model", "version", "profile", "model_member"]))
def test_a_member_of_another_bundle_does_not_open(plain: bytes, field: str) -> None:
    chunks = list(seal_model(KEY, plain, MANIFEST))
    with pytest.raises(MemberDigestError):
        opened(chunks, named(len(plain), **{field: "other"}))
    with pytest.raises(MemberDigestError):
        opened(chunks, named(len(plain)), OTHER)


def test_a_manifest_says_in_one_way_that_its_model_is_sealed() -> None:
    def with_model(length: int, **changes: object) -> bytes:
        members = {MANIFEST.model_member: Member(length=length, sha256="0" * 64)}
        return encoded(msgspec.structs.replace(MANIFEST, members=members, **changes))

    sealed = Sealed(length=CHUNK_BYTES + 1, key=key_id(KEY))
    grown = CHUNK_BYTES + 1 + 2 * TAG_BYTES
    assert decode_manifest(with_model(grown, v=2, sealed=sealed)).sealed == sealed
    for length, v, what in [
        (grown, 1, sealed), (grown, 2, UNSET), (grown - 1, 2, sealed), (0, 2, Sealed(length=0, key="")),
        (TAG_BYTES - 1, 2, Sealed(length=-1, key="")),
    ]:  # fmt: skip
        with pytest.raises(ManifestError, match="sealed"):
            decode_manifest(with_model(length, v=v, sealed=what))


def test_an_agent_of_before_refuses_a_sealed_bundle_for_its_version() -> None:
    class Before(msgspec.Struct):
        v: int

    assert msgspec.json.decode(encoded(MANIFEST), type=Before).v == 1
    assert msgspec.json.decode(encoded(named(1)), type=Before).v == 2
