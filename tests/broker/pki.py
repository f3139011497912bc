"""Real certificates for the broker tests: one device CA, devices, a server, and the ones that must be refused."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Collection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgefleet_server.gateway.mqtt import LinkIdentity
from edgefleet_server.signing.trust import RefusedCertificates

DAY = dt.timedelta(days=1)


Identity = LinkIdentity
"""A certificate and its key, as files."""


class Authority:
    """A P-256 certificate authority that writes what it issues into a folder."""

    def __init__(self, folder: Path, name: str = "test device CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name(name)
        now = dt.datetime.now(dt.UTC)
        self._cert = (
            x509.CertificateBuilder()
            .subject_name(self._subject)
            .issuer_name(self._subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def device(self, name: str, *, file_name: str | None = None, is_expired: bool = False) -> Identity:
        """Issue a client certificate with CN `name`."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, file_name or name, is_expired=is_expired)

    def server(self, name: str = "localhost") -> Identity:
        """Issue a server certificate for localhost and 127.0.0.1."""
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, f"server-{name}", is_expired=False)

    def refused(self, gone: Collection[Identity]) -> RefusedCertificates:
        """Return the list that revokes these."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._subject, last_update=now - DAY, next_update=now + DAY
        )
        serials = [x509.load_pem_x509_certificate(one.cert_file.read_bytes()).serial_number for one in gone]
        for serial in serials:
            one = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=now - DAY)
            builder = builder.add_revoked_certificate(one.build())
        crl = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        names = frozenset(one.name for one in gone)
        return RefusedCertificates(frozenset(f"{one:x}" for one in serials), names, crl, now + DAY)

    def _issue(self, name: str, usage: x509.ObjectIdentifier, file_name: str, *, is_expired: bool) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 20 * DAY)
            .not_valid_after(now - DAY if is_expired else now + 20 * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if usage == ExtendedKeyUsageOID.SERVER_AUTH:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        identity = Identity(name, self._folder / f"{file_name}.crt", self._folder / f"{file_name}.key")
        identity.cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        identity.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        identity.key_file.chmod(0o600)
        return identity


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
