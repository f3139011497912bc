"""A forked server is to tests what one of `subprocess` is: its end, its signals, its environment, and what it has open."""

import signal
import subprocess
from pathlib import Path

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
