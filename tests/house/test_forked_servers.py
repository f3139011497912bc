"""A forked server is to tests what one of `subprocess` is: its end, its signals, its environment, and what it has open."""

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.house.closing import processor_s
from tests.support.forked_servers import ForkedServer
from tests.support.servers import copy_server, server_process


def test_a_server_that_ends_by_itself_says_why_and_its_time_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_s = processor_s()
    copy_server(tmp_path / "data")
    monkeypatch.setenv("EDGEFLEET_SERVER_ROLES", '["of-the-test"]')
    server = ForkedServer(("--data", str(tmp_path / "data")), tmp_path / "log")
    assert server.wait(60) == server.returncode == server.poll() == 1
    assert "these settings cannot be used: roles.0" in (tmp_path / "log").read_text()
    server.terminate()  # as of `Popen`: no error, and no signal to another process that may have the number by now
    assert processor_s() > before_s


def test_signals_end_it_and_nothing_of_the_tests_is_open_in_it(tmp_path: Path) -> None:
    token = copy_server(tmp_path / "data")
    with server_process(tmp_path / "data", token, "--roles", "api") as running:
        proc = Path("/proc", str(running.process.pid))
        mine = {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
        shared = {str(entry.readlink()) for entry in (proc / "fd").iterdir()} & mine
        assert not [name for name in shared if name.startswith(("socket", "pipe"))]
        assert (proc / "cwd").resolve() == Path.cwd()
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(0.01)
        assert running.process.poll() is None
    assert running.process.returncode == 0
    with server_process(tmp_path / "data", token, "--roles", "api") as running:
        running.process.kill()
        assert running.process.wait(20) == -signal.SIGKILL
        (tmp_path / "data/run/server.json").unlink()


def test_apps_made_before_the_fork_serve_the_parts_of_each_server(tmp_path: Path) -> None:
    """Two at once: each knows its own token only, and what it tells of itself are its own settings."""
    first, second = (tmp_path / name / "data" for name in ("first", "second"))
    token = copy_server(first)
    copy_server(second)
    with (
        server_process(first, token, "--roles", "api") as one,
        server_process(second, token, "--roles", "api", "--behind-proxy") as other,
    ):
        for server, secure in ((one, False), (other, True)):
            with server.client() as http:
                made = http.post("/api/v1/tokens", json={"name": "of this server", "roles": ["viewer"]})
                assert made.status_code == 201, made.text
                signed_in = http.post("/login", data={"token": token}, headers={"origin": server.url})
                assert ("secure" in signed_in.headers["set-cookie"].lower()) is secure
        own = made.json()["token"]
        assert httpx.get(f"{one.url}/api/v1/devices", headers={"authorization": f"Bearer {own}"}).status_code == 401
        assert httpx.get(f"{other.url}/api/v1/devices", headers={"authorization": f"Bearer {own}"}).status_code == 200
