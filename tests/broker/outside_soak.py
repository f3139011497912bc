"""Brokers that the server does not run: the whole contract, then a real server and a real agent that goes from version to version and back.

mosquitto on its own, the mosquitto of a site bridged to one at the centre (contract and agent at the site's end, the server at the
centre), and RabbitMQ. One of the n is one change of version of the agent. A broker that is not installed is named in the report.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgefleet_protocol.ids import TenantId
from edgefleet_server.clock import SystemClock
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker_contract.contract_runner import run_all
from edgefleet_server.gateway.broker_contract.model import is_fit
from edgefleet_server.gateway.broker_contract.stand import Stand
from edgefleet_server.gateway.broker_files.model import Bridge
from edgefleet_server.process.external_broker.contract_run import ThrowAwayIssuer
from tests.agent.field import Agent, move_broker, offer, publish
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.broker.outside_brokers import find_rabbitmq, free_port, mosquitto_of, rabbitmq_of, write_mosquitto
from tests.server.fleet.house import House
from tests.server.gateway.conftest import Site


def run(kind: str, n: int, folder: Path) -> Mapping[str, Any]:
    """Check one kind of broker, and let an agent change its version n times through it."""
    port, at_site = free_port(), free_port()
    with ExitStack() as stack:
        ends: list[BrokerEndpoint] = []

        def start(house: House) -> None:
            if kind == "rabbitmq":
                ends.append(stack.enter_context(rabbitmq_of(house.signing, folder / "broker", port)))
                return
            write_mosquitto(house.signing, folder / "broker", port)
            ends.append(stack.enter_context(mosquitto_of(folder / "broker", port)))
            if kind == "bridged":
                hall = folder / "hall"
                write_mosquitto(house.signing, hall, at_site, Bridge("srv-site-hall", "127.0.0.1", port))
                (hall / "crl.pem").unlink()
                (hall / "crl.pem").symlink_to(folder / "broker" / "crl.pem")
                ends.append(stack.enter_context(mosquitto_of(hall, at_site)))

        site = Site(folder, BrokerKind.EXTERNAL, port=port, prepare=start)
        stack.callback(site.close)
        begun = time.monotonic()
        certificates = folder / "certificates"
        certificates.mkdir()
        issuer = ThrowAwayIssuer(site.house.signing, certificates, SystemClock(), is_served=True)
        findings = list(run_all(Stand(ends[-1], issuer, TenantId("acme"), "soak", patience_s=20.0)))
        contract_s = time.monotonic() - begun
        changes = _journey(site, folder / "device", n, at_site if kind == "bridged" else 0)
        lacking = {one.check.name: f"{one.outcome}: {one.found}" for one in findings if one.outcome != "ok"}
        rate = next(one.found for one in findings if one.check.name == "throughput")
        return {
            "ok": is_fit(findings) and changes == n,
            "checks": len(findings),
            "lacking": lacking,
            "throughput": rate,
            "contract_s": round(contract_s, 1),
            "changes": changes,
        }


def _journey(site: Site, state: Path, n: int, broker_port: int) -> int:
    """Let an enrolled agent go to the other version n times; return how often it got there and the server knew."""
    agent = Agent(site, state)
    if broker_port:
        move_broker(state, broker_port)
    versions = ["1.0.0", "1.0.1"]
    refs = [publish(site, version, bundle_bytes(classifier_onnx(), version=version)) for version in versions]
    agent.start()
    done = 0
    try:
        for number in range(n):
            offer(agent, refs[number % 2], rollout=f"r-{number}")
            agent.wait("committed", versions[number % 2])
            target = refs[number % 2].target
            until = time.monotonic() + 20
            while time.monotonic() < until:
                known = agent.reported()
                if known is not None and known.phase == "committed" and known.target == target:
                    done += 1
                    break
                time.sleep(0.05)
    finally:
        agent.stop()
    return done


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Run every kind that this machine has. seed: unused, each check is run once."""
    has = {"mosquitto": find_mosquitto(), "bridged": find_mosquitto(), "rabbitmq": find_rabbitmq()}
    results: dict[str, Any] = {}
    for kind, binary in has.items():
        if binary is None:
            results[kind] = {"ok": False, "why": "not installed"}
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[kind] = run(kind, n, Path(folder))
    return {"ok": all(one["ok"] for one in results.values()), "seed": seed, **results}
