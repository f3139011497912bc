"""A real Alertmanager stops a rollout: what its version 4 webhook sends is what the server takes."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from edgefleet_server.composition.api_app import create_app
from tests.server.dashboard.serving import served
from tests.server.rollout.fleet_sim import World
from tests.server.rollout.test_alerts import Monitor
from tests.support.ports import kept_port

BINARY = shutil.which("prometheus-alertmanager")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="Alertmanager is not installed")]
PATIENCE_S = 60.0


def test_a_firing_alert_of_a_real_alertmanager_pauses_its_rollout(world: World, tmp_path: Path) -> None:
    monitor = Monitor(world)
    rollout, path = monitor.rollout(), monitor.receiver()
    with served(create_app(monitor.parts)) as url:
        config = {
            "route": {"receiver": "edgefleet", "group_wait": "0s", "group_interval": "1s"},
            "receivers": [{"name": "edgefleet", "webhook_configs": [{"url": url + path}]}],
        }
        (tmp_path / "alertmanager.yml").write_text(json.dumps(config))  # JSON is YAML
        address = f"127.0.0.1:{kept_port()}"
        process = subprocess.Popen(
            [
                str(BINARY), f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'data'}",
                f"--web.listen-address={address}", "--cluster.listen-address=", "--log.level=error",
            ],
        )  # fmt: skip
        try:
            labels = {"alertname": "EdgeErrors", "edgefleet_rollout": rollout}
            alert = [{"labels": labels, "annotations": {"summary": "5 % of the answers are errors"}}]
            end_s = time.monotonic() + PATIENCE_S
            while world.view(rollout).state != "paused":
                assert time.monotonic() < end_s, monitor.parts.alerts.deeds(limit=5)
                try:
                    httpx.post(f"http://{address}/api/v2/alerts", json=alert).raise_for_status()
                except httpx.TransportError:
                    time.sleep(0.05)  # it has not begun to listen
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait(10)
    view = world.view(rollout)
    assert view.reason == "paused by alerts main: alert EdgeErrors is firing: 5 % of the answers are errors"
    assert [one.outcome for one in monitor.parts.alerts.deeds(limit=5)] == ["acted"]
