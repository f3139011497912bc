"""Which lane answers a request while a model is split: sticky by a key, and by the request itself where none is given. Pure.

1. A key lies at a point of 0 … 1, the same way as devices have ranks in a rollout: first 8 bytes of SHA-256(salt ‖ 0x00 ‖ key).
   Below the share the candidate answers. So a larger share only moves keys to the candidate, a smaller one only moves some back.
2. The key is, first that is there: the header `X-Edgefleet-Key`, the query parameter `key`, `parameters.key` of an inference request.
3. Without a key the body is the key: the same request always meets the same lane, and different ones spread by the share.
"""

import hashlib
from urllib.parse import parse_qs

import msgspec

from edgefleet_agent.worker.control.protocol import LaneRoute, ModelRoute
from edgefleet_agent.worker.http.server import Request
from edgefleet_agent.worker.http.wire import BINARY_HEADER

KEY_HEADER = b"x-edgefleet-key"
KEY_PARAMETER = "key"


class _Parameters(msgspec.Struct, frozen=True):
    key: str | int | None = None


class _Keyed(msgspec.Struct, frozen=True):
    parameters: _Parameters = _Parameters()


_decoder = msgspec.json.Decoder(_Keyed)


def point(salt: str, key: bytes) -> float:
    """Return where a key lies in 0 … 1."""
    digest = hashlib.sha256(salt.encode() + b"\0" + key).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def key_of(request: Request) -> bytes:
    """Return the key of a request."""
    header = request.header(KEY_HEADER)
    if header is not None:
        return header
    query = request.target.partition("?")[2]
    if query:
        values = parse_qs(query).get(KEY_PARAMETER)
        if values:
            return values[0].encode()
    named = _parameter(request)
    return named.encode() if named is not None else hashlib.blake2b(request.body, digest_size=16).digest()


def candidate_for(route: ModelRoute | None, request: Request) -> LaneRoute | None:
    """Return the candidate's lane when it is to answer, None when the active version is."""
    if route is None or route.mode != "split":
        return None
    candidate = route.lanes.get("candidate")
    if candidate is None or candidate.state != "ready":
        return None
    return candidate if point(route.salt, key_of(request)) * 100 < route.share_pct else None


def _parameter(request: Request) -> str | None:
    """Return `parameters.key` of the JSON in a body, None when there is none or the body is none of that kind."""
    length = request.header(BINARY_HEADER)
    if length is not None:
        document: bytes | memoryview = memoryview(request.body)[: int(length)] if length.isdigit() else b""
    else:
        document = request.body
    if bytes(document[:1]) != b"{":
        return None
    try:
        key = _decoder.decode(document).parameters.key
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if key is None else str(key)
