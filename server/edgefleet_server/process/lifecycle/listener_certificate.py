"""The certificate of the listeners: issued when there is none, when it lacks a name or ends soon, when another CA is in use."""

import logging

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.composition.container import Parts
from edgefleet_server.fleet.moves.rules import hosts_of
from edgefleet_server.process.setting_check import WILDCARDS
from edgefleet_server.signing.keys.own_certificates import hosts_in, is_usable
from edgefleet_server.signing.service import SigningService

_log = logging.getLogger(__name__)
_LOOK_S = 2.0


def ensure_certificate(parts: Parts) -> None:
    """Issue the listeners' certificate when there is none, it lacks one of our names or ends soon."""
    named = (parts.settings.device_public_host, parts.settings.broker_host, *hosts_of(parts.fleet.moves.places()))
    wanted = {host for host in named if host not in WILDCARDS}
    file = parts.signing.server_cert_file
    if is_usable(file, parts.signing.ca_pem(), parts.clock.now()) and wanted <= set(hosts_in(file)):
        return
    parts.signing.issue_server_certificate(sorted(wanted))
    _log.info("listener certificate issued", extra={"names": ",".join(sorted(wanted))})


class CertificateFollower:
    """Issues the listeners' certificate again when the device CA was rotated, on any host, and before it ends. May block.

    A gateway does the same for its host, before it hands the broker the new CAs. A host without one has only this (ADR 0133).
    """

    def __init__(self, signing: SigningService, clock: Clock) -> None:
        """Wire the parts. `ensure_certificate` was called."""
        self._signing = signing
        self._clock = clock
        self._due_s = 0.0
        self._problem = ""

    def follow(self) -> None:
        """Look, every few seconds however often it is called. What fails is tried again, and logged once."""
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _LOOK_S
        try:
            if self._signing.renew_own():
                _log.info("listener certificate issued again")
            self._problem = ""
        except (EdgefleetError, OSError) as error:
            why = error.message if isinstance(error, EdgefleetError) else str(error)
            if why != self._problem:
                _log.warning("the listener certificate was not issued again", extra={"reason": why})
            self._problem = why
