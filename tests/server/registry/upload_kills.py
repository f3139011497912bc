"""A process that sends a large blob to a bucket is killed in the middle of a part: nothing half-done is read, the next run is whole.

The proxy holds the part back until the process is dead, so every kill strikes. `main(n, seed)` takes the stories in turn, on S3:
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
from dataclasses import dataclass
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
from tests.support.buckets import Answer, FaultyProxy, Request, s3_error
from tests.support.cloud_stores import CloudStore, PartNumbers, s3_store
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
        self._part, self._numbers = part, PartNumbers()

    def fault(self, request: Request) -> Answer | None:
        """Answer for the proxy."""
        if self._released.is_set() or self._numbers.of(request) != self._part:
            return None
        self.reached.set()
        self._released.wait(120)
        return s3_error(503, "SlowDown")(request)

    def release(self) -> None:
        """Let go."""
        self._released.set()


@dataclass(frozen=True)
class Place:
    """A bucket behind a running proxy."""

    cloud: CloudStore
    proxy: FaultyProxy
    bucket: str

    def url(self, prefix: str) -> str:
        """Return the address of a folder in it."""
        return f"{self.cloud.scheme}://{self.bucket}/{prefix}"

    def environment(self) -> dict[str, str]:
        """Return the settings that reach it, as environment."""
        given = self.cloud.given(self.proxy, self.bucket)
        return {f"EDGEFLEET_SERVER_{name.upper()}": value for name, value in given.items() if name != "blob_url"}

    def settings(self, folder: Path) -> ServerSettings:
        """Return the settings of a reader on another host."""
        given: dict[str, object] = dict(self.cloud.given(self.proxy, self.bucket, "fleet"))
        return load_settings(folder, **given)


@contextlib.contextmanager
def _struck(proxy: FaultyProxy, part: int) -> Iterator[Strike]:
    strike = Strike(part)
    proxy.fault = strike.fault
    try:
        yield strike
    finally:
        strike.release()
        proxy.fault = lambda request: None


def _kill_command(place: Place, part: int, words: list[str]) -> None:
    """Run a command and kill it while that part is on its way."""
    with _struck(place.proxy, part) as strike:
        command = [sys.executable, "-m", MODULE, *words]
        environment = {**os.environ, **place.environment(), **_own_folder(words)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            assert strike.reached.wait(120), "the part never came"
            child.kill()
        assert child.returncode == -9, "it ended before the kill"


def _own_folder(words: list[str]) -> dict[str, str]:
    """Return the environment that gives a command a temporary folder of its own, next to its server."""
    folder = _temporary(Path(words[words.index("--data") + 1]))
    folder.mkdir(exist_ok=True)
    return {"TMPDIR": str(folder)}


def _temporary(data: Path) -> Path:
    return data.parent / "tmp"


def _run_command(place: Place, words: list[str]) -> None:
    command = [sys.executable, "-m", MODULE, *words]
    environment = {**os.environ, **place.environment(), **_own_folder(words)}
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


def move(place: Place, folder: Path, part: int, content: bytes) -> list[str]:
    """Kill a move to a bucket; return what is wrong then."""
    data, problems = folder / "data", list[str]()
    sha256 = _with_blob(data, content)
    words = ["migrate", "--data", str(data), "--blobs", place.url("fleet")]
    _kill_command(place, part, words)
    reader = open_blob_store(place.settings(folder / "reader"))
    if reader.size(sha256) is not None or any(one.sha256 == sha256 for one in reader.list()):
        problems.append("half a blob is seen as whole")
    if load_settings(data).blob_url is not None:
        problems.append("the settings name the bucket already")
    _run_command(place, words)
    if load_settings(data).blob_url != place.url("fleet"):
        problems.append("the settings do not name the bucket")
    if read_whole(reader, sha256, len(content), LARGE) != content:
        problems.append("the moved blob differs")
    return problems


def backup(place: Place, folder: Path, part: int, content: bytes) -> list[str]:
    """Kill a backup to a bucket; return what is wrong then."""
    data, problems = folder / "data", list[str]()
    sha256 = _with_blob(data, content)
    words = ["backup", "--data", str(data), "--to", place.url("backups"), "--without-keys"]
    _kill_command(place, part, words)

    def settings() -> ServerSettings:
        return place.settings(folder / "reader")

    with opened_place(place.url("backups"), is_new=False, settings=settings) as opened:
        if names_of(opened)[0] or any(sha256 in name for name in opened.sizes("blobs")):
            problems.append("a backup or a blob is seen that is not whole")
    left = list((data / "run" / "backup").iterdir())
    _run_command(place, words)
    if len(left) != 1 or any((data / "run" / "backup").iterdir()) or any(_temporary(data).iterdir()):
        problems.append(f"of {len(left)} folders of the killed backup some are left")
    with opened_place(place.url("backups"), is_new=False, settings=settings) as opened:
        problems += BackupChecker(opened, SystemClock(), lambda *_: None).check(None, None, is_deep=False)["problems"]
    return problems


def upload(place: Place, folder: Path, part: int, content: bytes) -> list[str]:
    """Kill a server during an upload; return what is wrong after the next one has taken it."""
    data, problems, sha256 = folder / "data", list[str](), sha256_hex(content)
    token = copy_server(data)
    environment = place.environment() | {"EDGEFLEET_SERVER_BLOB_URL": place.url("fleet")}
    run = ("--roles", "api")
    with server_process(data, token, *run, environment=environment) as server, _struck(place.proxy, part) as strike:
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


STORIES: dict[str, Callable[[Place, Path, int, bytes], list[str]]] = {
    "move": move,
    "backup": backup,
    "upload": upload,
}


def play(cloud: CloudStore, name: str, draw: random.Random) -> tuple[list[str], int | None]:
    """Play one story in an empty bucket; return what is wrong, and how many unfinished uploads the killed process has left."""
    bucket = f"kills{draw.randrange(10**9)}"
    cloud.make(bucket)
    with tempfile.TemporaryDirectory() as folder, cloud.proxy().running() as proxy:
        place = Place(cloud, proxy, bucket)
        problems = STORIES[name](place, Path(folder), draw.randint(1, PARTS), draw.randbytes(LARGE))
    return problems, cloud.unfinished(bucket)


def main(n: int, seed: int) -> dict[str, Any]:
    """Kill n processes, of each story in turn. unfinished: uploads that somebody has to end: garbage collection, or a rule."""
    draw, problems, unfinished = random.Random(seed), list[str](), 0
    with tempfile.TemporaryDirectory() as folder, s3_store(Path(folder)) as cloud:
        for number in range(n):
            name = list(STORIES)[number % len(STORIES)]
            found, left = play(cloud, name, draw)
            problems += [f"{number} {name}: {one}" for one in found]
            unfinished += left or 0
    return {"ok": not problems, "kills": n, "unfinished": unfinished, "problems": problems}
