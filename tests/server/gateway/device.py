"""A device made of paho: subscribes as devices do, pulls blocks, reports."""

import itertools
import queue
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgefleet_protocol.blocks import (
    BlockData,
    BlockError,
    BlockRequest,
    blob_prefix,
    decode_data,
    encode_request,
    leaf_count,
)
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import TenantId
from edgefleet_protocol.messages import Ack, Downlink, MetaReply, MetaRequest, decode, encode
from edgefleet_protocol.topics import Topics
from edgefleet_server.gateway.broker.model import BrokerEndpoint
from tests.server.fleet.house import KeyedDevice

WAIT_S = 20.0


class MqttDevice:
    """One connection of an enrolled device."""

    def __init__(self, device: KeyedDevice, endpoint: BrokerEndpoint, folder: Path) -> None:
        self.id = device.id
        self.topics = Topics(TenantId(device.enrolment.tenant))
        self.desired: queue.Queue[bytes] = queue.Queue()
        self.blocks: queue.Queue[BlockData | BlockError] = queue.Queue()
        self.replies: queue.Queue[MetaReply] = queue.Queue()
        self.acks: queue.Queue[Ack] = queue.Queue()
        self.heads: queue.Queue[bytes] = queue.Queue()
        self.holds: queue.Queue[bytes] = queue.Queue()
        self.order: list[str] = []
        self._numbers = itertools.count(1)
        self._up = threading.Event()
        cert, key = folder / f"{self.id}.crt", folder / f"{self.id}.key"
        cert.write_text(device.enrolment.cert)
        key.write_bytes(device.key_pem())
        is_v5 = endpoint.mqtt == "5"
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.id,
            protocol=paho.MQTTv5 if is_v5 else paho.MQTTv311,
            clean_session=None if is_v5 else True,
        )
        context = ssl.create_default_context(cadata=device.enrolment.ca)
        context.load_cert_chain(cert, key)
        self.client.tls_set_context(context)
        self.client.on_connect = lambda client, *_: client.subscribe(list(self.topics.device_subscriptions(self.id)))
        self.client.on_subscribe = lambda *_: self._up.set()
        self.client.on_message = self._take
        self.client.connect(endpoint.host, endpoint.port, keepalive=20)
        self.client.loop_start()
        assert self._up.wait(WAIT_S), "the device did not get in"

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        self.order.append(topic)
        if topic == self.topics.desired(self.id):
            self.desired.put(payload)
        elif topic == self.topics.dn_blk(self.id):
            self.blocks.put(decode_data(payload))
        elif topic == self.topics.repo_head():
            self.heads.put(payload)
        elif topic == self.topics.hold():
            self.holds.put(payload)
        elif topic == self.topics.dn_meta(self.id):
            downlink = decode(Downlink, payload)
            if downlink.reply is not None:
                self.replies.put(downlink.reply)
            if downlink.ack is not None:
                self.acks.put(downlink.ack)

    def say(self, topic: str, message: Any, *, qos: int = 1, retain: bool = False) -> None:
        """Publish one message."""
        self.client.publish(topic, encode(message), qos=qos, retain=retain)

    def ask(self, sha256: str, wanted: tuple[int, ...], credit: int = 8) -> int:
        """Ask for leaves once; return the request's number."""
        number = next(self._numbers)
        request = BlockRequest(number, blob_prefix(Sha256(sha256)), wanted, credit=credit)
        self.client.publish(self.topics.up_blk(self.id), encode_request(request), qos=0)
        return number

    def pull(self, sha256: str, length: int) -> bytes:
        """Pull a whole blob, window by window."""
        missing = set(range(leaf_count(length)))
        leaves: dict[int, bytes] = {}
        until = time.monotonic() + WAIT_S
        while missing:
            assert time.monotonic() < until, f"{len(missing)} leaves did not come"
            window = tuple(leaf for leaf in sorted(missing) if leaf < min(missing) + 32)
            number = self.ask(sha256, window)
            while missing & set(window):
                try:
                    data = self.blocks.get(timeout=2)
                except queue.Empty:
                    break
                assert isinstance(data, BlockData), data
                if data.req_id == number:
                    leaves.update(data.leaves())
                    missing -= leaves.keys()
        return b"".join(leaves[leaf] for leaf in sorted(leaves))

    def meta(self, name: str, max_bytes: int = 1_000_000) -> bytes | str:
        """Ask for a small file; return its bytes, or the error's word."""
        number = next(self._numbers)
        self.say(self.topics.up_meta(self.id), MetaRequest(req_id=number, name=name, max_bytes=max_bytes))
        parts: dict[int, MetaReply] = {}
        while True:
            reply = self.replies.get(timeout=WAIT_S)
            if reply.req_id != number:
                continue
            if reply.error:
                return reply.error
            parts[reply.part] = reply
            if len(parts) == reply.parts:
                return b"".join(parts[i].data for i in range(reply.parts))

    def close(self) -> None:
        """Leave without a will."""
        self.client.disconnect()
        self.client.loop_stop()
