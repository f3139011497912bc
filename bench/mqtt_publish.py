"""Documents published over mutual TLS by the gateway's client and by paho as it is, in turn (ADR 0071).

One thread signs documents and hands them to the gateway's link, as an engine and its gateway in one process do; with `--signed` they
are signed before, as for a gateway in a process of its own. A document counts when mosquitto has acknowledged it. No database takes
part. Each round runs both clients on the same broker, and every other round begins with the other one. Prints one JSON object: of each
client the medians of seconds, documents a second, and microseconds of processor time a document of this process and of the broker; and
the medians of the rounds' ratios, paho as it is ÷ ours.

    python bench/mqtt_publish.py [--documents 10000] [--rounds 5] [--rate 5000] [--bytes 1500] [--signed]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import paho.mqtt.client as paho
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.broker.conftest import Site
from tests.broker.pki import Authority

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway import mqtt
from edgefleet_server.gateway.broker.model import BrokerKind
from edgefleet_server.gateway.mqtt import LinkHandlers
from edgefleet_server.gateway.quick_client import QuickClient

CLIENTS: dict[str, type[paho.Client]] = {"ours": QuickClient, "paho": paho.Client}
Figures = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=5_000, help="documents a second that are offered; 0: as many as go")
    parser.add_argument("--bytes", type=int, default=1_500)
    parser.add_argument("--signed", action="store_true")
    args = parser.parse_args()
    rounds: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as folder:
        site = Site(Authority(Path(folder) / "pki"), Path(folder), BrokerKind.MOSQUITTO)
        site.supervisor.start()
        try:
            for number in range(args.rounds):
                order = list(CLIENTS) if number % 2 == 0 else list(reversed(CLIENTS))
                rounds.append({name: _published(site, name, args) for name in order})
        finally:
            site.supervisor.stop()
    medians = {name: _medians([one[name] for one in rounds]) for name in CLIENTS}
    ratios = [{key: one["paho"][key] / max(one["ours"][key], 1e-9) for key in one["ours"]} for one in rounds]
    print(json.dumps({
        "bench": "mqtt_publish", **vars(args), **medians, "ratio": _medians(ratios),
        "machine": {"cpus": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]},
    }))  # fmt: skip


def _published(site: Site, name: str, args: argparse.Namespace) -> Figures:
    """Sign and publish all documents with one client; return what that took."""
    with patch.object(mqtt, "client_type", lambda: CLIENTS[name]):
        link = site.link("srv-main", LinkHandlers(lambda _topic, _payload, _receipt: None, lambda: None, lambda: None))
        link.start()
        while not link.is_up:
            time.sleep(0.01)
    key, payload = Ed25519PrivateKey.generate(), os.urandom(args.bytes - 64)
    signature = key.sign(payload)
    topics = [site.topics.desired(DeviceId(f"d-{number:06}")) for number in range(args.documents)]
    broker = psutil.Process(site.supervisor.pid)
    broker_s, began_s, cpu_s = _cpu_s(broker), time.perf_counter(), time.process_time()
    for number, topic in enumerate(topics):
        if not link.publish(topic, (signature if args.signed else key.sign(payload)) + payload, qos=1):
            raise RuntimeError(f"document {number} was not taken")
        while args.rate and (left_s := began_s + number / args.rate - time.perf_counter()) > 0:
            time.sleep(left_s)
    while link.unacked:
        time.sleep(0.001)
    wall_s, cpu_s, broker_s = time.perf_counter() - began_s, time.process_time() - cpu_s, _cpu_s(broker) - broker_s
    link.stop()
    each_us = 1e6 / args.documents
    return {
        "wall_s": wall_s,
        "per_s": args.documents / wall_s,
        "cpu_us": cpu_s * each_us,
        "broker_cpu_us": broker_s * each_us,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _medians(some: list[Figures]) -> Figures:
    return {key: round(statistics.median(one[key] for one in some), 3) for key in some[0]}


if __name__ == "__main__":
    main()
