"""DSSE envelopes: signed bytes with a type (DSSE specification v1.0). Parsing and the signed form; no cryptography here."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import msgspec

from edgefleet_protocol.errors import BadMessageError

MAX_ENVELOPE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature over the envelope's signed form, with the id of the key that it names as its own."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """Payload bytes, their type and who signed them. Nothing is verified yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


class _WireSignature(msgspec.Struct):
    sig: str
    keyid: str = ""


class _Wire(msgspec.Struct, rename={"payload_type": "payloadType"}):
    payload: str
    payload_type: str
    signatures: list[_WireSignature]


class _OutSignature(msgspec.Struct):
    sig: bytes
    keyid: str


class _Out(msgspec.Struct, rename={"payload_type": "payloadType"}):
    """As `_Wire`, with bytes: msgspec writes them as base64 and reads them less strictly than `_b64`."""

    payload: bytes
    payload_type: str
    signatures: list[_OutSignature]


_DECODER = msgspec.json.Decoder(_Wire)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(raw: bytes) -> Envelope:
    """Return the envelope in JSON bytes. Raises BadMessageError for bad JSON, bad base64, no or too many signatures."""
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise BadMessageError(f"envelope has {len(raw)} bytes; the limit is {MAX_ENVELOPE_BYTES}")
    try:
        wire = _DECODER.decode(raw)
        payload = _b64(wire.payload)
        signatures = tuple(Signature(s.keyid, _b64(s.sig)) for s in wire.signatures)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadMessageError(f"not a DSSE envelope: {error}") from error
    if not 1 <= len(signatures) <= 16:
        raise BadMessageError(f"envelope has {len(signatures)} signatures; expected 1 to 16")
    return Envelope(wire.payload_type, payload, signatures)


def dump_envelope(envelope: Envelope) -> bytes:
    """Return the JSON bytes of an envelope."""
    signatures = [_OutSignature(sig=s.sig, keyid=s.keyid) for s in envelope.signatures]
    return msgspec.json.encode(_Out(envelope.payload, envelope.payload_type, signatures))


def _b64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:  # base64 with stray low bits: two texts for the same bytes
        raise ValueError("base64 is not in canonical form")
    return data
