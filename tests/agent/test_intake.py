"""The queue in front of the install child: a child that dies over one document does not keep the next one waiting."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.intake import Intake
from edgefleet_agent.install.verifier_protocol import Fetched, FetchFailed, FetchProgress, Notice, Refused, TaskKind
from edgefleet_agent.settings import AgentSettings
from edgefleet_protocol.messages import MetaRequest


class Told:
    """Notes what was refused, and ends the loop when that is enough. There is no connection."""

    def __init__(self, loop: Loop, enough: int) -> None:
        self._loop = loop
        self._enough = enough
        self.refused: list[tuple[TaskKind, str]] = []
        self.words: list[Refused] = []
        self.is_enough_when_refused = True
        self.then: dict[int, Callable[[], Any]] = {}
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
        self.words.append(refused)
        if (act := self.then.get(len(self.refused))) is not None:
            self._loop.call_later(0.2, act)
        if len(self.refused) == self._enough and self.is_enough_when_refused:
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


DIES = """
import os, socket, sys
from pathlib import Path
from edgefleet_agent.install.verifier_protocol import Accepted, decode_to_child, encode_packet

agentd = socket.socket(fileno=3)
kind = decode_to_child(agentd.recv(200_000)).kind
document = decode_to_child(agentd.recv(200_000)).data.decode()
with open({log!r}, "a") as log:
    log.write(f"{{kind}}:{{document}} ")
if document != "good" and not Path({cured!r}).exists():
    os.kill(os.getpid(), 9)
agentd.send(encode_packet(Accepted(1)))
agentd.recv(200_000)
"""
"""A child dies over any document but "good", until it is cured."""


class Mortal:
    """An intake whose children die, and what they were given."""

    def __init__(self, tmp_path: Path, enough: int, first_s: float, most_s: float) -> None:
        self._log, self._cured = tmp_path / "documents", tmp_path / "cured"
        child = tmp_path / "child"
        child.write_text(f"#!{sys.executable}\n{DIES.format(log=str(self._log), cured=str(self._cured))}")
        child.chmod(0o755)
        self.loop = Loop(SystemClock())
        self.told = Heard(self.loop, enough)
        settings = AgentSettings(python_command=[str(child)], verify_rest_s=first_s, verify_rest_max_s=most_s)
        self.intake = Intake(self.loop, tmp_path, "d-1", settings, self.told, self.told, first_req_id=1)

    def cure(self) -> None:
        """What killed the children is over."""
        self._cured.touch()

    def run(self) -> list[str]:
        """Run until enough was told; return what the children were given."""
        self.loop.call_later(60.0, self.loop.stop)
        self.loop.run()
        self.intake.close()
        self.loop.close()
        return self._log.read_text().split()


def test_a_document_that_kills_the_child_rests_and_the_next_one_is_looked_at(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, enough=2, first_s=60.0, most_s=60.0)
    mortal.intake.offer("hold", b"one")
    mortal.intake.offer("desired", b"two")
    given = mortal.run()
    assert given == ["hold:one"] * 3 + ["desired:two"] * 3
    assert mortal.told.refused == [("hold", "install.child_died"), ("desired", "install.child_died")]
    assert all(one.retry and 30.0 < one.again_s <= 60.0 for one in mortal.told.words)


def test_a_document_that_killed_the_child_is_tried_again_after_longer_and_longer_rests(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, enough=4, first_s=0.2, most_s=0.4)
    mortal.intake.offer("desired", b"one")
    given = mortal.run()
    spans = [one.again_s for one in mortal.told.words]
    assert 0.1 < spans[0] <= 0.2 < spans[1] <= 0.4
    assert all(0.2 < span <= 0.4 for span in spans[1:])
    assert len(given) == 2 + len(spans), "one child for each rest"


def test_a_document_that_rested_is_accepted_once_the_child_lives(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, enough=1, first_s=0.4, most_s=0.4)
    mortal.told.is_enough_when_refused = False
    mortal.intake.offer("desired", b"one")
    mortal.told.then[1] = mortal.cure
    mortal.run()
    assert mortal.told.accepted == ["desired"]


def test_a_resting_document_that_comes_again_goes_on_resting(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, enough=9, first_s=60.0, most_s=60.0)

    def connect_again() -> None:
        mortal.intake.offer("desired", b"one")
        mortal.intake.relink()
        mortal.told.later(1.0, mortal.loop.stop)

    mortal.intake.offer("desired", b"one")
    mortal.told.then[1] = connect_again
    assert mortal.run() == ["desired:one"] * 3


def test_a_newer_document_is_tried_at_once_while_an_older_one_rests(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, enough=1, first_s=60.0, most_s=60.0)
    mortal.told.is_enough_when_refused = False
    mortal.intake.offer("desired", b"one")
    mortal.told.then[1] = lambda: mortal.intake.offer("desired", b"good")
    assert mortal.run() == ["desired:one"] * 3 + ["desired:good"]
    assert mortal.told.accepted == ["desired"]


def test_a_child_that_cannot_be_started_counts_as_one_that_died(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, enough=1, first_s=60.0, most_s=60.0)
    (tmp_path / "child").unlink()
    (tmp_path / "documents").touch()
    mortal.intake.offer("desired", b"one")
    mortal.run()
    assert mortal.told.refused == [("desired", "install.child_died")]


SAYS = """
import socket
from edgefleet_agent.install.verifier_protocol import Refused, decode_to_child, encode_packet
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
    intake = Intake(loop, tmp_path, "d-1", AgentSettings(python_command=[str(child)]), told, told, first_req_id=1)
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
from edgefleet_agent.install.verifier_protocol import Accepted, decode_to_child, encode_packet

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
    intake = Intake(loop, tmp_path, "d-1", AgentSettings(python_command=[str(child)]), told, told, first_req_id=1)

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
