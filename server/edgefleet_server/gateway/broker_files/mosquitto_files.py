"""mosquitto on its own: the configuration that the server would use itself, with the paths of the mounted folder, and a start script.

The script looks at the list of revoked certificates and the access file every five seconds and has mosquitto read them again. The server
writes that list there whenever a certificate is revoked (`broker_dir`), whole and verified, by a rename.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from edgefleet_protocol.ids import TenantId
from edgefleet_protocol.topics import DN_LEAVES, ROOT, UP_LEAVES, Topics
from edgefleet_server.gateway.broker.model import MAX_PACKET_BYTES, BrokerConfig, BrokerKind
from edgefleet_server.gateway.broker.mosquitto import ACL_NAME, CONFIG_NAME, access_text, configuration_text
from edgefleet_server.gateway.broker_files.model import (
    BRIDGE_CERT_NAME,
    BRIDGE_KEY_NAME,
    CA_NAME,
    CERT_NAME,
    CRL_NAME,
    KEY_NAME,
    Bridge,
    BrokerFiles,
    BrokerSite,
)
from edgefleet_server.signing.trust import RefusedCertificates

SCRIPT_NAME = "run-mosquitto.sh"
_LOOK_S = 5
_SCRIPT = f"""#!/bin/sh
# Runs mosquitto with the files of this folder. When a certificate was revoked, or an account came or went, mosquitto reads them again;
# when other CAs are trusted, it ends, and whatever started this script starts it again.
cd "$(dirname "$0")" || exit 1
marks() {{ cksum {CRL_NAME} {ACL_NAME} 2>/dev/null; }}
roots() {{ cksum {CA_NAME} {CERT_NAME} 2>/dev/null; }}
trap 'kill -TERM $broker; wait $broker; exit' TERM INT
while :; do
  seen=$(marks) trusted=$(roots)
  mosquitto -c {CONFIG_NAME} &
  broker=$!
  while kill -0 $broker 2>/dev/null; do
    sleep "${{LOOK_S:-{_LOOK_S}}}" &
    wait $!
    now=$(marks)
    [ "$now" = "$seen" ] || kill -HUP $broker
    seen=$now
    [ "$(roots)" = "$trusted" ] || kill -TERM $broker
  done
  wait $broker
  code=$?
  [ $code -gt 128 ] || exit $code  # else it crashed: devices return, the server publishes again
done
"""


def mosquitto_files(site: BrokerSite) -> BrokerFiles:
    """Return configuration, access file and start script. Raises BrokerSettingError for a name that would break out of its line."""
    folder = Path(site.folder)
    config = BrokerConfig(
        kind=BrokerKind.MOSQUITTO,
        tenant=site.tenant,
        ca_file=folder / CA_NAME,
        cert_file=folder / CERT_NAME,
        key_file=folder / KEY_NAME,
        run_dir=folder,
        host="0.0.0.0",  # noqa: S104 - a broker of its own container is for the network; nobody connects without a certificate
        port=site.port,
        servers=site.servers,
        refused=_NOBODY if site.has_crl else None,
    )
    text = configuration_text(config, site.port)
    if site.bridge is not None:
        text += bridge_text(site.tenant, site.bridge, folder)
    return BrokerFiles(
        {CONFIG_NAME: text, ACL_NAME: access_text(site.tenant, site.servers), SCRIPT_NAME: _SCRIPT},
        frozenset({SCRIPT_NAME}),
        (
            f"mount the folder at {site.folder} and run `sh {site.folder}/{SCRIPT_NAME}` in it, as the user that owns its files",
            "set `broker_folder` of the server to the same folder: it writes the list of revoked certificates there",
            "run this command again when an account of a server or of a bridge comes, and once a year for the certificate",
        ),
    )


def bridge_text(tenant: str, bridge: Bridge, folder: Path) -> str:
    """Return the part of mosquitto.conf that passes a site's messages on to the centre: exact leaves, each in one direction only.

    A leaf that went both ways would come back to where it came from, for ever.
    """
    root = f"{ROOT}/{tenant}"
    qos = {"log": 0, "blk": 0}
    up = [f"topic {root}/d/+/up/{leaf} out {qos.get(leaf, 1)}" for leaf in UP_LEAVES]
    topics = Topics(TenantId(tenant))
    down = [f"topic {root}/d/+/dn/{leaf} in {qos.get(leaf, 1)}" for leaf in DN_LEAVES]
    down += [f"topic {one} in 1" for one in (topics.repo_head(), topics.hold(), f"{root}/stage/+")]
    down += [f"topic {root}/b/+ in 0"]
    lines = [
        "",
        f"connection {bridge.account}",
        f"address {bridge.host}:{bridge.port}",
        f"remote_clientid {bridge.account}",
        f"local_clientid local.{bridge.account}",
        f"bridge_cafile {folder / CA_NAME}",
        f"bridge_certfile {folder / BRIDGE_CERT_NAME}",
        f"bridge_keyfile {folder / BRIDGE_KEY_NAME}",
        "bridge_tls_version tlsv1.2",
        "bridge_protocol_version mqttv50",
        f"bridge_max_packet_size {MAX_PACKET_BYTES}",
        "cleansession false",
        "local_cleansession false",
        "notifications false",
        "try_private true",
        "keepalive_interval 30",
        "restart_timeout 2 30",
        *up,
        *down,
    ]
    return "\n".join(lines) + "\n"


_NOBODY = RefusedCertificates(frozenset(), frozenset(), b"", datetime(1970, 1, 1, tzinfo=UTC), b"-")
"""Only says that there is a list and a file of trusted CAs."""
