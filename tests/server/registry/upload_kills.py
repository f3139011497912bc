"""A process that sends a large blob to a bucket is killed in the middle of a part: nothing half-done is read, the next run is whole.

The proxy in front of moto holds the part back until the process is dead, so every kill strikes. `main(n, seed)` takes the stories in turn:
`move` (`edgectl server migrate --blobs`), `backup` (`edgectl server backup s3://…`) and `upload` (a server that takes a PUT).
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.container import build_parts
from edgefleet_server.process.backup.backup_catalog import names_of
from edgefleet_server.process.backup.backup_check import BackupChecker
from edgefleet_server.process.backup.backup_places import opened_place
from edgefleet_server.registry.blobs import open_blob_store, read_whole
from edgefleet_server.settings import ServerSettings, load_settings
from tests.server.backup import servers
from tests.support.buckets import Answer, FaultyProxy, Request, make_bucket, moto_server, s3_error
from tests.support.servers import copy_server, server_process

MODULE = "edgefleet_server.process.backup.command_process"
PARTS = 3
LARGE = 20 * 1024 * 1024 + 5
"""Bytes: three parts of 8 MiB, or four of 5 MiB in a backup."""


class Strike:
    """Holds one part of an upload back: the moment to kill. `release` lets go of it, with an answer that nobody hears."""

    def __init__(self, part: int) -> None:
        """part: 1 is the first."""
        self.reached, self._released = threading.Event(), threading.Event()
        self._query = f"partNumber={part}"

    def fault(self, request: Request) -> Answer | None:
        """Answer for the proxy."""
        if request.method != "PUT" or self._query not in request.path or self._released.is_set():
            return None
        self.reached.set()
        self._released.wait(120)
        return s3_error(503, "SlowDown")(request)

    def release(self) -> None:
        """Let go."""
        self._released.set()


def access_to(proxy: str) -> dict[str, str]:
    """Return the settings that reach the bucket, as environment."""
    given = {"ENDPOINT": proxy, "ACCESS_KEY_ID": "id", "SECRET_KEY": "key", "REGION": "us-east-1"}
    return {f"EDGEFLEET_SERVER_BLOB_{name}": value for name, value in given.items()}


def bucket_of(folder: Path, proxy: str) -> ServerSettings:
    """Return the settings of a reader on another host."""
    given = {"blob_endpoint": proxy, "blob_access_key_id": "id", "blob_secret_key": "key", "blob_region": "us-east-1"}
    return load_settings(folder, blob_url="s3://blobs/fleet", **given)


@contextlib.contextmanager
def _struck(proxy: FaultyProxy, part: int) -> Iterator[Strike]:
    strike = Strike(part)
    proxy.fault = strike.fault
    try:
        yield strike
    finally:
        strike.release()
        proxy.fault = lambda request: None


def _kill_command(proxy: FaultyProxy, part: int, words: list[str]) -> None:
    """Run a command and kill it while that part is on its way."""
    with _struck(proxy, part) as strike:
        command = [sys.executable, "-m", MODULE, *words]
        environment = {**os.environ, **access_to(proxy.url)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            assert strike.reached.wait(120), "the part never came"
            child.kill()
        assert child.returncode == -9, "it ended before the kill"


def _run_command(proxy: FaultyProxy, words: list[str]) -> None:
    command = [sys.executable, "-m", MODULE, *words]
    environment = {**os.environ, **access_to(proxy.url)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _with_blob(data: Path, content: bytes) -> Sha256:
    """Make a server that names one large blob."""
    servers.begin(data).db.dispose()
    parts = build_parts(load_settings(data), SystemClock())
    try:
        return parts.registry.put_blob_bytes(content)
    finally:
        parts.db.dispose()


def move(proxy: FaultyProxy, folder: Path, part: int, content: bytes) -> list[str]:
    """Kill a move to a bucket; return what is wrong then."""
    data, problems = folder / "data", list[str]()
    sha256 = _with_blob(data, content)
    words = ["migrate", "--data", str(data), "--blobs", "s3://blobs/fleet"]
    _kill_command(proxy, part, words)
    reader = open_blob_store(bucket_of(folder / "reader", proxy.url))
    if reader.size(sha256) is not None or any(one.sha256 == sha256 for one in reader.list()):
        problems.append("half a blob is seen as whole")
    if load_settings(data).blob_url is not None:
        problems.append("the settings name the bucket already")
    _run_command(proxy, words)
    if load_settings(data).blob_url != "s3://blobs/fleet":
        problems.append("the settings do not name the bucket")
    if read_whole(reader, sha256, len(content), LARGE) != content:
        problems.append("the moved blob differs")
    return problems


def backup(proxy: FaultyProxy, folder: Path, part: int, content: bytes) -> list[str]:
    """Kill a backup to a bucket; return what is wrong then."""
    data, problems = folder / "data", list[str]()
    sha256 = _with_blob(data, content)
    words = ["backup", "--data", str(data), "--to", "s3://blobs/backups", "--without-keys"]
    _kill_command(proxy, part, words)

    def settings() -> ServerSettings:
        return bucket_of(folder / "reader", proxy.url)

    with opened_place("s3://blobs/backups", is_new=False, settings=settings) as place:
        if names_of(place)[0] or any(sha256 in name for name in place.sizes("blobs")):
            problems.append("a backup or a blob is seen that is not whole")
    _run_command(proxy, words)
    with opened_place("s3://blobs/backups", is_new=False, settings=settings) as place:
        problems += BackupChecker(place, SystemClock(), lambda *_: None).check(None, None, is_deep=False)["problems"]
    return problems


def upload(proxy: FaultyProxy, folder: Path, part: int, content: bytes) -> list[str]:
    """Kill a server during an upload; return what is wrong after the next one has taken it."""
    data, problems, sha256 = folder / "data", list[str](), sha256_hex(content)
    token = copy_server(data)
    environment = access_to(proxy.url) | {"EDGEFLEET_SERVER_BLOB_URL": "s3://blobs/fleet"}
    run = ("--roles", "api")
    with server_process(data, token, *run, environment=environment) as server, _struck(proxy, part) as strike:
        sender = threading.Thread(target=_sends, args=(server.client, sha256, content))
        sender.start()
        assert strike.reached.wait(120), "the part never came"
        server.process.kill()
        server.process.wait(60)
        sender.join(60)
    left = list((data / "run" / "spool").glob("upload-*"))
    for file in left:
        os.utime(file, (1, 1))
    with server_process(data, token, *run, environment=environment) as server, server.client() as client:
        if client.head(f"/api/v1/blobs/{sha256}").status_code != 404:
            problems.append("half a blob is there")
        if client.put(f"/api/v1/blobs/{sha256}", content=content).status_code != 201:
            problems.append("the next upload is refused")
        if client.get(f"/api/v1/blobs/{sha256}").content != content:
            problems.append("the blob differs")
    if len(left) != 1 or any(file.exists() for file in left):
        problems.append(f"of {len(left)} files of the killed upload some are left")
    return problems


def _sends(client: Callable[[], httpx.Client], sha256: str, content: bytes) -> None:
    with contextlib.suppress(httpx.TransportError), client() as sender:
        sender.put(f"/api/v1/blobs/{sha256}", content=content)


STORIES: dict[str, Callable[[FaultyProxy, Path, int, bytes], list[str]]] = {
    "move": move,
    "backup": backup,
    "upload": upload,
}


def play(moto: str, name: str, draw: random.Random) -> tuple[list[str], int]:
    """Play one story in an empty bucket; return what is wrong, and how many unfinished uploads the killed process has left."""
    httpx.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    make_bucket(moto, "blobs")
    with tempfile.TemporaryDirectory() as folder, FaultyProxy(moto).running() as proxy:
        problems = STORIES[name](proxy, Path(folder), draw.randint(1, PARTS), draw.randbytes(LARGE))
    return problems, httpx.get(f"{moto}/blobs?uploads", timeout=30).text.count("<UploadId>")


def main(n: int, seed: int) -> dict[str, Any]:
    """Kill n processes, of each story in turn. unfinished: uploads that only a lifecycle rule of the bucket removes."""
    draw, problems, unfinished = random.Random(seed), list[str](), 0
    with tempfile.TemporaryDirectory() as folder, moto_server(Path(folder)) as moto:
        for number in range(n):
            name = list(STORIES)[number % len(STORIES)]
            found, left = play(moto, name, draw)
            problems += [f"{number} {name}: {one}" for one in found]
            unfinished += left
    return {"ok": not problems, "kills": n, "unfinished": unfinished, "problems": problems}
