"""RabbitMQ 4 with its MQTT plugin: listener, list of revoked certificates, and the questions that it asks `access_rules` over HTTP.

RabbitMQ has users, but no rule for every holder of a certificate, and its topic permissions are kept a user. So it asks: may this name
connect with this client id, may it use this queue, may it publish or subscribe here. The answers are those of `topics.may`.
"""

from __future__ import annotations

import hashlib

from cryptography import x509

from edgefleet_server.gateway.broker.model import (
    MAX_PACKET_BYTES,
    SESSION_EXPIRY_S,
)
from edgefleet_server.gateway.broker_files.model import (
    CA_NAME,
    CERT_NAME,
    CRL_NAME,
    KEY_NAME,
    BrokerFiles,
    BrokerSite,
)

CONFIG_NAME = "rabbitmq.conf"
ADVANCED_NAME = "advanced.config"
PLUGINS_NAME = "enabled_plugins"
CRL_FOLDER = "crl"
MAX_UNAUTHENTICATED_BYTES = 16_384


def rabbitmq_files(site: BrokerSite) -> BrokerFiles:
    """Return the configuration. The list of revoked certificates is linked as OpenSSL's hash of the CA's name (`crl_link_name`)."""
    lines = [
        "listeners.tcp = none",
        "mqtt.listeners.tcp = none",
        f"mqtt.listeners.ssl.1 = 0.0.0.0:{site.port}",
        "ssl_cert_login_from = common_name",
        "mqtt.ssl_cert_login = true",
        "anonymous_login_user = none",
        "mqtt.vhost = /",
        "mqtt.exchange = amq.topic",
        "mqtt.prefetch = 20",
        f"mqtt.max_session_expiry_interval_seconds = {SESSION_EXPIRY_S}",
        f"mqtt.max_packet_size_authenticated = {MAX_PACKET_BYTES}",
        f"mqtt.max_packet_size_unauthenticated = {MAX_UNAUTHENTICATED_BYTES}",
        "mqtt.topic_alias_maximum = 0",
        "mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_ets",
        "auth_backends.1 = http",
        "auth_http.http_method = post",
        *(f"auth_http.{one}_path = {site.access_url}/{one}" for one in ("user", "vhost", "resource", "topic")),
        "log.console.level = warning",
    ]
    return BrokerFiles(
        {
            CONFIG_NAME: "\n".join(lines) + "\n",
            ADVANCED_NAME: _advanced(site),
            PLUGINS_NAME: "[rabbitmq_mqtt,rabbitmq_auth_backend_http].\n",
        },
        next_steps=(
            "run the access rules next to it, as docs/operate/brokers.md says",
            f"RABBITMQ_CONFIG_FILE={site.folder}/{CONFIG_NAME}",
            f"RABBITMQ_ADVANCED_CONFIG_FILE={site.folder}/{ADVANCED_NAME}",
            f"RABBITMQ_ENABLED_PLUGINS_FILE={site.folder}/{PLUGINS_NAME}",
            "set `broker_folder` of the server to the same folder: it writes the list of revoked certificates there",
        ),
    )


def _advanced(site: BrokerSite) -> str:
    """Return the TLS options whole: RabbitMQ does not merge those of the two files."""
    folder = site.folder
    return f"""[
 {{rabbit, [
  {{ssl_options, [
   {{cacertfile, "{folder}/{CA_NAME}"}},
   {{certfile, "{folder}/{CERT_NAME}"}},
   {{keyfile, "{folder}/{KEY_NAME}"}},
   {{verify, verify_peer}},
   {{fail_if_no_peer_cert, true}},
   {{versions, ['tlsv1.3', 'tlsv1.2']}},
   {{crl_check, peer}},
   {{crl_cache, {{ssl_crl_hash_dir, {{internal, [{{dir, "{folder}/{CRL_FOLDER}"}}]}}}}}}
  ]}}
 ]}}
].
"""


def crl_link_name(ca_pem: bytes) -> str:
    """Return the file name under which Erlang looks for the list of a CA: OpenSSL's hash of its name, and `.r0`.

    That hash is of the name with every text in lower case as UTF-8, without the outer frame, the first four bytes of its SHA-1 as a
    little-endian number.
    """
    subject = x509.load_pem_x509_certificate(ca_pem).subject
    plain = x509.Name([x509.NameAttribute(one.oid, " ".join(str(one.value).lower().split())) for one in subject])
    der = plain.public_bytes()
    frame = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    return f"{int.from_bytes(hashlib.sha1(der[frame:], usedforsecurity=False).digest()[:4], 'little'):08x}.r0"


CRL_TARGET = f"../{CRL_NAME}"
