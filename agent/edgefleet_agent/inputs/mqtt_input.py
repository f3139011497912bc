"""Inference over a broker on this device or its network: `infer/MODEL/req` in, the caller's topic or `infer/MODEL/res` out.

1. Off unless somebody starts it (`edge-agent mqtt`). MQTT 5: the answer goes where the request's Response Topic says, with its
   Correlation Data (MQTT 5 §4.10); without a Response Topic it goes to `infer/MODEL/res`.
2. A request is a body of `/predict` (content type by the property, else by its first bytes) or a v2 inference request in JSON. At most
   `MAX_BYTES`: for more there is HTTP, which does not go through a broker. An answer is the API's JSON; an error is `{"error", "status"}`.
3. `rate` requests a second at most, in bursts of `rate`; one that comes sooner, or finds `MAX_WAITING` before it, is answered with 429.
   Refusals are limited alike, so that a flood is not doubled.
4. An answer never goes to a topic that is read here as a request, to one of the broker's own ($…) or to a filter.
"""

import json
import logging
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgefleet_agent.client import InferenceError, InferenceUnreachableError, Model
from edgefleet_protocol.errors import EdgefleetError

MAX_BYTES = 64 * 1024
MAX_PACKET_BYTES = 256 * 1024
"""What the broker may send at all; between the two limits a caller gets an error, beyond it the broker drops it (MQTT 5 §3.1.2.11.4)."""
MAX_WAITING = 16
MAX_MODELS = 64
FILTER = "infer/+/req"
_REQUEST = re.compile(r"infer/([^/+#]+)/req")
_IMAGES = ((b"\xff\xd8", "image/jpeg"), (b"\x89PNG", "image/png"), (b"\x93NUMPY", "application/octet-stream"))

log = logging.getLogger(__name__)


class MqttInputError(EdgefleetError):
    """The local broker cannot be used."""

    code = "mqtt_input.unusable"


@dataclass(frozen=True, slots=True)
class Request:
    """One message. answer_to: topic of the answer."""

    model: str
    payload: bytes
    content_type: str
    answer_to: str
    correlation: bytes | None


class Bucket:
    """At most `rate` a second, in bursts of `rate`, at least one. Pure: the time is given."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._left = self._size
        self._at_s = 0.0

    def takes(self, now_s: float) -> bool:
        """Whether one more may pass now; counts it."""
        self._left = min(self._size, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def media_of(payload: bytes) -> str:
    """Return the content type of a body by its first bytes."""
    return next((media for start, media in _IMAGES if payload.startswith(start)), "application/json")


def answer_topic(asked: str | None, model: str) -> str | None:
    """Return where an answer goes, None when it must not go where it was asked for (rule 4)."""
    if asked is None:
        return f"infer/{model}/res"
    if not asked or asked.startswith("$") or "+" in asked or "#" in asked or _REQUEST.fullmatch(asked):
        return None
    return asked


def answer(model: Model, request: Request) -> dict[str, Any]:
    """Return the API's answer to one request, or what was wrong. Blocks. Raises InferenceUnreachableError."""
    verb: Literal["infer", "predict"] = (
        "infer" if request.content_type == "application/json" and _is_v2(request.payload) else "predict"
    )
    try:
        return model.post(verb, request.payload, request.content_type)
    except InferenceError as error:
        return _error(error.message, error.status)


def _send_at_once(_client: paho.Client, _data: Any, sock: Any) -> None:
    """Let an answer that follows an acknowledgement not wait until that one was confirmed: it would leave 40 ms later."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class MqttInput:
    """One connection to a local broker."""

    def __init__(self, url: str, model: Callable[[str], Model], rate: float) -> None:
        """url: mqtt://[user:password@]host[:port]. model: name[@version] -> client. rate: requests a second. Raises MqttInputError."""
        parts = urlsplit(url)
        if parts.scheme != "mqtt" or not parts.hostname:
            raise MqttInputError(f"{url!r} is no address of a broker", next_step="give mqtt://HOST or mqtt://HOST:PORT")
        self._where = (parts.hostname, parts.port or 1883)
        self._model = model
        self._models: dict[str, Model] = {}
        self._waiting: queue.Queue[Request | None] = queue.Queue(MAX_WAITING)
        self._bucket, self._refusals = Bucket(rate), Bucket(rate)
        self._stopped = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        if parts.username is not None:
            self._client.username_pw_set(parts.username, parts.password)
        self._client.on_connect = self._connected
        self._client.on_message = self._received
        self._client.on_socket_open = _send_at_once
        self._client.reconnect_delay_set(1, 60)

    def run(self) -> None:
        """Answer until `stop`. Raises MqttInputError when the broker cannot be reached at first; later it is tried again."""
        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = MAX_PACKET_BYTES
        limits.ReceiveMaximum = MAX_WAITING
        try:
            self._client.connect(*self._where, keepalive=30, clean_start=True, properties=limits)
        except OSError as error:
            where = f"{self._where[0]}:{self._where[1]}"
            raise MqttInputError(
                f"the broker at {where} cannot be reached: {error}", next_step="check --broker"
            ) from error
        self._client.loop_start()
        try:
            while not self._stopped.is_set():
                request = self._waiting.get()
                if request is not None:
                    self._publish(request, self._answer(request))
        finally:
            self._client.disconnect()
            self._client.loop_stop()
            self._forget()

    def stop(self) -> None:
        """End `run` after the request at hand. From any thread, and from a signal's handler."""
        self._stopped.set()
        threading.Thread(target=self._waiting.put, args=(None,), daemon=True).start()

    def _answer(self, request: Request) -> dict[str, Any]:
        if request.model not in self._models:
            if len(self._models) >= MAX_MODELS:
                self._forget()
            self._models[request.model] = self._model(request.model)
        try:
            return answer(self._models[request.model], request)
        except InferenceUnreachableError as error:
            return _error(error.message, 503)

    def _forget(self) -> None:
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.error("broker refused", extra={"reason": str(reason)})
            return
        client.subscribe(FILTER, options=SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND))
        log.info("asked over mqtt", extra={"filter": FILTER})

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        match = _REQUEST.fullmatch(message.topic)
        if match is None or message.retain:
            return
        name, properties = match[1], message.properties
        topic = answer_topic(getattr(properties, "ResponseTopic", None), name)
        if topic is None:
            log.warning("request dropped: its response topic is not allowed", extra={"model": name[:80]})
            return
        payload = bytes(message.payload)
        media = getattr(properties, "ContentType", None) or media_of(payload)
        request = Request(name, payload, media, topic, getattr(properties, "CorrelationData", None))
        now_s = time.monotonic()
        if len(message.payload) > MAX_BYTES:
            self._refuse(
                request, now_s, f"the request has {len(message.payload)} bytes; at most {MAX_BYTES} over MQTT", 413
            )
        elif not self._bucket.takes(now_s):
            self._refuse(request, now_s, "Requests come faster than this device answers over MQTT.", 429)
        else:
            try:
                self._waiting.put_nowait(request)
            except queue.Full:
                self._refuse(request, now_s, f"{MAX_WAITING} requests already wait.", 429)

    def _refuse(self, request: Request, now_s: float, words: str, status: int) -> None:
        if self._refusals.takes(now_s):
            self._publish(request, _error(words, status))

    def _publish(self, request: Request, value: dict[str, Any]) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "application/json"
        if request.correlation is not None:
            properties.CorrelationData = request.correlation
        self._client.publish(request.answer_to, json.dumps(value), qos=1, properties=properties)


def run(url: str, model: Callable[[str], Model], rate: float) -> None:
    """Answer until SIGTERM or SIGINT. Raises MqttInputError."""
    served = MqttInput(url, model, rate)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: served.stop())
    served.run()


def _is_v2(payload: bytes) -> bool:
    try:
        value = json.loads(payload)
    except ValueError:
        return False  # the API says what is wrong with it
    return isinstance(value, dict) and isinstance(value.get("inputs"), list)


def _error(words: str, status: int) -> dict[str, Any]:
    return {"error": words, "status": status}
