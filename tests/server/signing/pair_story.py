"""What is done at one of two hosts and seen at the other: packages of the agent, enrolment, a bundle, a revocation (ADR 0168)."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import obstore
from obstore.store import ObjectStore

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.clock import SystemClock
from edgefleet_server.registry.object_store.opened_store import open_object_store
from edgefleet_server.settings import load_settings
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.server.signing.rotation_story import Enrolled
from tests.support.servers import ServerProcess, release_body

MODEL = Path(__file__).resolve().parents[3] / "examples" / "digits" / "digits-1.0.0.onnx"
WHEEL = "edgefleet_agent-0.{}.0-py3-none-any.whl"
CONVERTED_S = 400.0


@dataclass
class Pair:
    """Two running servers, the environment of the second, and clients of their APIs and device listeners."""

    first: ServerProcess
    second: ServerProcess
    environment: Mapping[str, str]

    def __post_init__(self) -> None:
        """Open the clients; both listeners are checked against the first host's CA."""
        self.apis = [one.client() for one in (self.first, self.second)]
        trust = ssl.create_default_context(cafile=str(self.first.data / "keys" / "device-ca.crt"))
        trust.check_hostname = False  # the certificates name the host, and this is 127.0.0.1
        self.devices = [
            httpx.Client(base_url=str(one.run["device_url"]), verify=trust, timeout=60)
            for one in (self.first, self.second)
        ]

    @property
    def bucket(self) -> ObjectStore:
        """The bucket, for a program that writes to it past the servers."""
        names = ("blob_url", "blob_endpoint", "blob_access_key_id", "blob_secret_key", "blob_region")
        given = {name: self.environment[f"EDGEFLEET_SERVER_{name.upper()}"] for name in names}
        return open_object_store(load_settings(self.second.data, **given))

    def close(self) -> None:
        """Close the clients."""
        for client in (*self.apis, *self.devices):
            client.close()


def problems(pair: Pair) -> list[str]:
    """Go through the story; return what was not as it should be."""
    found = _packages(pair)
    device = KeyedDevice()
    token = pair.apis[0].post("/api/v1/enrollments", json={}).raise_for_status().json()["tokens"][0]["token"]
    body = {"token": token, "csr": device.csr().decode(), "facts": FACTS}
    made = pair.devices[1].post("/device/v1/enroll", json=body).raise_for_status().json()
    device.enrolment = Enrolled(made["device_id"], made["server_id"], made["cert"])
    if pair.apis[0].get(f"/api/v1/devices/{device.id}").status_code != 200:
        found.append("the first host does not know a device that enrolled at the second")
    if pair.devices[0].post("/device/v1/enroll", json=body | {"csr": KeyedDevice().csr().decode()}).is_success:
        found.append("a claim that was used at the second host can be used again at the first")
    found += _bundle(pair, device)
    pair.apis[0].delete(f"/api/v1/devices/{device.id}").raise_for_status()
    answers = [_ask(client, device, "/device/v1/desired").json().get("code") for client in pair.devices]
    if answers != ["fleet.device_revoked"] * 2:
        found.append(f"a revoked device gets {answers}")
    return found


def _packages(pair: Pair) -> list[str]:
    """Add a package at the first host, then another at the second; both hand out the last one, and none that lies."""
    found = []
    for version, host in ((1, pair.first), (2, pair.second)):
        name, data = WHEEL.format(version), b"wheel %d" % version
        (host.data.parent / name).write_bytes(data)
        _add(pair, host, host.data.parent / name)
        script = [client.get("/agent/install.sh").raise_for_status().text for client in pair.devices]
        got = [client.get(f"/agent/{name}").content for client in reversed(pair.devices)]
        if got != [data, data] or not all(sha256_hex(data) in text for text in script):
            found.append(f"{name}, added at {host.data.parent.name}: {got}")
        lines = [api.post("/api/v1/enrollments", json={}).json()["install"] for api in pair.apis]
        if not all(line and "sh install.sh" in line for line in lines):
            found.append(f"lines that install: {lines}")
    if [client.get(f"/agent/{WHEEL.format(1)}").status_code for client in pair.devices] != [404, 404]:
        found.append("a package that was replaced is still handed out")
    return found + _planted(pair)


def _planted(pair: Pair) -> list[str]:
    """Write other bytes of the same length into the bucket before a host has read a package."""
    name, data = WHEEL.format(3), b"wheel 3"
    (pair.first.data.parent / name).write_bytes(data)
    _add(pair, pair.first, pair.first.data.parent / name)
    digest = sha256_hex(data)
    key, bucket = f"{digest[:2]}/{digest}", pair.bucket
    if bytes(obstore.get(bucket, key).bytes()) != data:
        return ["the package is not in the bucket"]
    obstore.put(bucket, key, b"a spy!!")
    answers = [client.get(f"/agent/{name}") for client in pair.devices]
    obstore.put(bucket, key, data)
    again = [client.get(f"/agent/{name}").content for client in pair.devices]
    codes = [answer.json().get("code") if answer.status_code != 200 else answer.content for answer in answers]
    return (["a planted agent: " + repr(codes)] if codes != ["agent.package_damaged"] * 2 else []) + (
        [f"after it was mended: {again}"] if again != [data, data] else []
    )


def _add(pair: Pair, host: ServerProcess, package: Path) -> None:
    command = [sys.executable, "-m", "edgefleet_cli.main", "server", "agent-packages", "add"]
    arguments = [str(package), "--data", str(host.data)]
    subprocess.run(
        [*command, *arguments], env={**os.environ, **pair.environment}, check=True, stdout=subprocess.DEVNULL
    )


def _bundle(pair: Pair, device: KeyedDevice) -> list[str]:
    """Publish and convert at the first host, deploy and download at the second."""
    data = MODEL.read_bytes()
    pair.apis[0].put(f"/api/v1/blobs/{sha256_hex(data)}", content=data).raise_for_status()
    body: dict[str, Any] = release_body(data, options={"precision": "fp32"})
    pair.apis[0].post("/api/v1/releases", json=body).raise_for_status()
    deadline = time.monotonic() + CONVERTED_S
    while not (release := pair.apis[1].get("/api/v1/releases/digits@1.0.0").json())["bundles"]:
        if time.monotonic() > deadline or release["state"] == "failed":
            return [f"no bundle: {release['state']}, {release['jobs']}"]
        time.sleep(1)
    bundle = release["bundles"][0]["sha256"]
    pair.apis[1].post("/api/v1/releases/digits@1.0.0:deploy", json={"device": device.id}).raise_for_status()
    got = [_ask(client, device, f"/device/v1/blobs/{bundle}").content for client in reversed(pair.devices)]
    desired = [_ask(client, device, "/device/v1/desired").content for client in pair.devices]
    return [
        *([] if [sha256_hex(one) for one in got] == [bundle, bundle] else ["a host gives other bytes of the bundle"]),
        *([] if desired[0] == desired[1] else ["the hosts give different documents"]),
    ]


def _ask(client: httpx.Client, device: KeyedDevice, path: str) -> httpx.Response:
    token = device.token(SystemClock().now())
    return client.get(path, headers={"authorization": f"Bearer {token}"})
