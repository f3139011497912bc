"""A sealed record opens with its private key and nothing else, and another implementation of HPKE reads it."""

import sys
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol import hpke as hpke_hpke
from edgefleet_protocol.hpke import SealedError, about_record, key_id, new_key, public_of, seal, unseal

hpke = pytest.importorskip("cryptography.hazmat.primitives.hpke")
SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
ABOUT = about_record("d-1", "r-1", "a" * 64)


@pytest.fixture(params=["library", "ours"], autouse=True)
def opener(request: pytest.FixtureRequest) -> Iterator[str]:
    """Open with the library's HPKE, and as on a machine whose `cryptography` has none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "ours":
            patch.setitem(sys.modules, "cryptography.hazmat.primitives.hpke", None)
        yield request.param


@given(st.binary(max_size=2_000))
@settings(max_examples=30)
def test_what_was_sealed_opens_with_the_private_key(plain: bytes) -> None:
    private, public = new_key()
    box = seal(public, plain, ABOUT)
    assert len(box) == len(plain) + hpke_hpke.OVERHEAD_BYTES
    assert unseal(private, box, ABOUT) == plain


def test_the_library_of_cryptography_opens_what_we_seal_and_we_what_it_seals() -> None:
    private, public = new_key()
    key = X25519PrivateKey.from_private_bytes(private)
    assert SUITE.decrypt(seal(public, b"plain", ABOUT), key, info=hpke_hpke.info_about(ABOUT)) == b"plain"
    other = SUITE.encrypt(b"plain", X25519PublicKey.from_public_bytes(public), info=hpke_hpke.info_about(ABOUT))
    assert unseal(private, other, ABOUT) == b"plain"


def test_another_key_another_record_and_any_changed_byte_are_refused() -> None:
    private, public = new_key()
    box = seal(public, b"plain", ABOUT)
    with pytest.raises(SealedError):
        unseal(new_key()[0], box, ABOUT)
    with pytest.raises(SealedError):
        unseal(private, box, about_record("d-2", "r-1", "a" * 64))
    for place in range(len(box)):
        with pytest.raises(SealedError):
            unseal(private, box[:place] + bytes([box[place] ^ 1]) + box[place + 1 :], ABOUT)
    with pytest.raises(SealedError, match="cut off"):
        unseal(private, box[:20], ABOUT)


def test_two_records_of_the_same_content_differ() -> None:
    _, public = new_key()
    assert seal(public, b"plain", ABOUT) != seal(public, b"plain", ABOUT)


def test_bad_keys_are_said() -> None:
    with pytest.raises(SealedError, match="no X25519 public key"):
        seal(b"short", b"plain", ABOUT)
    with pytest.raises(SealedError):
        seal(bytes(32), b"plain", ABOUT)
    with pytest.raises(SealedError, match="no X25519 private key"):
        public_of(b"short")
    private, public = new_key()
    assert public_of(private) == public
    assert len(key_id(public)) == 16
