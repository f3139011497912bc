"""Blobs put, read and asked for in ranges: our store against boto3 on the same S3 server (moto), and against a copied file on this disk.

Each round has new random bytes and does every task with both, and every other round begins with the other one. What ours does beyond the
other: it takes the bytes in pieces as a server does and hashes them while it writes them into a file (`receive`; `send` is the rest);
and what it reads is compared with the digest before the first byte is given out.

Prints one JSON object: of each task and each side the medians of seconds, of processor seconds of this process and of the S3 server; and
the medians of the rounds' ratios, ours ÷ theirs.

    python -m bench.blob_store [--mib 64] [--small 200] [--rounds 5]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import psutil
from tests.support.buckets import make_bucket, moto_server

from edgefleet_protocol.digest import Sha256
from edgefleet_server.registry.blobs import BlobStore, BlobWriter, open_blob_store, read_whole, save
from edgefleet_server.settings import load_settings

MIB = 1024 * 1024
SMALL_BYTES = 4096
KEY = {"aws_access_key_id": "id", "aws_secret_access_key": "key", "region_name": "us-east-1"}
Figures = dict[str, float]


@dataclass
class Round:
    """What one side took for each task."""

    server: psutil.Process | None
    figures: dict[str, Figures] = field(default_factory=dict)

    @contextmanager
    def measured(self, task: str) -> Iterator[None]:
        """Add a block's seconds to a task."""
        server_s, began_s, cpu_s = self._server_s(), time.perf_counter(), time.process_time()
        yield
        took = {"wall_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_s}
        took["server_cpu_s"] = self._server_s() - server_s
        known = self.figures.setdefault(task, dict.fromkeys(took, 0.0))
        for name, value in took.items():
            known[name] += value

    def _server_s(self) -> float:
        if self.server is None:
            return 0.0
        times = self.server.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True)
class Work:
    """What a round moves. ranges: where pieces of 1 MiB of the large one begin."""

    large: bytes
    small: list[bytes]
    ranges: list[int]


def work(mib: int, small: int) -> Work:
    """Return new random bytes."""
    large = os.urandom(mib * MIB)
    starts = [number * MIB for number in range(mib)]
    random.shuffle(starts)
    return Work(large, [os.urandom(SMALL_BYTES) for _ in range(small)], starts)


def ours(
    store: Callable[[], BlobStore], given: Work, folder: Path, server: psutil.Process | None
) -> dict[str, Figures]:
    """Do all tasks with our store. store: opens it, so that what one task has in its spool is not there for the next."""
    took, blobs = Round(server), store()
    with blobs.writer(limit_bytes=len(given.large)) as writer:
        with took.measured("put_large"), took.measured("receive"):
            _write(writer, given.large)
        with took.measured("put_large"), took.measured("send"):
            large = writer.finish(None)
    with took.measured("put_small"):
        small = [_put(blobs, one) for one in given.small]
    reader = store()
    with took.measured("get_large"):
        save(reader, large, len(given.large), folder / "large")
    with took.measured("get_small"):
        for sha256 in small:
            read_whole(reader, sha256, SMALL_BYTES, SMALL_BYTES)
    reader = store()
    with took.measured("ranges"):
        for start in given.ranges:
            assert len(reader.read_range(large, start, MIB)) == MIB
    assert (folder / "large").read_bytes() == given.large
    for sha256 in (large, *small):
        blobs.remove(sha256)
    return took.figures


def with_boto3(url: str, given: Work, folder: Path, server: psutil.Process) -> dict[str, Figures]:
    """Do the same with files and boto3's transfers."""
    took = Round(server)
    client: Any = boto3.client("s3", endpoint_url=url, **KEY)
    source = folder / "source"
    source.mkdir()
    (source / "large").write_bytes(given.large)
    for number, one in enumerate(given.small):
        (source / str(number)).write_bytes(one)
    with took.measured("put_large"):
        client.upload_file(str(source / "large"), "blobs", "boto/large")
    with took.measured("put_small"):
        for number in range(len(given.small)):
            client.upload_file(str(source / str(number)), "blobs", f"boto/{number}")
    with took.measured("get_large"):
        client.download_file("blobs", "boto/large", str(folder / "large"))
    with took.measured("get_small"):
        for number in range(len(given.small)):
            client.download_file("blobs", f"boto/{number}", str(folder / "small"))
    with took.measured("ranges"):
        for start in given.ranges:
            wanted = f"bytes={start}-{start + MIB - 1}"
            assert len(client.get_object(Bucket="blobs", Key="boto/large", Range=wanted)["Body"].read()) == MIB
    assert (folder / "large").read_bytes() == given.large
    for key in ("large", *map(str, range(len(given.small)))):
        client.delete_object(Bucket="blobs", Key=f"boto/{key}")
    shutil.rmtree(source)
    return took.figures


def copied(given: Work, folder: Path) -> dict[str, Figures]:
    """Do the same with copied files: no digest, and nothing is brought to the disk."""
    took, source, target = Round(None), folder / "source", folder / "target"
    source.mkdir()
    target.mkdir()
    (source / "large").write_bytes(given.large)
    for number, one in enumerate(given.small):
        (source / str(number)).write_bytes(one)
    with took.measured("put_large"):
        shutil.copyfile(source / "large", target / "large")
    with took.measured("put_small"):
        for number in range(len(given.small)):
            shutil.copyfile(source / str(number), target / str(number))
    with took.measured("get_large"):
        shutil.copyfile(target / "large", folder / "large")
    with took.measured("get_small"):
        for number in range(len(given.small)):
            (target / str(number)).read_bytes()
    with took.measured("ranges"), (target / "large").open("rb") as file:
        for start in given.ranges:
            assert len(os.pread(file.fileno(), MIB, start)) == MIB
    shutil.rmtree(source)
    shutil.rmtree(target)
    return took.figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name, moto_server(Path(name)) as url:
        folder = Path(name)
        make_bucket(url, "blobs")
        (server,) = [one for one in psutil.Process().children() if "moto.server" in " ".join(one.cmdline())]
        bucket = {
            "blob_url": "s3://blobs/ours",
            "blob_endpoint": url,
            "blob_access_key_id": "id",
            "blob_secret_key": "key",
            "blob_region": "us-east-1",
        }
        remote = load_settings(folder / "data", **bucket)
        local = load_settings(folder / "data")
        for number in range(args.rounds):
            given = work(args.mib, args.small)
            tasks: dict[str, Callable[[], dict[str, Figures]]] = {
                "s3": lambda given=given: ours(lambda: open_blob_store(remote), given, folder, server),  # type: ignore[misc]
                "boto3": lambda given=given: with_boto3(url, given, folder, server),  # type: ignore[misc]
                "local": lambda given=given: ours(lambda: open_blob_store(local), given, folder, None),  # type: ignore[misc]
                "copy": lambda given=given: copied(given, folder),  # type: ignore[misc]
            }
            for side in sorted(tasks, reverse=number % 2 == 1):
                rounds.setdefault(side, []).append(tasks[side]())
                (folder / "large").unlink()
    print(json.dumps({
        "bench": "blob_store", **vars(args),
        **{side: _medians(some) for side, some in rounds.items()},
        "s3_to_boto3": _ratios(rounds["s3"], rounds["boto3"]), "local_to_copy": _ratios(rounds["local"], rounds["copy"]),
        "machine": {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]},
    }))  # fmt: skip


def _write(writer: BlobWriter, data: bytes) -> None:
    for start in range(0, len(data), 64 * 1024):
        writer.write(memoryview(data)[start : start + 64 * 1024])


def _put(store: BlobStore, data: bytes) -> Sha256:
    with store.writer(limit_bytes=len(data)) as writer:
        _write(writer, data)
        return writer.finish(Sha256(hashlib.sha256(data).hexdigest()))


def _medians(some: list[dict[str, Figures]]) -> dict[str, Figures]:
    return {
        task: {name: round(statistics.median(one[task][name] for one in some), 4) for name in some[0][task]}
        for task in some[0]
    }


def _ratios(ours: list[dict[str, Figures]], theirs: list[dict[str, Figures]]) -> dict[str, Figures]:
    """Return the medians of the rounds' ratios, of tasks that both do, where theirs is more than a clock tick."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        task: {
            name: round(statistics.median(one[task][name] / other[task][name] for one, other in pairs), 2)
            for name in theirs[0][task]
            if all(other[task][name] > 0 for _, other in pairs)
        }
        for task in theirs[0]
    }


if __name__ == "__main__":
    main()
