"""What a kept prediction log costs a device: microseconds an answer in worker and agentd, and bytes. Prints one JSON object.

- `number`: what is done before an answer goes out. `noted`: what is done later, in the worker: the answer in a record, sealed or clear.
- `kept`: agentd's part: numbered, sampled, salted, appended to the file, closed into parts, fsyncs included.
- `bytes`: of a part that is sent, divided by its answers.

Ten classes, one caller with a subject and a key for every answer. Best of `--rounds` slices.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from edgefleet_agent.captures.log_parts import LogParts
from edgefleet_agent.worker.control.protocol import Entry, Logged, LogRequest, SetLog, Start, ToAgentd
from edgefleet_agent.worker.observe.kept_log import Caller, Given, KeptLog
from edgefleet_protocol.hpke import new_key
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_protocol.prediction_parts import Release
from edgefleet_runtime.postprocess import build_postprocessor
from edgefleet_runtime.privacy import NOTHING

ANSWERS = 2_000
OUTPUTS = (TensorSpec(name="y", dtype="float32", shape=["n", 10]),)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    found: dict[str, Any] = {"bench": "prediction_log", "answers": ANSWERS}
    found["machine"] = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        for name, key in (("clear", b""), ("sealed", new_key()[1])):
            found[name] = _measured(Path(folder) / name, key, rounds)
    print(json.dumps(found, indent=2))


def _measured(folder: Path, key: bytes, rounds: int) -> dict[str, float]:
    folder.mkdir()
    sent: list[ToAgentd] = []
    start = Start(model="digits", version="1.0.0", digest="d" * 64, lane="active", slot="A", bundle_fd=-1)
    post = build_postprocessor(None, tuple("abcdefghij"), OUTPUTS)
    served = SimpleNamespace(start=start, privacy=NOTHING, postprocess=post)
    kept = KeptLog(cast("Any", served), sent.append, lambda: 1_700_000_000_000)
    kept.follow(SetLog({"digits": LogRequest(b"k" * 32)}, key, b"", "d-1", str(folder)))
    parts = LogParts(folder / "parts", "d-1", "digits")
    scores = np.random.default_rng(1).dirichlet(np.ones(10), (ANSWERS, 1)).astype(np.float32)
    answers = [{"y": one} for one in scores]
    best = dict.fromkeys(("number_us", "noted_us", "kept_us"), float("inf"))
    for _ in range(rounds):
        at = time.perf_counter()
        numbers = [kept.number() for _ in range(ANSWERS)]
        best["number_us"] = min(best["number_us"], time.perf_counter() - at)
        at = time.perf_counter()
        for number, answer in zip(numbers, answers, strict=True):
            given = Given(
                number, at, f"3f2a9c01{number:08x}", "ok", 0.0004, Caller("order-81", f"person-{number % 50}")
            )
            kept.answered(given, None, answer, [number % 10])
        kept.tell()
        best["noted_us"] = min(best["noted_us"], time.perf_counter() - at)
        entries: list[Entry] = []
        for message in sent:
            assert isinstance(message, Logged)
            entries += message.entries
        epoch = (sent[-1].key, sent[-1].key_id) if isinstance(sent[-1], Logged) else (b"", "")
        sent.clear()
        at = time.perf_counter()
        for begin in range(0, ANSWERS, 200):
            chunk = entries[begin : begin + 200]
            parts.add(chunk, Release("1.0.0", "d" * 64, "active"), *epoch, lost=0, free_bytes=1 << 30)
            if parts.is_full:
                parts.close()
        best["kept_us"] = min(best["kept_us"], time.perf_counter() - at)
    parts.close()
    size = sum(len(parts.read(number)) for number in parts.waiting())
    figures = {name: round(value / ANSWERS * 1e6, 2) for name, value in best.items()}
    return figures | {"bytes": round(size / (rounds * ANSWERS), 1)}


if __name__ == "__main__":
    main()
