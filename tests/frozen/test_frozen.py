"""Every frozen version, taken up by the server and the agent of today: real processes, on the day of the freeze."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet_agent.core.durable import encode_record, read_record, write_file
from edgefleet_agent.identity.store import RECORD_FILE, Identity
from edgefleet_server import migrations
from edgefleet_server.db.database import Database
from tests.agent.field import eventually
from tests.crash.faults import faults
from tests.frozen import archive
from tests.frozen.fleet import PROVING, SETTINGS
from tests.support.servers import ServerProcess, server_process

MAX_BYTES = 1_000_000
"""Of all files of a frozen version."""
LATER_S = 60
"""Seconds between the freeze and the start of today's programs, by their clocks."""
slow = pytest.mark.slow


@dataclass
class Thawed:
    """A frozen fleet under the programs of today. about: its record; environment: turns their clocks back."""

    about: dict[str, Any]
    state: Path
    server: ServerProcess
    environment: dict[str, str]
    waiting: int
    """Messages that the agent had not delivered when it was frozen."""

    def get(self, path: str, **query: str) -> Any:
        """Return what the API answers."""
        with self.server.client() as client:
            answer = client.get(f"/api/v1{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rollout(self, which: str) -> dict[str, Any]:
        """Return the finished or the running rollout."""
        found: dict[str, Any] = self.get(f"/rollouts/{self.about[which]}")
        return found

    def model(self) -> dict[str, Any]:
        """Return what the agent says of its model, {} when nothing."""
        try:
            status = json.loads((self.state / "run/status.json").read_text())
        except (OSError, ValueError):
            return {}
        found: dict[str, Any] = next(iter(status["models"]), {})
        return found | {"url": status["infer_url"]}

    def answer(self) -> dict[str, Any]:
        """Return one answer of the device's model, once it serves."""
        assert eventually(lambda: self.model().get("serving")), "the model serves"
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.0, 0.0, 0.0]}]}
        request = urllib.request.Request(f"{self.model()['url']}/v2/models/tiny/infer", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            found: dict[str, Any] = json.load(response)
        return found


def outbox_rows(state: Path) -> int:
    """Count what an agent still has to deliver."""
    connection = sqlite3.connect(f"file:{state / 'queue/q.db'}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM message").fetchone()[0])
    finally:
        connection.close()


def move_server(state: Path, server: ServerProcess) -> None:
    """Let the device know on which free ports its server is today."""
    path = state / "identity" / RECORD_FILE
    known = read_record(Identity, path)
    assert known is not None
    addresses = {"broker_port": server.run["broker"]["port"], "url": server.run["device_url"]}
    write_file(path, encode_record(msgspec.structs.replace(known, **addresses)))


@pytest.fixture(scope="module", params=archive.versions())
def thawed(request: pytest.FixtureRequest) -> Iterator[Thawed]:
    """The frozen server, running as today's; the agent is not started yet."""
    with tempfile.TemporaryDirectory(prefix="ef-") as name, faults(Path(name, "nothing")) as turned:
        folder = Path(name)
        about = archive.unpack(request.param, folder)
        turned.turn_clock(about["frozen_at"] + LATER_S - int(time.time()))
        environment = {**turned.environment(), **SETTINGS}
        token = (folder / "server/admin.token").read_text().strip()
        with server_process(
            folder / "server", token, "--broker", "embedded", timeout_s=120, environment=environment
        ) as server:
            move_server(folder / "agent", server)
            yield Thawed(about, folder / "agent", server, environment, outbox_rows(folder / "agent"))


@pytest.fixture(scope="module")
def device(thawed: Thawed) -> Iterator[Thawed]:
    """The frozen agent, running as today's."""
    command = [sys.executable, "-m", "edgefleet_agent", "run", "--state", str(thawed.state)]
    with (thawed.state.parent / "agent.log").open("ab") as log:
        environment = {**os.environ, **thawed.environment}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield thawed
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@slow
def test_the_server_starts_on_the_newest_schema(thawed: Thawed) -> None:
    with thawed.server.client() as client:
        assert client.get("/readyz").status_code == 200
    database = Database(f"sqlite:///{thawed.server.data / 'edgefleet.db'}")
    try:
        assert migrations.is_current(database)
    finally:
        database.dispose()


@slow
def test_devices_releases_and_tokens_are_there(thawed: Thawed) -> None:
    assert sorted(device["id"] for device in thawed.get("/devices")["items"]) == thawed.about["devices"]
    releases = {release["ref"]: release["state"] for release in thawed.get("/releases")["items"]}
    assert releases == {"tiny@1.0.0": "ready", "tiny@1.1.0": "ready"}
    assert "watcher" in {token["name"] for token in thawed.get("/tokens")["items"]}


@slow
def test_the_history_is_readable(thawed: Thawed) -> None:
    assert thawed.rollout("finished")["state"] == "finished"
    events = thawed.get("/events", limit="200")["items"]
    assert {"rollout", "stage", "assignment", "phase"} <= {event["kind"] for event in events}
    assert {entry["action"] for entry in thawed.get("/audit")["items"]}
    assert thawed.get(f"/rollouts/{thawed.about['finished']}/decisions")["items"]


@slow
def test_the_running_rollout_waits_for_the_device_that_is_away(thawed: Thawed) -> None:
    rollout = thawed.rollout("running")
    assert (rollout["state"], rollout["stage"]) == ("running", "canary")
    assert (rollout["counts"]["healthy"], rollout["counts"]["failed"]) == (1, 0)


@slow
def test_the_agent_serves_what_was_installed_and_delivers_what_waited(device: Thawed) -> None:
    assert device.waiting > 0
    assert eventually(lambda: device.model().get("serving")), (device.state.parent / "agent.log").read_text()[-3000:]
    model = device.model()
    assert (model["phase"], model["active_target"]) == ("probation", "tiny/1.1.0/generic-x86_64-ort.bundle")
    assert model["previous_target"] == "tiny/1.0.0/generic-x86_64-ort.bundle"
    assert device.answer()["model_version"] == "1.1.0"
    assert eventually(lambda: outbox_rows(device.state) == 0)
    assert device.get(f"/devices/{device.about['device']}")["status"] == "online"


@slow
def test_the_rollout_goes_on_when_the_device_has_proved_itself(device: Thawed) -> None:
    for _ in range(PROVING):
        device.answer()
    assert eventually(lambda: device.model()["phase"] == "committed")
    assert eventually(lambda: device.rollout("running")["stage"] == "rest"), device.rollout("running")
    canary, rest = device.rollout("running")["stages"]
    assert (canary["state"], rest["state"]) == ("passed", "exposing")
    assert canary["counts"]["healthy"] == 2


@pytest.mark.parametrize("version", archive.versions())
def test_a_frozen_version_is_small_and_holds_no_secret(version: str) -> None:
    files = list((archive.FOLDER / version).iterdir())
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    draws = archive.record(version)["draws"]
    for path in files:
        if path.suffix == ".xz":
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as packed:
                for member in packed:
                    data = file.read() if (file := packed.extractfile(member)) else b""
                    assert archive.without_secrets(data, draws) == data, member.name


@pytest.mark.parametrize("version", archive.versions())
@pytest.mark.parametrize("what", ["archive", "folder"])
def test_other_bytes_than_the_recorded_ones_are_refused(
    version: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(archive.FOLDER / version, tmp_path / "frozen" / version)
    monkeypatch.setattr(archive, "FOLDER", tmp_path / "frozen")
    about = archive.record(version)
    if what == "archive":
        data = bytearray((copy / "agent.tar.xz").read_bytes())
        data[len(data) // 2] ^= 1
        (copy / "agent.tar.xz").write_bytes(data)
    else:
        about["folders"]["agent"] = hashlib.sha256(b"").hexdigest()
    (copy / "frozen.json").write_text(json.dumps(about))
    with pytest.raises(archive.FrozenError, match="agent"):
        archive.unpack(version, tmp_path / "out")


def test_marks_stand_for_keys_that_can_be_computed_again(tmp_path: Path) -> None:
    key = archive.printed("p256", 1)
    kept = archive.without_secrets(b"before\n" + key + b"token " + archive.printed("text", 0), draws=2)
    assert kept == b"before\n{{drawn:p256:1}}token {{drawn:text:0}}"
    assert key in archive.with_secrets(kept)
    with pytest.raises(archive.FrozenError, match="no text"):
        archive.without_secrets(b"\0" + key, draws=2)
    with pytest.raises(archive.FrozenError, match="not drawn"):
        archive.without_secrets(b"-----BEGIN PRIVATE " + b"KEY-----\n", draws=2)
