"""`./dev soak clients`: programs of others against a running agent and a running server.

- kserve's `InferenceRESTClient` and `tritonclient.http`, in the newest versions of the package index, in an environment made for this
  run: they bring 70 packages and half a gigabyte, too much for each commit. `tests/journeys/client_calls.py` is what they ask.
- curl: the same model over the port and over the unix socket, as JSON and as CSV, and both health addresses.
- promtool: discovery of the server by Prometheus, and the figures of the server.

n: how often each request for an answer is made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.house.tree import ROOT
from tests.journeys.road import Road, Traveller
from tests.server.test_discovery import CONFIG

PACKAGES: Final = ("kserve", "tritonclient[http]")
CALLS = ROOT / "tests" / "journeys" / "client_calls.py"
CLASSES: Final = [0, 2]
ROWS: Final = [[9, 0, 0, 0], [0, 0, 9, 0]]
METADATA: Final = {
    "name": "digits",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}
STEP_S: Final = 580


def run(*command: str | Path, given: str = "") -> str:
    """Return what a command prints. Raises AssertionError when it fails."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=STEP_S)
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
    return done.stdout


def by_clients(folder: Path, url: str, n: int) -> dict[str, Any]:
    """Install the clients, let them ask, and return what they got. Raises AssertionError when it is not what it should be."""
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES)
    found: dict[str, dict[str, Any]] = json.loads(run(environment / "bin" / "python", CALLS, url, str(n)))
    for seen in found.values():
        assert [seen[one] for one in ("live", "ready", "model ready", "unknown model ready")] == [
            True,
            True,
            True,
            False,
        ], seen
        assert [seen[form] for form in ("json", "binary in", "binary out", "binary")] == [n] * 4, seen
        assert "x FP32 [n, 4]" in seen.pop("refusal"), seen
        metadata = seen.pop("metadata")
        assert {name: metadata[name] for name in METADATA} == METADATA, metadata
    return found


def by_curl(socket: Path, url: str, n: int) -> dict[str, Any]:
    """Ask by curl, over the port and the socket. Raises AssertionError."""
    found: dict[str, Any] = {"version": run("curl", "--version").split()[1]}
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": ROWS}]}
    table = "".join(",".join(map(str, row)) + "\n" for row in ROWS)
    for way, where in (("port", (url,)), ("socket", ("http://localhost", "--unix-socket", str(socket)))):
        ask = ("curl", "-qfsS", *where[1:])
        for health in ("live", "ready"):
            assert json.loads(run(*ask, f"{where[0]}/v2/health/{health}")) == {health: True}
        right = 0
        for _ in range(n):
            infer = json.loads(run(*ask, "--json", json.dumps(asked), f"{where[0]}/v2/models/digits/infer"))
            scores = infer["outputs"][0]["data"]
            csv = ("-H", "content-type: text/csv", "--data-binary", "@-")
            rows = json.loads(run(*ask, *csv, f"{where[0]}/v2/models/digits/predict", given=table))["predictions"]
            right += [max(range(3), key=scores[row * 3 : row * 3 + 3].__getitem__) for row in (0, 1)] == CLASSES
            right += [max(range(3), key=row["y"].__getitem__) for row in rows] == CLASSES
        assert right == 2 * n, (way, right)
        found[way] = right
    return found


def by_promtool(road: Road, folder: Path) -> dict[str, Any]:
    """Let promtool discover the server and check its figures. Raises AssertionError."""
    (folder / "token").write_text(road.token)
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(url=road.server.url, token=folder / "token"))
    targets = json.loads(run("promtool", "check", "service-discovery", "--timeout=10s", config, "edgefleet"))
    with road.server.client() as client:
        run("promtool", "check", "metrics", given=client.get("/metrics").text)
    assert [one["labels"]["instance"] for one in targets] == [road.server.url.removeprefix("http://")], targets
    return {"version": run("promtool", "--version").split()[2], "targets": len(targets)}


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Let each program ask, and return what it got, or its fault."""
    del seed  # nothing is drawn
    if lacks := [name for name in ("curl", "promtool") if shutil.which(name) is None]:
        return {"ok": False, "missing": lacks, "next": "as root: apt-get install -y curl prometheus"}
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ef-clients-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        road = Road(folder, "embedded" if find_mosquitto() is None else "mosquitto")
        try:
            device = Traveller(road, "device")
            road.release("digits@1.0.0", bundle_bytes(classifier_onnx()))
            device.served("digits")
            url, socket = str(device.status()["infer_url"]), Path(str(device.status()["infer_socket"]))
            programs: dict[str, Callable[[], dict[str, Any]]] = {
                "curl": lambda: by_curl(socket, url, n),
                "promtool": lambda: by_promtool(road, folder),
                "clients": lambda: by_clients(folder, url, n),
            }
            for program, ask in programs.items():
                print(f"clients: {program}", file=sys.stderr, flush=True)
                try:
                    found[program] = ask()
                except (AssertionError, subprocess.SubprocessError) as error:
                    faults[program] = str(error)[:3000]
        finally:
            road.close()
    return {"ok": not faults, **found, "faults": faults}
