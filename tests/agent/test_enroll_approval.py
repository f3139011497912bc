"""Enrolment of a device that an operator has to approve: it waits, says so, and survives what may happen meanwhile."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent import errors
from edgefleet_agent.__main__ import main
from edgefleet_agent.enrolment import enroll as enroll_module
from edgefleet_agent.enrolment import server_api
from edgefleet_agent.enrolment.enroll import enroll
from edgefleet_agent.identity.store import load_identity
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.enrolment.approval import Choice
from edgefleet_server.fleet.enrolment.pending_devices import PendingState
from tests.agent.field import eventually
from tests.agent.listener import Listener
from tests.server.fleet.house import House
from tests.support.device_python import DEVICE_PYTHON

ALL = Choice(selector="")


@pytest.fixture
def house(tmp_path: Path) -> House:
    """The server's services."""
    made = House(f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "data", SystemClock(), tenant="acme")
    made.fleet.addresses.announce_broker("127.0.0.1", 8883, "5")
    return made


@pytest.fixture
def listener(house: House) -> Iterator[Listener]:
    """A device listener."""
    made = Listener(house)
    yield made
    made.close()


def waiting(house: House) -> list[str]:
    """Return the fingerprints that wait."""
    return [one.id for one in house.fleet.approvals.page(PageRequest(50), state=PendingState.PENDING)[0]]


@contextmanager
def while_it_waits(act: Callable[[], Any], *, is_so: Callable[[], Any]) -> Iterator[None]:
    """Act in another thread as soon as something is so."""
    thread = threading.Thread(target=lambda: eventually(is_so) and act())
    thread.start()
    yield
    thread.join()


def test_it_says_what_to_compare_and_becomes_a_device_when_it_is_let_in(
    house: House, listener: Listener, tmp_path: Path, capsys: Any
) -> None:
    state = tmp_path / "device"
    with while_it_waits(lambda: house.fleet.approvals.approve(ALL, "ann"), is_so=lambda: waiting(house)):
        status = main(["enroll", listener.token(approval=True), "--state", str(state), "-o", "json"])
    out = capsys.readouterr()
    assert status == 0, out.err
    assert load_identity(state / "identity").device == json.loads(out.out)["device"]
    told = json.loads(out.err)
    [view] = house.fleet.approvals.page(PageRequest(5), state=PendingState.APPROVED)[0]
    assert told == {"state": "pending", "fingerprint": view.id}
    assert not (state / "pending-key.pem").exists()


def test_a_rejection_ends_it_with_a_clear_error(house: House, listener: Listener, tmp_path: Path, capsys: Any) -> None:
    token, state = listener.token(approval=True), str(tmp_path / "device")
    refuse = lambda: house.fleet.approvals.reject(ALL, "ann", "not one of ours")  # noqa: E731
    with while_it_waits(refuse, is_so=lambda: waiting(house)):
        assert main(["enroll", token, "--state", state]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("waiting for approval; fingerprint ")
    assert "not one of ours" in lines[1]
    assert [line.split(": ")[0].strip() for line in lines[1:]] == ["error", "why", "next", "code"]
    assert "enroll.rejected" in lines[-1]
    assert main(["enroll", token, "--state", state]) == 4, "it is final for the key, which is kept"


def test_nobody_s_word_ends_it_too(tmp_path: Path) -> None:
    house = House(f"sqlite:///{tmp_path / 's.db'}", tmp_path / "data", SystemClock(), enrol_pending_s=1)
    listener = Listener(house)
    try:
        with pytest.raises(errors.EnrollRefusedError, match="nobody approved"):
            enroll(listener.token(approval=True), tmp_path / "device")
    finally:
        listener.close()


def test_a_server_that_is_away_meanwhile_is_waited_for(
    house: House, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    honest = server_api.ask

    def interrupted(*args: Any, **kwargs: Any) -> tuple[int, bytes]:
        """The network between two polls: cut, then a proxy's 502, then there again."""
        if args[3] == "/device/v1/enroll":
            asked.append(len(asked))
            if len(asked) == 2:
                raise errors.ServerUnreachableError("cut")
            if len(asked) == 3:
                house.fleet.approvals.approve(ALL, "ann")
                return 502, b"<html>"
        return honest(*args, **kwargs)

    monkeypatch.setattr(enroll_module, "ask", interrupted)
    monkeypatch.setattr(enroll_module, "_retry_s", lambda _data: 0.01)
    assert enroll(listener.token(approval=True), tmp_path / "device")
    assert len(asked) == 4


def test_before_it_waits_a_server_that_is_away_is_an_error(listener: Listener, tmp_path: Path) -> None:
    token = listener.token(approval=True)
    listener.close()
    with pytest.raises(errors.ServerUnreachableError):
        enroll(token, tmp_path / "device")


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 10.0), (b"<html>", 10.0), (b'{"retry_s": 0}', 1.0), (b'{"retry_s": 1e9}', 300.0), (b'{"retry_s": 7}', 7.0)],
)
def test_when_to_ask_again_is_bounded(data: bytes, expected: float) -> None:
    assert enroll_module._retry_s(data) == expected


@pytest.mark.slow
def test_killed_while_it_waits_it_goes_on_with_the_same_key(house: House, listener: Listener, tmp_path: Path) -> None:
    token, state = listener.token(approval=True), tmp_path / "device"
    command = [DEVICE_PYTHON, "-m", "edgefleet_agent", "enroll", "-", "--state", str(state), "-o", "json"]

    def started() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(token + "\n")
        process.stdin.close()
        return process

    shown = []
    for _ in range(3):
        process = started()
        assert process.stderr is not None
        shown.append(json.loads(process.stderr.readline())["fingerprint"])
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert set(shown) == set(waiting(house))
    assert len(set(shown)) == 1
    last = started()
    house.fleet.approvals.approve(ALL, "ann")
    assert last.wait(60) == 0
    assert load_identity(state / "identity").device == house.fleet.devices.select("")[0].id
