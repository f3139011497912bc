"""What a broker of one's own is given by the API: the CAs to trust, and a list of revoked certificates of each (ADR 0172).

The list is issued when somebody asks. Its tag goes by what it says and by the day. So all hosts of a fleet give the same tag, a list that
was fetched from one is known at the others, and a broker that asks once a day always has one that is valid for 28 days more.
"""

import threading
from datetime import timedelta
from typing import Final

from cryptography import x509

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.authority import Authority
from edgefleet_server.signing.keys.trusted_cas import TrustedCas
from edgefleet_server.signing.trust import BrokerTrust

ISSUE_EVERY: Final = timedelta(days=1)


class BrokerTrustReader:
    """Reads what is revoked and signs it. Thread-safe; calls block.

    One list is kept, so that many brokers that ask do not keep the key of the CA busy.
    """

    def __init__(self, authority: Authority, cas: TrustedCas, db: Database, clock: Clock) -> None:
        """Wire the parts; nothing is read."""
        self._authority, self._cas, self._db, self._clock = authority, cas, db, clock
        self._lock = threading.Lock()
        self._kept: tuple[str, BrokerTrust] | None = None

    def read(self, known: str = "") -> tuple[str, BrokerTrust | None]:
        """Return the tag of what holds now, and what it is; None where the caller knows this tag. Raises KeysMissingError, SigningError."""
        now, cas = self._clock.now(), self._cas.bundle()
        with self._db.read() as session:
            serials, _devices = store.revoked_certificates(session, now)
        day = int(now.timestamp() // ISSUE_EVERY.total_seconds())
        tag = sha256_hex(b"\0".join([cas, str(day).encode(), *(one.encode() for one in sorted(serials))]))
        if tag == known:
            return tag, None
        with self._lock:
            if self._kept is None or self._kept[0] != tag:
                crl = self._authority.issue_crl(serials, now)
                issued = x509.load_pem_x509_crl(crl)  # the signing process has a clock of its own
                begun, ended = issued.last_update_utc, issued.next_update_utc
                assert ended is not None, "`issue_crl` says when it ends"
                self._kept = tag, BrokerTrust(crl.decode(), cas.decode(), begun, ended, len(serials))
            return self._kept
