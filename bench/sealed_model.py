"""What it costs a worker to open a sealed model: time from start to loaded and peak memory, sealed and plain by turns in one run.

Prints one JSON object; `ratio` is sealed by plain, of medians. Real workers load a model of onnxruntime whose size is mostly weights.
Exit code 1 when a sealed model takes more than GOAL_RATIO times the time, or peaks at more than GOAL_MEMORY times the memory.

    python bench/sealed_model.py [--mb 64] [--runs 5]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import select
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.agent.worker.models import bundle_bytes, table_onnx  # noqa: E402

from edgefleet_agent.worker.control.launch import start_worker  # noqa: E402
from edgefleet_agent.worker.control.protocol import Failed, Golden, Loaded, Start  # noqa: E402
from edgefleet_protocol.bundle import open_bundle  # noqa: E402
from edgefleet_protocol.digest import sha256_hex  # noqa: E402
from edgefleet_protocol.hpke import new_key, seal  # noqa: E402
from edgefleet_protocol.sealed_model import KEY_BYTES, about_key  # noqa: E402
from edgefleet_server.encryption.model_sealer import sealed_bundle  # noqa: E402

GOAL_RATIO = 1.5
GOAL_MEMORY = 1.25
CLASSES = 1024
WAIT_S = 120.0


def measure(path: Path, digest: str, **keys: Any) -> tuple[float, int]:
    """Return (milliseconds to load, peak bytes) of one worker that loads the bundle and proves it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        link = start_worker(
            Start(model="digits", version="1.0.0", digest=digest, lane="active", slot="A", bundle_fd=fd, **keys)
        )
    finally:
        os.close(fd)
    load_ms = 0.0
    try:
        while select.select([link.control], [], [], WAIT_S)[0]:
            message = link.receive()
            if isinstance(message, Loaded):
                load_ms = message.load_ms
            elif isinstance(message, Golden):
                assert message.ok, message.reason
                return load_ms, message.peak_rss_bytes
            elif message is None or isinstance(message, Failed):
                raise RuntimeError(f"the worker failed: {message}")
        raise RuntimeError("the worker said nothing")
    finally:
        link.close()
        link.process.wait(WAIT_S)


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description="sealed and plain models in a worker")
    parser.add_argument("--mb", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    plain = bundle_bytes(table_onnx(args.mb * 2**20 // (4 * CLASSES), CLASSES))
    key, (secret, public) = np.random.default_rng(1).bytes(KEY_BYTES), new_key()
    sealed = sealed_bundle(open_bundle(io.BytesIO(plain)), key)
    found: dict[str, list[tuple[float, int]]] = {"plain": [], "sealed": []}
    with tempfile.TemporaryDirectory(prefix="ef-bench-") as name:
        folder = Path(name)
        (folder / "plain").write_bytes(plain)
        (folder / "sealed").write_bytes(sealed)
        (folder / "model-key").write_bytes(secret)
        digest = sha256_hex(sealed)
        given = {"key_path": str(folder / "model-key"), "model_key": seal(public, key, about_key(digest))}
        for _ in range(args.runs):
            found["plain"].append(measure(folder / "plain", sha256_hex(plain)))
            found["sealed"].append(measure(folder / "sealed", digest, **given))
    load = {name: median(one[0] for one in runs) for name, runs in found.items()}
    peak = {name: median(one[1] for one in runs) for name, runs in found.items()}
    ratio, memory = load["sealed"] / load["plain"], peak["sealed"] / peak["plain"]
    answer = {
        "model_mb": args.mb,
        "runs": args.runs,
        "load_ms": {name: round(value, 1) for name, value in load.items()},
        "ratio": round(ratio, 3),
        "peak_rss_bytes": peak,
        "memory_ratio": round(memory, 3),
        "goal_ratio": GOAL_RATIO,
        "goal_memory": GOAL_MEMORY,
        "processors": os.cpu_count(),
    }
    print(json.dumps(answer))
    return 0 if ratio <= GOAL_RATIO and memory <= GOAL_MEMORY else 1


if __name__ == "__main__":
    raise SystemExit(main())
