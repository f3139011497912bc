"""HiveMQ: listener and limits as config.xml. Written and parsed, not run here (docs/operate/brokers.md).

Who may do what is not in this file: HiveMQ leaves it to an extension, and every client may do everything until one is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgefleet_server.gateway.broker.model import (
    MAX_KEEPALIVE_S,
    MAX_PACKET_BYTES,
    MAX_QUEUED_MESSAGES,
    SESSION_EXPIRY_S,
)
from edgefleet_server.gateway.broker_files.model import CA_NAME, CERT_NAME, KEY_NAME, BrokerFiles, BrokerSite

CONFIG_NAME = "config.xml"
KEY_STORE, TRUST_STORE = "server.p12", "trusted-cas.p12"
_PASSWORD = "${ENV:HIVEMQ_STORE_PASSWORD}"  # noqa: S105 - a name that HiveMQ replaces


def hivemq_files(site: BrokerSite) -> BrokerFiles:
    """Return config.xml. Stores and their password are made by the operator."""
    return BrokerFiles(
        {CONFIG_NAME: _configuration(site)},
        next_steps=(
            f"openssl pkcs12 -export -in {CERT_NAME} -inkey {KEY_NAME} -out {KEY_STORE}",
            f"keytool -importcert -file {CA_NAME} -keystore {TRUST_STORE} -storetype PKCS12",
            "put the password of both into HIVEMQ_STORE_PASSWORD",
            "install an extension that lets a client in only under its certificate's CN and goes by docs/protocol/topics.md",
            "this was written and parsed here, not run: run `edgectl server check broker URL` before devices use it",
        ),
    )


def _configuration(site: BrokerSite) -> str:
    root = Element("hivemq")
    listener = SubElement(SubElement(root, "listeners"), "tls-tcp-listener")
    _put(listener, {"port": site.port, "bind-address": "0.0.0.0", "name": "edgefleet"})  # noqa: S104
    tls = SubElement(listener, "tls")
    _put(
        SubElement(tls, "keystore"),
        {"path": f"{site.folder}/{KEY_STORE}", "password": _PASSWORD, "private-key-password": _PASSWORD},
    )
    _put(tls, {"client-authentication-mode": "REQUIRED"})
    _put(SubElement(tls, "truststore"), {"path": f"{site.folder}/{TRUST_STORE}", "password": _PASSWORD})
    mqtt = SubElement(root, "mqtt")
    for name, values in (
        ("session-expiry", {"max-interval": SESSION_EXPIRY_S}),
        ("packets", {"max-packet-size": MAX_PACKET_BYTES}),
        ("queued-messages", {"max-queue-size": MAX_QUEUED_MESSAGES, "strategy": "discard"}),
        ("keep-alive", {"allow-unlimited": "false", "max-keep-alive": MAX_KEEPALIVE_S}),
        ("quality-of-service", {"max-qos": 1}),
        ("shared-subscriptions", {"enabled": "false"}),
    ):
        _put(SubElement(mqtt, name), values)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _put(element: Element, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        SubElement(element, name).text = str(value)
