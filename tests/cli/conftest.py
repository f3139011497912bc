"""`edgectl` as a user runs it: a command line in, exit code, stdout and stderr out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.main import run
from tests.cli.fleet_stub import Stub, serving
from tests.support.servers import copy_server, server_process


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The data on stdout, which must be one JSON document."""
        return json.loads(self.out)

    def told(self) -> tuple[str, str, str]:
        """The error's what, why and next; fails unless stderr ends in exactly those lines and the code."""
        lines = [line for line in self.err.splitlines() if line]
        at = next((i for i, line in enumerate(lines) if line.startswith("error: ")), None)
        assert at is not None, self.err
        told = lines[at:]
        assert len(told) == 4, self.err
        assert told[1].startswith("  why: "), self.err
        assert told[2].startswith(" next: "), self.err
        assert told[3].startswith(" code: "), self.err
        return told[0].removeprefix("error: "), told[1].removeprefix("  why: "), told[2].lstrip().removeprefix("next: ")

    @property
    def error_code(self) -> str:
        """The error's code, on a line of its own."""
        return self.err.rstrip().rpartition("\n code: ")[2]


Edgectl = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the tests reaches them."""
    own = ("EDGECTL_", "EDGEFLEET_ID_TOKEN", "ACTIONS_ID_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI")
    for name in [name for name in os.environ if name.startswith(own)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECTL_CONFIG", str(tmp_path / "config" / "edgectl.json"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def edgectl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgectl:
    """Run a command line in this process."""

    def call(*arguments: str | Path, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Ran(code, written.out, written.err)

    return call


@pytest.fixture
def edgectl_process() -> Edgectl:
    """Run a command line in a process of its own."""

    def call(*arguments: str | Path, stdin: str = "") -> Ran:
        command = [sys.executable, "-m", "edgefleet_cli.main", *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@dataclass(frozen=True)
class Server:
    """A real server. `tokens` by role; `expired` and `revoked` are no longer valid."""

    url: str
    data: Path
    tokens: dict[str, str]
    expired: str
    revoked: str


def expired_token(create: Callable[..., dict[str, Any]]) -> str:
    """Return a token that has expired. On a busy machine one of a second would have done so before it is made."""
    for ttl_s in (1, 5, 20):
        with contextlib.suppress(AssertionError):
            token = create("short", "viewer", expires_at=(datetime.now(UTC) + timedelta(seconds=ttl_s)).isoformat())
            time.sleep(ttl_s)
            return str(token["token"])
    return str(create("short", "viewer", expires_at=(datetime.now(UTC) + timedelta(minutes=1)).isoformat())["token"])


@contextlib.contextmanager
def a_server(folder: Path) -> Iterator[Server]:
    """Yield a server in a folder, on free ports, with the embedded broker; stopped at the end.

    How `edgectl server init` and `start` begin one is tested in `test_server_commands.py` and `test_server_up.py`.
    """
    data = folder / "data"
    admin = copy_server(data)
    with server_process(data, admin, "--broker", "embedded", timeout_s=240) as running, running.client() as http:

        def create(name: str, role: str, **more: str) -> dict[str, Any]:
            made = http.post("/api/v1/tokens", json={"name": name, "roles": [role], **more})
            assert made.status_code == 201, made.text
            found: dict[str, Any] = made.json()
            return found

        tokens = {role: str(create(role, role)["token"]) for role in ("viewer", "operator", "publisher")}
        expired = expired_token(create)
        revoked = create("gone", "viewer")
        assert http.delete(f"/api/v1/tokens/{revoked['id']}").is_success
        yield Server(running.url, data, {"admin": admin, **tokens}, expired, str(revoked["token"]))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all files of this folder, stopped after the last of them: an idle one takes 3 % of a processor.

    None of their tests enrols a device. A file that does has a fixture of this name of its own.
    """
    with a_server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def admin(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with the admin's token in the environment of the command line."""
    monkeypatch.setenv("EDGECTL_SERVER", server.url)
    monkeypatch.setenv("EDGECTL_TOKEN", server.tokens["admin"])
    return server


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server whose answers the test sets, named in the environment of the command line; 80 columns wide."""
    with serving() as stub:
        monkeypatch.setenv("EDGECTL_SERVER", stub.url)
        monkeypatch.setenv("EDGECTL_TOKEN", "edg_test")
        monkeypatch.setenv("COLUMNS", "80")
        yield stub
