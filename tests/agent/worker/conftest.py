"""A rig that starts real worker processes the way agentd does, and ends them."""

import http.client
import json
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edgefleet_agent.composition.agent_parts import prepare_folders, remove_run_files
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.worker.control.launch import WorkerLink, listen_tcp, listen_unix, start_worker
from edgefleet_agent.worker.control.protocol import Drain, Failed, Ready, Serve, Serving, Start, ToAgentd
from edgefleet_protocol.digest import sha256_hex
from tests.support.device_python import DEVICE_PYTHON, PATIENCE

WAIT_S = 60.0 * PATIENCE
M = TypeVar("M", bound=ToAgentd)


@dataclass
class RunningWorker:
    """One started worker and every message it has sent so far."""

    link: WorkerLink
    start: Start
    messages: list[ToAgentd] = field(default_factory=list)

    def next(self) -> ToAgentd | None:
        """Return the next message, None when the worker is gone."""
        ready, _, _ = select.select([self.link.control], [], [], WAIT_S)
        assert ready, "the worker said nothing"
        message = self.link.receive()
        if message is not None:
            self.messages.append(message)
        return message

    def until(self, kind: type[M]) -> M:
        """Return the next message of a kind; fails when the worker ends or fails before."""
        while True:
            message = self.next()
            assert message is not None, f"worker ended: {self.messages}"
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Failed), message

    def until_ready(self) -> None:
        """Wait until it is loaded and proved."""
        self.until(Ready)

    def drain(self) -> None:
        """Let it leave in order."""
        self.link.send(Drain())
        assert self.exit_status() == 0

    def serve(self) -> None:
        """Bring it from its start to serving."""
        self.until(Ready)
        self.link.send(Serve())
        self.until(Serving)

    def exit_status(self) -> int:
        """Wait for its end and return the status."""
        return self.link.process.wait(WAIT_S)


class Rig:
    """Listeners, bundle files and workers of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tcp = listen_tcp("127.0.0.1", 0)
        self.port: int = self.tcp.getsockname()[1]
        self._paths = StatePaths(folder)
        prepare_folders(self._paths)
        self.sockets = self._paths.sockets()  # `folder` may have a long path
        self.socket_path = self.sockets / "infer.sock"
        self.unix = listen_unix(self.socket_path)
        self.routes_path = folder / "routes.json"
        self.workers: list[RunningWorker] = []
        self._count = 0

    def start(
        self, bundle: bytes, *, digest: str | None = None, public: bool = True, gentle: str = "", **overrides: Any
    ) -> RunningWorker:
        """Start a worker on the bundle's bytes; it inherits the public listeners unless told otherwise."""
        self._count += 1
        path = self.folder / f"bundle-{self._count}"
        path.write_bytes(bundle)
        fields: dict[str, Any] = {
            "model": "digits",
            "version": "1.0.0",
            "digest": digest or sha256_hex(bundle),
            "lane": "active",
            "slot": "A",
            "own_socket_path": str(self.sockets / f"w{self._count}.sock"),
            "routes_path": str(self.routes_path),
            "listener_fds": (self.tcp.fileno(), self.unix.fileno()) if public else (),
        }
        fd = os.open(path, os.O_RDONLY)
        try:
            start = Start(bundle_fd=fd, **{**fields, **overrides})
            worker = RunningWorker(start_worker(start, command=(DEVICE_PYTHON,), gentle=gentle), start)
        finally:
            os.close(fd)
        self.workers.append(worker)
        return worker

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, decoded body and headers of one request over TCP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            raw = response.read()
            answer = {k.lower(): v for k, v in response.getheaders()}
            plain = "json" in answer.get("content-type", "")
            return response.status, json.loads(raw) if plain and raw else raw, answer
        finally:
            connection.close()

    def infer(self, x: list[list[float]], model: str = "digits", suffix: str = "") -> tuple[int, Any, dict[str, str]]:
        """Send one JSON inference."""
        tensor = {"name": "x", "shape": [len(x), len(x[0])], "datatype": "FP32", "data": [v for row in x for v in row]}
        return self.request("POST", f"/v2/models/{model}{suffix}/infer", json.dumps({"inputs": [tensor]}).encode())

    def raw(self, data: bytes) -> bytes:
        """Send bytes, return all that comes back until the worker closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as connection:
            connection.sendall(data)
            chunks = []
            while chunk := connection.recv(65536):
                chunks.append(chunk)
            return b"".join(chunks)

    def close(self) -> None:
        """End all workers by their own process and close everything."""
        for worker in self.workers:
            worker.link.close()
            if worker.link.process.poll() is None:
                worker.link.process.kill()
            worker.link.process.wait(WAIT_S)
        self.tcp.close()
        self.unix.close()
        remove_run_files(self._paths)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A rig in a folder of its own."""
    made = Rig(tmp_path)
    yield made
    made.close()
