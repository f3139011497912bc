"""The trial for Docker Compose: right by the schema of the format, its parts by their own checkers, its secrets made once."""

from __future__ import annotations

import shutil
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
            assert port.startswith("127.0.0.1:") or port in {"8443:8443", "8883:8883"}, (
                "plain HTTP stays on this machine"
            )
        assert not service.get("privileged")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_prometheus_reads_its_file(tmp_path: Path) -> None:
    text = (FOLDER / "trial/prometheus.yml").read_text("utf-8")
    rules = ROOT / "server/edgefleet_server/observability/monitoring_files/edgefleet.rules.yml"
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/edgefleet.rules.yml", str(rules)))
    subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("amtool") is None, reason="no amtool on this machine")
def test_alertmanager_reads_its_file() -> None:
    subprocess.run(["amtool", "check-config", str(FOLDER / "trial/alertmanager.yml")], check=True, capture_output=True)


def test_secrets_are_random_and_made_once(tmp_path: Path) -> None:
    made = []
    for folder in ("a", "b", "a"):
        subprocess.run([sys.executable, str(FOLDER / "trial/make_secrets.py"), str(tmp_path / folder)], check=True)
        url = (tmp_path / folder / "database/url").read_text("ascii")
        assert (tmp_path / folder / "database/password").read_text("ascii") in url
        made.append(url)
    assert made[0] == made[2] != made[1]
