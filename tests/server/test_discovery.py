"""Service discovery for Prometheus: its own checker takes the answer, and Prometheus itself scrapes what it finds there."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgefleet_server.access.model import Role
from tests.server.dashboard.serving import served
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse

PATH = "/api/v1/prometheus/sd"
PROMETHEUS = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None, reason="no prometheus on this machine"
)
CONFIG = """
scrape_configs:
  - job_name: edgefleet
    scrape_interval: 1s
    http_sd_configs:
      - url: {url}/api/v1/prometheus/sd
        refresh_interval: 1s
        authorization: {{ credentials_file: {token} }}
    authorization: {{ credentials_file: {token} }}
    relabel_configs:
      - {{ source_labels: [__meta_edgefleet_tenant], target_label: tenant }}
"""


def test_it_names_the_server_as_it_was_asked(house: ApiHouse) -> None:
    client = house.client(Role.VIEWER)
    answer = client.get(PATH, headers={"host": "fleet.example:8080"})
    assert answer.headers["content-type"] == "application/json"
    [group] = answer.json()
    assert group["targets"] == ["fleet.example:8080"]
    assert set(group) == {"targets", "labels"}
    assert group["labels"]["__scheme__"] == "http"
    assert group["labels"]["__metrics_path__"] == "/metrics"
    assert group["labels"]["__meta_edgefleet_tenant"] == house.settings.tenant
    assert all(isinstance(value, str) for value in group["labels"].values())
    for host, target in (
        ("fleet.example", "fleet.example:80"),
        ("[::1]:9", "[::1]:9"),
        ("[::1]", "[::1]:80"),
        ("a b", "testserver:80"),  # what the socket says
        ("x/y", "testserver:80"),
    ):
        assert client.get(PATH, headers={"host": host}).json()[0]["targets"] == [target], host


def test_it_needs_a_token_and_does_not_grow_with_the_fleet(house: ApiHouse) -> None:
    assert house.client().get(PATH).status_code == 401
    client = house.client(Role.VIEWER)
    before = client.get(PATH).json()
    for _ in range(3):
        house.parts.fleet.enrolment.enroll(
            house.parts.fleet.enrolment.create_claims()[0].token, KeyedDevice().csr(), FACTS
        )
    assert client.get(PATH).json() == before
    assert client.post(PATH).status_code == 405


@contextmanager
def found_by_prometheus(house: ApiHouse, folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve a house; yield its address and a configuration of Prometheus that discovers it."""
    (folder / "token").write_text(house.token(Role.VIEWER))
    with served(house.own_app()) as url:
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(url=url, token=folder / "token"))
        yield url, config


@PROMETHEUS
def test_promtool_discovers_the_server(house: ApiHouse, tmp_path: Path) -> None:
    with found_by_prometheus(house, tmp_path) as (url, config):
        done = subprocess.run(
            ["promtool", "check", "service-discovery", "--timeout=10s", config, "edgefleet"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        figures = subprocess.run(
            ["promtool", "check", "metrics"],
            input=httpx.get(f"{url}/metrics").text, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [target] = json.loads(done.stdout)
    address = url.removeprefix("http://")
    assert target["discoveredLabels"]["__address__"] == address
    kept = {name: value for name, value in target["labels"].items() if not name.startswith("__")}
    assert kept == {"instance": address, "job": "edgefleet", "tenant": house.settings.tenant}
    assert figures.returncode == 0, figures.stdout + figures.stderr


@PROMETHEUS
def test_prometheus_scrapes_what_it_discovers(house: ApiHouse, tmp_path: Path) -> None:
    with found_by_prometheus(house, tmp_path) as (url, config):
        with (tmp_path / "told.txt").open("wb") as told:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                 "--web.listen-address=127.0.0.1:0"],
                stdout=told, stderr=told,
            )  # fmt: skip
        try:
            target = _scraped(tmp_path / "told.txt", process)
        finally:
            process.terminate()
            process.wait(60)
    assert target["scrapeUrl"] == f"{url}/metrics"
    assert target["labels"]["tenant"] == house.settings.tenant


def _scraped(told: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the target that Prometheus scraped with success. told: where it writes which port it took."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, told.read_text()
        match = re.search(r'msg="Listening on" address=(\S+)', told.read_text())
        if match is not None:
            answer = httpx.get(f"http://{match[1]}/api/v1/targets")
            # it listens before it is ready, and says so with a 503
            active = answer.json().get("data", {}).get("activeTargets", []) if answer.is_success else []
            if active and active[0]["health"] == "up":
                return dict(active[0])
        time.sleep(0.2)
    raise AssertionError(f"prometheus scraped nothing:\n{told.read_text()}")
