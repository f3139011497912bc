"""The gateway: one MQTT connection of this server process and the three threads behind it.

`mqtt` receives and sends, `inbound` stores reports, `outbound` publishes documents, `responder` answers block and metadata
requests. The gateway owns none of the facts: everything that must reach devices is in the database.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics, parse_uplink
from edgefleet_server.costing.traffic_ledger import TrafficLedger
from edgefleet_server.fleet.desired.model import SignedDesired
from edgefleet_server.gateway.broker.model import BrokerEndpoint
from edgefleet_server.gateway.device_ledger import DeviceLedger
from edgefleet_server.gateway.device_quota import Limits
from edgefleet_server.gateway.inbound import Inbound
from edgefleet_server.gateway.mqtt import LinkHandlers, LinkIdentity, MqttLink
from edgefleet_server.gateway.outbound import Outbound
from edgefleet_server.gateway.ports import GatewayFleet
from edgefleet_server.gateway.responder import Responder, Sources
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.service import TelemetryService

BLOCK_WAIT_S: Final = 10.0
CONTROL_WAIT_S: Final = 30.0
MAX_SWEEPS: Final = 50
LOST_WAIT_S: Final = 5.0

_log = logging.getLogger(__name__)


class GatewayDownError(EdgefleetError):
    """The gateway has no connection to its broker."""

    code = "gateway.broker_unavailable"


class Gateway:
    """Connects services and devices."""

    def __init__(  # noqa: PLR0913, PLR0917  # a service for each kind of message, and what counts them
        self,
        settings: ServerSettings,
        endpoint: BrokerEndpoint,
        fleet: GatewayFleet,
        telemetry: TelemetryService,
        registry: RegistryService,
        signing: SigningService,
        clock: Clock,
        traffic: TrafficLedger,
    ) -> None:
        """Wire the parts; makes a client certificate `srv-<instance>`. `start` connects."""
        tenant = TenantId(settings.tenant)
        identity = signing.service_identity(settings.instance)
        self._topics = Topics(tenant)
        self._fleet = fleet
        self._registry = registry
        self._endpoint = endpoint
        self._link = MqttLink(
            endpoint,
            LinkIdentity(identity.name, Path(identity.cert_file), Path(identity.key_file)),
            self._topics.server_filters(),
            self._topics.heartbeat(identity.name),
            LinkHandlers(self._on_message, self._on_up, self._on_down, self._on_lost),
            clock,
        )
        self._outbound = Outbound(
            self._topics, fleet.documents, signing.repo_head, fleet.hold.envelope, self._publish_control, clock
        )
        self._ledger = DeviceLedger(limits_of(settings), clock)
        self._inbound = Inbound(
            tenant,
            fleet.devices.live_among,
            fleet.receiver,
            telemetry,
            self._outbound,
            self._ledger,
            traffic,
            settings.uplink_queue_bytes,
        )
        self._inbound.acknowledge_by(self._link.ack)
        self._responder = Responder(
            self._topics,
            Sources(registry, signing.metadata_file, fleet.documents.offered_to, self._is_live, self._model_key),
            self._publish_answer,
            self._ledger,
            clock,
            traffic.down,
        )
        self._unsubscribe: list[Callable[[], None]] = []

    def start(self) -> None:
        """Run the threads and begin to connect. Returns at once; presence of all devices becomes unknown."""
        self._fleet.receiver.forget_presence()
        self._fleet.addresses.announce_broker(self._endpoint.host, self._endpoint.port, self._endpoint.mqtt)
        self._unsubscribe = [
            self._fleet.desired.subscribe(self._on_desired),
            self._fleet.hold.subscribe(self._outbound.send_shared),
            self._fleet.revocation.subscribe(self._outbound.clear),
        ]
        self._outbound.start()
        self._inbound.start()
        self._responder.start()
        self._link.start()

    def stop(self) -> None:
        """Disconnect and end the threads. Blocks for a few seconds at most."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._link.stop()
        self._responder.stop()
        self._inbound.stop()
        self._outbound.stop()

    def forget_devices(self, devices: Sequence[DeviceId]) -> bool:
        """Remove what the broker retains of and for revoked devices; False when it could not all be removed now. Blocks."""
        for device in devices:
            self._outbound.clear(device)
        for _ in range(MAX_SWEEPS):
            topics = self._link.retained_under([f"{self._topics.prefix}/d/{device}/#" for device in devices])
            if topics is None:
                return False
            if not topics:
                return True
            if not all(self._publish_control(topic, b"", 1, True) for topic in topics):
                return False
        return False

    @property
    def is_connected(self) -> bool:
        """Whether it hears devices."""
        return self._link.is_up

    def check(self) -> str:
        """Return a line for `/readyz`. Raises GatewayDownError."""
        if not self._link.is_up:
            raise GatewayDownError(
                f"the gateway has no connection to the broker at {self._endpoint.host}:{self._endpoint.port}",
                next_step="look for the broker in the server's log; `edgectl server check` says which one is used and why",
            )
        return f"connected to {self._endpoint.kind} at {self._endpoint.host}:{self._endpoint.port}"

    def counters(self) -> Mapping[str, int]:
        """Return what went in and out since the start, for `/metrics`."""
        inbound, responder = self._inbound.counters, self._responder.counters
        return {
            "connects": self._link.connects,
            "messages_in": inbound.messages,
            "messages_bad": inbound.bad + responder.bad,
            "messages_dropped": inbound.dropped,
            "messages_foreign": inbound.foreign,
            "batches_failed": inbound.failed,
            "desired_published": self._outbound.published,
            "block_requests": responder.block_requests,
            "block_messages": responder.block_messages,
            "block_bytes": responder.block_bytes,
            "block_errors": responder.block_errors,
            "meta_requests": responder.meta_requests,
        }

    def waiting(self) -> float:
        """Return how many messages wait to be stored, for `/metrics`."""
        return float(self._inbound.waiting)

    def dropped(self) -> Mapping[str, int]:
        """Return what was dropped because of a device's quota since the start, by reason, for `/metrics`."""
        return {reason.value: n for reason, n in self._ledger.total.items()}

    # ---- on paho's thread: only enqueue

    def _on_message(self, topic: str, payload: bytes, receipt: int) -> None:
        if topic.endswith(("/up/blk", "/up/meta")):
            self._inbound.done(receipt)
            try:
                uplink = parse_uplink(topic)
            except BadMessageError:
                return
            ask = self._responder.ask_block if uplink.leaf == "blk" else self._responder.ask_meta
            ask(uplink.device, payload)
        else:
            self._inbound.put(topic, payload, receipt)

    def _on_up(self) -> None:
        self._outbound.send_everything()

    def _on_down(self) -> None:
        self._responder.reset()

    # ---- on the link's thread, between two connections

    def _on_lost(self) -> bool:
        """Let presence be unknown, as after a start: nobody said goodbye, and who is there nobody knows (ADR 0148).

        A broker that went on says who is there as soon as it is asked again: presence is retained. One that was started again is empty,
        and hears of each device as that one comes back.
        """
        self._inbound.broker_lost(LOST_WAIT_S)
        try:
            self._fleet.receiver.forget_presence()
        except SQLAlchemyError as error:
            _log.warning("presence not forgotten", extra={"reason": type(error).__name__})
            return False
        return True

    # ---- on the thread that signed

    def _on_desired(self, documents: Sequence[SignedDesired]) -> None:
        self._responder.forget_offers([DeviceId(document.device) for document in documents])
        self._outbound.send_desired(documents)

    # ---- on our own threads

    def _is_live(self, device: DeviceId) -> bool:
        return device in self._fleet.devices.live_among([device])

    def _model_key(self, device: DeviceId, sha256: Sha256) -> bytes | None:
        known = self._fleet.devices.model_key_of(device)
        bundle = self._registry.bundles_by_digest([sha256]).get(sha256)
        if not known or bundle is None or not bundle.is_sealed:
            return None
        return self._registry.fleet_key.for_device(bundle.sealed_key, sha256, bytes.fromhex(known))

    def _publish_control(self, topic: str, payload: bytes, qos: int, retain: bool) -> bool:
        return self._link.publish(topic, payload, qos=qos, retain=retain, limit_s=CONTROL_WAIT_S)

    def _publish_answer(self, topic: str, payload: bytes, qos: int) -> bool:
        return self._link.publish(topic, payload, qos=qos, limit_s=BLOCK_WAIT_S)


def limits_of(settings: ServerSettings) -> Limits:
    """Return what the settings let one device do."""
    return Limits(
        messages_per_s=settings.device_messages_per_s,
        bytes_per_s=settings.device_bytes_per_s,
        daily=(settings.device_daily_events, settings.device_daily_windows, settings.device_daily_captures),
        daily_bytes=settings.device_daily_bytes,
        hourly_downlink=settings.device_hourly_downlink_bytes,
    )
