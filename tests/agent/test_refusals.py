"""What a device refuses for lack of room: said clearly, while the old version goes on serving."""

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgefleet_protocol.bundle import open_bundle, write_bundle
from edgefleet_protocol.desired import Ref
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

MIB = 1024 * 1024


def of_runtime(data: bytes, runtime: str) -> bytes:
    """Return the bundle as if it were made for another runtime."""
    bundle = open_bundle(io.BytesIO(data))
    members = {name: bundle.read(name) for name in bundle.manifest.members}
    return write_bundle(members, msgspec.structs.replace(bundle.manifest, runtime=runtime, members={}))


def second(pad: int = 0) -> bytes:
    """Return a good 1.1.0 of about `pad` bytes."""
    return bundle_bytes(classifier_onnx(2.0), version="1.1.0", extra={"pad.bin": os.urandom(pad)} if pad else None)


def with_first(site: Site, agent: Agent) -> None:
    """Bring 1.0.0 to service."""
    agent.start()
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx()))
    agent.wait("committed", "1.0.0")
    assert eventually(lambda: agent.model().get("serving"))


def proven_with(agent: Agent, **environment: str) -> None:
    """Start an agent that has proven 1.0.0 before, in this environment."""
    agent.environment = {**agent.environment, **environment}
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))


def refused(agent: Agent, error_class: str, code: str) -> str:
    """Wait for the refusal and return its reason, as the server was told it; 1.0.0 must answer."""
    model = agent.wait("failed", "1.0.0")
    assert (model["error_class"], model["error_code"]) == (error_class, code), model
    assert agent.infer()["model_version"] == "1.0.0"
    assert eventually(lambda: agent.reported().phase == "failed")
    assert str(agent.reported().error_class) == error_class
    return str(model["reason"])


def test_too_little_memory(site: Site, agent: Agent, first: Ref) -> None:
    proven_with(agent, EDGEFLEET_AGENT_MEMORY_RESERVE_BYTES=str(1 << 50))
    deploy(site, "1.1.0", second())
    reason = refused(agent, "memory", "preflight.memory")
    assert "bytes of memory available" in reason
    assert str(1 << 50) in reason


def test_a_runtime_that_is_not_installed(site: Site, agent: Agent, first: Ref) -> None:
    proven_with(agent)
    deploy(site, "1.1.0", of_runtime(second(), "openvino"))
    reason = refused(agent, "incompatible", "preflight.runtime")
    assert "needs runtime openvino; installed here: " in reason
    assert "ort" in reason


def test_too_little_disk_is_found_before_the_download(site: Site, agent: Agent, first: Ref) -> None:
    proven_with(agent, EDGEFLEET_AGENT_DISK_RESERVE_BYTES=str(1 << 50))
    deploy(site, "1.1.0", second())
    assert "bytes free" in refused(agent, "disk", "preflight.disk")
    assert not (agent.state / "models" / "digits" / "B" / "bundle.part").exists()


@pytest.fixture
def small_agent(site: Site, tmp_path: Path) -> Iterator[Agent]:
    """An agent on a file system of 12 MiB that it believes to be larger: its preflight cannot see the end of it."""
    state = tmp_path / "small"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(state)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    made = Agent(site, state, EDGEFLEET_AGENT_DISK_RESERVE_BYTES=str(-(1 << 40)))
    yield made
    made.stop()
    subprocess.run(["umount", str(state)], check=True)


def test_a_disk_that_fills_while_the_slot_is_written(site: Site, small_agent: Agent) -> None:
    agent = small_agent
    with_first(site, agent)
    filler = agent.state / "filler"
    room = os.statvfs(agent.state)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 2 * MIB))
    data = second(4 * MIB)
    deploy(site, "1.1.0", data)
    assert "no space left for the bundle" in refused(agent, "disk", "install.disk")
    slot = agent.state / "models" / "digits" / "B"
    assert list(slot.iterdir()) == []
    room = os.statvfs(agent.state)
    assert room.f_bavail * room.f_frsize > MIB
    filler.unlink()
    # a newer document is a new try, without waiting for the back-off
    deploy(site, "2.0.0", bundle_bytes(classifier_onnx(), name="other", version="2.0.0"), model="other")
    agent.wait("committed", "1.1.0")
    assert agent.comes_to_answer("1.1.0")
