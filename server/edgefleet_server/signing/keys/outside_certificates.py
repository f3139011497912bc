"""Certificates of the device CA for programs that the server does not run: a broker of its own container, a bridge, a check of a broker.

Nothing of them stays here but their row; the caller writes or forgets the keys.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.authority import Authority, Issued, new_p256_key, private_pem
from edgefleet_server.signing.client_identities import BriefIdentity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

LISTENER_LIFE: Final = timedelta(days=397)
ACCOUNT_LIFE: Final = timedelta(days=397)
CHECK_LIFE: Final = timedelta(hours=1)
SERVICE: Final = "service"
SERVER: Final = "server"


class OutsideCertificates:
    """Issues them, and revokes them."""

    def __init__(self, authority: Authority, db: Database, clock: Clock) -> None:
        self._authority = authority
        self._db = db
        self._clock = clock

    def for_listener(self, hosts: Sequence[str]) -> BriefIdentity:
        """Return a server certificate for these names and addresses, at least one, with the CA behind it, and its key."""
        key = new_p256_key()
        issued = self._authority.issue_server(key.public_key(), list(hosts), self._clock.now(), LISTENER_LIFE)
        return self._noted(issued, key, SERVER, hosts[0], chain=self._authority.certificate_pem())

    def for_account(self, name: str, life: timedelta = ACCOUNT_LIFE) -> BriefIdentity:
        """Return a client certificate with the CN `name`, and its key."""
        key = new_p256_key()
        issued = self._authority.issue_client(key.public_key(), name, self._clock.now(), life)
        return self._noted(issued, key, SERVICE, name)

    def expired(self, name: str) -> BriefIdentity:
        """Return a client certificate that has ended, to look whether a broker refuses it. It is recorded nowhere."""
        key = new_p256_key()
        issued = self._authority.issue_client(key.public_key(), name, self._clock.now() - 2 * CHECK_LIFE, CHECK_LIFE)
        return BriefIdentity(name, issued.pem, private_pem(key))

    def revoke(self, names: Sequence[str]) -> None:
        """Revoke every certificate with one of these CNs; a running server hands its broker the new list within seconds."""
        with self._db.session() as session:
            for name in names:
                store.revoke_subject(session, name, self._clock.now())

    def _noted(
        self, issued: Issued, key: "ec.EllipticCurvePrivateKey", kind: str, name: str, chain: bytes = b""
    ) -> BriefIdentity:
        with self._db.session() as session:
            store.add_certificate(session, issued, kind)
        return BriefIdentity(name, issued.pem + chain, private_pem(key))
