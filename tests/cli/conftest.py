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
from pathlib import Path
from typing import Any

import pytest

from edgefleet_cli.main import run
from tests.cli.fleet_stub import Stub, serving


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
    """A real server, started as a user does. `tokens` by role; `expired` and `revoked` are no longer valid."""

    url: str
    data: Path
    tokens: dict[str, str]
    expired: str
    revoked: str


def expired_token(create: Callable[..., str]) -> str:
    """Return a token that has expired. On a busy machine one of a second would have done so before it is made."""
    for ttl_s in (1, 5, 20):
        with contextlib.suppress(AssertionError):
            token = create("--name", "short", "--role", "viewer", "--ttl", f"{ttl_s}s")
            time.sleep(ttl_s)
            return token
    return create("--name", "short", "--role", "viewer", "--ttl", "1m")


@contextlib.contextmanager
def a_server(folder: Path) -> Iterator[Server]:
    """Yield `edgectl server init` and `start` in a folder, on free ports, with the embedded broker; stopped at the end."""
    data = folder / "data"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EDGECTL_", "EDGEFLEET_"))}
    environment["EDGECTL_CONFIG"] = str(folder / "edgectl.json")
    command = [sys.executable, "-m", "edgefleet_cli.main"]

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("server", "init", str(data))
    flags = ["--data", str(data), "--port", "0", "--device-port", "0", "--broker", "embedded"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "server", "start", *flags], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    try:
        address = data / "run" / "server.json"
        deadline = time.monotonic() + 240
        while not address.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        url = json.loads(address.read_text())["api_url"]
        admin = (data / "admin.token").read_text().strip()
        reach = ("--server", url, "--token", admin)
        roles = ("viewer", "operator", "publisher")
        tokens = {role: call("token", "create", "--name", role, "--role", role, *reach).strip() for role in roles}
        expired = expired_token(lambda *words: call("token", "create", *words, *reach).strip())
        revoked = json.loads(call("token", "create", "--name", "gone", "--role", "viewer", "-o", "json", *reach))
        call("token", "revoke", revoked["id"], "--yes", *reach)
        yield Server(url, data, {"admin": admin, **tokens}, expired, revoked["token"])
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all files; none of their tests enrols a device. A file that does has a fixture of this name of its own."""
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
