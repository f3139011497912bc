"""Real servers for tests: the API app on real services in this process, or the whole server as a process."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.container import Parts, build_parts
from edgefleet_server.settings import load_settings
from tests.support import databases
from tests.support.apps import AppOf, shared_app
from tests.support.forked_servers import ForkedServer
from tests.support.processes import at_end

PROFILE = "generic-x86_64-ort"


@dataclass
class HandClock:
    """A clock that stands until it is turned; its monotonic time runs with it."""

    time: datetime = field(default_factory=lambda: datetime(2026, 11, 25, 12, 0, tzinfo=UTC))

    def now(self) -> datetime:
        """Return the set time."""
        return self.time

    def monotonic_s(self) -> float:
        """Return the seconds of the set time."""
        return self.time.timestamp()

    def turn(self, **delta: float) -> None:
        """Move the time on."""
        self.time += timedelta(**delta)


class ApiHouse:
    """All services on one database, the API app on them, and a token for every role."""

    def __init__(self, folder: Path, url: str | None = None, clock: Any = None, **settings: Any) -> None:
        self.clock = clock or HandClock()
        self.settings = load_settings(folder, database_url=url, **settings)
        self.settings.run_dir.mkdir(parents=True, exist_ok=True)
        self.parts: Parts = build_parts(self.settings, self.clock, is_turned=not isinstance(self.clock, SystemClock))
        databases.begin(self.parts.db, self.parts.signing, self.settings.keys_dir, self.clock.now())

    @cached_property
    def app(self) -> AppOf:
        """The API app, which all tests of the process share: nothing is added to it, and no stream is read from it."""
        return shared_app(self.parts)

    def own_app(self) -> FastAPI:
        """Return a new API app, for tests that add to it or serve it on a socket."""
        return create_app(self.parts)

    def token(self, *roles: Role, expires_at: datetime | None = None) -> str:
        """Return a fresh token with these roles."""
        return self.parts.access.create_token("test", roles, by="test", expires_at=expires_at).token

    def client(self, *roles: Role) -> "ApiClient":
        """Return a client of the app whose token has these roles; none = no token."""
        return ApiClient(self.app, self.token(*roles) if roles else None)

    def put(self, data: bytes) -> str:
        """Store a blob and return its digest."""
        return self.parts.registry.put_blob_bytes(data)

    def close(self) -> None:
        """Close the database."""
        self.parts.db.dispose()


class ApiClient:
    """Sends requests through the whole ASGI app, synchronously; server errors come back as responses, as over HTTP."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        from fastapi.testclient import TestClient

        self._client = TestClient(app, raise_server_exceptions=False)
        if token is not None:
            self._client.headers["authorization"] = f"Bearer {token}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def release_body(model_bytes: bytes, **changes: Any) -> dict[str, Any]:
    """Return the body that publishes one file with these bytes."""
    digest = sha256_hex(model_bytes)
    body: dict[str, Any] = {
        "model": "digits",
        "version": "1.0.0",
        "source": {"kind": "file", "files": [{"path": "model.onnx", "sha256": digest, "length": len(model_bytes)}]},
        "profiles": [PROFILE],
    }
    return body | changes


@dataclass
class ServerProcess:
    """A running server process and what its run file says."""

    process: subprocess.Popen[bytes] | ForkedServer
    data: Path
    run: dict[str, Any]
    token: str

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return str(self.run["api_url"])

    def client(self) -> httpx.Client:
        """Return an HTTP client with the first admin token."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, timeout=30)


def init_server(data: Path) -> str:
    """Run `server init` as a process and return the admin token."""
    subprocess.run(
        [sys.executable, "-m", "edgefleet_server.process.init", "--data", str(data)], check=True, capture_output=True
    )
    return (data / "admin.token").read_text(encoding="ascii").strip()


def copy_server(data: Path) -> str:
    """Copy a data folder that `server init` made once for this process, and return the admin token. All copies have the same keys."""
    shutil.copytree(_initialised(), data)
    return (data / "admin.token").read_text(encoding="ascii").strip()


@cache
def _initialised() -> Path:
    folder = tempfile.mkdtemp(prefix="ef-init-")
    at_end(partial(shutil.rmtree, folder, ignore_errors=True))
    init_server(Path(folder, "data"))
    return Path(folder, "data")


def _cold(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgefleet_server.main", *arguments]
    with log.open("ab") as sink:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=sink, stderr=sink)


@contextmanager
def server_process(
    data: Path,
    token: str,
    *flags: str,
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    is_cold: bool = False,
) -> Iterator[ServerProcess]:
    """Run the whole server on free ports until the block ends. Its log is DATA/../server.log.

    environment: added to ours. is_cold: start it as users do, with a Python of its own; so is a server with an environment of its own.
    """
    arguments: Sequence[str] = ("--data", str(data), "--port", "0", "--device-port", "0", *flags)
    log = data.parent / "server.log"
    run_file = data / "run" / "server.json"
    stale = run_file.read_bytes() if run_file.exists() else b""  # of a server that was killed
    if is_cold or environment is not None:
        process: subprocess.Popen[bytes] | ForkedServer = _cold(arguments, log, environment or {})
    else:
        process = ForkedServer(arguments, log)
    try:
        deadline = time.monotonic() + timeout_s
        while not run_file.exists() or run_file.read_bytes() == stale:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
            time.sleep(0.05)
        yield ServerProcess(process, data, json.loads(run_file.read_text(encoding="utf-8")), token)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
