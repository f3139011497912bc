"""Two servers with data folders of their own: one PostgreSQL, one bucket, one signing process behind a forwarded socket (ADR 0160).

socat stands for the SSH of docs/operate/postgresql.md. Needs PostgreSQL, moto and socat.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgefleet_protocol.digest import sha256_hex
from tests.broker.outside_brokers import free_port
from tests.server.signing.pair_story import Pair, problems
from tests.server.signing.rotation_story import host_of, rotation_problems
from tests.support import databases
from tests.support.buckets import make_bucket, moto_server
from tests.support.servers import ServerProcess, server_process

FIRST = ("--roles", "api,engine,converter", "--instance", "a")
SECOND = ("--roles", "api,engine", "--instance", "b")
START_S = 200.0


def main(n: int, seed: int) -> dict[str, Any]:
    """Start n pairs; what is done at one host is seen at the other: uploads, and the story of `pair_story`."""
    found: list[str] = []
    for number in range(n):
        found += [f"pair {number}: {one}" for one in _pair(seed + number)]
    return {"ok": not found, "pairs": n, "problems": found}


def _pair(seed: int) -> list[str]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        for part in ("moto", "a", "b"):
            (folder / part).mkdir()
        moto = stack.enter_context(moto_server(folder / "moto"))
        make_bucket(moto, "blobs")
        shared = _environment(stack.enter_context(databases.new("postgresql", folder / "none")), moto)
        one, other = folder / "a" / "data", folder / "b" / "data"
        command = [sys.executable, "-m", "edgefleet_server.process.init", "--data", str(one)]
        subprocess.run(command, env={**os.environ, **shared}, check=True, capture_output=True)
        token = (one / "admin.token").read_text().strip()
        first = stack.enter_context(server_process(one, token, *FIRST, *_port(), environment=shared, timeout_s=START_S))
        forwarded = _second_host(stack, one, other)
        shared["EDGEFLEET_SERVER_SIGNER_SOCKET"] = str(forwarded)
        flags = (*SECOND, *_port())
        second = stack.enter_context(server_process(other, token, *flags, environment=shared, timeout_s=START_S))
        found = _problems(first, second, b"%d " % seed * 20_000)
        pair = Pair(first, second, shared)
        stack.callback(pair.close)
        hosts = [stack.enter_context(host_of(server)) for server in (first, second)]
        return found + problems(pair) + rotation_problems(hosts)


def _port() -> tuple[str, str]:
    """Return the flag of a device port that stays, as a rotation of the device CA wants it."""
    return "--device-port", str(free_port())


def _second_host(stack: ExitStack, one: Path, other: Path) -> Path:
    """Make a data folder with what the page says, and forward the socket; return it."""
    (other / "keys").mkdir(parents=True, mode=0o700)
    (other / "run").mkdir()
    (other / "server.toml").write_text("")
    shutil.copy(one / "keys" / "secrets.key", other / "keys" / "secrets.key")
    forwarded = other / "run" / "sign.sock"
    ends = [f"UNIX-LISTEN:{forwarded},fork,mode=600", f"UNIX-CONNECT:{one / 'run' / 'signer-a.sock'}"]
    relay = subprocess.Popen(["socat", *ends], stderr=subprocess.DEVNULL)
    stack.callback(relay.wait)
    stack.callback(relay.terminate)
    while not forwarded.exists():
        assert relay.poll() is None
        time.sleep(0.05)
    return forwarded


def _problems(first: ServerProcess, second: ServerProcess, data: bytes) -> list[str]:
    found: list[str] = []
    sha256 = sha256_hex(data)
    with first.client() as here, second.client() as there:
        here.put(f"/api/v1/blobs/{sha256}", content=data).raise_for_status()
        if there.get(f"/api/v1/blobs/{sha256}").content != data:
            found.append("the second host gives other bytes")
        if not there.get("/readyz").json()["checks"]["signer"]["ok"]:
            found.append("the second host does not reach the signing process")
    files = {path.name for path in (second.data / "keys").iterdir()}
    if files != {"secrets.key", "device-ca.crt", "server.crt", "server.key"}:
        found.append(f"the second host's keys are {sorted(files)}")
    context = ssl.create_default_context(cafile=str(first.data / "keys" / "device-ca.crt"))
    address = urlsplit(str(second.run["device_url"]))
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 30) as plain:
        context.wrap_socket(plain, server_hostname="localhost").close()  # raises for a certificate of another CA
    return found


def _environment(database: str, bucket: str) -> dict[str, str]:
    settings = {
        "DATABASE_URL": database,
        "BROKER": "mqtts://127.0.0.1:1",  # no process of the story has a gateway
        "BLOB_URL": "s3://blobs/fleet",
        "BLOB_ENDPOINT": bucket,
        "BLOB_ACCESS_KEY_ID": "id",
        "BLOB_SECRET_KEY": "key",
        "BLOB_REGION": "us-east-1",
    }
    return {f"EDGEFLEET_SERVER_{name}": value for name, value in settings.items()}
