"""agentd's role towards a real install child, over the real socket, answered from real server services."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.identity.store import ROOT_FILE
from edgefleet_agent.install.records import DesiredOk, Wanted
from edgefleet_agent.install.slots import BITS_FILE
from edgefleet_agent.install.verifier_protocol import (
    CHILD_FD,
    MAX_DOCUMENT_PART_BYTES,
    MAX_PACKET_BYTES,
    Accepted,
    Blocks,
    Document,
    Fetch,
    Fetched,
    FetchFailed,
    FetchProgress,
    Finish,
    FromChild,
    Meta,
    NeedBlocks,
    NeedMeta,
    Notice,
    Refused,
    Task,
    ToChild,
    decode_from_child,
    encode_packet,
)
from edgefleet_protocol.blocks import LEAF_BYTES, BlockData, encode_data
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId
from tests.agent.field import eventually
from tests.server.fleet.house import House
from tests.support.device_python import DEVICE_PYTHON, PATIENCE

Answer = Accepted | Refused | Fetched | FetchFailed


class ChildPeer:
    """State folder of one device plus the means to run children on it. `meta` and `leaf` may be replaced to lie."""

    def __init__(self, state: Path, device: str, root: bytes) -> None:
        self.state = state
        self.device = DeviceId(device)
        self.meta: Callable[[str], bytes | None] = self.honest_meta
        self.leaf: Callable[[str, int, bytes], bytes] = lambda _blob, _leaf, data: data
        self.asked: list[str] = []
        self.notices: list[Notice] = []
        self.blocks_sent = 0
        (state / "identity").mkdir(parents=True, exist_ok=True)
        (state / "identity" / ROOT_FILE).write_bytes(root)

    def honest_meta(self, name: str) -> bytes | None:
        """Answer as the gateway does."""
        return self.blob(name.removeprefix("leaves.")) if name.startswith("leaves.") else self.metadata(name)

    def metadata(self, name: str) -> bytes | None:
        """Return a file of the repository, None when there is none."""
        raise NotImplementedError

    def blob(self, sha256: str) -> bytes | None:
        """Return the bytes of that digest, None when there are none."""
        raise NotImplementedError

    def spawn(self, theirs: socket.socket) -> tuple[int, Callable[[], object]]:
        """Start a child on its end of the socket; return its pid and what waits for its end."""
        argv = [DEVICE_PYTHON, "-m", "edgefleet_agent.verifier"]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHILD_FD)]
        pid = os.posix_spawn(DEVICE_PYTHON, argv, dict(os.environ), file_actions=actions)
        theirs.close()
        return pid, lambda: os.waitpid(pid, 0)

    def verify(self, raw: bytes, kind: Any = "desired", head: bytes = b"") -> tuple[Answer, DesiredOk | None]:
        """Run a child on a document; return its answer and `desired.ok`."""
        with self._child(kind, head) as child:
            for at in range(0, len(raw) or 1, MAX_DOCUMENT_PART_BYTES):
                part = raw[at : at + MAX_DOCUMENT_PART_BYTES]
                child.send(Document(part, at + len(part) == len(raw)))
            answer = child.answer()
            child.send(Finish())
        return answer, read_record(DesiredOk, self.state / "desired.ok")

    def install(self, wanted: Wanted, slot: str = "A", kill_after: int = 0) -> Answer | None:
        """Run a child that fetches a bundle; None when it was killed after so many block messages."""
        with self._child("fetch", b"") as child:
            child.kill_after = kill_after
            child.send(Fetch(wanted, slot))
            answer: Answer | None = child.answer()
            if answer is not None:
                child.send(Finish())
        return answer

    def install_all(self, wishes: list[Wanted], slot: str) -> list[Answer]:
        """Run one child that fetches several bundles, one after the other."""
        answers: list[Answer] = []
        with self._child("fetch", b"") as child:
            for wanted in wishes:
                child.send(Fetch(wanted, slot))
                answers.append(child.answer())
            child.send(Finish())
        return answers

    def has_noted_leaves(self) -> bool:
        """Whether a child has noted some leaves that another one may go on from."""
        return any(self.state.glob(f"models/*/*/{BITS_FILE}"))

    def _child(self, kind: Any, head: bytes) -> "_Child":
        task = Task(
            kind=kind,
            state_dir=str(self.state),
            device=self.device,
            repo_head=head,
            meta_timeout_s=PATIENCE,
            block_timeout_s=PATIENCE,
            no_progress_s=5 * PATIENCE,
        )
        return _Child(self, task)


class ChildDriver(ChildPeer):
    """The same, answered from the services of a real server."""

    def __init__(self, house: House, state: Path, device: str) -> None:
        super().__init__(state, device, house.signing.root_chain()[0])
        self.house = house

    def metadata(self, name: str) -> bytes | None:
        """Return what the server has signed."""
        return self.house.signing.metadata_file(name)

    def blob(self, sha256: str) -> bytes | None:
        """Return what the server has stored."""
        size = self.house.registry.blob_size(Sha256(sha256))
        return None if size is None else self.house.registry.open_blob_range(Sha256(sha256), 0, size)


class _Child:
    def __init__(self, driver: ChildPeer, task: Task) -> None:
        self._driver = driver
        self.kill_after = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = ours
        self.pid, self._wait = driver.spawn(theirs)
        self._sock.settimeout(30 * PATIENCE)
        self.send(task)

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._wait()

    def send(self, packet: ToChild) -> None:
        # a child that has said its last word may be gone already
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._sock.send(encode_packet(packet))

    def answer(self) -> Any:
        """Serve the child until it has an answer."""
        while True:
            packet = decode_from_child(self._receive())
            if isinstance(packet, Accepted | Refused | Fetched | FetchFailed):
                return packet
            if not self._serve(packet):
                return None

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(MAX_PACKET_BYTES)
        except ConnectionResetError:  # it ended without reading all of what was sent; its last word is still there
            return self._sock.recv(MAX_PACKET_BYTES)

    def _serve(self, packet: FromChild) -> bool:
        driver = self._driver
        if isinstance(packet, NeedMeta):
            driver.asked.append(packet.name)
            self._send_meta(packet.name, driver.meta(packet.name))
        elif isinstance(packet, NeedBlocks):
            return self._send_blocks(packet)
        elif isinstance(packet, Notice):
            driver.notices.append(packet)
        else:
            assert isinstance(packet, FetchProgress)
        return True

    def _send_meta(self, name: str, data: bytes | None) -> None:
        if data is None:
            self.send(Meta(name, 0, 1, b"", "not_found"))
            return
        parts = [data[at : at + LEAF_BYTES] for at in range(0, len(data) or 1, LEAF_BYTES)]
        for number, part in enumerate(parts):
            self.send(Meta(name, number, len(parts), part))

    def _send_blocks(self, packet: NeedBlocks) -> bool:
        driver = self._driver
        blob = driver.blob(packet.blob)
        assert blob is not None
        for leaf in packet.wanted[: packet.credit * packet.leaves_per_message]:
            data = driver.leaf(packet.blob, leaf, blob[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES])
            message = BlockData(packet.req_id, bytes.fromhex(packet.blob[:16]), leaf, 1, data)
            self.send(Blocks(encode_data(message)))
            driver.blocks_sent += 1
            if self.kill_after and driver.blocks_sent >= self.kill_after:
                assert eventually(driver.has_noted_leaves)
                os.kill(self.pid, signal.SIGKILL)
                return False
        return True
