"""`edgectl server up`: from nothing to a server that this user is logged in at; `down` ends it and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgefleet_server.process.init import main as initialise
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
def test_up_makes_starts_and_logs_in_and_down_leaves_no_process(edgectl: Edgectl, folder: Path) -> None:
    ran = edgectl("server", "up", "--data", folder, *PORTS, "-o", "json")
    assert ran.code == 0, ran.err
    pid = ran.json["pid"]
    assert psutil.pid_exists(pid)
    assert edgectl("whoami", "-o", "json").json["roles"] == ["admin"]
    assert edgectl("device", "list", "-o", "json").json["items"] == []
    assert stat.S_IMODE((folder / "run").stat().st_mode) & 0o077 == 0

    port = tomllib.loads((folder / "server.toml").read_text())["broker_port"]
    assert json.loads((folder / "run" / "server.json").read_text())["broker"]["port"] == port

    again = edgectl("server", "up", "--data", folder, *PORTS, "-o", "json")
    assert (again.code, again.json["pid"]) == (0, pid)
    assert "runs already" in again.err

    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    assert edgectl("server", "down", "--data", folder).code == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert edgectl("server", "down", "--data", folder).code == 0


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


def test_a_taken_port_is_named(edgectl: Edgectl, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        ran = edgectl(
            "server", "up", "--data", folder, "--port", str(port), "--device-port", "0", "--broker", "embedded"
        )
    assert ran.code != 0
    assert str(port) in ran.err
    assert "in use" in ran.err
