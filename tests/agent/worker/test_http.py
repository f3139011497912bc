"""A connection as bytes in and bytes out: however requests are cut and mixed, plain ones and h11's, they arrive whole and in order."""

import asyncio
from itertools import pairwise
from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_agent.worker.http.server import HttpConnection, HttpServer, Request, Response, json_response

LIMIT = 1000


class Wire(asyncio.Transport):
    """A transport that keeps what is written. Like a socket's, it hands nothing over while reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.is_open = True
        self.is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return not self.is_open

    def close(self) -> None:
        self.is_open = False

    def abort(self) -> None:
        self.is_open = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_reading(self) -> bool:
        return not self.is_paused


def plain(target: str, body: bytes) -> bytes:
    return f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(target: str, body: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:2], body[2:]) if p)
    return f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + parts + b"0\r\n\r\n"


def folded(target: str, body: bytes) -> bytes:
    return f"PUT {target} HTTP/1.1\r\nhost:a \r\nContent-Length:  {len(body)}\r\n\r\n".encode() + body


def got(target: str, _body: bytes) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n".encode()


_requests = st.lists(
    st.tuples(st.sampled_from([plain, plain, chunked, folded, got]), st.binary(max_size=12), st.booleans()), max_size=6
)


async def exchange(
    stream: bytes, cuts: list[int], waits: list[bool], *, limit: int = LIMIT
) -> tuple[list[Request], Wire]:
    """Feed the stream in pieces; waits: which requests are answered later instead of at once. Returns what the handler saw."""
    seen: list[Request] = []

    async def later(number: int) -> Response:
        await asyncio.sleep(0)
        return json_response(200, number)

    def handler(request: Request) -> Any:
        seen.append(request)
        number = len(seen) - 1
        return later(number) if number < len(waits) and waits[number] else json_response(200, number)

    connection: HttpConnection = HttpServer(handler, limit).connection()
    wire = Wire()
    connection.connection_made(wire)
    edges = [0, *sorted({c % (len(stream) + 1) for c in cuts}), len(stream)]
    for begin, end in pairwise(edges):
        for _ in range(20):
            if not wire.is_paused:
                break
            await asyncio.sleep(0)
        if begin < end and wire.is_open:
            connection.data_received(stream[begin:end])
    for _ in range(20):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return seen, wire


def answers(out: bytes) -> list[bytes]:
    """Return the bodies of the answers, as h11 reads them."""
    client = h11.Connection(h11.CLIENT)
    bodies: list[bytes] = []
    rest = out
    while rest:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(rest)
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA
            if isinstance(event, h11.Data):
                body += event.data
        bodies.append(body)
        rest = client.trailing_data[0]
    return bodies


@settings(max_examples=100, deadline=None)
@given(_requests, st.lists(st.integers(0, 2000), max_size=8))
def test_requests_arrive_whole_and_in_order(asked: list[tuple[Any, bytes, bool]], cuts: list[int]) -> None:
    stream = b"".join(make(f"/{i}", body) for i, (make, body, _) in enumerate(asked))
    seen, wire = asyncio.run(exchange(stream, cuts, [wait for _, _, wait in asked]))
    expected = [(f"/{i}", b"" if make is got else body) for i, (make, body, _) in enumerate(asked)]
    assert [(r.target, r.body) for r in seen] == expected
    assert all(r.header(b"host") == b"a" for r in seen)
    assert answers(bytes(wire.out)) == [str(i).encode() for i in range(len(asked))]
    assert wire.is_open


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=3))
def test_what_is_no_request_is_answered_once_and_closed(noise: bytes, cuts: list[int]) -> None:
    seen, wire = asyncio.run(exchange(plain("/0", b"x") + noise + b"\r\n\r\n", cuts, []))
    assert [r.target for r in seen][:1] == ["/0"]
    told = bytes(wire.out)
    assert told.count(b"HTTP/1.1 ") >= 1
    assert not wire.is_open or told.count(b"HTTP/1.1 4") == 0


def test_limits_hold_on_both_ways() -> None:
    for request in (plain("/", b"x" * 11), chunked("/", b"x" * 11)):
        seen, wire = asyncio.run(exchange(request, [], [], limit=10))
        assert seen == []
        assert wire.out.startswith(b"HTTP/1.1 413")
        assert not wire.is_open
    many = plain("/", b"").replace(
        b"\r\n\r\n", b"".join(b"\r\nX-%d: %b" % (i, b"a" * 1000) for i in range(70)) + b"\r\n\r\n"
    )
    _, wire = asyncio.run(exchange(many, [], []))
    assert wire.out.startswith(b"HTTP/1.1 431")


def test_a_caller_that_closes_is_closed_after_its_answer() -> None:
    closing = plain("/", b"x").replace(b"Host: a", b"Host: a\r\nConnection: close")
    seen, wire = asyncio.run(exchange(closing + plain("/", b"y"), [], [True]))
    assert [r.body for r in seen] == [b"x"]
    assert b"Connection: close" in wire.out
    assert not wire.is_open
