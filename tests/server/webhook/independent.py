"""Standard Webhooks, written down once more from its specification, with nothing of ours: what a receiver's library does."""

import base64
import hashlib

_BLOCK = 64


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC by RFC 2104, from the hash alone."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()


def is_signed(secret: str, headers: dict[str, str], body: bytes, now: float, tolerance_s: float = 300) -> bool:
    """Return whether one of the signatures is right for this secret, and the time is near `now`."""
    assert secret.startswith("whsec_")
    key = base64.b64decode(secret[len("whsec_") :])
    if abs(now - int(headers["webhook-timestamp"])) > tolerance_s:
        return False
    to_sign = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac_sha256(key, to_sign)).decode()
    given = headers["webhook-signature"].split(" ")
    return any(version == "v1" and value == expected for version, _, value in (one.partition(",") for one in given))
