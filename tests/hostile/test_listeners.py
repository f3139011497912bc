"""Strangers at the listeners: half-sent requests keep nobody out. The full count is `./dev soak half-sent`."""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from edgefleet_server.process.file_limit import OWN_FILES, share_of
from edgefleet_server.process.listener import ConnectionGuard, Listener, further_sockets, listening_socket
from edgefleet_server.web.connection_budget import Budget, ConnectionTable, Ending, counted_address
from tests.broker.client import eventually
from tests.hostile.half_sent import ATTACKER, OTHERS, half_sent, latencies
from tests.support.servers import ServerProcess, copy_server, server_process

BUDGETS = {
    "EDGEFLEET_SERVER_API_CONNECTIONS": "40",
    "EDGEFLEET_SERVER_API_CONNECTIONS_PER_ADDRESS": "20",
    "EDGEFLEET_SERVER_DEVICE_CONNECTIONS": "30",
    "EDGEFLEET_SERVER_DEVICE_CONNECTIONS_PER_ADDRESS": "0",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server with small budgets, without a broker or an engine."""
    data = tmp_path_factory.mktemp("listeners") / "server"
    token = copy_server(data)
    with server_process(data, token, "--roles", "api", environment=BUDGETS) as running:
        yield running


@pytest.mark.parametrize("address", [ATTACKER, OTHERS])
@pytest.mark.parametrize("listener", ["api", "device"])
def test_half_sent_requests_change_nothing_for_others(server: ServerProcess, listener: str, address: str) -> None:
    with half_sent(server, listener, 60, address):
        during = latencies(server, 3)  # none waits for a half-sent one: that would be longer than LIMIT_S
    assert [during[one]["failed"] for one in ("api", "device")] == [0, 0]


class Figures:
    """Counts what a listener ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.count: Callable[[], int] = lambda: -1

    def count_endings(self, _listener: str, reason: str, n: int) -> None:
        """Take a figure."""
        self.ended += [reason] * n

    def watch_connections(self, _listener: str, count: Callable[[], int]) -> None:
        """Take the source of a figure."""
        self.count = count


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        return
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    await PlainTextResponse("ok")(scope, receive, send)


def test_what_takes_too_long_is_ended_and_what_is_slow_but_moves_is_not() -> None:
    figures = Figures()
    budget = Budget(20, 20, head_s=0.5, idle_s=5.0, grace_s=0.4, bytes_per_s=20.0, stall_s=0.5)
    with listening_socket("127.0.0.1", 0) as listening:
        listener = Listener("test", _echo, listening, ConnectionGuard("test", budget, figures), {})
        listener.start()
        sockets = [socket.create_connection(listening.getsockname(), 8) for _ in range(5)]
        head, body, stuck, slow, kept = sockets
        try:
            kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head.sendall(b"GET / HTTP/1.1\r\nHo")
            body.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nx")
            stuck.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 180\r\n\r\n" + b"x" * 10)
            for _ in range(17):
                time.sleep(0.15)
                slow.sendall(b"x" * 10)
            assert b"200 OK" in slow.recv(1000)
            assert b"200 OK" in kept.recv(1000)
            eventually(lambda: len(figures.ended) == 3, "three endings")
            assert sorted(figures.ended) == ["answer_not_read", "body_too_slow", "head_timeout"]
            assert figures.count() == 2
        finally:
            for one in sockets:
                one.close()
            listener.stop()


def test_without_a_free_descriptor_the_next_one_is_refused_and_others_wait_for_nothing() -> None:
    figures = Figures()
    with (
        listening_socket("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname(), 3) as first,
        socket.create_connection(listening.getsockname(), 3) as second,
    ):
        listening.guard = ConnectionGuard("test", Budget(20, 20), figures)
        listening.setblocking(False)
        with listening.accept()[0]:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                with pytest.raises(BlockingIOError):
                    listening.accept()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert first.getsockname() != second.getsockname()
            assert second.recv(1) == b""
            assert figures.ended == ["refused"]


def test_above_a_cap_the_longest_waiting_gives_way_and_else_the_new_one_is_refused() -> None:
    table = ConnectionTable(Budget(4, 2))
    assert [table.admit((host, port), 0.0) for host, port in (("a", 1), ("a", 2))] == [(True, None)] * 2
    assert table.admit(("a", 3), 1.0) == (True, ("a", 1)), "the same address pays"
    table.begin(("a", 2))
    table.begin(("a", 3))
    assert table.admit(("a", 4), 1.0) == (False, None), "two requests of this address are being answered"
    assert table.admit(("b", 1), 1.0) == (True, None)
    assert table.admit(("c", 1), 1.0) == (True, None)
    assert table.admit(("d", 1), 2.0)[0], "one of those with a connection that waits"
    table.rest(("a", 2), 3.0)
    assert table.admit(("e", 1), 3.0) == (True, ("a", 2)), "the address with the most connections pays"
    assert len(table) == 4
    assert {ending for _, ending in table.overdue(12.5)} == {Ending.HEAD}


def test_addresses_of_one_customer_count_as_one() -> None:
    assert counted_address("2001:db8:1:2:3::4") == counted_address("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert counted_address("::ffff:192.0.2.7") == counted_address("192.0.2.7") == "192.0.2.7"
    assert counted_address("fe80::1%eth0") == "fe80::/64"


def test_listeners_leave_files_for_the_rest_of_the_server() -> None:
    assert share_of(65_536, (2048, 2048)) == (OWN_FILES, (2048, 2048))
    assert share_of(1024, (2048, 2048)) == (0, (256, 256))


def test_a_further_port_that_is_taken_does_not_keep_the_server_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    with listening_socket("127.0.0.1", 0) as taken:
        found = further_sockets("127.0.0.1", [taken.getsockname()[1], 0])
        with found[0]:
            assert len(found) == 1
    assert "does not listen" in caplog.text
