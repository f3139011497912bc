"""DSSE and desired documents: no flipped byte, no wrong type, key, device, generation or time is accepted."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgefleet_protocol import desired, envelope, verify
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from tests.support.samples import DESIRED, LATER, WHEN

KIND = desired.DESIRED_TYPE
PAYLOAD = desired.encode_desired(DESIRED)
RAW_ENCODING = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
PEM_ENCODING = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def an_ed25519(keyid: str = "k1") -> tuple[Ed25519PrivateKey, verify.PublicKey]:
    key = Ed25519PrivateKey.generate()
    return key, verify.PublicKey(keyid, "ed25519", "ed25519", key.public_key().public_bytes(*RAW_ENCODING).hex())


def signed(*pairs: tuple[str, Ed25519PrivateKey], kind: str = KIND, payload: bytes = PAYLOAD) -> bytes:
    signatures = tuple(envelope.Signature(keyid, key.sign(envelope.pae(kind, payload))) for keyid, key in pairs)
    return envelope.dump_envelope(envelope.Envelope(kind, payload, signatures))


def test_pae_is_the_one_of_the_specification() -> None:
    assert (
        envelope.pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_good_signature_gives_the_payload() -> None:
    key, public = an_ed25519()
    assert verify.verify_envelope(signed(("k1", key)), KIND, [public]) == PAYLOAD


def curve_signed(curve: ec.EllipticCurve) -> tuple[bytes, verify.PublicKey]:
    key = ec.generate_private_key(curve)
    pem = key.public_key().public_bytes(*PEM_ENCODING).decode()
    sig = envelope.Signature("k1", key.sign(envelope.pae(KIND, PAYLOAD), ec.ECDSA(hashes.SHA256())))
    raw = envelope.dump_envelope(envelope.Envelope(KIND, PAYLOAD, (sig,)))
    return raw, verify.PublicKey("k1", "ecdsa", "ecdsa-sha2-nistp256", pem)


def test_ecdsa_p256_is_accepted() -> None:
    raw, public = curve_signed(ec.SECP256R1())
    assert verify.verify_envelope(raw, KIND, [public]) == PAYLOAD


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()])
def test_a_good_signature_on_another_curve_than_p256_is_refused(curve: ec.EllipticCurve) -> None:
    raw, public = curve_signed(curve)
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(raw, KIND, [public])


@pytest.mark.parametrize(
    ("keytype", "scheme"),
    [("rsa", "rsassa-pss-sha256"), ("ed25519", "ed448"), ("ed448", "ed25519"), ("", ""), ("ecdsa", "ed25519")],
)
def test_a_good_ed25519_signature_of_a_key_that_is_named_otherwise_is_refused(keytype: str, scheme: str) -> None:
    key, public = an_ed25519()
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(signed(("k1", key)), KIND, [replace(public, keytype=keytype, scheme=scheme)])


@pytest.mark.parametrize(("keytype", "scheme"), [("ecdsa", "ecdsa-sha2-nistp384"), ("rsa", "ecdsa-sha2-nistp256")])
def test_a_good_p256_signature_of_a_key_that_is_named_otherwise_is_refused(keytype: str, scheme: str) -> None:
    raw, public = curve_signed(ec.SECP256R1())
    assert verify.verify_envelope(raw, KIND, [public]) == PAYLOAD
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(raw, KIND, [replace(public, keytype=keytype, scheme=scheme)])


@pytest.mark.parametrize("public", ["", "00", "zz" * 32, "-----BEGIN PUBLIC KEY-----"])
@pytest.mark.parametrize(("keytype", "scheme"), [("ed25519", "ed25519"), ("ecdsa", "ecdsa-sha2-nistp256")])
def test_a_trusted_key_that_is_no_key_lets_nothing_through(keytype: str, scheme: str, public: str) -> None:
    key, _ = an_ed25519()
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(signed(("k1", key)), KIND, [verify.PublicKey("k1", keytype, scheme, public)])


def test_an_ed25519_key_where_p256_is_said_is_refused() -> None:
    key, public = an_ed25519()
    pem = key.public_key().public_bytes(*PEM_ENCODING).decode()
    named = replace(public, keytype="ecdsa", scheme="ecdsa-sha2-nistp256", public=pem)
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(signed(("k1", key)), KIND, [named])


def test_no_flipped_bit_in_the_envelope_is_accepted() -> None:
    key, public = an_ed25519()
    raw = signed(("k1", key))
    for position in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[position] ^= 1 << bit
            try:
                payload = verify.verify_envelope(bytes(flipped), KIND, [public])
            except EdgefleetError:
                continue
            # Only a change that keeps every byte of meaning may pass (JSON white space does not occur in our form).
            pytest.fail(f"bit {bit} of byte {position} was flipped and accepted: {payload[:40]!r}")


@pytest.mark.parametrize("index", range(0, len(PAYLOAD), 7))
def test_no_changed_payload_is_accepted(index: int) -> None:
    key, public = an_ed25519()
    good = envelope.parse_envelope(signed(("k1", key)))
    changed = PAYLOAD[:index] + bytes([PAYLOAD[index] ^ 1]) + PAYLOAD[index + 1 :]
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(envelope.dump_envelope(replace(good, payload=changed)), KIND, [public])


def test_another_key_is_refused() -> None:
    key, _ = an_ed25519()
    _, other = an_ed25519()
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(signed(("k1", key)), KIND, [other])


def test_another_type_is_refused_even_when_signed() -> None:
    key, public = an_ed25519()
    with pytest.raises(verify.WrongTypeError):
        verify.verify_envelope(signed(("k1", key), kind=desired.HOLD_TYPE), KIND, [public])


def test_one_key_under_two_ids_does_not_make_a_threshold_of_two() -> None:
    key, public = an_ed25519()
    twice = signed(("k1", key), ("k2", key))
    with pytest.raises(verify.SignatureError, match="1 of 2"):
        verify.verify_envelope(twice, KIND, [public, replace(public, keyid="k2")], threshold=2)


def test_threshold_of_two_needs_two_keys() -> None:
    (a, pa), (b, pb) = an_ed25519("a"), an_ed25519("b")
    assert verify.verify_envelope(signed(("a", a), ("b", b)), KIND, [pa, pb], threshold=2) == PAYLOAD
    with pytest.raises(verify.SignatureError):
        verify.verify_envelope(signed(("a", a), ("a", a)), KIND, [pa, pb], threshold=2)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", b'{"payload":"@","payloadType":"x","signatures":[]}', b"{" * 5000]
)
def test_what_is_no_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessageError):
        envelope.parse_envelope(raw)


def test_base64_that_is_not_canonical_is_refused() -> None:
    text = base64.b64encode(b"a").decode()  # "YQ==": the last character has 4 unused bits
    raw = msgspec.json.encode(
        {"payload": text.replace("Q", "R"), "payloadType": "t", "signatures": [{"sig": text, "keyid": "k"}]}
    )
    with pytest.raises(BadMessageError, match="canonical"):
        envelope.parse_envelope(raw)


def test_checks_name_their_reason() -> None:
    verify.check_desired(DESIRED, device="d-abc", floor_gen=16, now=WHEN)
    with pytest.raises(verify.WrongDeviceError):
        verify.check_desired(DESIRED, device="d-xyz", floor_gen=16, now=WHEN)
    for floor in (17, 18):
        with pytest.raises(verify.OldGenerationError):
            verify.check_desired(DESIRED, device="d-abc", floor_gen=floor, now=WHEN)
    for now in (LATER, LATER + timedelta(days=1)):
        with pytest.raises(verify.ExpiredError):
            verify.check_desired(DESIRED, device="d-abc", floor_gen=16, now=now)


def test_each_refusal_has_its_own_code() -> None:
    kinds = [
        verify.SignatureError,
        verify.WrongTypeError,
        verify.WrongDeviceError,
        verify.OldGenerationError,
        verify.ExpiredError,
    ]
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"v":2}',
        '{"v":1,"device":"d","gen":0,"issued":"2026-01-01T00:00:00Z","expires":"2026-01-01T00:00:00Z","models":{}}',
        '{"v":1,"device":"d","gen":1,"issued":"2026-01-01T00:00:00","expires":"2026-01-01T00:00:00","models":{}}',
    ],
)
def test_what_is_no_desired_document_is_refused(text: str) -> None:
    with pytest.raises(BadMessageError):
        desired.decode_desired(text.encode())
