"""Devices that send at once, in a process of their own. `python -m bench.ingest.load` reads its plan, JSON, from the first line.

Each device keeps what the server has not acknowledged, and with `again_s` sends it again after so long, as agents do. With `as_agents` it
has no more messages on their way than an agent has; without, it hands all to the broker at once. Prints one line of JSON when all is
handed to the broker, one when all is acknowledged or nothing more comes for `quiet_s`.
"""

import json
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from bench.ingest.messages import messages, window_shapes
from paho.mqtt.enums import CallbackAPIVersion

from edgefleet_agent.connection.sender import ON_THE_WAY
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.messages import Downlink, Telemetry, Window, decode
from edgefleet_protocol.topics import Topics

AT_ONCE = 60


class Device:
    """One connection, and what it has to say."""

    def __init__(self, name: str, plan: dict[str, Any], shapes: list[Window]) -> None:
        self.topics = Topics(TenantId("acme"))
        self.name = DeviceId(name)
        made = messages(name, plan["boot"], plan["messages"], plan["windows"], shapes)
        self.left = {seq: (_as_json(one) if plan["json"] else one) for seq, one in enumerate(made, 1)}
        self.acked_at = time.monotonic()
        self.stretch = 0
        self._most = ON_THE_WAY if plan["as_agents"] else len(self.left)
        self._on_the_way: dict[int, float] = {}
        self.sent = 0
        self._up = threading.Event()
        self._lock = threading.Lock()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=plan["ca"])
        context.load_cert_chain(Path(plan["folder"], f"{name}.crt"), Path(plan["folder"], f"{name}.key"))
        self.client.tls_set_context(context)
        self.client.max_inflight_messages_set(AT_ONCE)
        self.client.on_connect = lambda client, *_: client.subscribe(self.topics.dn_meta(self.name), 1)
        self.client.on_subscribe = lambda *_: self._up.set()
        self.client.on_message = self._take
        self.client.connect(plan["host"], plan["port"])
        self.client.loop_start()
        assert self._up.wait(30), name

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        ack = decode(Downlink, message.payload).ack
        if ack is not None:
            with self._lock:
                for seq in ack.telemetry:
                    self.left.pop(seq, None)
                    self._on_the_way.pop(seq, None)
                self.acked_at = time.monotonic()
                self.stretch = max(self.stretch, ack.stretch)

    def send_next(self, again_s: float) -> paho.MQTTMessageInfo | None:
        """Send the oldest message that may go: one that was not sent, or `again_s` ago; None when there is none."""
        now = time.monotonic()
        with self._lock:
            late = {seq for seq, at in self._on_the_way.items() if again_s and now - at > again_s}
            if len(self._on_the_way) - len(late) >= self._most:
                return None
            due = (seq for seq in self.left if seq in late or seq not in self._on_the_way)
            seq = next(due, None)
            if seq is None:
                return None
            self._on_the_way.pop(seq, None)
            self._on_the_way[seq], payload = now, self.left[seq]
            self.sent += 1
        return self.client.publish(self.topics.telemetry(self.name), payload, qos=1)


def sent_by_all(devices: list[Device], again_s: float = 0.0) -> list[paho.MQTTMessageInfo]:
    """Let all devices send what may go, at the same time: a message of each in turn."""
    found: list[paho.MQTTMessageInfo] = []
    while turn := [info for device in devices if (info := device.send_next(again_s)) is not None]:
        found += turn
    return found


def _as_json(payload: bytes) -> bytes:
    said = decode(Telemetry, payload)
    return msgspec.json.encode({"device": said.device, "windows": [_named(one) for one in said.windows]})


def _named(window: Window) -> dict[str, Any]:
    names = ("t0", "model", "version", "sha256", "lane", "n", "errors", "latency", "classes")
    return {name: getattr(window, name) for name in names}


def main() -> None:
    """Connect, send, wait."""
    plan = json.loads(sys.stdin.readline())
    extra = {
        "basis": bytes.fromhex(plan["basis"]),
        "signals": bytes.fromhex(plan["signals"]),
        "signals_s": plan["signals_s"],
    }
    shapes = window_shapes(plan["digests"], **(extra if plan["signals"] else {}))
    devices = [Device(name, plan, shapes) for name in plan["devices"]]
    print(json.dumps({"connected": len(devices)}), flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    for info in sent_by_all(devices):
        info.wait_for_publish(300)
    print(json.dumps({"sent_s": round(time.monotonic() - began, 2)}), flush=True)
    if plan["json"]:
        sys.stdin.readline()
        return
    while any(device.left for device in devices):
        time.sleep(0.005)
        if time.monotonic() - max(began, *(device.acked_at for device in devices)) > plan["quiet_s"]:
            break
        sent_by_all(devices, plan["again_s"])
    sent_again = sum(device.sent for device in devices) - plan["messages"] * len(devices)
    found = {"acked_s": round(time.monotonic() - began, 2), "left": sum(len(one.left) for one in devices)}
    longest = max(one.stretch for one in devices)
    print(
        json.dumps({**found, "sent_again": sent_again, "stretch_asked": longest}),
        flush=True,
    )


if __name__ == "__main__":
    main()
