"""EMQX 5: configuration in HOCON and access rules as Erlang terms. Written and parsed, not run here (docs/operate/brokers.md)."""

from __future__ import annotations

from edgefleet_protocol.ids import SERVER_ACCOUNT_PREFIX
from edgefleet_protocol.topics import ROOT, UP_LEAVES
from edgefleet_server.gateway.broker.model import (
    MAX_KEEPALIVE_S,
    MAX_PACKET_BYTES,
    MAX_QUEUED_MESSAGES,
    SESSION_EXPIRY_S,
)
from edgefleet_server.gateway.broker_files.model import CA_NAME, CERT_NAME, KEY_NAME, BrokerFiles, BrokerSite

CONFIG_NAME = "emqx.conf"
ACL_NAME = "acl.conf"


def emqx_files(site: BrokerSite) -> BrokerFiles:
    """Return configuration and access rules. `peer_cert_as_clientid` makes the certificate's CN the client id, whatever the client says."""
    return BrokerFiles(
        {CONFIG_NAME: _configuration(site), ACL_NAME: _access(site.tenant)},
        next_steps=(
            f"merge {CONFIG_NAME} into EMQX's own and let `authorization.sources` name {site.folder}/{ACL_NAME}",
            "EMQX reads revocation lists only from an address in the certificate, and ours have none: ban a revoked device's client id",
            "this was written and parsed here, not run: run `edgectl server check broker URL` before devices use it",
        ),
    )


def _configuration(site: BrokerSite) -> str:
    folder = site.folder
    return f"""listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false
listeners.ssl.default {{
  bind = "0.0.0.0:{site.port}"
  ssl_options {{
    cacertfile = "{folder}/{CA_NAME}"
    certfile = "{folder}/{CERT_NAME}"
    keyfile = "{folder}/{KEY_NAME}"
    verify = verify_peer
    fail_if_no_peer_cert = true
    versions = ["tlsv1.3", "tlsv1.2"]
  }}
}}
mqtt {{
  peer_cert_as_username = cn
  peer_cert_as_clientid = cn
  max_packet_size = "{MAX_PACKET_BYTES}B"
  max_mqueue_len = {MAX_QUEUED_MESSAGES}
  session_expiry_interval = "{SESSION_EXPIRY_S}s"
  server_keepalive = disabled
  max_topic_alias = 0
  max_qos_allowed = 1
  shared_subscription = false
}}
authentication = []
authorization {{
  no_match = deny
  deny_action = ignore
  cache.enable = true
  sources = [{{type = file, enable = true, path = "{folder}/{ACL_NAME}"}}]
}}
retainer {{
  enable = true
  max_payload_size = "{MAX_PACKET_BYTES}B"
}}
# devices ask for keepalives of up to {MAX_KEEPALIVE_S} s
"""


def _access(tenant: str) -> str:
    root = f"{ROOT}/{tenant}"
    up = ", ".join(f'"{root}/d/${{clientid}}/up/{leaf}"' for leaf in UP_LEAVES)
    down = ", ".join(
        f'"{one}"'
        for one in (
            f"{root}/d/${{clientid}}/dn/#",
            f"{root}/b/+",
            f"{root}/stage/+",
            f"{root}/repo/head",
            f"{root}/hold",
        )
    )
    return "\n".join(
        (
            f'{{allow, {{username, {{re, "^{SERVER_ACCOUNT_PREFIX}"}}}}, all, ["{root}/#"]}}.',
            f"{{allow, all, publish, [{up}]}}.",
            f"{{allow, all, subscribe, [{down}]}}.",
            "{deny, all}.",
            "",
        )
    )
