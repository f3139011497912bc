"""Which URLs the server calls: private networks are refused, and a name cannot change its mind between check and call."""

import socket
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.clock import SystemClock
from edgefleet_server.outbound import http_post
from edgefleet_server.outbound.address_policy import (
    BadUrlError,
    Resolve,
    UnresolvedError,
    addresses_of,
    is_public,
    parse_networks,
    parse_target,
)
from edgefleet_server.outbound.http_post import MAX_ANSWER, HttpPoster, PostError
from tests.support.receivers import LOOPBACK, receiving


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
        "fec0::1", "feff::1", "192.88.99.1", "::ffff:192.88.99.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(BadUrlError) as caught:
        addresses_of(parse_target(f"https://{host}/x"), (), lambda _host, _port: [address])
    assert "webhook_networks" in caught.value.next_step


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_called(address: str) -> None:
    assert addresses_of(parse_target("https://hook.example/x"), (), lambda _host, _port: [address]) == (address,)


@given(
    st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="127.0.0.0/8") | st.ip_addresses(network="fc00::/7")
)
def test_no_address_of_a_private_network_counts_as_public(address: object) -> None:
    assert not is_public(address)  # type: ignore[arg-type]


def test_one_bad_address_among_good_ones_is_enough() -> None:
    with pytest.raises(BadUrlError):
        addresses_of(parse_target("https://h.example/"), (), lambda _host, _port: ["8.8.8.8", "127.0.0.1"])


def always(address: str) -> Resolve:
    """Return a name service that has one answer."""
    return lambda _host, _port: [address]


def test_a_named_network_may_be_called_also_without_encryption_and_others_not() -> None:
    networks = parse_networks(["10.1.0.0/16"])
    assert addresses_of(parse_target("http://h.example/"), networks, lambda _host, _port: ["10.1.2.3"]) == ("10.1.2.3",)
    for url, address in (("http://h.example/", "8.8.8.8"), ("https://h.example/", "10.2.0.1")):
        with pytest.raises(BadUrlError):
            addresses_of(parse_target(url), networks, always(address))


@pytest.mark.parametrize(
    "url",
    [
        "", "h.example", "ftp://h.example/", "file:///etc/passwd", "https://", "https://u:p@h.example/", "https://h.example/#f",
        "https://h.example:99999/", "https://h.example/a b", "https://h.example/\r\nX: y", "https://" + "h" * 3000, "gopher://h/",
        "https://[::1", "https://h.example/ü",
    ],
)  # fmt: skip
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(BadUrlError) as caught:
        parse_target(url)
    assert caught.value.next_step


def test_a_name_without_an_address_says_so() -> None:
    def fail(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    silent: Resolve = lambda _host, _port: []  # noqa: E731
    for resolve in (fail, silent):
        with pytest.raises(UnresolvedError):
            addresses_of(parse_target("https://h.example/"), (), resolve)


def test_a_name_that_changes_its_mind_is_looked_up_once_and_called_where_it_was_checked() -> None:
    """DNS rebinding: the first answer is allowed, every later one would lead elsewhere."""
    asked: list[str] = []
    with receiving() as right, receiving() as wrong:
        port = int(right.url.split(":")[2].split("/")[0])
        answers = iter([["127.0.0.1"], ["127.0.0.2"]])

        def resolve(host: str, _port: int) -> Sequence[str]:
            asked.append(host)
            return next(answers)

        poster = HttpPoster(parse_networks(["127.0.0.1/32"]), SystemClock(), resolve=resolve)
        assert poster.post(f"http://hook.example:{port}/in", b"{}", {}, 10).status == 204
        [got] = right.got
        assert asked == ["hook.example"]
        assert (got.path, got.headers["host"]) == ("/in", f"hook.example:{port}")
        with pytest.raises(BadUrlError):  # the next one is looked up and checked anew
            poster.post(f"http://hook.example:{port}/in", b"{}", {}, 10)
        assert wrong.got == []


def test_what_is_read_of_an_answer_is_bounded() -> None:
    with receiving(lambda _got: (200, {}, b"x" * (MAX_ANSWER * 10))) as receiver:
        posted = HttpPoster(parse_networks(LOOPBACK), SystemClock()).post(receiver.url, b"{}", {}, 10)
    assert (posted.status, len(posted.body)) == (200, MAX_ANSWER)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)  # fmt: skip
def test_an_answer_that_breaks_off_or_is_not_http_is_none(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(answer)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(PostError):
            HttpPoster(parse_networks(LOOPBACK), SystemClock()).post(
                f"http://127.0.0.1:{listening.getsockname()[1]}/", b"{}", {}, 10
            )
        thread.join(10)


def test_tls_is_checked_against_the_name(tmp_path: Path) -> None:
    ca, cert, key = certificates(tmp_path, "hook.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with receiving(tls=context) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])

        def post(host: str, ca_file: Path | None) -> int:
            networks = parse_networks(LOOPBACK)
            poster = HttpPoster(networks, SystemClock(), ca_file=ca_file, resolve=lambda _host, _port: ["127.0.0.1"])
            return poster.post(f"https://{host}:{port}/", b"{}", {}, 10).status

        assert post("hook.example", ca) == 204
        for host, trusted in (("hook.example", None), ("other.example", ca)):
            with pytest.raises(PostError, match="TLS failed"):
                post(host, trusted)


def test_a_request_waits_for_no_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(connection: socket.socket, *_asked: object) -> tuple[h11.Response, bytes]:
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return h11.Response(status_code=204, headers=[]), b""

    monkeypatch.setattr(http_post, "_exchange", look)
    with receiving() as receiver:
        HttpPoster(parse_networks(LOOPBACK), SystemClock()).post(receiver.url, b"{}", {}, 10)
    assert seen == [1]


def certificates(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Make a self-signed certificate for a name; return the file to trust, the certificate and its key."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, cert, private
