"""Claim token: lets a device enrol, as an operator copies it. `efc1.`, then the base64url of a JSON object, without padding.

It pins what the device may trust before it trusts anything else: the CA certificate and the first `root.json`.
"""

from __future__ import annotations

import base64

import msgspec

from edgefleet_protocol.errors import BadMessageError

CLAIM_PREFIX = "efc1."


class ClaimToken(msgspec.Struct, frozen=True):
    """url: of the device listener. ca: sha256 of the CA certificate's DER. root: sha256 of the bytes of `root.json`."""

    url: str
    id: str
    secret: str
    ca: str
    root: str


def fingerprint(key_sha256: str) -> str:
    """Return what people compare of a device's key: 80 bits of the SHA-256 of its public key (DER), in five groups."""
    return "-".join(key_sha256[start : start + 4] for start in range(0, 20, 4))


def encode_claim(token: ClaimToken) -> str:
    """Return the token's text."""
    return CLAIM_PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def decode_claim(text: str) -> ClaimToken:
    """Return what a token says; nothing in it is checked. Raises BadMessageError."""
    body = text.removeprefix(CLAIM_PREFIX)
    if body == text:
        raise BadMessageError(f"a claim token begins with {CLAIM_PREFIX}, this text with {text[:8]!r}")
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=ClaimToken)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise BadMessageError(f"not a claim token: {error}") from error
