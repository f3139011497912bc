"""A device that hostile vectors are tried on: its real verifier and install child, a `Forge` instead of a server.

The child runs in a thread of this process, or as the process that agentd starts (`own_process`). Everything else is the same: the
socket, the packets, the files of the state folder.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.install.records import DesiredOk, Wanted
from edgefleet_agent.install.verifier_protocol import Accepted, Fetched, FetchFailed, Refused, Task
from edgefleet_agent.verifier.__main__ import Child
from edgefleet_agent.verifier.channel import Channel, ChannelClosedError
from edgefleet_agent.verifier.floor import FloorFile
from edgefleet_protocol.desired import Ref
from tests.agent.child import ChildPeer
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.hostile.device.forge import DEVICE, MODEL, TARGET, Forge

ACCEPTED = ""
"""What a vector returns when the device took it: never right."""
FIRST_GEN = 10
HONEST = bundle_bytes(classifier_onnx())
Attack = Callable[["Victim"], str]


class Victim(ChildPeer):
    """A device that has accepted a document and a hold, both with number `FIRST_GEN`."""

    def __init__(self, state: Path, *, own_process: bool = False) -> None:
        self.forge = Forge()
        super().__init__(state, DEVICE, self.forge.pinned)
        self._own_process = own_process
        self.ref = self.forge.store(HONEST)
        self.gen = FIRST_GEN
        assert self.refusal(self.forge.sign(self.forge.desired(FIRST_GEN, self.ref))) == ACCEPTED
        assert self.hold_refusal(self.forge.sign(self.forge.hold(FIRST_GEN))) == ACCEPTED

    def metadata(self, name: str) -> bytes | None:
        """Return what the forge serves."""
        return self.forge.files.get(name)

    def blob(self, sha256: str) -> bytes | None:
        """Return what the forge has stored."""
        return self.forge.blobs.get(sha256)

    def spawn(self, theirs: socket.socket) -> tuple[int, Callable[[], object]]:
        """Start the child in a thread, or as agentd does."""
        if self._own_process:
            return super().spawn(theirs)
        thread = threading.Thread(target=_child, args=(theirs,))
        thread.start()
        return 0, thread.join

    def newer(self, ref: Ref | None = None, **fields: Any) -> str:
        """Send an honest document with the next number but for `fields`, and return why it was refused."""
        return self.refusal(self.forge.sign(self.forge.desired(self.gen + 1, ref or self.ref, **fields)))

    def refusal(self, raw: bytes) -> str:
        """Send an envelope; return the code of its refusal, or of its bundle's. Nothing may have changed when it was refused whole."""
        before = self._state()
        answer, desired = self.verify(raw)
        if isinstance(answer, Refused):
            assert self._state() == before, "a document that was refused has changed what the device remembers"
            return answer.code
        assert isinstance(answer, Accepted)
        assert desired is not None
        refused = [*desired.refused, *desired.refused_candidates]
        return refused[0].code if refused and not (desired.refused and desired.wanted) else ACCEPTED

    def hold_refusal(self, raw: bytes) -> str:
        """Send a hold and return the code of its refusal."""
        answer, _ = self.verify(raw, kind="hold")
        return answer.code if isinstance(answer, Refused) else ACCEPTED

    def install_refusal(self, data: bytes, **fields: Any) -> str:
        """Let the device fetch a bundle that is signed with its true digest, and return why not. Nothing may be left of it."""
        answer = self.install(self.wanted(data, **fields), slot="B")
        if isinstance(answer, FetchFailed):
            slot = self.state / "models" / MODEL / "B"
            assert not (slot / "slot.msgpack").exists()
            assert not (slot / "bundle").exists()
            return answer.code
        assert isinstance(answer, Fetched)
        return ACCEPTED

    def wanted(self, data: bytes, **fields: Any) -> Wanted:
        """Return what agentd asks its child for, with the bundle stored at the forge."""
        ref = self.forge.store(data)
        leaves = self.forge.roles["m.digits"].targets[TARGET].unrecognized_fields["custom"]["leaves"]
        given = {"sha256": ref.sha256, "length": ref.length, "leaves": leaves, **fields}
        return Wanted(model=MODEL, target=TARGET, gen=self.gen, **given)

    def _state(self) -> tuple[DesiredOk | None, Any]:
        desired = read_record(DesiredOk, self.state / "desired.ok")
        return desired, FloorFile(self.state).floor


@dataclass(frozen=True)
class Vector:
    """One attempt. expected: code of the refusal."""

    name: str
    expected: str
    attack: Attack


@contextmanager
def victim(*, own_process: bool = False) -> Iterator[Victim]:
    """Yield a device of its own."""
    with TemporaryDirectory(prefix="ef-hostile-") as name:
        yield Victim(Path(name), own_process=own_process)


def _child(sock: socket.socket) -> None:
    with sock:
        channel = Channel(sock)
        try:
            task = channel.receive()
            assert isinstance(task, Task)
            Child(channel, task).run()
        except ChannelClosedError:
            return
