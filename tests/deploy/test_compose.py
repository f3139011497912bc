"""The trial for Docker Compose: its schema, an order that podman can start, its parts by their own checkers, its secrets."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.tree import ROOT
from tests.support.tool_environments import CHECK_JSONSCHEMA, environment

FOLDER = ROOT / "deploy" / "compose"


@pytest.mark.network
def test_the_file_is_right_by_the_schema_of_compose() -> None:
    check = [str(environment("check-jsonschema", CHECK_JSONSCHEMA)), "-m", "check_jsonschema"]
    subprocess.run([*check, "--builtin-schema", "vendor.compose-spec", str(FOLDER / "trial.yaml")], check=True)


def trial() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "trial.yaml").read_text("utf-8"))
    return found


def test_each_mounted_file_is_there_and_each_volume_is_named() -> None:
    for name, service in trial()["services"].items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), f"{name}: {source}"
            else:
                assert source in trial()["volumes"], f"{name}: {source}"
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "a trial stays on this machine"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_address_that_edgectl_dashboard_prints_is_where_the_pages_are_published() -> None:
    server = trial()["services"]["server"]
    (published,) = [port.removesuffix(":8080") for port in server["ports"] if port.endswith(":8080")]
    assert server["environment"]["EDGEFLEET_SERVER_DASHBOARD_URL"] == f"http://{published}"


def test_podman_can_start_it_in_its_order() -> None:
    """podman-compose starts services by the number of what they need, and podman none after an ended one that needs others."""
    services, volumes = trial()["services"], trial()["volumes"]
    for name, service in services.items():
        needed = service.get("depends_on", {})
        for other, how in needed.items():
            if how["condition"] == "service_completed_successfully":
                assert "depends_on" not in services[other], f"{name}: {other} has ended and needs others"
    assert not [(a, b) for a in volumes for b in volumes if a != b and b.startswith(a)], (
        "podman finds names by their begin"
    )


def test_the_grafana_files_name_what_is_there() -> None:
    (source,) = yaml.safe_load((FOLDER / "trial/grafana/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    assert port in trial()["services"][host]["ports"][0]
    (provider,) = yaml.safe_load((FOLDER / "trial/grafana/dashboards/edgefleet.yml").read_text("utf-8"))["providers"]
    mounts = dict(mount.split(":")[1::-1] for mount in trial()["services"]["grafana"]["volumes"])
    folder = (FOLDER / mounts[provider["options"]["path"]]).resolve()
    boards = [json.loads(file.read_text("utf-8")) for file in folder.glob("*.dashboard.json")]
    assert len(boards) == 4
    assert len({board["uid"] for board in boards}) == 4


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_prometheus_reads_its_file(tmp_path: Path) -> None:
    text = (FOLDER / "trial/prometheus.yml").read_text("utf-8")
    own = {"edgefleet": ROOT / "server/edgefleet_server/observability/monitoring_files", "watchdog": FOLDER / "trial"}
    for name, folder in own.items():
        text = text.replace(f"/etc/prometheus/{name}.rules.yml", str(folder / f"{name}.rules.yml"))
    (tmp_path / "token").touch()
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/edgefleet/token", str(tmp_path / "token")))
    subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("amtool") is None, reason="no amtool on this machine")
def test_alertmanager_reads_its_file() -> None:
    subprocess.run(["amtool", "check-config", str(FOLDER / "trial/alertmanager.yml")], check=True, capture_output=True)


def test_secrets_are_random_private_and_made_once(tmp_path: Path) -> None:
    made = []
    for folder in ("a", "b", "a"):
        subprocess.run([sys.executable, str(FOLDER / "trial/make_secrets.py"), str(tmp_path / folder)], check=True)
        volumes = tmp_path / folder
        url = (volumes / "server/database-url").read_text("ascii")
        assert (volumes / "database/password").read_text("ascii") in url
        (identity,) = json.loads((volumes / "s3/s3.json").read_text("ascii"))["identities"]
        assert identity["credentials"][0]["secretKey"] == (volumes / "server/s3-secret").read_text("ascii")
        for file in (one for one in volumes.rglob("*") if one.is_file()):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        made.append(url)
    assert made[0] == made[2] != made[1]
