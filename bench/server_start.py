"""What the start of a server costs: processor time until it answers `/healthz`, and of all its processes a while later.

Servers of a folder that was made before, started as users start them, one after another. `first_conversion_s` and `next_conversion_s` are
from the publication of a file that is no model to its refusal: the first has the start of the worker in it, which no server has before
there is something to convert. Medians. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from tests.support.servers import ServerProcess, copy_server, release_body, server_process

from edgefleet_protocol.digest import sha256_hex

START_S = 120.0
CONVERSION_S = 120.0
KINDS = {"mosquitto": "broker", "signer_process": "signer", "conversion_worker": "converter"}


def used_s(process: psutil.Process) -> float:
    """Return the processor seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def kind_of(process: psutil.Process) -> str:
    """Return what a process of the server is."""
    line = " ".join(process.cmdline())
    return next((kind for part, kind in KINDS.items() if part in line), "other")


def conversion_s(client: httpx.Client, version: str) -> float:
    """Publish a file that is no model, and return the seconds until it is refused."""
    blob = f"no model {version}".encode()
    client.put(f"/api/v1/blobs/{sha256_hex(blob)}", content=blob).raise_for_status()
    began_s = time.monotonic()
    client.post("/api/v1/releases", json=release_body(blob, version=version)).raise_for_status()
    while client.get(f"/api/v1/releases/digits@{version}").json()["state"] == "converting":
        if time.monotonic() - began_s > CONVERSION_S:
            raise TimeoutError(f"no conversion ended within {CONVERSION_S} s")
        time.sleep(0.02)
    return time.monotonic() - began_s


def measure(server: ServerProcess, after_s: float) -> dict[str, Any]:
    """Return the figures of one server that was just started."""
    process = psutil.Process(server.process.pid)
    with server.client() as client:
        client.get("/healthz").raise_for_status()
        figures: dict[str, Any] = {"healthz_cpu_s": used_s(process)}
        time.sleep(after_s)
        by_kind = Counter({"server": used_s(process)})
        for child in process.children(recursive=True):
            by_kind[kind_of(child)] += used_s(child)
        figures["processes_cpu_s"] = dict(by_kind)
        figures["first_conversion_s"] = conversion_s(client, "1.0.0")
        figures["next_conversion_s"] = conversion_s(client, "1.0.1")
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="servers that are started")
    parser.add_argument("--after", type=float, default=15.0, help="seconds until all processes are looked at")
    chosen = parser.parse_args()
    rounds = []
    for _ in range(chosen.rounds):
        with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
            token = copy_server(Path(folder, "server"))
            with server_process(Path(folder, "server"), token, timeout_s=START_S, is_cold=True) as server:
                rounds.append(measure(server, chosen.after))
    kinds = sorted({kind for one in rounds for kind in one["processes_cpu_s"]})
    named = ("healthz_cpu_s", "first_conversion_s", "next_conversion_s")
    result = {
        "bench": "server_start",
        "rounds": chosen.rounds,
        **{name: round(median(one[name] for one in rounds), 2) for name in named},
        "after_s": chosen.after,
        "processes_cpu_s": {
            kind: round(median(one["processes_cpu_s"].get(kind, 0.0) for one in rounds), 2) for kind in kinds
        },
        "machine": {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
