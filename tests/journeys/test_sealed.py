"""A sealed model on a real device: proved, served, after a start without a server, and again after a rollback; and nowhere in the clear."""

import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.agent.worker.models import bundle_bytes, classifier_onnx, weights
from tests.journeys.fleet import rolled_back_by_hand
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.server.fleet.house import PROFILE

pytestmark = pytest.mark.slow
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


def want_sealed(road: Road, version: str) -> None:
    """Sign a sealed release with the server's keys, and want it everywhere."""
    bundle = bundle_bytes(classifier_onnx(SCALES[version]), version=version)
    road.house.release(f"digits@{version}", bundles={PROFILE: bundle}, seal=True)
    road.want(f"digits@{version}")


@pytest.mark.usefixtures("_cores")
def test_a_sealed_model_is_installed_restarted_and_rolled_back_and_nowhere_in_the_clear(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", tempfile.mkdtemp(prefix="ef-sealed-", dir=tmp_path))
    device = Traveller(road, "one")
    for version in SCALES:
        want_sealed(road, version)
        device.told("digits", release=f"digits@{version}", phase="committed", serving=True)
        assert device.served("digits") == version

    device.stop()
    road.kill()
    device.start()  # no server: the key lies with the bundle, sealed to the device
    assert device.served("digits") == "1.1.0"
    assert rolled_back_by_hand(device, "digits", "it shakes")["serving"]
    assert device.served("digits") == "1.0.0"

    for scale in SCALES.values():
        secret = weights(scale).tobytes()
        assert secret in classifier_onnx(scale)
        assert files_with(secret, device.state, Path(os.environ["TMPDIR"]), road.data) == []

    before = set(Path.cwd().glob("core*"))
    assert device.process is not None
    for child in psutil.Process(device.process.pid).children(recursive=True):
        if "edgefleet_agent.worker" in child.cmdline():
            child.send_signal(signal.SIGABRT)  # of which another program leaves a core; SIGQUIT is ignored below a shell with "&"
            child.wait(PATIENCE_S)
    assert device.served("digits") == "1.0.0"
    assert set(Path.cwd().glob("core*")) == before
