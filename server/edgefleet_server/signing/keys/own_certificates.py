"""What can be read in the certificates that this server has itself."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

RENEW_BEFORE: Final = timedelta(days=30)
"""So long before its end a certificate is issued again."""


def is_issued_by(cert_file: Path, ca_pem: bytes) -> bool:
    """Return whether a CA (PEM) issued the certificate in a file; a file that is not there, or holds none, is by nobody."""
    return _issued_by(cert_file, ca_pem) is not None


def is_usable(cert_file: Path, ca_pem: bytes, now: datetime) -> bool:
    """Return whether a CA (PEM) issued the certificate in a file, and it is good for more than RENEW_BEFORE."""
    found = _issued_by(cert_file, ca_pem)
    return found is not None and found.not_valid_after_utc - now > RENEW_BEFORE


def _issued_by(cert_file: Path, ca_pem: bytes) -> x509.Certificate | None:
    try:
        found = x509.load_pem_x509_certificate(cert_file.read_bytes())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem))
    except (OSError, ValueError, TypeError, InvalidSignature):
        return None
    return found


def hosts_in(cert_file: Path) -> list[str]:
    """Return the names and addresses that a listeners' certificate is for. Raises OSError, ValueError."""
    found = x509.load_pem_x509_certificate(cert_file.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(one) for one in names.get_values_for_type(x509.IPAddress)),
    ]
