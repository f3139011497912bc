"""Entry of the install child: take the task from descriptor 3, verify, fetch what agentd asks for, exit.

Exit status 0 always means "said what there was to say"; agentd looks at the packets, not at the status.
"""

import logging
import socket
import sys
from pathlib import Path

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.logs import set_up_logging
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.install.verifier_protocol import (
    CHILD_FD,
    Accepted,
    Document,
    Fetch,
    FetchFailed,
    Finish,
    Notice,
    Refused,
    Task,
)
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.verifier.bundle_fetcher import Fetcher
from edgefleet_agent.verifier.channel import Channel, ChannelClosedError
from edgefleet_agent.verifier.documents import Documents
from edgefleet_agent.verifier.errors import ChildError, SlotWriteError, TransportError, class_of, code_of
from edgefleet_agent.verifier.metadata_fetcher import MetadataFetcher
from edgefleet_agent.verifier.withdrawals import rules_of
from edgefleet_protocol.envelope import MAX_ENVELOPE_BYTES
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.messages import ErrorClass

log = logging.getLogger(__name__)


class Child:
    """One run of the child."""

    def __init__(self, channel: Channel, task: Task) -> None:
        self._channel = channel
        self._task = task
        self._source = MetadataFetcher(channel, task)
        self._documents = Documents(task, self._source, SystemClock())

    def run(self) -> None:
        """Do the task. Raises ChannelClosedError when agentd goes away."""
        if self._documents.floor_file.lost:
            self._channel.send(
                Notice("trust.floor_lost", "both copies of the floor were torn or missing; it starts again")
            )
        if self._task.kind != "fetch" and not self._verify():
            return
        if self._task.kind in ("desired", "fetch"):
            self._serve_fetches()

    def _verify(self) -> bool:
        try:
            if self._task.kind == "desired":
                gen = self._documents.desired(self._document()).gen
            else:
                gen = self._documents.hold(self._document()).seq
        except EdgefleetError as error:
            retry = isinstance(error, TransportError)
            seen = error.seen if isinstance(error, ChildError) else None
            refused = Refused(code_of(error), error.message, class_of(error).value, self._documents.gen, retry, seen)
            self._channel.send(refused)
            return False
        except OSError as error:
            self._channel.send(Refused("install.disk", str(error), ErrorClass.DISK.value, self._documents.gen, True))
            return False
        self._channel.send(Accepted(gen))
        return True

    def _document(self) -> bytes:
        raw = bytearray()
        while True:
            packet = self._channel.receive()
            if not isinstance(packet, Document):
                raise BadMessageError("expected a part of the document")
            raw += packet.data
            if len(raw) > MAX_ENVELOPE_BYTES:
                raise BadMessageError(f"the document has more than {MAX_ENVELOPE_BYTES} bytes")
            if packet.last:
                return bytes(raw)

    def _serve_fetches(self) -> None:
        slots = Slots(StatePaths(Path(self._task.state_dir)).models)
        fetcher = Fetcher(self._channel, self._source, self._task, slots)
        while True:
            packet = self._channel.receive()
            if isinstance(packet, Finish):
                return
            if isinstance(packet, Fetch):
                self._fetch(packet, fetcher)

    def _fetch(self, packet: Fetch, fetcher: Fetcher) -> None:
        model = packet.wanted.model
        rules = rules_of(self._documents.floor_file.floor, model)
        try:
            self._channel.send(fetcher.run(packet, rules))
        except EdgefleetError as error:
            self._channel.send(FetchFailed(model, code_of(error), error.message, class_of(error).value))
        except OSError as error:
            self._channel.send(FetchFailed(model, SlotWriteError.code, str(error), ErrorClass.DISK.value))


def main() -> int:
    """Run one task from descriptor 3. Returns the exit status."""
    set_up_logging("INFO", "install-child")
    with socket.socket(fileno=CHILD_FD) as sock:
        channel = Channel(sock)
        try:
            task = channel.receive()
            if isinstance(task, Task):
                Child(channel, task).run()
        except ChannelClosedError:
            log.info("agentd closed the channel")
    return 0


if __name__ == "__main__":
    sys.exit(main())
