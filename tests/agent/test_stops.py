"""Stops: `edge-agent stop`, SIGTERM lets requests finish, a hold stops an install in the middle of it."""

import json
import os
import signal
import socket
import urllib.parse
from pathlib import Path

import pytest

from edgefleet_agent import errors
from edgefleet_agent.cli import daemonize
from edgefleet_agent.paths import StatePaths
from edgefleet_protocol.desired import Ref
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.0, 0.0, 0.0]}]}
).encode()


def half_a_request(agent: Agent) -> socket.socket:
    """Send all but the last byte of an inference and return the connection."""
    address = urllib.parse.urlsplit(agent.status()["infer_url"])
    assert address.hostname is not None
    assert address.port is not None
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n"
    connection.sendall(head.encode() + BODY[:-1])
    return connection


def serving(agent: Agent) -> int:
    """Start an agent that has proven 1.0.0 before, and return its worker's process id."""
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    return int(agent.status()["workers"]["digits"])


def test_sigterm_lets_a_request_in_flight_finish(site: Site, agent: Agent, first: Ref) -> None:
    worker = serving(agent)
    with half_a_request(agent) as connection:
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: "stopping" in agent.log.read_text())
        connection.sendall(BODY[-1:])
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b'"model_version":"1.0.0"' in answer.replace(b" ", b"")
    assert agent.process.wait(timeout=120) == 0
    assert not Path(f"/proc/{worker}").exists()
    assert not list(StatePaths(agent.state).sockets().glob("*.sock"))


def test_a_request_that_never_ends_does_not_hold_up_a_stop(site: Site, agent: Agent, first: Ref) -> None:
    worker = serving(agent)
    with half_a_request(agent):
        assert agent.stop() == 0
    assert not Path(f"/proc/{worker}").exists()


def test_a_second_sigterm_ends_at_once(site: Site, agent: Agent, first: Ref) -> None:
    serving(agent)
    with half_a_request(agent):
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: "stopping" in agent.log.read_text())
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(timeout=120) == 0
    assert "stopping at once" in agent.log.read_text(), "else it waited for the request as long as it may"


def test_a_hold_stops_what_is_not_switched_and_frees_the_way_for_something_else(
    site: Site, agent: Agent, first: Ref
) -> None:
    serving(agent)
    # the worker on trial is the part of an install that can be slowed down from outside: the new version stays in it
    data = bundle_bytes(classifier_onnx(2.0), version="1.1.0", extra={"pad.bin": os.urandom(3_000_000)})
    deploy(site, "1.1.0", data)
    wanted = site.house.fleet.documents.offered_to(agent.id)[0].sha256
    frozen = eventually(lambda: agent.freeze(b"edgefleet_agent.worker"))
    assert frozen, agent.log.read_text()
    assert agent.model()["active_target"].startswith("digits/1.0.0/")
    site.house.fleet.hold.set([], [wanted])
    assert eventually(lambda: agent.model().get("error_code") == "install.held"), agent.model()
    agent.wait("committed", "1.0.0")
    assert not Path(f"/proc/{frozen}").exists()
    assert agent.infer()["model_version"] == "1.0.0"
    # another digest is not held
    deploy(site, "1.2.0", bundle_bytes(classifier_onnx(3.0), version="1.2.0"))
    agent.wait("committed", "1.2.0")


def test_stop_ends_the_agent_of_this_folder_and_nothing_else(site: Site, agent: Agent) -> None:
    done = agent.command("stop")
    assert (done.returncode, "there is nothing to stop" in done.stderr) == (5, True)
    agent.start()
    assert eventually(lambda: agent.status().get("connected"))
    again = agent.command("run", "--background")
    assert (again.returncode, "runs on" in again.stderr) == (6, True)

    done = agent.command("stop", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert agent.process is not None
    assert json.loads(done.stdout)["pid"] == agent.process.pid
    assert agent.process.wait(timeout=120) == 0


def test_a_process_that_only_has_the_number_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agent.lock").touch()
    monkeypatch.setattr(daemonize, "read_status", lambda _: {"pid": os.getpid(), "device": "d-1"})
    with pytest.raises(errors.AgentStopError, match="is not the agent that works on"):
        daemonize.stop(tmp_path)


@pytest.mark.parametrize(
    ("told", "group", "command"),
    [
        ("41", "/system.slice/edge-agent.service/agentd", "systemctl stop edge-agent.service"),
        ("41", "/user.slice/user-1.slice/user@1.service/app.slice/a.service", "systemctl --user stop a.service"),
        ("7", "/system.slice/ssh.service", ""),  # started by a shell that a service started
        ("41", "/", ""),
    ],
)
def test_a_service_is_left_to_systemd(tmp_path: Path, told: str, group: str, command: str) -> None:
    (tmp_path / "41").mkdir()
    (tmp_path / "41" / "environ").write_bytes(f"A=b\0SYSTEMD_EXEC_PID={told}\0".encode())
    (tmp_path / "41" / "cgroup").write_text(f"0::{group}\n")
    assert daemonize.unit_of(41, tmp_path) == command.split()
    assert daemonize.unit_of(42, tmp_path) == []


def test_an_agent_that_ends_at_once_names_its_own_next_step(tmp_path: Path) -> None:
    log = tmp_path / "start.log"
    log.write_text("error: old\n next: forget it\n")
    begin = log.stat().st_size
    with log.open("a") as file:
        file.write(
            "error: the port is taken\n  why: another has it\n next: choose another port\n code: agent.port_taken\n"
        )
    assert daemonize._complaint(log, begin) == ("the port is taken", "choose another port")
    assert daemonize._complaint(log, log.stat().st_size) == ("it wrote nothing", "")
