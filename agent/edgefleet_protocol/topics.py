"""MQTT topics of protocol version 1 and the one rule of who may use them.

All topics are under `ef/1/{tenant}/`: `d/D/{dn,up}/…` of device D, `b/{blob}` fan-out data, `stage/{rollout}`, `repo/head`,
`hold`, and `srv/{account}` of a server process. A device publishes to the leaves of its own `up/` and receives its own `dn/`, `b/+`,
`stage/+`, `repo/head`, `hold`; nothing else (docs/protocol/topics.md). The embedded broker asks `may`; the access file written for
mosquitto says the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import (
    SERVER_ACCOUNT_PREFIX,
    DeviceId,
    TenantId,
    parse_device_id,
    parse_tenant,
)

ROOT = "ef/1"
UP_LEAVES = ("state", "pres", "tele", "ev", "log", "blk", "meta", "cap")
RETAINED_UP_LEAVES = ("state", "pres")
"""The only uplinks that a device retains: a broker that can tell keeps no other."""
DN_LEAVES = ("desired", "blk", "meta")
_SHARED = ("repo/head", "hold")


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds the topics of one tenant."""

    tenant: TenantId

    @property
    def prefix(self) -> str:
        """Return `ef/1/{tenant}`."""
        return f"{ROOT}/{self.tenant}"

    def desired(self, device: DeviceId) -> str:
        """Signed desired document, retained, QoS 1."""
        return f"{self.prefix}/d/{device}/dn/desired"

    def dn_blk(self, device: DeviceId) -> str:
        """Block data to one device, QoS 0."""
        return f"{self.prefix}/d/{device}/dn/blk"

    def dn_meta(self, device: DeviceId) -> str:
        """Answers to metadata requests and acknowledgements, QoS 1."""
        return f"{self.prefix}/d/{device}/dn/meta"

    def state(self, device: DeviceId) -> str:
        """Reported state, retained, QoS 1."""
        return f"{self.prefix}/d/{device}/up/state"

    def presence(self, device: DeviceId) -> str:
        """Presence and last will, retained, QoS 1."""
        return f"{self.prefix}/d/{device}/up/pres"

    def telemetry(self, device: DeviceId) -> str:
        """Telemetry windows, QoS 1."""
        return f"{self.prefix}/d/{device}/up/tele"

    def sample(self, device: DeviceId) -> str:
        """Captured records that were asked for, sealed, QoS 1."""
        return f"{self.prefix}/d/{device}/up/cap"

    def event(self, device: DeviceId) -> str:
        """Events, QoS 1."""
        return f"{self.prefix}/d/{device}/up/ev"

    def log(self, device: DeviceId) -> str:
        """The newest answers of a device that somebody watches: lossy on purpose, QoS 1 for its pace, 0 on the way to the server."""
        return f"{self.prefix}/d/{device}/up/log"

    def up_blk(self, device: DeviceId) -> str:
        """Block requests, QoS 0."""
        return f"{self.prefix}/d/{device}/up/blk"

    def up_meta(self, device: DeviceId) -> str:
        """Metadata requests, QoS 1."""
        return f"{self.prefix}/d/{device}/up/meta"

    def repo_head(self) -> str:
        """Newest TUF root version and timestamp, retained, QoS 1."""
        return f"{self.prefix}/repo/head"

    def hold(self) -> str:
        """Signed hold, retained, QoS 1."""
        return f"{self.prefix}/hold"

    def shard(self, leaf: str, shard: str) -> str:
        """`hold`, or "head", once more for a part of the devices (ADR 0171)."""
        return f"{self.prefix}/stage/{leaf}-{shard}"

    def heartbeat(self, account: str) -> str:
        """Proof of life of a server process to itself: nobody subscribes, only the acknowledgement counts, QoS 1."""
        return f"{self.prefix}/srv/{account}"

    def device_subscriptions(self, device: DeviceId) -> tuple[tuple[str, int], ...]:
        """Return (filter, QoS) pairs a device subscribes to: exact and non-overlapping.

        amqtt sends one copy for each filter that matches.
        """
        return (
            (self.desired(device), 1),
            (self.dn_meta(device), 1),
            (self.dn_blk(device), 0),
            (self.repo_head(), 1),
            (self.hold(), 1),
        )

    def shard_subscriptions(self, device: DeviceId) -> tuple[tuple[str, int], ...]:
        """Return what may stand for the last two of `device_subscriptions`."""
        shard = shard_of(device)
        return (self.shard("head", shard), 1), (self.shard("hold", shard), 1)

    def server_filters(self) -> tuple[tuple[str, int], ...]:
        """Return (filter, QoS) pairs the gateway subscribes to: one a leaf, non-overlapping."""
        qos = {"log": 0, "blk": 0}
        return tuple((f"{self.prefix}/d/+/up/{leaf}", qos.get(leaf, 1)) for leaf in UP_LEAVES)


def shard_of(device: DeviceId) -> str:
    """Return the shard of a device: ids of one batch begin alike."""
    return sha256_hex(device.encode("ascii"))[:2]


@dataclass(frozen=True, slots=True)
class Uplink:
    """Where a message from a device came from."""

    tenant: TenantId
    device: DeviceId
    leaf: str


def parse_uplink(topic: str) -> Uplink:
    """Return what an uplink topic names. Raises BadMessageError for anything that is not `ef/1/T/d/D/up/LEAF`."""
    parts = topic.split("/")
    if len(parts) != 7 or parts[:2] != ["ef", "1"] or parts[3] != "d" or parts[5] != "up" or parts[6] not in UP_LEAVES:
        raise BadMessageError(f"topic {topic[:200]!r} is not an uplink of protocol 1")
    try:
        return Uplink(parse_tenant(parts[2]), parse_device_id(parts[4]), parts[6])
    except EdgefleetError as error:
        raise BadMessageError(f"topic {topic[:200]!r}: {error.message}") from error


def may(tenant: str, cn: str, topic_or_filter: str, publish: bool) -> bool:
    """Say whether the principal with certificate name `cn` may publish to a topic, or subscribe to a filter.

    Server accounts (`srv-…`) may use everything of their tenant without shared subscriptions. A device may publish to the leaves of its
    own `up/`, so what it can have retained is bounded, and subscribe to exactly the filters of `device_subscriptions`. Malformed names
    and topics are refused.
    """
    if not topic_or_filter or "\0" in topic_or_filter or topic_or_filter.startswith("$"):
        return False
    prefix = f"{ROOT}/{tenant}/"
    if not topic_or_filter.startswith(prefix):
        return False
    rest = topic_or_filter[len(prefix) :]
    if cn.startswith(SERVER_ACCOUNT_PREFIX):
        return not (publish and _has_wildcard(rest))
    try:
        device = parse_device_id(cn)
    except EdgefleetError:
        return False
    if publish:
        own = rest.removeprefix(f"d/{device}/up/")
        return own != rest and own in UP_LEAVES
    return _may_subscribe(device, rest)


def _may_subscribe(device: DeviceId, rest: str) -> bool:
    if rest in _SHARED or rest in ("b/+", "stage/+") or rest == f"d/{device}/dn/#":
        return True
    for family in ("b/", "stage/"):
        if rest.startswith(family):
            level = rest[len(family) :]
            return bool(level) and "/" not in level and not _has_wildcard(level)
    own = rest.removeprefix(f"d/{device}/dn/")
    return own != rest and own in DN_LEAVES


def _has_wildcard(text: str) -> bool:
    return "+" in text or "#" in text
