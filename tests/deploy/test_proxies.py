"""nginx, HAProxy, Caddy and the blackbox exporter with the files of `examples/proxies`, run for real in front of a real server."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.proxy_files import FOLDER, NAME, WRITERS, Front, Upstream, certificate, lacking, running
from tests.support.ports import kept_port
from tests.support.servers import ServerProcess, copy_server, server_process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where certificates and files lie."""
    return tmp_path_factory.mktemp("proxies")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """A real server with its own broker."""
    data = folder / "server"
    token = copy_server(data)
    flags = ("--behind-proxy", "--broker-port", str(kept_port()), "--roles", "api,gateway")
    with server_process(data, token, *flags) as made:
        yield made


@pytest.fixture(scope="module")
def upstream(server: ServerProcess, folder: Path) -> Upstream:
    """The server as a proxy sees it."""
    device = urllib.parse.urlsplit(server.run["device_url"]).port
    api = urllib.parse.urlsplit(server.url).port
    assert device
    assert api
    return Upstream(api, device, server.run["broker"]["port"], server.data / "keys/device-ca.crt", *certificate(folder))


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_people_and_devices_come_through(name: str, upstream: Upstream, folder: Path, server: ServerProcess) -> None:
    if missing := lacking(name):
        pytest.skip(missing)
    front = Front(kept_port(), kept_port(), kept_port())
    own = folder / name
    own.mkdir()
    command = WRITERS[name](upstream, front, own)
    ports = (front.people,) if name == "caddy" else (front.people, front.devices, front.broker)
    with running(command, ports, folder / f"{name}.log"):
        assert asked(front.people, "/healthz", upstream.certificate) == 200
        assert asked(front.people, "/api/v1/devices", upstream.certificate, server.token) == 200
        assert asked(front.people, "/metrics", upstream.certificate) == 403, "from outside"
        if name != "caddy":
            for port in (front.devices, front.broker):
                assert seen_certificate(port, upstream.device_ca), "TLS ends at the server itself"


def asked(port: int, path: str, ca: Path, token: str | None = None) -> int:
    """Return the status that a proxy answers over TLS, its certificate checked by name."""
    context = ssl.create_default_context(cafile=ca)
    headers = {"host": NAME} | ({} if token is None else {"authorization": f"Bearer {token}"})
    with httpx.Client(verify=context) as client:
        url = f"https://127.0.0.1:{port}{path}"
        return client.get(url, headers=headers, extensions={"sni_hostname": NAME}).status_code


def seen_certificate(port: int, ca: Path) -> dict[str, object]:
    """Return the certificate behind a port, which has to be the device CA's. Raises SSLError."""
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, context.wrap_socket(raw) as wrapped:
        return dict(wrapped.getpeercert() or {})


@pytest.mark.skipif(shutil.which("prometheus-blackbox-exporter") is None, reason="no blackbox exporter on this machine")
def test_the_blackbox_exporter_sees_devices_and_broker(upstream: Upstream, folder: Path) -> None:
    text = (FOLDER / "blackbox.yml").read_text("utf-8")
    old = "/etc/prometheus/edgefleet-device-ca.crt"
    assert text.count(old) == 2
    (folder / "blackbox.yml").write_text(text.replace(old, str(upstream.device_ca)))
    port = kept_port()
    command = [
        "prometheus-blackbox-exporter",
        f"--config.file={folder}/blackbox.yml",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, (port,), folder / "blackbox.log"):
        for module, target in (
            ("edgefleet_devices", f"https://127.0.0.1:{upstream.device_port}/device/v1/healthz"),
            ("edgefleet_broker", f"127.0.0.1:{upstream.broker_port}"),
        ):
            probe = httpx.get(f"http://127.0.0.1:{port}/probe", params={"module": module, "target": target})
            assert "\nprobe_success 1\n" in probe.text, probe.text
            assert "probe_ssl_earliest_cert_expiry" in probe.text
        plain = {"module": "edgefleet_http", "target": f"http://127.0.0.1:{upstream.api_port}/healthz"}
        assert "\nprobe_success 0\n" in httpx.get(f"http://127.0.0.1:{port}/probe", params=plain).text, "no TLS"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_the_jobs_for_prometheus_use_these_modules() -> None:
    subprocess.run(
        ["promtool", "check", "config", str(FOLDER / "prometheus-probes.yml")], check=True, capture_output=True
    )
    jobs = yaml.safe_load((FOLDER / "prometheus-probes.yml").read_text("utf-8"))["scrape_configs"]
    modules = yaml.safe_load((FOLDER / "blackbox.yml").read_text("utf-8"))["modules"]
    assert {module for job in jobs for module in job["params"]["module"]} == set(modules)
