"""What may be put before a broker: CAs, and a list of revoked certificates of each (ADR 0172).

Rules:
1. Each CA has one list, signed by it, that holds today. mosquitto 2.0 lets everybody in when it cannot read a list, and nobody when one
   has ended or has not begun.
2. Once CAs are known, others come only together with one of them, as a rotation does it, or are named by hand.
3. What lies there is not replaced by something older, unless that trusts the same CAs and names all that is revoked there: two hosts whose
   clocks differ may each have issued a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from edgefleet_cli.admin.outside_broker.errors import BrokerTrustError

if TYPE_CHECKING:
    from cryptography import x509

WARN_BEFORE = timedelta(days=15)
_LIST_END = b"-----END X509 CRL-----"
_REFUSED = "the broker's files stay as they are; check what answers at the server's address, and the server's log"


@dataclass(frozen=True)
class BrokerTrust:
    """CAs and lists that belong together. crl, cas: PEM, written again here, so that nothing else is in them.

    fingerprints: SHA-256 of the CAs. revoked: (fingerprint, serial). issued_at: when the last list began; expires_at: when the first ends.
    """

    crl: bytes
    cas: bytes
    fingerprints: frozenset[str]
    revoked: frozenset[tuple[str, int]]
    issued_at: datetime
    expires_at: datetime

    @property
    def count(self) -> int:
        """How many certificates are revoked; each CA's list names them all."""
        return len({serial for _, serial in self.revoked})


def fingerprint(ca: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in DER, as `edgectl key trust` shows it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return sha256(ca.public_bytes(Encoding.DER)).hexdigest()


def read_cas(pem: bytes) -> Sequence[x509.Certificate]:
    """Return the CAs of a file. Raises BrokerTrustError."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(pem)
        are_cas = all(one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for one in found)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise BrokerTrustError("the CAs cannot be read", why=str(error), next_step=_REFUSED) from error
    if not are_cas or len({fingerprint(one) for one in found}) != len(found):
        raise BrokerTrustError(
            "the CAs are not what they should be", why="one is no CA, or comes twice", next_step=_REFUSED
        )
    return found


def read_trust(crl: bytes, cas: bytes) -> BrokerTrust:
    """Return what two files say when they are whole and belong together. Raises BrokerTrustError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    trusted = read_cas(cas)
    try:
        left = [x509.load_pem_x509_crl(one + _LIST_END) for one in crl.split(_LIST_END)[:-1]]
        if crl.rsplit(_LIST_END, 1)[-1].strip() or len(left) != len(trusted):
            raise ValueError(f"there are {len(left)} whole lists for {len(trusted)} CAs")
        lists = [_list_of(ca, left) for ca in trusted]
    except (ValueError, TypeError) as error:
        raise BrokerTrustError(
            "the list of revoked certificates cannot be used", why=str(error), next_step=_REFUSED
        ) from error
    return BrokerTrust(
        b"".join(one.public_bytes(Encoding.PEM) for one in lists),
        b"".join(one.public_bytes(Encoding.PEM) for one in trusted),
        frozenset(fingerprint(one) for one in trusted),
        frozenset((fingerprint(ca), one.serial_number) for ca, of in zip(trusted, lists, strict=True) for one in of),
        max(one.last_update_utc for one in lists),
        min(_end_of(one) for one in lists),
    )


def _list_of(ca: x509.Certificate, lists: Sequence[x509.CertificateRevocationList]) -> x509.CertificateRevocationList:
    """Return the list that a CA signed. Raises ValueError."""
    found = [
        one
        for one in lists
        if one.issuer == ca.subject and one.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    ]
    if len(found) != 1:
        raise ValueError(f"the CA {fingerprint(ca)[:16]} has signed {len(found)} of the lists, not one")
    _end_of(found[0])
    return found[0]


def _end_of(one: x509.CertificateRevocationList) -> datetime:
    ended = one.next_update_utc
    if ended is None:
        raise ValueError("a list does not say until when it holds")
    return ended


def check_time(new: BrokerTrust, now: datetime) -> None:
    """Raise BrokerTrustError unless the lists hold today."""
    if new.expires_at <= now:
        raise BrokerTrustError(
            f"the list of revoked certificates ended at {_moment(new.expires_at)}",
            why="with it the broker would refuse every device",
            next_step=_REFUSED,
        )
    if new.issued_at > now:
        raise BrokerTrustError(
            f"the list of revoked certificates holds from {_moment(new.issued_at)} on, and here it is {_moment(now)}",
            why="with it the broker would refuse every device until then",
            next_step="set the clock of this machine, or that of the server",
        )


def check_cas(new: BrokerTrust, known: frozenset[str], pinned: str) -> None:
    """Raise BrokerTrustError for CAs of which none is known. known: fingerprints in the folder; pinned: one given by hand, "" = none."""
    if pinned and pinned not in new.fingerprints:
        raise BrokerTrustError(
            f"the server does not trust the CA {pinned[:16]} that was named",
            why=f"it trusts {_named(new.fingerprints)}",
            next_step="compare with `edgectl key trust` on the server's machine",
        )
    if not pinned and known and not known & new.fingerprints:
        raise BrokerTrustError(
            "the server trusts another device CA than this broker",
            why=f"the broker trusts {_named(known)}, the server {_named(new.fingerprints)}",
            next_step="if the CA was rotated while this machine was off: compare with `edgectl key trust` on the server's machine, "
            "and run once more with --ca-sha256",
        )


def is_news(new: BrokerTrust, old: BrokerTrust) -> bool:
    """Return whether to replace what lies there; False: it says the same, and is as new. Raises BrokerTrustError for something older."""
    is_older, is_same_cas = new.issued_at < old.issued_at, new.fingerprints == old.fingerprints
    if is_older and not (is_same_cas and old.revoked <= new.revoked):
        raise BrokerTrustError(
            f"the server gave a list of {_moment(new.issued_at)}, and the one here is of {_moment(old.issued_at)}",
            why="the older one lacks certificates that were revoked since, or trusts other CAs",
            next_step="compare the clocks of the servers; after a restore of the server wait until it issues the next list, or remove "
            "crl.pem here if you know that the older one is right",
        )
    return new.issued_at > old.issued_at or new.revoked != old.revoked or not is_same_cas


def warning_of(expires_at: datetime, now: datetime) -> str:
    """Return what to say of the end of the list in the folder, "" while that is far."""
    if expires_at <= now:
        return f"the list of revoked certificates here ended at {_moment(expires_at)}: the broker refuses every device"
    if expires_at - now < WARN_BEFORE:
        days = (expires_at - now).days
        return f"the list of revoked certificates here ends in {days} days, at {_moment(expires_at)}: then the broker refuses every device"
    return ""


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="minutes")


def _named(fingerprints: frozenset[str]) -> str:
    return " and ".join(sorted(one[:16] for one in fingerprints))
