"""All checks of a broker: what is looked at, why edgefleet needs it, what to configure. Pure; `runner` knows how each is run."""

from __future__ import annotations

from typing import Final

from edgefleet_server.gateway.broker_contract.model import Check, Need

_N, _A, _F = Need.NEEDED, Need.ADVISED, Need.FIGURE
_ACCESS = "access rules: a device publishes to the leaves of its own `up/` and reads its own `dn/`, `b/+`, `stage/+`, `repo/head`, `hold`"
_SESSION = "persistent sessions and a queue for clients that are away"
_RETAINED = "the store of retained messages, for all topics"
_NAME = "take user name and client id from the certificate's CN"

CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "certificate-needed",
        _N,
        "the certificate is a device's only proof of who it is",
        "require client certificates of the device CA",
    ),
    Check("client-id", _N, "a device must not act under another's name", _NAME),
    Check("online-untouched", _N, "one device must not throw off another", _NAME),
    Check("queue-not-stolen", _N, "what waits for a device is for it alone", _NAME),
    Check("subscribe-foreign", _N, "documents and inputs of a device are no business of others", _ACCESS),
    Check("subscribe-own", _N, "documents, blocks and acknowledgements come this way", _ACCESS),
    Check("publish-foreign", _N, "a device must not speak for another, nor for the server", _ACCESS),
    Check("will-foreign", _N, "a will is a publish too", "access rules for wills as for publishes"),
    Check("connect-quiet", _N, "what is retained for others must not leak", _ACCESS),
    Check("revoked", _N, "a stolen device must be kept out", "the revocation list, read again within a minute"),
    Check("queue-order", _N, "a device that was away gets what it missed", _SESSION),
    Check("queue-depth", _A, "fewer: after a long absence a device asks again for more", f"{_SESSION}: 1,000 messages"),
    Check("online-order", _N, "phases of an update come one after another", "nothing; this is MQTT's own rule"),
    Check("reconnect-no-loss", _N, "connections break all the time", _SESSION),
    Check("redelivery-cut", _N, "QoS 1 means at least once", _SESSION),
    Check("redelivery-disconnect", _N, "QoS 1 means at least once", _SESSION),
    Check("redelivery-silence", _N, "QoS 1 means at least once", _SESSION, is_slow=True),
    Check("acked-once", _N, "no message comes for ever", _SESSION),
    Check("retained", _N, "a device learns from it what it should run", _RETAINED),
    Check("retained-resubscribe", _N, "a device subscribes again at each connect and relies on it", _RETAINED),
    Check(
        "retained-wildcard", _A, "without: after a restart the server knows states only as devices send them", _RETAINED
    ),
    Check("session-present", _A, "saves a device from asking again", _SESSION),
    Check("wave", _N, "a hold must reach every device", "nothing; this is MQTT's own rule", is_slow=True),
    Check("shared-subscriptions", _F, "not used: each replica takes all messages", "nothing"),
    Check("will-crash", _N, "the server hears of a device that vanished", "retained wills"),
    Check("will-disconnect", _N, "a device that leaves in order did not vanish", "nothing; this is MQTT's own rule"),
    Check(
        "keepalive",
        _N,
        "a frozen device must not count as online",
        "keepalive as devices ask for it, up to 3,900 s",
        is_slow=True,
    ),
    Check("ping", _N, "a device with nothing to say stays", "no idle limit below the keepalive", is_slow=True),
    Check(
        "take-over", _N, "a device returns before its older link is known to be dead", "a newer link ends the older one"
    ),
    Check("take-over-many", _N, "a device on a poor line returns often", "a newer link ends the older one"),
    Check("huge-packet", _N, "one device must not fill the broker's memory", "a limit for packets: 300,000 bytes"),
    Check("garbage", _N, "one device must not disturb others", "a newer version of the broker"),
    Check("packet-64k", _N, "metadata and small blocks", "a limit for packets of 300,000 bytes"),
    Check(
        "packet-block",
        _A,
        "without: bundles come over HTTPS only, see docs/operate/brokers.md",
        "a limit for packets of 300,000 bytes",
    ),
    Check("packet-limit", _F, "bounds the memory that a device can take", "300,000 bytes"),
    Check("mqtt-5", _N, "the server takes no more than it can store, and hears of refusals", "MQTT 5"),
    Check("mqtt-3.1.1", _A, "clients that know no newer version", "MQTT 3.1.1"),
    Check("throughput", _F, "with this client: a lower bound", "nothing"),
    Check("clean-up", _N, "what the server deletes must be gone", "nothing; this is MQTT's own rule"),
)
"""In the order in which they run; `clean-up` is last."""
