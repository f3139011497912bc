"""One device looked after: the commands on it, and signed tasks asked by `edgectl`, on the real server, broker and agent."""

import io
import json
import tarfile
import threading
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.__main__ import main
from edgefleet_agent.core.durable import read_record
from edgefleet_agent.identity.store import KEY_FILE
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.tasks.model import TasksDone
from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.support.device_python import IS_EMULATED

pytestmark = pytest.mark.slow
WIDTH = 80


@pytest.fixture(scope="module")
def device(road: Road) -> Traveller:
    """One device that serves one model."""
    made = Traveller(road, "device")
    road.release("digits@1.0.0", bundle_bytes(classifier_onnx()))
    made.told("digits", release="digits@1.0.0", phase="committed")
    return made


def said(device: Traveller, *command: str, code: int = 0) -> str:
    """Return what a command prints; in this process where the device's Python is this one, which spares its start."""
    state = () if command[0] == "bundle" else ("--state", str(device.state))
    if IS_EMULATED:
        ran = device.command(*command, state=bool(state))
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout
    out = io.StringIO()
    with redirect_stdout(out):
        assert main([*command, *state]) == code, out.getvalue()
    return out.getvalue()


def asked(device: Traveller, *command: str, code: int = 0) -> Any:
    """Run a command for people and for programs; return what the latter got."""
    told = said(device, *command, code=code)
    assert max(map(len, told.splitlines())) <= WIDTH or command[0] in ("logs", "doctor", "diag"), told
    return json.loads(said(device, *command, "-o", "json", code=code))


def secrets_of(state: Path) -> list[bytes]:
    """Return parts of the device's private key, as they lie on the disk and as they are inside."""
    pem = (state / "identity" / KEY_FILE).read_bytes()
    lines = [line for line in pem.splitlines() if line and not line.startswith(b"-")]
    return [b"PRIVATE KEY", *lines]


def record_of(state: Path) -> dict[Path, bytes]:
    """Return what is installed, byte by byte."""
    return {path: path.read_bytes() for path in (state / "models").rglob("*") if path.is_file()}


def in_archive(data: bytes) -> dict[str, bytes]:
    """Return the members of a diagnosis."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}


def test_the_commands_tell_of_a_device_that_serves(device: Traveller) -> None:
    (model,) = asked(device, "models")["models"]
    active = next(slot for slot in model["slots"] if slot["role"] == "active")
    assert (model["phase"], model["serving"], active["version"]) == ("committed", True, "1.0.0")
    assert active["sha256"] == device.model()["active_sha256"]

    assert asked(device, "self-test")["models"][0]["checked"] >= 1
    figures = asked(device, "bench", "--n", "50")
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    assert figures["per_s"] > 0
    assert figures["worker_rss_bytes"] > 1_000_000
    told = json.loads(said(device, "bench", "--threads", "1", "-o", "json", code=6))
    assert told["error"]["code"] == "bench.device_serves"
    before = record_of(device.state)
    own = asked(device, "bench", "--threads", "1", "--seconds", "0.3", "--while-serving")
    assert [(row["runtime"], row["failed"]) for row in own["rows"]] == [("ort", "")]
    assert own["sha256"] == active["sha256"]
    assert record_of(device.state) == before

    assert any("worker" in line or "agentd" in line for line in asked(device, "logs", "-n", "50")["lines"])
    assert asked(device, "queue")["dropped"] == 0
    status = asked(device, "status")
    assert status["models"][0]["model"] == "digits"

    bundle = device.state / "models" / "digits" / active["slot"] / "bundle"
    assert asked(device, "bundle", "inspect", str(bundle))["sha256"] == active["sha256"]


def test_doctor_finds_server_and_broker_and_says_what_is_wrong(device: Traveller) -> None:
    found = {f["check"]: f for f in asked(device, "doctor")["findings"]}
    assert {found[name]["level"] for name in ("clock", "certificate", "server", "broker", "agent", "runtimes")} == {
        "ok"
    }
    key = device.state / "identity" / KEY_FILE
    try:
        key.chmod(0o644)
        broken = {f["check"]: f for f in asked(device, "doctor", code=1)["findings"]}
    finally:
        key.chmod(0o600)
    assert broken["permissions"]["level"] == "bad"
    assert broken["permissions"]["next"]


def test_a_diagnosis_holds_no_secret(device: Traveller, tmp_path: Path) -> None:
    file = tmp_path / "diag.tar.gz"
    with StatePaths(device.state).log.open("ab") as log:
        log.write((device.state / "identity" / KEY_FILE).read_bytes())
        log.write(b"\nenroll efc1.c2VjcmV0c2VjcmV0 password=hunter2\n")
    assert asked(device, "diag", "--out", str(file))["bytes"] == file.stat().st_size
    assert file.stat().st_size <= 1_000_000
    members = in_archive(file.read_bytes())
    whole = b"\n".join(members.values())
    for secret in [*secrets_of(device.state), b"c2VjcmV0", b"hunter2"]:
        assert secret not in whole
    assert json.loads(members["status.json"])["device"] == device.name
    assert json.loads(members["doctor.json"])["findings"]


def test_diag_and_logs_are_sent_when_the_server_asks(road: Road, device: Traveller, tmp_path: Path) -> None:
    file = tmp_path / "remote.tar.gz"
    task = road.edgectl("device", "diag", device.name, "--out", file)
    assert (task["state"], task["result_bytes"]) == ("done", file.stat().st_size)
    members = in_archive(file.read_bytes())
    assert json.loads(members["status.json"])["device"] == device.name
    for secret in secrets_of(device.state):
        assert secret not in b"\n".join(members.values())

    told = road.edgectl("device", "logs", device.name, "--lines", "20", "--contains", "task begins")
    assert any(task["id"] in line for line in told["lines"])
    listed = road.edgectl("device", "tasks", device.name)["items"]
    assert {entry["state"] for entry in listed} == {"done"}
    steps = [e["detail"]["detail"]["state"] for e in device.events_told() if e["kind"] == "task"]
    assert {"accepted", "running", "done"} <= set(steps)
    with road.server.client() as api:
        audit = api.get("/api/v1/audit?limit=50").json()["items"]
    assert any(device.name in f"{entry['action']} {entry['object']}" and "tasks" in f"{entry}" for entry in audit)


def test_a_restart_happens_once_and_refuses_no_request(road: Road, device: Traveller) -> None:
    worker, starts = device.status()["workers"]["digits"], device.record().starts
    statuses: list[int] = []
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            statuses.append(device.ask_four("digits").status_code)

    caller = threading.Thread(target=call)
    caller.start()
    road.edgectl("device", "restart", device.name, "--model", "digits")
    assert eventually(lambda: device.status()["workers"].get("digits") not in (worker, None), PATIENCE_S)
    assert eventually(lambda: device.model()["serving"], PATIENCE_S)
    is_over.set()
    caller.join()
    assert set(statuses) == {200}
    assert device.record().crashes_s == []
    assert device.record().starts <= starts, "it counts against the version"

    boot = device.status()["boot_id"]
    done = road.edgectl("device", "restart", device.name)
    assert eventually(lambda: device.status().get("boot_id") not in (boot, None), PATIENCE_S)
    boot = device.status()["boot_id"]
    assert eventually(lambda: device.model().get("serving"), PATIENCE_S)
    record = read_record(TasksDone, StatePaths(device.state).tasks_done)
    assert record is not None
    assert [entry.state for entry in record.done if entry.id == done["id"]] == ["done"]
    # the next document brings whatever is still asked; what was done is not done again
    road.edgectl("device", "logs", device.name, "-n", "1")
    assert device.status()["boot_id"] == boot
