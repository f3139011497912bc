"""What systemd and the agent say to each other, over the real socket kinds."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from edgefleet_agent.core.systemd import Watchdog, given_sockets, notify, watchdog_s

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
import pytest

from edgefleet_agent.core.systemd import given_sockets
(one,) = given_sockets()
print(one.getsockname()[1], one.getblocking(), os.get_inheritable(3), "LISTEN_FDS" in os.environ)
"""


def heard(channel: socket.socket) -> list[str]:
    channel.setblocking(False)
    found = []
    while True:
        try:
            found.append(channel.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.fixture
def address() -> Iterator[str]:
    """A path short enough for a socket, wherever the folders of tests lie."""
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        yield f"{name}/notify"


def test_a_notification_reaches_a_path_and_an_abstract_name(address: str) -> None:
    for place in (address, f"@edgefleet-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind("\0" + place[1:] if place[0] == "@" else place)
            assert notify("READY=1", "STATUS=x", environment={"NOTIFY_SOCKET": place})
            assert heard(channel) == ["READY=1\nSTATUS=x"]


def test_nobody_to_notify_is_no_failure() -> None:
    assert not notify("READY=1", environment={})
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": "/nonexistent/x"})


def test_the_watchdog_is_told_three_times_in_its_limit_and_only_its_own_process() -> None:
    assert watchdog_s({"WATCHDOG_USEC": "30000000"}) == 10
    assert watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) == 0
    assert watchdog_s({"WATCHDOG_USEC": "soon"}) == 0
    assert watchdog_s({}) == 0


def test_the_watchdog_is_fed_only_while_all_is_live(address: str) -> None:
    os.environ.update(NOTIFY_SOCKET=address, WATCHDOG_USEC="30000000")
    later: list[Callable[[], None]] = []
    answers = iter([True, False, True])
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind(address)
            Watchdog(lambda _s, callback: later.append(callback), lambda: next(answers)).start()
            assert heard(channel) == ["READY=1\nSTATUS=running", "WATCHDOG=1"]
            later.pop()()
            assert heard(channel) == []
            later.pop()()
            assert heard(channel) == ["WATCHDOG=1"]
    finally:
        del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]


def test_a_socket_that_systemd_opened_is_taken_and_not_handed_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        given.set_inheritable(True)
        done = subprocess.run(
            [sys.executable, "-c", ACTIVATED, str(given.fileno())],
            pass_fds=[given.fileno()],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.split() == [str(given.getsockname()[1]), "False", "False", "False"]


def test_variables_for_another_process_are_not_ours() -> None:
    environment = {"LISTEN_FDS": "2", "LISTEN_PID": "1"}
    assert given_sockets(environment) == []
    assert environment == {}
