"""Writes the folder of a broker of one's own: the files of its kind, its certificate, the CAs and the list of revoked certificates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from edgefleet_server.gateway.broker.mosquitto import check_revocation_list
from edgefleet_server.gateway.broker_files.aws_iot_files import aws_iot_files
from edgefleet_server.gateway.broker_files.emqx_files import emqx_files
from edgefleet_server.gateway.broker_files.hivemq_files import hivemq_files
from edgefleet_server.gateway.broker_files.model import (
    BRIDGE_CERT_NAME,
    BRIDGE_KEY_NAME,
    CA_NAME,
    CERT_NAME,
    CRL_NAME,
    KEY_NAME,
    BrokerFiles,
    BrokerSite,
    OutsideBroker,
)
from edgefleet_server.gateway.broker_files.mosquitto_files import mosquitto_files
from edgefleet_server.gateway.broker_files.rabbitmq_files import CRL_FOLDER, CRL_TARGET, crl_link_name, rabbitmq_files
from edgefleet_server.signing.client_identities import BriefIdentity
from edgefleet_server.signing.keys.key_files import replace_private
from edgefleet_server.signing.keys.own_certificates import hosts_in, is_issued_by
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import RefusedCertificates

RENEW_BEFORE: Final = timedelta(days=60)
MARK_NAME: Final = "broker-files.json"

_MAKERS: dict[OutsideBroker, Callable[[BrokerSite], BrokerFiles]] = {
    OutsideBroker.MOSQUITTO: mosquitto_files,
    OutsideBroker.RABBITMQ: rabbitmq_files,
    OutsideBroker.EMQX: emqx_files,
    OutsideBroker.HIVEMQ: hivemq_files,
    OutsideBroker.AWS_IOT: aws_iot_files,
}


@dataclass(frozen=True, slots=True)
class WrittenFolder:
    """What was written: names of files, until when the broker's certificate is valid, and what the operator does next."""

    files: tuple[str, ...]
    certificate_ends: datetime
    next_steps: tuple[str, ...]


def write_folder(
    kind: OutsideBroker, site: BrokerSite, folder: Path, hosts: Sequence[str], signing: SigningService, now: datetime
) -> WrittenFolder:
    """Write all files of a broker into `folder`, each atomically; certificates that are good for 60 days more are kept.

    hosts: names and addresses under which devices and servers reach the broker. Raises BrokerSettingError, RevocationListError, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = _MAKERS[kind](site)
    refused, _canary = signing.refused_certificates("files")
    _write_trust(folder, refused, signing)
    cert = folder / CERT_NAME
    if not _is_good(cert, signing, now) or not set(hosts) <= set(hosts_in(cert)):
        _write_pair(signing.outside.for_listener(hosts), cert, folder / KEY_NAME)
    if site.bridge is not None and not _is_good(folder / BRIDGE_CERT_NAME, signing, now):
        account = signing.outside.for_account(site.bridge.account)
        _write_pair(account, folder / BRIDGE_CERT_NAME, folder / BRIDGE_KEY_NAME)
    for name, text in made.texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        replace_private(folder / name, text.encode(), mode=0o700 if name in made.runnable else 0o600)
    if kind is OutsideBroker.RABBITMQ:
        _link(folder / CRL_FOLDER / crl_link_name(signing.ca_pem()))
    mark = {"kind": kind.value, "tenant": site.tenant, "accounts": list(site.servers), "hosts": list(hosts)}
    replace_private(folder / MARK_NAME, json.dumps(mark, indent=1).encode() + b"\n")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    ends = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    return WrittenFolder(tuple(names), ends, made.next_steps)


def _link(path: Path) -> None:
    """Let Erlang find the list, which the server writes again by a rename, under the name that it looks for."""
    path.parent.mkdir(exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(CRL_TARGET)


def _write_trust(folder: Path, refused: RefusedCertificates, signing: SigningService) -> None:
    trusted = refused.cas or signing.ca_pem()
    check_revocation_list(refused.crl, trusted, refused)
    replace_private(folder / CRL_NAME, refused.crl)
    replace_private(folder / CA_NAME, trusted)


def _write_pair(identity: BriefIdentity, cert: Path, key: Path) -> None:
    replace_private(key, identity.key)
    replace_private(cert, identity.cert)


def _is_good(cert: Path, signing: SigningService, now: datetime) -> bool:
    if not is_issued_by(cert, signing.ca_pem()):
        return False
    return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc - now > RENEW_BEFORE
