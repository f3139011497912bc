"""The queue in front of the install child: a child that dies over one document does not keep the next one waiting."""

import sys
from collections.abc import Callable
from pathlib import Path

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

    def on_accepted(self, kind: TaskKind, gen: int) -> None:
        """Not by a child that dies."""
        raise AssertionError((kind, gen))

    def on_refused(self, kind: TaskKind, refused: Refused) -> None:
        """Note it."""
        self.refused.append((kind, refused.code))
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
agentd.send(encode_packet(Refused("tuf.rollback", "older", "signature", seen=Seen(version=7))))
"""


def run_with(tmp_path: Path, play: Callable[[Loop, Intake], None], enough: int) -> tuple[list[bytes], Told]:
    """Let children refuse for an old repository while `play` acts; return the heads that they were started with."""
    log = tmp_path / "heads"
    child = tmp_path / "child"
    child.write_text(f"#!{sys.executable}\n{SAYS.format(log=str(log))}")
    child.chmod(0o755)
    loop = Loop(SystemClock())
    told = Told(loop, enough)
    intake = Intake(loop, tmp_path, "d-1", AgentSettings(python_command=[str(child)]), told, first_req_id=1)
    intake.attach(told)
    play(loop, intake)
    loop.call_later(60.0, loop.stop)
    loop.run()
    intake.close()
    loop.close()
    return log.read_bytes().split(), told


def test_a_document_that_the_repository_is_too_old_for_waits_for_the_next_head(tmp_path: Path) -> None:
    def play(loop: Loop, intake: Intake) -> None:
        intake.head(b"one")
        intake.offer("desired", b"document")
        again = (lambda: intake.offer("desired", b"document"), lambda: intake.head(b"one"), intake.relink)
        for i, act in enumerate(again):  # none of which is news
            loop.call_later(2.0 + i / 10, act)
        loop.call_later(3.0, lambda: intake.head(b"two"))

    heads, told = run_with(tmp_path, play, enough=2)
    assert heads == [b"one", b"two"]
    assert told.refused == [("desired", "tuf.rollback")] * 2


def test_a_head_that_came_while_the_child_ran_is_tried_at_once(tmp_path: Path) -> None:
    def play(_loop: Loop, intake: Intake) -> None:
        intake.head(b"one")
        intake.offer("desired", b"document")
        intake.head(b"two")

    heads, _ = run_with(tmp_path, play, enough=2)
    assert heads == [b"one", b"two"]


def test_a_newer_document_takes_the_place_of_one_that_waits_for_a_head(tmp_path: Path) -> None:
    def play(loop: Loop, intake: Intake) -> None:
        intake.head(b"one")
        intake.offer("desired", b"document")
        loop.call_later(2.0, lambda: intake.offer("desired", b"newer"))
        loop.call_later(4.0, lambda: intake.head(b"two"))

    heads, told = run_with(tmp_path, play, enough=3)
    assert heads == [b"one", b"one", b"two"]
    assert len(told.refused) == 3
