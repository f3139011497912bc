"""The queue in front of the install child: a child that dies over one document does not keep the next one waiting."""

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
