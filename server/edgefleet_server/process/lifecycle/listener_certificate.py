"""The certificate of the listeners: issued when there is none, and again when it lacks a name or ends soon."""

import logging
from datetime import timedelta

from cryptography import x509

from edgefleet_server.composition.container import Parts
from edgefleet_server.fleet.moves.rules import hosts_of
from edgefleet_server.process.setting_check import WILDCARDS
from edgefleet_server.signing.keys.own_certificates import hosts_in, is_issued_by

_log = logging.getLogger(__name__)
_CERT_MARGIN = timedelta(days=30)


def ensure_certificate(parts: Parts) -> None:
    """Issue the listeners' certificate when there is none, it lacks one of our names or ends soon."""
    named = (parts.settings.device_public_host, parts.settings.broker_host, *hosts_of(parts.fleet.moves.places()))
    wanted = {host for host in named if host not in WILDCARDS}
    file = parts.signing.server_cert_file
    if is_issued_by(file, parts.signing.ca_pem()) and wanted <= set(hosts_in(file)):
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        if certificate.not_valid_after_utc - parts.clock.now() > _CERT_MARGIN:
            return
    parts.signing.issue_server_certificate(sorted(wanted))
    _log.info("listener certificate issued", extra={"names": ",".join(sorted(wanted))})
