"""A sealed model on a real device: proved, served, after a start without a server, and again after a rollback; and nowhere in the clear."""

import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgefleet_agent.enrolment.server_api import kept_model_key
from edgefleet_agent.paths import StatePaths
from tests.agent.field import Agent, eventually, move_broker
from tests.agent.worker.models import bundle_bytes, classifier_onnx, weights
from tests.server.fleet.house import FACTS, PROFILE
from tests.server.gateway.conftest import Site
from tests.support.ports import kept_port

SCALES = {"1.0.0": 1.2345678, "1.1.0": 2.3456789}


def files_with(secret: bytes, *folders: Path) -> list[Path]:
    """Return the files below these folders that hold some bytes."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret in path.read_bytes()]


@pytest.fixture
def _cores() -> Iterator[None]:
    """Let processes leave cores, as far as this machine allows it."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files of an agent alone. Its path is short: sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        yield Path(name)


@pytest.fixture
def device(site: Site, tmp_path: Path, temporary: Path) -> Iterator[Agent]:
    """An agent whose enrolment told a key, as `test_enroll` proves of a real one."""
    state = tmp_path / "device"
    state.mkdir()
    told = kept_model_key(StatePaths(state).model_key)
    made = Agent(site, state, site.house.device(FACTS | {"model_key": told}), TMPDIR=str(temporary))
    yield made
    made.stop()


def want_sealed(site: Site, version: str) -> None:
    """Sign a sealed release with the server's keys, and want it everywhere."""
    bundle = bundle_bytes(classifier_onnx(SCALES[version]), version=version)
    ref = site.house.release(f"digits@{version}", bundles={PROFILE: bundle}, seal=True)
    site.house.fleet.deployer.deploy(ref, selector="")


@pytest.mark.usefixtures("_cores")
def test_a_sealed_model_is_installed_restarted_and_rolled_back_and_nowhere_in_the_clear(
    site: Site, device: Agent, tmp_path: Path, temporary: Path
) -> None:
    device.start()
    for version in SCALES:
        want_sealed(site, version)
        device.wait("committed", version)
        assert device.comes_to_answer(version)

    device.stop()
    move_broker(device.state, kept_port())
    device.start()  # no server: the key lies with the bundle, sealed to the device
    assert eventually(lambda: device.model().get("serving"))
    assert device.comes_to_answer("1.1.0")
    gone_back = device.command("rollback", "digits", "--reason", "it shakes")
    assert gone_back.returncode == 0, gone_back.stderr
    assert device.comes_to_answer("1.0.0")

    for scale in SCALES.values():
        secret = weights(scale).tobytes()
        assert secret in classifier_onnx(scale)
        assert files_with(secret, tmp_path, temporary) == []

    before = set(Path.cwd().glob("core*"))
    assert device.process is not None
    for child in psutil.Process(device.process.pid).children(recursive=True):
        if "edgefleet_agent.worker" in child.cmdline():
            child.send_signal(signal.SIGABRT)  # of which another program leaves a core
            child.wait(30.0)
    assert eventually(lambda: device.model().get("serving"))
    assert device.comes_to_answer("1.0.0")
    assert set(Path.cwd().glob("core*")) == before
