"""Heads of requests: the plain ones that inference clients send, read without a parser's state machine; and what is refused of any. Pure.

1. Only a whole head in one form is read: GET or POST, an origin-form target, HTTP/1.1, CRLF, one `Host`, at most one
   `Content-Length`, no header that changes how the message is framed. For all else the answer is None, and h11 reads it.
2. What is read here, h11 would read alike: the same target, headers and body (`tests/agent/worker/test_head.py` holds both against
   each other on generated heads). It is never more lenient: a doubt is a None. Grammar: RFC 9112 §3, §5, §6.
3. Why: a kept-alive client sends the same head again and again; ADR 0026 has what that costs in h11 and here.
"""

import re
from collections.abc import Iterable

import msgspec

END = b"\r\n\r\n"
MAX_LENGTH_DIGITS = 15

# field-name: token without what nobody uses in one; field-value: visible text, no white space at its ends
_NAME = rb"[A-Za-z0-9_-]+"
_VALUE = rb"(?:[!-~](?:[ -~]*[!-~])?)?"
_HEAD = re.compile(rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n((?:" + _NAME + rb": ?" + _VALUE + rb"\r\n)+)\r\n")
# each changes the framing, or asks for an answer before the body is there
_NOT_PLAIN = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings", b"proxy-connection"}
)

_PORT = rb"(:[0-9]{1,5})?"
_LOCALHOST = rb"([A-Za-z0-9-]+\.)*localhost"
_HOST = re.compile(rb"([0-9.]+|\[[0-9A-Fa-f:.]+\]|" + _LOCALHOST + rb")" + _PORT)
_ORIGIN = re.compile(rb"https?://(127\.[0-9.]+|\[::1\]|" + _LOCALHOST + rb")" + _PORT)


class Head(msgspec.Struct, frozen=True):
    """One head. headers: names in lower case, in their order. body_bytes: length of the body. closes: `Connection: close`."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body_bytes: int
    closes: bool


def read_head(data: bytes) -> Head | None:
    """Return the head that `data` is, up to and with its empty line; None when it is not plain."""
    match = _HEAD.fullmatch(data)
    if match is None:
        return None
    method, target, block = match.groups()
    headers: list[tuple[bytes, bytes]] = []
    length: bytes | None = None
    hosts = 0
    closes = False
    for line in block[:-2].split(b"\r\n"):
        raw, _, value = line.partition(b":")
        name, value = raw.lower(), value.removeprefix(b" ")
        if name in _NOT_PLAIN:
            return None
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                return None
            length = value
        elif name == b"connection":
            token = value.lower()
            if token not in {b"keep-alive", b"close"}:
                return None
            closes = closes or token == b"close"
        headers.append((name, value))
    if hosts != 1:
        return None
    return Head(method.decode("ascii"), target.decode("ascii"), headers, int(length or b"0"), closes)


def refusal_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return why a request that came over TCP is refused, or None. headers: names in lower case."""
    for name, value in headers:
        if name == b"host" and not _HOST.fullmatch(value):
            return "this port answers to an address or to localhost, not to another host name; or use the unix socket"
        if name == b"origin" and not _ORIGIN.fullmatch(value):
            return "this port does not answer web pages of other origins"
    return None
