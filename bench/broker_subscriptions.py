"""What subscribing to hold and head costs mosquitto, by the form of their topics: processor time of the broker, plain TCP (ADR 0171).

`shared`: all devices subscribe to one `hold` and one `repo/head`. `shards-256`: what devices do today. `shards-4096`: the same with more of
them. `own`: below the device's own `dn/`. `none`: neither, the lower bound. Forms take turns, each on a broker of its own. TLS, presence
and windows are left out: they cost the same in all forms. Prints one JSON object: the medians of the rounds of each form, and the medians
of the rounds' ratios, shared ÷ shards-256.

    python bench/broker_subscriptions.py [--devices 8000] [--rounds 3] [--forms shared,shards-256]
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics
from edgefleet_server.gateway.broker.mosquitto import access_text
from edgefleet_sim.live_fleet import mqtt_packets as packets

TENANT: Final = "default"
TOPICS: Final = Topics(TenantId(TENANT))
FORMS: Final = ("none", "shared", "shards-256", "shards-4096", "own")
COMPARED: Final = ("shared", "shards-256")
FIGURES: Final = ("us_a_connect", "us_a_reconnect_with_session", "broker_ms_a_hold", "publisher_ms_a_hold")
HOLD: Final = b"h" * 700
HEAD: Final = b"t" * 900
CONNACK_OK_AT: Final = 1


def shared_topics(form: str, device: str) -> tuple[str, ...]:
    """Return what a device subscribes to for the hold and the head."""
    if form == "none":
        return ()
    if form == "shared":
        return (TOPICS.repo_head(), TOPICS.hold())
    if form == "own":
        return (f"{TOPICS.prefix}/d/{device}/dn/head", f"{TOPICS.prefix}/d/{device}/dn/hold")
    if form == "shards-256":
        return tuple(topic for topic, _ in TOPICS.shard_subscriptions(DeviceId(device)))
    shards = int(form.removeprefix("shards-"))
    shard = int.from_bytes(hashlib.sha256(device.encode()).digest()[:4], "big") % shards
    return (f"{TOPICS.prefix}/stage/head-{shard:03x}", f"{TOPICS.prefix}/stage/hold-{shard:03x}")


def measure(form: str, n: int) -> dict[str, Any]:
    """Connect n devices, twice (the second time with the sessions kept), and publish one hold."""
    devices = [f"d{i:09d}" for i in range(n)]
    with broker() as (pid, port):
        server = _Client(port, "srv-bench")
        server.call(_connect("srv-bench"), packets.CONNACK)
        named = sorted({topic for device in devices for topic in shared_topics(form, device)})
        for topic in named:
            server.call(packets.publish(topic, _payload(topic), 1, is_v5=True, is_retained=True), packets.PUBACK)
        subscribe: Callable[[str], bytes] = lambda device: packets.subscribe(1, _filters(form, device), is_v5=True)  # noqa: E731
        first_s, connected = _connect_all(pid, port, devices, subscribe)
        holds = [topic for topic in named if "hold" in topic]
        began, began_s = cpu_s(pid), time.process_time()
        for topic in holds:
            server.call(packets.publish(topic, HOLD + b"2", 1, is_v5=True, is_retained=True), packets.PUBACK)
        publisher_s = time.process_time() - began_s
        reached = _hear(connected, HOLD + b"2", len(devices) if holds else 0)
        hold_s = cpu_s(pid) - began
        for one in connected:
            one.close()
        time.sleep(1)
        again_s, connected = _connect_all(pid, port, devices, subscribe)
        for one in connected:
            one.close()
        server.close()
    return {
        "us_a_connect": round(1e6 * first_s / n), "us_a_reconnect_with_session": round(1e6 * again_s / n),
        "publishes_a_hold": len(holds), "reached": reached, "broker_ms_a_hold": round(1e3 * hold_s),
        "publisher_ms_a_hold": round(1e3 * publisher_s),
    }  # fmt: skip


@contextlib.contextmanager
def broker() -> Iterator[tuple[int, int]]:
    """Run mosquitto with the server's access file; yield its pid and port."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        acl, conf = Path(folder) / "acl", Path(folder) / "conf"
        acl.write_text(access_text(TENANT, ("srv-bench",)))
        acl.chmod(0o600)
        conf.write_text(
            f"listener {port} 127.0.0.1\npersistence false\nallow_anonymous true\nlog_type error\nconnection_messages false\n"
            f"user {getpass.getuser()}\nsys_interval 0\nset_tcp_nodelay true\nacl_file {acl}\nmax_queued_messages 1000\n"
        )
        process = subprocess.Popen(["mosquitto", "-c", str(conf)], stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a process."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _payload(topic: str) -> bytes:
    return HOLD if "hold" in topic else HEAD


def _filters(form: str, device: str) -> Sequence[tuple[str, int]]:
    own = TOPICS.device_subscriptions(DeviceId(device))[:3]
    return (*own, *((topic, 1) for topic in shared_topics(form, device)))


def _connect(name: str) -> bytes:
    """Return a CONNECT of version 5 that keeps its session, with the name as user: the access file goes by it."""
    field = len(name).to_bytes(2, "big") + name.encode()
    body = b"\x00\x04MQTT\x05\x80\x03\x84" + b"\x05\x11" + (3600).to_bytes(4, "big") + field + field
    return bytes((0x10, len(body))) + body


class _Client:
    def __init__(self, port: int, name: str) -> None:
        self.name = name
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        self.buffer = bytearray()
        self.payloads: list[bytes] = []

    def call(self, packet: bytes, answer: int) -> None:
        """Send a packet and read until its answer."""
        self.sock.sendall(packet)
        while not self.take(answer):
            pass

    def take(self, answer: int = -1) -> bool:
        """Read once, acknowledge what came; say whether the answer was there."""
        got = self.sock.recv(65536)
        if not got:
            raise ConnectionError(f"{self.name} was disconnected")
        self.buffer += got
        found = False
        for kind, flags, body in packets.take_packets(self.buffer):
            if kind == packets.PUBLISH:
                message = packets.arrived(flags, body, is_v5=True)
                self.payloads.append(message.payload)
                if message.mid:
                    self.sock.sendall(packets.puback(message.mid))
            elif kind == packets.CONNACK and body[CONNACK_OK_AT]:
                raise ConnectionError(f"{self.name} was refused: {body[1]}")
            found = found or kind == answer
        return found

    def close(self) -> None:
        self.sock.close()


def _connect_all(
    pid: int, port: int, devices: Sequence[str], subscribe: Callable[[str], bytes]
) -> tuple[float, list[_Client]]:
    began, connected = cpu_s(pid), []
    for device in devices:
        one = _Client(port, device)
        one.call(_connect(device), packets.CONNACK)
        one.call(subscribe(device), packets.SUBACK)
        connected.append(one)
    return cpu_s(pid) - began, connected


def _hear(connected: Sequence[_Client], payload: bytes, wanted: int) -> int:
    """Read until `wanted` devices have the payload, or nothing comes for 10 s; return how many have it."""
    have = sum(payload in one.payloads for one in connected)
    with selectors.DefaultSelector() as ready:
        for one in connected:
            if payload not in one.payloads:
                ready.register(one.sock, selectors.EVENT_READ, one)
        while have < wanted and (events := ready.select(10)):
            for key, _ in events:
                key.data.take()
                if payload in key.data.payloads:
                    have += 1
                    ready.unregister(key.fileobj)
    return have


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", default=",".join(FORMS))
    args = parser.parse_args()
    forms = args.forms.split(",")
    rounds = []
    for number in range(args.rounds):
        order = forms if number % 2 == 0 else forms[::-1]
        rounds.append({form: measure(form, args.devices) for form in order})
    medians = {form: {name: statistics.median(one[form][name] for one in rounds) for name in FIGURES} for form in forms}
    ratio = {}
    if set(COMPARED) <= set(forms):
        one, other = COMPARED
        ratio = {name: statistics.median(r[one][name] / max(r[other][name], 1) for r in rounds) for name in FIGURES[:2]}
    told = {"bench": "broker_subscriptions", "devices": args.devices, "rounds": args.rounds, **medians, "ratio": ratio}
    holds = {
        form: {"publishes_a_hold": rounds[0][form]["publishes_a_hold"], "reached": rounds[0][form]["reached"]}
        for form in forms
    }
    print(
        json.dumps(told | {"holds": holds, "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}}, indent=2)
    )


if __name__ == "__main__":
    main()
