"""Threads that upload, publish, delete and collect at the same time: whatever a row names must have its bytes (ADR 0159)."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.process.blob_collection.garbage_collector import Collector, Progress, Terms
from edgefleet_server.process.blob_collection.name_reader import named_digests
from edgefleet_server.registry.errors import BlobStoreError, BlobUnknownError
from edgefleet_server.registry.model import Publication, SourceFile
from edgefleet_server.registry.object_store.unfinished_uploads import UnfinishedUploads
from tests.support import databases
from tests.support.servers import PROFILE, ApiHouse

AT_ONCE = Terms(timedelta(0), deletes=True, strays=True)
"""No grace: what protects a blob then is the order of locks alone."""
THREADS = 4
STEPS = 25
CONTENTS = 4


def collector(
    house: ApiHouse, progress: Progress = lambda *_: None, uploads: UnfinishedUploads | None = None
) -> Collector:
    """Return what collects the garbage of a server."""
    parts = house.parts
    uploads = uploads or UnfinishedUploads(house.settings, house.clock)
    return Collector(parts.db, parts.registry.unnamed, uploads, parts.access.record, house.clock, progress)


def publish(house: ApiHouse, version: str, data: bytes) -> ReleaseRef:
    """Publish one file that must be stored."""
    ref = ReleaseRef.parse(f"digits@{version}")
    files = (SourceFile("model.onnx", sha256_hex(data), len(data)),)
    house.parts.registry.publish(Publication(ref, "file", files, (ProfileName(PROFILE),), (), {}, {}), "test")
    return ref


class Storm:
    """Steps of several threads on one server. All choices are those of the seed; when they run is the machine's."""

    def __init__(self, house: ApiHouse, seed: int) -> None:
        self._house = house
        self._seed = seed
        self._lock = Lock()
        self._refs: list[ReleaseRef] = []
        self.counts: Counter[str] = Counter()

    def run(self, steps: int) -> None:
        """Run all threads to their end. Raises what a step raises that is no refusal."""
        with ThreadPoolExecutor(THREADS) as pool:
            for one in [pool.submit(self._work, number, steps) for number in range(THREADS)]:
                one.result()

    def _work(self, number: int, steps: int) -> None:
        draw = random.Random(self._seed * 100 + number)
        for step in range(steps):
            what = draw.choices(("publish", "delete", "collect", "upload"), (5, 4, 3, 1))[0]
            data = _content(draw.randrange(CONTENTS))
            try:
                self._step(what, data, f"{number}.{step}.0", draw)
                self._count(what)
            except (BlobUnknownError, BlobStoreError):
                self._count("refused")

    def _step(self, what: str, data: bytes, version: str, draw: random.Random) -> None:
        registry = self._house.parts.registry
        if what == "collect":
            found = collector(self._house, lambda stage, *_: _pause(draw, stage == "delete")).run(AT_ONCE)
            self._count("deleted", found["deleted"]["count"])
        elif what == "upload":
            registry.put_blob_bytes(data)
        elif what == "publish":
            registry.unnamed.keep(sha256_hex(data))
            if registry.blob_size(sha256_hex(data)) is None:
                registry.put_blob_bytes(data)
            with self._house.parts.db.session():
                ref = publish(self._house, version, data)
                _pause(draw, is_long=True)
            with self._lock:
                self._refs.append(ref)
        else:
            with self._lock:
                ref_or_none = self._refs.pop(draw.randrange(len(self._refs))) if self._refs else None
            if ref_or_none is not None:
                with self._house.parts.db.session():  # as it was before a deletion removed its bytes at once
                    digests = registry.withdrawals.remove(ref_or_none, "test", "")
                if draw.random() < 0.5:
                    registry.withdrawals.drop(digests)

    def _count(self, what: str, n: int = 1) -> None:
        with self._lock:
            self.counts[what] += n


def _pause(draw: random.Random, is_long: bool) -> None:
    time.sleep(draw.random() * (0.03 if is_long else 0.002))


def _content(number: int) -> bytes:
    return b"model %d" % number


def broken(house: ApiHouse) -> list[str]:
    """Return what is wrong: names without bytes now, and after one more collection anything that is not named."""
    registry, problems = house.parts.registry, []
    collector(house).run(AT_ONCE)
    registry.withdrawals.drop_left()
    ours = {sha256_hex(_content(number)) for number in range(CONTENTS)}
    named = named_digests(house.parts.db) & ours
    for sha256 in sorted(named):
        try:
            registry.read_blob(sha256, 1000)  # type: ignore[arg-type]
        except (BlobUnknownError, BlobStoreError) as error:
            problems.append(f"{sha256[:12]} is named: {error.message}")
    left = {one.sha256 for one in registry._blobs.list()} - named
    return problems + [f"{one[:12]} is left" for one in sorted(left)]


def play(house: ApiHouse, seed: int) -> dict[str, Any]:
    """Run one storm; return what happened, and what is wrong then."""
    house.clock.turn(days=3650)  # all bytes in the store are old
    storm = Storm(house, seed)
    storm.run(STEPS)
    return {**storm.counts, "problems": broken(house)}


def main(n: int, seed: int) -> dict[str, Any]:
    """Run n storms, on SQLite and PostgreSQL in turn, each with a database and a folder of its own."""
    total: Counter[str] = Counter()
    problems: list[str] = []
    for number in range(n):
        kind = ("sqlite", "postgresql")[number % 2]
        with (
            tempfile.TemporaryDirectory() as folder,
            databases.new(kind, Path(folder) / "test.db", is_empty=False) as url,
        ):
            house = ApiHouse(Path(folder) / "server", url)
            try:
                found = play(house, seed + number)
            finally:
                house.close()
        problems += [f"seed {seed + number} on {kind}: {one}" for one in found.pop("problems")]
        total.update(found)
    return {"ok": not problems, "storms": n, "problems": problems[:20], **total}
