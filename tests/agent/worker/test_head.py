"""The short reader of plain heads says what h11 says, or nothing."""

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgefleet_agent.worker.http.plain_request import Head, read_head

PLAIN = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nX-A: b c\r\n\r\n"


def by_h11(data: bytes) -> tuple[str, str, list[tuple[bytes, bytes]], bytes] | None:
    """Return what h11 reads of the head with as many body bytes as it asks for, None when it refuses."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(data)
    try:
        request = parser.next_event()
        assert isinstance(request, h11.Request)
        body = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(b"x")
            else:
                assert isinstance(event, h11.Data)
                body += event.data
                assert len(body) < 5000
    except h11.RemoteProtocolError:
        return None
    return request.method.decode(), request.target.decode(), [(bytes(k), bytes(v)) for k, v in request.headers], body


def test_a_plain_head_is_read() -> None:
    head = read_head(PLAIN)
    assert head == Head(
        "POST",
        "/v2/models/m/infer",
        [(b"host", b"localhost"), (b"content-length", b"3"), (b"x-a", b"b c")],
        3,
        closes=False,
    )
    closing = read_head(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n")
    assert closing is not None
    assert (closing.closes, closing.body_bytes) == (True, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: +3"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nContent-Length: 3"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
        PLAIN.replace(b"Content-Length: 3", b"Content-Length: " + b"9" * 20),
        PLAIN.replace(b"X-A: b c", b"Expect: 100-continue"),
        PLAIN.replace(b"X-A: b c", b"Connection: upgrade"),
        PLAIN.replace(b"X-A: b c", b"X-A : b"),
        PLAIN.replace(b"X-A: b c", b"X-A: b\r\n c"),
        PLAIN.replace(b"X-A: b c", b"X-A: \xff"),
        PLAIN.replace(b"X-A: b c", b"X-A: \x00"),
        PLAIN + b"x",
        PLAIN[:-2],
        b"",
    ],
)
def test_all_else_is_left_to_h11(data: bytes) -> None:
    assert read_head(data) is None


_token = st.sampled_from([b"GET", b"POST", b"get", b"HEAD", b"G\x00T", b"POST "])
_target = st.one_of(
    st.sampled_from([b"/", b"*", b"/v2?a=b", b"http://x/", b"/\x80", b"/a b", b""]), st.binary(max_size=4)
)
_name = st.one_of(
    st.sampled_from(
        [b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"TE", b"X-Edgefleet-Key"]
    ),
    st.binary(min_size=0, max_size=3),
)
_value = st.one_of(
    st.sampled_from(
        [b"localhost", b"3", b"3, 3", b"003", b"-1", b"0x3", b"chunked", b"close", b"Keep-Alive", b"close, x", b""]
    ),
    st.binary(max_size=6),
)
_line = st.tuples(
    _name, st.sampled_from([b": ", b":", b" : ", b":\t", b""]), _value, st.sampled_from([b"", b"", b" ", b"\t"])
)


@settings(max_examples=400)
@example(method=b"GET", target=b"/", version=b"1.1", lines=[(b"Host", b":", b"a", b"")], ending=b"\r\n")
@given(
    method=_token,
    target=_target,
    version=st.sampled_from([b"1.1", b"1.1", b"1.0", b"1.2"]),
    lines=st.lists(_line, max_size=4).map(lambda found: [(b"Host", b": ", b"localhost", b""), *found]),
    ending=st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]),
)
def test_what_is_read_h11_reads_alike(
    method: bytes, target: bytes, version: bytes, lines: list[tuple[bytes, ...]], ending: bytes
) -> None:
    data = ending.join([method + b" " + target + b" HTTP/" + version, *(b"".join(line) for line in lines), b"", b""])
    head = read_head(data)
    if head is not None:
        assert by_h11(data) == (head.method, head.target, head.headers, b"x" * head.body_bytes)
