"""The proxies of `examples/proxies`, run for real: their files with other ports and addresses, in front of one server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT

FOLDER = ROOT / "examples" / "proxies"
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
NAME = "fleet.example.com"


@dataclass(frozen=True)
class Upstream:
    """Where the real server is, and the files of its device CA and of a certificate for people."""

    api_port: int
    device_port: int
    broker_port: int
    device_ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Front:
    """Ports on which a proxy listens."""

    people: int
    devices: int
    broker: int


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for the name of the examples; return it and its key. Blocks."""
    cert, key = folder / "people.crt", folder / "people.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key),
         "-out", str(cert), "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "people.pem").write_bytes(cert.read_bytes() + key.read_bytes())
    return cert, key


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Return a file with other ports and paths. Raises ValueError where one of the old ones is not in it."""
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"{old!r} is not in the file any more")
        text = text.replace(old, new)
    return text


def nginx(up: Upstream, front: Front, folder: Path, second: Upstream | None = None) -> list[str]:
    """Write nginx's file and return its command. second: the other server; without one both addresses are of the first."""
    text = replaced(
        (FOLDER / "nginx.conf").read_text("utf-8"),
        {
            **_upstreams(up, second),
            "listen 443 ssl": f"listen 127.0.0.1:{front.people} ssl",
            "listen 8443": f"listen 127.0.0.1:{front.devices}",
            "listen 8883": f"listen 127.0.0.1:{front.broker}",
            f"{NAME}.crt": str(up.certificate),
            f"{NAME}.key": str(up.key),
            "allow 10.0.0.0/8": "allow 192.0.2.0/24",
        },
    )
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{ access_log off; {temporary}", 1)
    head = f"load_module {STREAM};\npid {folder}/nginx.pid;\nerror_log stderr;\ndaemon off;\nuser root;\n"
    (folder / "nginx.conf").write_text(head + text)
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def haproxy(up: Upstream, front: Front, folder: Path) -> list[str]:
    """Write HAProxy's file and return its command."""
    text = replaced(
        (FOLDER / "haproxy.cfg").read_text("utf-8"),
        {
            **_upstreams(up),
            "bind :443": f"bind 127.0.0.1:{front.people}",
            "bind :8443": f"bind 127.0.0.1:{front.devices}",
            "bind :8883": f"bind 127.0.0.1:{front.broker}",
            "/etc/haproxy/fleet.example.com.pem": str(up.certificate.with_suffix(".pem")),
            "/etc/haproxy/device-ca.crt": str(up.device_ca),
            f"verifyhost {NAME}": "verifyhost 127.0.0.1",
            "src 10.0.0.0/8": "src 192.0.2.0/24",
            "maxconn 20000": "maxconn 200",
        },
    )
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def caddy(up: Upstream, front: Front, folder: Path) -> list[str]:
    """Write Caddy's file and return its command; it has no way in for devices."""
    text = replaced(
        (FOLDER / "Caddyfile").read_text("utf-8"),
        {
            f"\n{NAME} {{": f"\nhttps://{NAME}:{front.people} {{\n\ttls {up.certificate} {up.key}",
            "10.0.0.11:8080 10.0.0.12:8080": f"127.0.0.1:{up.api_port}",
            "private_ranges": "192.0.2.0/24",
        },
    )
    head = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}/caddy\n}}\n"
    (folder / "Caddyfile").write_text(head + text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def _upstreams(up: Upstream, second: Upstream | None = None) -> dict[str, str]:
    found = {"10.0.0.11:8883": f"127.0.0.1:{up.broker_port}"}
    for host, one in ((11, up), (12, second or up)):
        ports = {8080: one.api_port, 8443: one.device_port}
        found |= {f"10.0.0.{host}:{old}": f"127.0.0.1:{new}" for old, new in ports.items()}
    return found


WRITERS = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}


def lacking(name: str) -> str:
    """Return what of a proxy is not installed, "" when all is."""
    if shutil.which(name, path=f"{Path('/usr/sbin')}:/usr/bin:/usr/local/bin") is None:
        return f"no {name} on this machine"
    return "nginx has no module stream on this machine" if name == "nginx" and not STREAM.exists() else ""


def is_open(port: int) -> bool:
    """Return whether something listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], ports: tuple[int, ...], log: Path) -> Iterator[None]:
    """Run a proxy until the block ends; ready when its ports are open."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env={"PATH": "/usr/sbin:/usr/bin", "HOME": str(log.parent)}
        )
    try:
        deadline = time.monotonic() + 30
        while not all(is_open(port) for port in ports):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text('utf-8')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(15)
