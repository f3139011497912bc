"""A real agent is asked to prove again what it serves: the file, its signatures, and its golden answers in the serving worker."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet_agent.core.durable import encode_record, read_record, write_file
from edgefleet_agent.diagnostics.device import look
from edgefleet_agent.identity.store import RECORD_FILE, Identity
from edgefleet_agent.install.records import SlotInfo
from edgefleet_agent.paths import StatePaths
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.fleet.desired.model import TaskOrder, TaskState, TaskView
from tests.agent.field import Agent, deploy, eventually, new_site, write_identity
from tests.agent.listener import Listener
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE

GOOD = bundle_bytes(classifier_onnx())
DIGEST = sha256_hex(GOOD)
AGED = """
import pathlib, sys
if "edgefleet_agent.worker" in sys.orig_argv:
    from edgefleet_runtime.ort import OrtModel
    run, mark = OrtModel.run, pathlib.Path(__file__).with_name("aged")
    OrtModel.run = lambda self, inputs: {name: out + 0.5 * mark.exists() for name, out in run(self, inputs).items()}
"""
"""Makes the worker's processor compute wrongly as soon as there is a file `aged` next to this one."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that serves a good bundle on trial, with the device listener in reach."""
    folder = tmp_path_factory.mktemp("check")
    site, state = new_site(folder / "server"), folder / "device"
    listener = Listener(site.house)
    device = site.house.device()
    write_identity(site, device, state, listener.url)
    (folder / "sitecustomize.py").write_text(AGED)
    agent = Agent(site, state, device, EDGEFLEET_AGENT_PROBATION_S="600", PYTHONPATH=str(folder))
    try:
        agent.start()
        deploy(site, "1.0.0", GOOD)
        agent.wait("probation", "1.0.0")
        yield agent
    finally:
        agent.stop()
        listener.close()
        site.close()


def answered(agent: Agent, number: int, sha256: str = DIGEST) -> TaskView:
    """Ask the device for a check and return how it ended."""
    task_id, tasks = f"t-{number:016x}", agent.site.house.fleet.tasks
    tasks.create(agent.id, TaskOrder("check", {"model": "digits", "sha256": sha256}), "rollout r-1", task_id)
    over = (TaskState.DONE, TaskState.FAILED)
    assert eventually(lambda: tasks.answers([task_id])[task_id].state in over), agent.log.read_text()[-3000:]
    return tasks.answers([task_id])[task_id]


def said(agent: Agent, state: Path, sha256: str) -> dict[str, Any]:
    """Run the child of a check on a folder and return its exit status and word."""
    argv = [
        agent.python,
        "-m",
        "edgefleet_agent.diagnostics.task",
        "--state",
        str(state),
        "--id",
        "t-1",
        "--kind",
        "check",
    ]
    done = subprocess.run(
        [*argv, "--args", json.dumps({"model": "digits", "sha256": sha256})],
        env=dict(agent.environment), capture_output=True, text=True, check=False,
    )  # fmt: skip
    word: dict[str, Any] = json.loads(done.stdout or "{}")
    return {**word, "exit": done.returncode}


def copied(agent: Agent, folder: Path) -> Path:
    """Return a copy of the state of the running agent."""
    shutil.copytree(agent.state, folder, ignore=shutil.ignore_patterns("*.sock", "queue", "agent.lock"))
    os.link(StatePaths(agent.state).lock, StatePaths(folder).lock)  # it is locked, as the agent's is
    return folder


def test_what_serves_is_proved_again_while_it_is_on_trial(serving: Agent) -> None:
    assert serving.model()["phase"] == "probation"
    found = answered(serving, 1)
    assert (found.state, found.code) == (TaskState.DONE, ""), found.reason
    other = answered(serving, 2, "ab" * 32)
    assert (other.state, other.code) == (TaskState.FAILED, "check.not_here")
    steps = [e.detail["detail"]["state"] for e in serving.events() if e.kind == "task"]
    assert set(steps) == {"accepted", "running", "done", "failed"}


def test_a_worker_that_answers_otherwise_than_it_was_proved_is_found(serving: Agent) -> None:
    mark = serving.state.parent / "aged"
    mark.touch()
    try:
        found = answered(serving, 3)
    finally:
        mark.unlink()
    assert (found.state, found.code) == (TaskState.FAILED, "check.golden")
    assert "vector 0, output y: value" in found.reason


def test_a_file_that_was_changed_on_the_disk_is_found(serving: Agent) -> None:
    bundle = look(serving.state).bundle_path(serving.model())
    data = bytearray(GOOD)
    data[len(data) // 2] ^= 1
    bundle.chmod(0o644)
    bundle.write_bytes(bytes(data))
    try:
        found = answered(serving, 4)
    finally:
        bundle.write_bytes(GOOD)
    assert (found.state, found.code) == (TaskState.FAILED, "check.signature")
    assert "on the disk" in found.reason


def test_a_bundle_that_nothing_signed_names_is_found(serving: Agent, tmp_path: Path) -> None:
    data = bundle_bytes(classifier_onnx(), version="1.0.1")
    target, digest, paths = f"digits/1.0.1/{PROFILE}.bundle", sha256_hex(data), StatePaths(tmp_path / "device")
    status = serving.status()
    status["models"][0] |= {"active_target": target, "active_sha256": digest}
    copied(serving, paths.root)
    paths.status.write_text(json.dumps(status))
    slot = paths.models / "digits" / status["models"][0]["slot"]
    write_file(slot / "bundle", data)
    info = SlotInfo(
        model="digits", version="1.0.1", profile=PROFILE, target=target, sha256=digest, length=len(data), runtime="ort"
    )
    write_file(slot / "slot.msgpack", encode_record(info))
    word = said(serving, paths.root, digest)
    assert (word["exit"], word["code"]) == (1, "check.signature")
    assert "install.target_unknown" in word["reason"]


def test_without_a_server_in_reach_nothing_is_said_of_the_bundle(serving: Agent, tmp_path: Path) -> None:
    state = copied(serving, tmp_path / "device")
    record = StatePaths(state).identity / RECORD_FILE
    known = read_record(Identity, record)
    assert known is not None
    write_file(record, encode_record(msgspec.structs.replace(known, url="https://127.0.0.1:1")))
    word = said(serving, state, DIGEST)
    assert (word["exit"], word["code"]) == (75, "check.not_now")
