"""From an alias in a real MLflow registry to an answer of a real device: the alias moves, the device follows, MLflow is told.

Without a soak: the stages of `canary`, which is what is taken when nothing is said, are watched for ten minutes each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.field import eventually
from tests.cli.importing.mlflow_server import mlflow_server
from tests.converters.graphs import classifier
from tests.journeys.road import PATIENCE_S, Road, Traveller

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1800)]
CONVERTS = True


def test_a_device_follows_an_alias(road: Road, tmp_path: Path) -> None:
    device = Traveller(road, "follower", labels={"site": "lab"}, EDGEFLEET_AGENT_PROBATION_S="1")
    with mlflow_server(tmp_path) as registry:
        models = [tmp_path / f"net-{seed}.onnx" for seed in (1, 2)]
        for seed, path in enumerate(models):
            path.write_bytes(classifier(features=4, seed=seed).SerializeToString())
        first, _ = registry.log("net", models[0], "live")
        command = [
            sys.executable, "-m", "edgefleet_cli.main", "import", "watch", "mlflow:/net@live", "--to", "site=lab",
            "--profile", "generic-x86_64-ort", "--precision", "fp32", "--stages", "100%", "--soak", "0s", "--every", "1s",
            "--state", str(tmp_path / "seen"),
        ]  # fmt: skip
        environ = {
            **os.environ, "EDGECTL_SERVER": road.server.url, "EDGECTL_TOKEN": road.server.token,
            "MLFLOW_TRACKING_URI": registry.url, "NO_COLOR": "1",
        }  # fmt: skip
        log = tmp_path / "watch.log"
        with log.open("wb") as sink:
            watching = subprocess.Popen(command, stdout=sink, stderr=sink, env=environ)
        try:
            for version in (first, registry.log("net", models[1])[0]):
                registry.point("net", "live", version)

                def told(version: str = version) -> bool:
                    assert watching.poll() is None, log.read_text()
                    return "edge.deployed" in registry.tags("net", version)

                assert eventually(told, 4 * PATIENCE_S, 1.0), log.read_text()
                second = subprocess.run(command, check=False, capture_output=True, text=True, env=environ, timeout=120)
                assert (second.returncode, "is already followed" in second.stderr) == (6, True), second.stderr
                assert registry.tags("net", version)["edge.deployed"] == f"net@{version} to site=lab"
                assert registry.tags("net", version)["edge.rollout"].endswith(" finished")
                assert device.served("net") == version
        finally:
            watching.send_signal(signal.SIGINT)
            watching.wait(30)
    assert watching.returncode == 130
    assert [one["release"] for one in road.edgectl("rollout", "list")["items"]] == ["net@2", "net@1"]
