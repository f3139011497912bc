"""Pulling one blob over MQTT in blocks, as the install child does, against one GET of the same bytes from uvicorn.

Both are TLS on loopback, in turn, in the same run; only the ratio means something. The MQTT side is a real broker, the real
responder and a real install child fed by the real link of agentd: leaves hashed, written into a slot, fsynced. The GET hashes and
writes to a file. Prints one JSON object with machine facts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import platform
import socket
import ssl
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from tests.agent.field import Agent, deploy, eventually, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE
from tests.server.gateway.conftest import Site


class Http:
    """uvicorn with the server's certificate and one blob."""

    def __init__(self, site: Site, data: bytes) -> None:
        app = FastAPI()
        app.get("/blob")(lambda: Response(data, media_type="application/octet-stream"))
        signing = site.house.signing
        config = uvicorn.Config(
            app,
            ssl_certfile=str(signing.server_cert_file),
            ssl_keyfile=str(signing.server_key_file),
            log_level="error",
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port = self._socket.getsockname()[1]
        self._context = ssl.create_default_context(cafile=str(signing.ca_file))
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])))
        self._thread.start()

    def get(self, target: Path) -> float:
        """Fetch the blob into a file, hashed and fsynced; return the seconds."""
        began = time.perf_counter()
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context)
        connection.request("GET", "/blob")
        response, digest = connection.getresponse(), hashlib.sha256()
        with target.open("wb") as out:
            while chunk := response.read(1 << 17):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        connection.close()
        return time.perf_counter() - began

    def close(self) -> None:
        """Stop."""
        self._server.should_exit = True
        self._thread.join()


def pull(agent: Agent, version: str, data: bytes) -> float:
    """Let the agent bring a new bundle; return the seconds between the phases downloading and verifying, as its events say."""
    deploy(agent.site, version, data)
    target = f"digits/{version}/{PROFILE}.bundle"

    def phases() -> dict[str, float]:
        events = [e for e in agent.events() if e.kind == "phase" and e.detail.get("target") == target]
        return {str(e.detail.get("phase")): e.at.timestamp() for e in events}

    assert eventually(lambda: "verifying" in phases(), 300), agent.log.read_text()[-2000:]
    agent.wait("committed", version)
    found = phases()
    return found["verifying"] - found["downloading"]


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Return seconds of both ways, interleaved."""
    mqtt_s: list[float] = []
    http_s: list[float] = []
    with started_agent(EDGEFLEET_AGENT_PROBATION_S="0") as agent:
        for i in range(rounds):
            version = f"1.0.{i}"
            data = bundle_bytes(classifier_onnx(), version=version, extra={"pad.bin": os.urandom(size)})
            mqtt_s.append(pull(agent, version, data))
            server = Http(agent.site, data)
            http_s.append(server.get(agent.state / "got"))
            server.close()
        broker = agent.site.endpoint.kind.value
    return {
        "broker": broker,
        "bytes": size,
        "rounds": rounds,
        "mqtt_s": [round(s, 3) for s in mqtt_s],
        "uvicorn_get_s": [round(s, 3) for s in http_s],
        "speed_ratio_median": round(statistics.median(h / m for h, m in zip(http_s, mqtt_s, strict=True)), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    machine = {
        "arch": platform.machine(),
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
    print(json.dumps({"bench": "block_download", "machine": machine, **measure(args.mib << 20, args.rounds)}, indent=2))


if __name__ == "__main__":
    main()
