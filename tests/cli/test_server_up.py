"""`edgectl server up`: from nothing to a server that this user is logged in at; `down` ends it and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from edgefleet_cli.admin import background_server, device_here
from edgefleet_cli.admin.data_folder import default_data
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_server.process.init import main as initialise
from edgefleet_server.process.lifecycle.run_file import RunFile, process_mark
from tests.broker.pki import Authority
from tests.cli.conftest import Edgectl

PORTS = ("--port", "0", "--device-port", "0", "--broker", "embedded")


@pytest.fixture
def folder(edgectl: Edgectl, tmp_path: Path) -> Iterator[Path]:
    """A folder for a server, which is stopped at the end whatever happened."""
    made = tmp_path / "srv"
    yield made
    edgectl("server", "down", "--data", made)


@pytest.mark.slow
def test_up_makes_starts_and_logs_in_and_down_leaves_no_process(
    edgectl: Edgectl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_SERVER_DATA", str(folder))
    ran = edgectl("server", "up", *PORTS, "-o", "json")
    assert ran.code == 0, ran.err
    pid = ran.json["pid"]
    assert Path(ran.json["data"]) == folder
    assert Path(ran.json["token"]).read_text().strip()
    assert Path(ran.json["contexts"]).is_file()
    assert Path(ran.json["log"]).is_file()
    assert "stop: `edgectl server down`; `edgectl server up` starts it again" in ran.err
    assert f"remove: stop it, then `rm -r {folder}`" in ran.err
    assert psutil.pid_exists(pid)
    assert edgectl("whoami", "-o", "json").json["roles"] == ["admin"]
    assert edgectl("device", "list", "-o", "json").json["items"] == []
    assert stat.S_IMODE((folder / "run").stat().st_mode) & 0o077 == 0

    port = tomllib.loads((folder / "server.toml").read_text())["broker_port"]
    assert json.loads((folder / "run" / "server.json").read_text())["broker"]["port"] == port

    again = edgectl("server", "up", "--data", folder, *PORTS, "-o", "json")
    assert (again.code, again.json["pid"]) == (0, pid)
    assert "already running" in again.err

    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    down = edgectl("server", "down")
    assert (down.code, f"process {pid}" in down.err) == (0, True)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert f"no server runs on {folder}" in edgectl("server", "down").err


@pytest.mark.slow
def test_a_server_with_a_certificate_of_ones_own_is_asked_with_the_contexts_ca(
    edgectl: Edgectl, folder: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "pki")
    identity = authority.server()
    assert initialise(["--data", str(folder), "--broker", "embedded"]) == 0
    with (folder / "server.toml").open("a", encoding="utf-8") as file:
        file.write(f'api_tls_cert = "{identity.cert_file}"\napi_tls_key = "{identity.key_file}"\n')
    saved = edgectl("context", "add", "local", "--server", "https://127.0.0.1:1", "--ca", authority.ca_file)
    assert saved.code == 0, saved.err
    ran = edgectl("server", "up", "--data", folder, *PORTS, "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["url"].startswith("https://")
    assert edgectl("whoami", "-o", "json").json["roles"] == ["admin"]

    (folder / "admin.token").unlink()
    assert edgectl("server", "up", "--data", folder, *PORTS).code == 0
    other = edgectl("server", "up", "--data", folder, *PORTS, "--name", "another")
    assert other.code == 2
    assert "admin token is not in its folder" in other.told()[0]


def test_a_server_that_cannot_start_says_why(edgectl: Edgectl, folder: Path) -> None:
    ran = edgectl("server", "up", "--data", folder, "--port", "0", "--device-port", "0", "--broker", "mqtts://")
    assert ran.code != 0
    assert "mqtts" in ran.err


@pytest.mark.slow
def test_start_makes_the_server_where_there_is_none_and_shows_no_token(folder: Path) -> None:
    mine = {"EDGEFLEET_SERVER_DATA": str(folder), "EDGEFLEET_SERVER_INIT": "1", "EDGEFLEET_SERVER_BROKER_PORT": "0"}
    program = Path(sys.executable).with_name("edgectl")
    said = folder.with_name("said")
    with said.open("w") as out:
        command = [str(program), "server", "start", *map(str, PORTS)]
        process = subprocess.Popen(command, env={**os.environ, **mine}, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "run" / "server.json").is_file():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(60)
    token = (folder / "admin.token").read_text().strip()
    assert token
    assert token not in said.read_text()


@pytest.mark.parametrize("lets_go", [False, True], ids=["keeps it", "lets go of it at once"])
def test_a_new_server_gets_another_port_for_its_broker_when_a_program_took_it_before_the_start(
    edgectl: Edgectl, folder: Path, monkeypatch: pytest.MonkeyPatch, lets_go: bool
) -> None:
    start, taken = background_server.started, list[int]()

    def started(*given: Any) -> background_server.Running:
        if taken:
            return start(*given)
        taken.append(kept_port())
        other = held.enter_context(socket.create_server(("127.0.0.1", kept_port())))
        try:
            return start(*given)
        finally:
            if lets_go:
                other.close()

    def kept_port() -> int:
        return int(tomllib.loads((folder / "server.toml").read_text())["broker_port"])

    monkeypatch.setattr(background_server, "started", started)
    with ExitStack() as held:
        ran = edgectl("server", "up", "--data", folder, *PORTS, "-o", "json")
        assert ran.code == 0, ran.err
    assert [kept_port()] != taken
    assert json.loads((folder / "run" / "server.json").read_text())["broker"]["port"] == kept_port()


def test_a_taken_port_is_named(edgectl: Edgectl, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        ran = edgectl(
            "server", "up", "--data", folder, "--port", str(port), "--device-port", "0", "--broker", "embedded"
        )
    assert ran.code != 0
    assert str(port) in ran.err
    assert "in use" in ran.err
    assert "next: stop what uses the port, or choose another with --port" in ran.err


def test_the_folder_without_a_name_is_the_service_s_or_the_user_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    system = tmp_path / "system"
    assert default_data({}, system) == tmp_path / "share" / "edgefleet" / "server"
    system.mkdir()
    assert default_data({}, system) == system
    assert default_data({"EDGEFLEET_SERVER_DATA": "/srv"}, system) == Path("/srv")


@pytest.mark.parametrize("command", ["up", "init"])
def test_no_keys_are_made_among_other_files_or_where_git_would_commit_them(
    edgectl: Edgectl, tmp_path: Path, command: str
) -> None:
    clone = tmp_path / "clone"
    (clone / "server" / "edgefleet_server").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(clone)], check=True, capture_output=True)
    (clone / ".gitignore").write_text("/server/\n")
    ran = edgectl("server", command, "--data", clone / "server")
    what, why, step = ran.told()
    assert (ran.code, "holds other files" in what, "edgefleet_server" in why) == (2, True, True)
    assert "leave --data out" in step
    (tmp_path / "other" / "keys").mkdir(parents=True)
    (tmp_path / "other" / "keys" / "house.txt").touch()
    assert "holds other files" in edgectl("server", command, "--data", tmp_path / "other").told()[0]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["keys"], "nothing was written there"
    what, why, step = edgectl("server", command, "--data", clone / "mine").told()
    assert "lies in the git work tree" in what
    assert "git does not ignore it" in why
    assert f"add /mine/ to {clone / '.gitignore'}" in step
    assert not (clone / "mine").exists()


def test_a_device_of_another_server_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def get(self, path: str, kind: type) -> None:
            raise ApiError("there is no device d-1", status=404, code="fleet.no_device", request_id="")

    answers = iter([(6, {}), (0, {"device": "d-1"})])
    monkeypatch.setattr(device_here, "_agent", lambda *_, **__: next(answers))
    with pytest.raises(device_here.DeviceHereError, match="another server: d-1"):
        device_here.ensure(cast("ApiClient", Elsewhere()))


def test_an_agent_that_cannot_be_started_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"error": {"message": "the port is taken", "next": "free it"}}
    monkeypatch.setattr(device_here, "_agent", lambda *_, **__: (1, refused))
    with pytest.raises(device_here.DeviceHereError) as caught:
        device_here.ensure(cast("ApiClient", None))
    assert (caught.value.why, caught.value.next_step) == ("the port is taken", "free it")


def test_an_agent_that_ends_at_once_is_not_taken_for_one_that_is_not_enrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {
        "error": {"code": "agent.not_running", "message": "the agent ended at once: port 8500", "next": "free it"}
    }
    monkeypatch.setattr(device_here, "_agent", lambda *_, **__: (5, refused))
    with pytest.raises(device_here.DeviceHereError, match=r"a device already .* its agent did not start") as caught:
        device_here.ensure(cast("ApiClient", None))
    assert (caught.value.why, caught.value.next_step) == ("the agent ended at once: port 8500", "free it")


def test_down_ends_no_other_process_that_has_the_number_of_a_server_that_was_killed(
    edgectl: Edgectl, folder: Path
) -> None:
    (folder / "run").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        said = {"api_url": "http://127.0.0.1:1", "pid": other.pid, "process": "a-boot-before:4711"}
        (folder / "run" / "server.json").write_text(json.dumps(said))
        ran = edgectl("server", "down", "--data", folder)
        is_left_alone = other.poll() is None
        other.terminate()
    assert is_left_alone
    assert "no server runs" in ran.err


def test_a_run_file_is_removed_by_its_own_process_or_when_that_is_gone(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path, mine = folder / "server.json", RunFile(folder)
    mine.write({"api_url": "http://127.0.0.1:1"})
    assert (
        json.loads(path.read_text())["process"]
        == process_mark(os.getpid())
        == background_server._process_mark(os.getpid())
    )
    mine.drop_stale()
    assert path.exists(), "it runs"
    with subprocess.Popen(["sleep", "60"]) as other:
        text = json.dumps({"api_url": "", "pid": other.pid, "process": process_mark(other.pid)})
        path.write_text(text)
        mine.remove()
        mine.drop_stale()
        assert path.read_text() == text, "another server of this folder runs"
        other.terminate()
    mine.drop_stale()
    assert not path.exists()
