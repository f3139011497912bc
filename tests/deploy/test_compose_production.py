"""The production file for Docker Compose: its schema, what podman-compose reads in it, what a container may, and nginx's file by nginx."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.proxy_files import STREAM, certificate, lacking, replaced
from tests.house.tree import ROOT
from tests.support.tool_environments import CHECK_JSONSCHEMA, PODMAN_COMPOSE, environment

FILE = ROOT / "deploy/compose/production.yaml"
SET = {
    "EDGEFLEET_HOST": "fleet.example.com",
    "EDGEFLEET_DATA": "/srv/edgefleet/data",
    "EDGEFLEET_BROKER": "/srv/edgefleet/broker",
    "EDGEFLEET_SECRETS": "/srv/edgefleet/secrets",
    "EDGEFLEET_BLOB_URL": "s3://edgefleet/production",
    "EDGEFLEET_BLOB_KEY_ID": "edgefleet",
}


def services() -> dict[str, Any]:
    """Return the services of the file, its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
    return found


@pytest.mark.network
def test_the_file_is_right_by_the_schema_of_compose() -> None:
    check = [str(environment("check-jsonschema", CHECK_JSONSCHEMA)), "-m", "check_jsonschema"]
    subprocess.run([*check, "--builtin-schema", "vendor.compose-spec", str(FILE)], check=True)


@pytest.mark.network
@pytest.mark.skipif(shutil.which("podman") is None, reason="no podman on this machine")
def test_podman_compose_reads_it_and_asks_for_what_is_missing() -> None:
    program = environment("podman-compose", PODMAN_COMPOSE).with_name("podman-compose")
    command = [str(program), "-f", str(FILE), "config"]
    read = subprocess.run(command, env=os.environ | SET, capture_output=True, text=True, check=True)
    shown = yaml.safe_load(read.stdout)["services"]
    assert set(shown) == set(services()) - {"init"}, "which has a profile"
    assert shown["gateway-2"]["environment"]["EDGEFLEET_SERVER_BROKER"] == "mqtts://fleet.example.com:8883"
    for name in SET:
        without = {key: value for key, value in (os.environ | SET).items() if key != name}
        refused = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
        assert refused.returncode != 0, name


def test_each_role_runs_twice_under_a_name_of_its_own() -> None:
    processes = {
        name: one["environment"] for name, one in services().items() if "environment" in one and name != "init"
    }
    assert sorted(processes) == sorted(
        f"{role}-{n}" for role in ("api", "gateway", "engine", "converter") for n in (1, 2)
    )
    for name, settings in processes.items():
        assert settings["EDGEFLEET_SERVER_INSTANCE"] == name
        assert name[:-2] in yaml.safe_load(settings["EDGEFLEET_SERVER_ROLES"])


def test_a_container_may_do_little_and_no_secret_is_in_its_environment() -> None:
    for name, service in services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] not in {"0", "root"}, name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert not [one for one in service.get("volumes", ()) if "docker.sock" in one or "podman.sock" in one], name
        for key, value in service.get("environment", {}).items():
            assert not any(word in key for word in ("PASSPHRASE", "SECRET", "DATABASE_URL")) or (
                key.endswith("_FILE") and value.startswith("/run/secrets/")
            ), f"{name}: {key}"
    published = {port for service in services().values() for port in service.get("ports", ())}
    assert published == {"443:8444", "8443:8443", "8883:8883"}, "no plain HTTP, no database"


@pytest.mark.skipif(bool(lacking("nginx")), reason=lacking("nginx") or "nginx is here")
def test_nginx_reads_its_file(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    names = {f"{role}-{n}:": "127.0.0.1:" for role in ("api", "gateway") for n in (1, 2)}
    files = {"/tmp/": f"{tmp_path}/", "/run/secrets/tls-cert": str(made), "/run/secrets/tls-key": str(key)}
    text = replaced((FILE.parent / "production/nginx.conf").read_text("utf-8"), {**files, **names})
    (tmp_path / "nginx.conf").write_text(f"load_module {STREAM};\n{text}")
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    done = subprocess.run(
        [str(program), "-t", "-c", f"{tmp_path}/nginx.conf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
