"""The certificates of the device CAs in the key folder, and the steps from one to the next.

Thread-safe; calls block. Each step may be repeated after a crash.
"""

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.authority import Authority, view_of
from edgefleet_server.signing.errors import KeysMissingError
from edgefleet_server.signing.trust import AuthorityView


def fingerprint_of(pem: bytes) -> Sha256:
    """Return the SHA-256 of a certificate (PEM) in DER."""
    found = x509.load_pem_x509_certificate(pem)
    return Sha256(sha256_hex(found.public_bytes(serialization.Encoding.DER)))


class TrustedCas:
    """The CA, and the one that is to follow while there is one."""

    def __init__(self, authority: Authority, db: Database, clock: Clock) -> None:
        """Wire the parts. Nothing is read."""
        self._authority, self._db, self._clock = authority, db, clock

    def current(self) -> bytes:
        """Return the certificate of the CA, PEM."""
        return self._authority.certificate_pem()

    def following(self) -> bytes | None:
        """Return the certificate (PEM) of the CA that is to follow, None when there is none."""
        return self._authority.next_pem()

    def bundle(self) -> bytes:
        """Return all that brokers trust, PEM: the CA first."""
        return self.current() + (self.following() or b"")

    def views(self) -> list[AuthorityView]:
        """Return what can be shown of the CAs, the one in use first."""
        pems = [self.current(), self.following()]
        return [view_of(x509.load_pem_x509_certificate(pem)) for pem in pems if pem is not None]

    def mark(self) -> Sha256:
        """Return what changes whenever another CA is trusted."""
        return sha256_hex(self.bundle())

    def issuer_of(self, serial: str) -> str:
        """Return the SHA-256 of the CA that issued a certificate, "" for one of before that was noted."""
        with self._db.read() as session:
            found = store.certificate(session, serial)
            return "" if found is None else found.issuer

    def take_turn(self) -> None:
        """Wait until the caller's transaction is the only one that changes keys or metadata."""
        with self._db.session() as session:
            store.take_turn(session)

    def make_next(self) -> bytes:
        """Make the CA that is to follow; return its certificate, PEM. An unused one is destroyed."""
        return self._authority.make_next(self._clock.now())

    def promote(self, sha256: str) -> None:
        """Let the CA with this fingerprint be the CA, and destroy the key of any other. Raises KeysMissingError."""
        if fingerprint_of(self.current()) == sha256:
            self._authority.drop_next()  # one of a start that was cut off before its row was written
            return
        following = self.following()
        if following is None or fingerprint_of(following) != sha256:
            raise KeysMissingError(
                f"the device CA {sha256[:16]} that is to follow is not in the key folder",
                next_step="restore device-ca-next.pem and device-ca-next.crt from the backup of the key folder",
            )
        self._authority.promote_next()

    def drop_next(self) -> None:
        """Destroy the CA that was to follow."""
        self._authority.drop_next()
