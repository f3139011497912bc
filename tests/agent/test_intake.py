"""The queue in front of the install child: a child that dies over one document does not keep the next one waiting."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.install.child_protocol import Fetched, FetchFailed, FetchProgress, Notice, Refused, TaskKind
from edgefleet_agent.install.intake import Intake
from edgefleet_agent.loop import Loop
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.messages import MetaRequest


class Told:
    """Notes what was refused, and ends the loop when that is enough. There is no connection."""

    def __init__(self, loop: Loop, enough: int) -> None:
        self._loop = loop
        self._enough = enough
        self.refused: list[tuple[TaskKind, str]] = []
        self.then: dict[int, Callable[[], None]] = {}
        """What to do a moment after so many refusals."""

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do something after a while."""
        self._loop.call_later(delay_s, act)

    def on_accepted(self, kind: TaskKind, gen: int) -> None:
        """Not by a child that dies."""
        raise AssertionError((kind, gen))

    def on_refused(self, kind: TaskKind, refused: Refused) -> None:
        """Note it."""
        self.refused.append((kind, refused.code))
        if (act := self.then.get(len(self.refused))) is not None:
            self._loop.call_later(0.2, act)
        if len(self.refused) == self._enough:
            self._loop.stop()

    def on_fetch(self, packet: FetchProgress | Fetched | FetchFailed) -> None:
        """Not by a child that dies."""
        raise AssertionError(packet)

    def on_notice(self, notice: Notice) -> None:
        """Not by a child that dies."""
        raise AssertionError(notice)

    def send_meta(self, request: MetaRequest) -> None:
        """Not by a child that dies."""
        raise AssertionError(request)

    def send_blocks(self, request: bytes) -> None:
        """Not by a child that dies."""
        raise AssertionError(request)


def test_a_document_that_kills_the_child_is_refused_and_the_next_one_is_looked_at(tmp_path: Path) -> None:
    loop = Loop(SystemClock())
    told = Told(loop, enough=2)
    intake = Intake(loop, tmp_path, "d-1", AgentSettings(python_command=["false"]), told, first_req_id=1)
    intake.attach(told)
    intake.offer("hold", b"one")
    intake.offer("desired", b"two")
    loop.call_later(60.0, loop.stop)
    loop.run()
    intake.close()
    loop.close()
    assert told.refused == [("hold", "install.child_died"), ("desired", "install.child_died")]


SAYS = """
import socket
from edgefleet_agent.install.child_protocol import Refused, decode_to_child, encode_packet
from edgefleet_protocol.messages import Seen

agentd = socket.socket(fileno=3)
head = decode_to_child(agentd.recv(200_000)).repo_head
with open({log!r}, "ab") as log:
    log.write(head + b" ")
agentd.recv(200_000)
agentd.send(encode_packet(Refused("tuf.rollback", "older", "signature", seen=Seen(version=7))))
agentd.recv(200_000)
"""
"""A child takes its task and the document, refuses, and waits to be let go."""


def run_with(tmp_path: Path, play: Callable[[Intake, Told], None], enough: int) -> tuple[list[bytes], Told]:
    """Let children refuse for an old repository while `play` acts; return the heads that they were started with."""
    log = tmp_path / "heads"
    child = tmp_path / "child"
    child.write_text(f"#!{sys.executable}\n{SAYS.format(log=str(log))}")
    child.chmod(0o755)
    loop = Loop(SystemClock())
    told = Told(loop, enough)
    intake = Intake(loop, tmp_path, "d-1", AgentSettings(python_command=[str(child)]), told, first_req_id=1)
    intake.attach(told)
    play(intake, told)
    loop.call_later(60.0, loop.stop)
    loop.run()
    intake.close()
    loop.close()
    return log.read_bytes().split(), told


def test_a_document_that_the_repository_is_too_old_for_waits_for_the_next_head(tmp_path: Path) -> None:
    def play(intake: Intake, told: Told) -> None:
        intake.head(b"one")
        intake.offer("desired", b"document")

        def say_nothing_new() -> None:
            intake.offer("desired", b"document")
            intake.head(b"one")
            intake.relink()
            told.later(2.0, lambda: intake.head(b"two"))

        told.then[1] = say_nothing_new

    heads, told = run_with(tmp_path, play, enough=2)
    assert heads == [b"one", b"two"]
    assert told.refused == [("desired", "tuf.rollback")] * 2


def test_a_head_that_came_while_the_child_ran_is_tried_at_once(tmp_path: Path) -> None:
    def play(intake: Intake, _told: Told) -> None:
        intake.head(b"one")
        intake.offer("desired", b"document")
        intake.head(b"two")

    heads, _ = run_with(tmp_path, play, enough=2)
    assert heads == [b"one", b"two"]


def test_a_newer_document_takes_the_place_of_one_that_waits_for_a_head(tmp_path: Path) -> None:
    def play(intake: Intake, told: Told) -> None:
        intake.head(b"one")
        intake.offer("desired", b"document")
        told.then[1] = lambda: intake.offer("desired", b"newer")
        told.then[2] = lambda: intake.head(b"two")

    heads, told = run_with(tmp_path, play, enough=3)
    assert heads == [b"one", b"one", b"two"]
    assert len(told.refused) == 3


NODS = """
import socket, time
from edgefleet_agent.install.child_protocol import Accepted, decode_to_child, encode_packet

agentd = socket.socket(fileno=3)
kind = decode_to_child(agentd.recv(200_000)).kind
with open({log!r}, "a") as log:
    log.write(kind + " ")
agentd.recv(200_000)
time.sleep(1.0)
agentd.send(encode_packet(Accepted(1)))
agentd.recv(200_000)
"""
"""A child takes its task and the document, accepts it after a second, and waits to be let go."""


class Heard(Told):
    """Notes what was accepted, and ends the loop when that is enough."""

    def __init__(self, loop: Loop, enough: int) -> None:
        super().__init__(loop, enough)
        self.accepted: list[TaskKind] = []

    def on_accepted(self, kind: TaskKind, gen: int) -> None:
        """Note it."""
        self.accepted.append(kind)
        if len(self.accepted) == self._enough:
            self._loop.stop()


@pytest.mark.parametrize(
    ("order", "children"), [(("hold", "desired"), "hold desired"), (("desired", "hold"), "desired hold desired")]
)
def test_a_hold_is_judged_first_and_not_ended_for_a_document(
    tmp_path: Path, order: tuple[TaskKind, TaskKind], children: str
) -> None:
    log = tmp_path / "kinds"
    child = tmp_path / "child"
    child.write_text(f"#!{sys.executable}\n{NODS.format(log=str(log))}")
    child.chmod(0o755)
    loop = Loop(SystemClock())
    told = Heard(loop, enough=2)
    intake = Intake(loop, tmp_path, "d-1", AgentSettings(python_command=[str(child)]), told, first_req_id=1)
    intake.attach(told)

    def offer_second() -> None:
        if log.is_file() and log.read_text():
            intake.offer(order[1], b"two")
        else:
            loop.call_later(0.02, offer_second)

    intake.offer(order[0], b"one")
    offer_second()
    loop.call_later(60.0, loop.stop)
    loop.run()
    intake.close()
    loop.close()
    assert told.accepted == ["hold", "desired"]
    assert log.read_text().split() == children.split()
