"""The server as a process: ready, stopped, killed; its children end with it. Real broker, real conversion child."""

import contextlib
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.process.listener import listening_socket
from tests.support.process_memory import forms_of, keys_in
from tests.support.servers import ServerProcess, copy_server, release_body, server_process

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A server's data folder."""
    copy_server(tmp_path / "server")
    return tmp_path / "server"


@pytest.fixture
def server(data: Path) -> Iterator[ServerProcess]:
    """The whole server with the embedded broker."""
    with server_process(
        data, (data / "admin.token").read_text().strip(), "--broker", "embedded", is_cold=True
    ) as running:
        yield running


def wait_gone(processes: list[psutil.Process], limit_s: float = 20.0) -> list[psutil.Process]:
    """Return those that are still alive after the limit."""
    alive: list[psutil.Process] = psutil.wait_procs(processes, timeout=limit_s)[1]
    return alive


def wait_until_ready(client: httpx.Client) -> dict[str, object]:
    """Return the body of `/readyz` once it says ready."""
    deadline = time.monotonic() + 30
    while (answer := client.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    body: dict[str, object] = answer.json()
    return body


def workers(server: ServerProcess) -> list[psutil.Process]:
    """Return the conversion workers of a server."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.Error):  # it may end between two looks
            if "edgefleet_server.process.conversion_worker" in child.cmdline():
                found.append(child)
    return found


def start_worker(server: ServerProcess) -> psutil.Process:
    """Publish a model whose conversion ends at once, and return the worker that it started."""
    blob = b"no model"
    with server.client() as client:
        assert client.put(f"/api/v1/blobs/{sha256_hex(blob)}", content=blob).status_code == 201
        assert client.post("/api/v1/releases", json=release_body(blob)).status_code == 201
    deadline = time.monotonic() + 60
    while not (found := workers(server)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[0]


def test_a_published_model_is_converted_and_signed_by_the_real_converter(server: ServerProcess) -> None:
    model = (DIGITS / "digits-1.0.0.onnx").read_bytes()
    calibration = (DIGITS / "data" / "calibration.npz").read_bytes()
    with server.client() as client:
        checks = wait_until_ready(client)["checks"]
        wanted = {"database", "disk", "keys", "signer", "broker", "revocation", "engine", "converter"}
        assert set(checks) == wanted  # type: ignore[call-overload]
        assert workers(server) == [], "none before there is something to convert"
        assert "start with the first job, 1 at most" in checks["converter"]["detail"]  # type: ignore[index]
        body = release_body(model)
        for blob in (model, calibration):
            assert client.put(f"/api/v1/blobs/{sha256_hex(blob)}", content=blob).status_code == 201
        body["data"] = {"calibration": sha256_hex(calibration)}
        assert client.post("/api/v1/releases", json=body).status_code == 201
        deadline = time.monotonic() + 120
        while (release := client.get("/api/v1/releases/digits@1.0.0").json())["state"] == "converting":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert release["state"] == "ready", release
        assert "1 of 1 conversion workers run" in client.get("/readyz").json()["checks"]["converter"]["detail"]
        (bundle,) = release["bundles"]
        assert client.get(f"/api/v1/blobs/{bundle['sha256']}").content[:4] == b"PK\x03\x04"
        context = ssl.create_default_context(cafile=str(server.data / "keys" / "device-ca.crt"))
        device = httpx.get(f"{server.run['device_url']}/device/v1/tuf/timestamp.json", verify=context)
        assert device.status_code == 401
    if os.geteuid() == 0:
        no_key_is_in_memory_but_of_the_signing_process(server)


def no_key_is_in_memory_but_of_the_signing_process(server: ServerProcess) -> None:
    """Look for each private key in the real processes, after they did their work."""
    forms = forms_of(server.data / "keys")
    assert {"root.pem", "targets.pem", "director.pem", "device-ca.pem"} < set(forms)
    held = {}
    main = psutil.Process(server.process.pid)
    for one in [main, *main.children(recursive=True)]:
        held[" ".join(one.cmdline())] = keys_in(one.pid, forms)
    signer = [line for line in held if "signer_process" in line]
    assert len(signer) == 1
    assert held.pop(signer[0]) >= {"timestamp.pem", "releases.pem", "device-ca.pem"}, "so they would be found"
    assert len(held) >= 3, "the server, the broker and the converter"
    assert {line: names for line, names in held.items() if names} == {}


def test_sigterm_stops_everything_and_removes_the_run_file(server: ServerProcess) -> None:
    start_worker(server)
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= 3, "the signing process, the broker and the converter"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert not (server.data / "run" / "server.json").exists()
    assert wait_gone(children) == []


def test_children_end_when_the_server_is_killed(server: ServerProcess) -> None:
    start_worker(server)
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    assert wait_gone(children) == []


def test_a_killed_worker_is_started_again(server: ServerProcess) -> None:
    first = start_worker(server)
    first.kill()
    deadline = time.monotonic() + 30
    while not (now := workers(server)) or now[0].pid == first.pid:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_server_on_the_same_folder_is_refused(server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgefleet_server.main", "--data", str(server.data), "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert server.process.poll() is None


def test_roles_run_only_what_they_name(data: Path) -> None:
    with server_process(data, (data / "admin.token").read_text().strip(), "--roles", "api", is_cold=True) as server:
        assert server.run["broker"] is None
        (child,) = psutil.Process(server.process.pid).children()
        assert "edgefleet_server.signing.signer.signer_process" in child.cmdline()
        with server.client() as client:
            assert set(client.get("/readyz").json()["checks"]) == {"database", "disk", "keys", "signer"}


def test_wrong_starts_end_with_four_lines_and_exit_code_1(data: Path, tmp_path: Path) -> None:
    def run(*flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgefleet_server.main", *flags], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        last = done.stderr.strip().split("\n")[-4:]
        assert [line.strip().split(":")[0] for line in last] == ["error", "why", "next", "code"]
        return done.stderr

    assert "edgectl server init" in run("--data", str(tmp_path / "nothing"))
    assert "plain HTTP" in run("--data", str(data), "--host", "0.0.0.0")
    assert "broker" in run("--data", str(data), "--broker", "pigeon", "--port", "0", "--device-port", "0")
    with server_process(data, "", "--roles", "api", is_cold=True) as server:
        port = server.url.rpartition(":")[2]
        assert "cannot listen" in run("--data", str(data), "--port", port, "--instance", "other")


@pytest.mark.parametrize("flags", [["--check"], []])
def test_a_database_of_before_the_first_release_is_refused_and_left_as_it_is(data: Path, flags: list[str]) -> None:
    with sqlite3.connect(data / "edgefleet.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0022'")
    connection.close()
    before = (data / "edgefleet.db").read_bytes()
    common = ["--data", str(data), "--port", "0", "--device-port", "0", "--broker", "embedded"]
    done = subprocess.run(
        [sys.executable, "-m", "edgefleet_server.main", *flags, *common], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    what, why, step, code = done.stderr.splitlines()[-4:]
    assert what.startswith("error: the database has schema 0022, of an edgefleet before 0.1.0")
    assert why == "  why: the database has a schema that this program cannot read"
    assert code == " code: server.schema_unsupported"
    assert step.startswith(" next: create a new server with an empty database, `edgectl server init DIR`")
    assert (data / "edgefleet.db").read_bytes() == before
    assert not (data / "run" / "server.json").exists()


def test_check_says_what_would_be_used_and_why(data: Path) -> None:
    import json

    done = subprocess.run(
        [sys.executable, "-m", "edgefleet_server.main", "--data", str(data), "--check", "--broker", "embedded"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    found = json.loads(done.stdout)
    assert found["broker"] == {"kind": "embedded", "why": "the setting says so"}
    assert found["database"] == {"kind": "sqlite", "schema_current": True}
    assert found["keys"] == {"initialised": True}
    assert found["lost_models"] == []


def test_the_second_packet_of_an_answer_waits_for_nothing() -> None:
    with (
        listening_socket("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_server_that_drains_is_not_ready_but_serves_until_its_time_is_over(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("EDGEFLEET_SERVER_DRAIN_S", "600")
    token = (data / "admin.token").read_text().strip()
    with heard, server_process(data, token, "--broker", "embedded", is_cold=True) as server, server.client() as client:
        wait_until_ready(client)
        device = httpx.Client(base_url=server.run["device_url"], verify=False)  # as a load balancer does
        assert device.get("/device/v1/healthz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        heard.settimeout(30)
        assert heard.recv(500).startswith(b"STOPPING=1\nEXTEND_TIMEOUT_USEC=625000000")
        deadline = time.monotonic() + 30
        while (answer := client.get("/readyz")).status_code != 503:
            assert time.monotonic() < deadline
        assert answer.json()["checks"]["stopping"]["ok"] is False
        assert device.get("/device/v1/healthz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/v1/devices").status_code == 200
        server.process.send_signal(signal.SIGTERM)  # the second one does not wait
        assert server.process.wait(30) == 130
