"""The device CA: certificates for devices, for our own MQTT clients and for our TLS listeners.

X.509 shares nothing with TUF but the key folder.

Rules:
- P-256, self-signed, pathlen 0: it can sign end certificates only.
- A device's CSR proves possession of its key and nothing else; its subject and extensions are ignored.
- Device and service certificates carry only EKU clientAuth, listener certificates only serverAuth, so that no device
  can pose as a server.
- Times start five minutes early, for devices whose clock runs behind.
- While the CA is changed (ADR 0133) the key folder holds a second one, `device-ca-next`. It becomes the CA by two renames; a power cut
  between them is mended at the next use.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.signing.errors import BadCsrError, KeysMissingError, KeysUnreadableError
from edgefleet_server.signing.keys.key_files import (
    destroy_files,
    folder_lock,
    replace_private,
    sync_folder,
    write_private,
)
from edgefleet_server.signing.trust import USUAL_CA, AuthorityView, CaChoice

CA_KEY_FILE: Final = "device-ca.pem"
CA_CERT_FILE: Final = "device-ca.crt"
NEXT_KEY_FILE: Final = "device-ca-next.pem"
NEXT_CERT_FILE: Final = "device-ca-next.crt"
GONE_KEY_FILE: Final = "device-ca-gone.pem"
CA_LIFETIME: Final = timedelta(days=3650)
CLOCK_SLACK: Final = timedelta(minutes=5)
CRL_LIFE: Final = timedelta(days=30)
MAX_CSR_BYTES: Final = 8192


@dataclass(frozen=True)
class Issued:
    """A certificate just issued: PEM, CN, hex serial, SHA-256 of the public key (DER SPKI) and its life."""

    pem: bytes
    subject: str
    serial: str
    key_sha256: Sha256
    not_before: datetime
    not_after: datetime
    issuer: str = ""
    """SHA-256 of the CA's certificate (DER)."""


class Authority(Protocol):
    """The device CA, whether its key is in this process or in the signing process. Every method may raise a SigningError."""

    def create(self, now: datetime) -> None:
        """Make the CA key and its certificate."""

    def certificate_pem(self) -> bytes:
        """Return the CA certificate, PEM."""

    def certificate_sha256(self) -> Sha256:
        """Return the SHA-256 of the CA certificate in DER."""

    def view(self) -> AuthorityView:
        """Return what can be shown of the CA's certificate."""

    def next_pem(self) -> bytes | None:
        """Return the certificate (PEM) of the CA that is to follow, None when there is none."""

    def make_next(self, now: datetime) -> bytes:
        """Make the CA that is to follow, in the place of one that was made before; return its certificate, PEM."""

    def promote_next(self) -> bytes:
        """Let the CA that is to follow be the CA, and destroy the old key; return the certificate of the CA, PEM.

        Nothing to do is no error.
        """

    def drop_next(self) -> None:
        """Destroy the CA that is to follow. Nothing to do is no error."""

    def issue_client(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: str,
        now: datetime,
        life: timedelta,
        *,
        choice: CaChoice = USUAL_CA,
    ) -> Issued:
        """Return a clientAuth certificate for `public_key` with CN `subject`. choice: of which CA, and from when on."""

    def issue_server(
        self, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime, life: timedelta
    ) -> Issued:
        """Return a serverAuth certificate whose SANs are `hosts`."""

    def issue_crl(self, serials: Sequence[str], now: datetime) -> bytes:
        """Return the signed list of revoked certificates (PEM), one after another of each CA. serials: hex."""


class DeviceAuthority:
    """Issues certificates with the CA key of one key folder."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; the key is read at first use."""
        self._folder = folder
        self._loaded: tuple[_Stamp, _Pair] | None = None

    def create(self, now: datetime) -> None:
        """Make the CA key and its certificate. Raises KeysExistError."""
        key, cert = _new_ca(now)
        write_private(self._folder / CA_KEY_FILE, private_pem(key))
        write_private(self._folder / CA_CERT_FILE, _pem(cert), mode=0o644)

    def next_pem(self) -> bytes | None:
        """Return the certificate (PEM) of the CA that is to follow, None when there is none."""
        self._settle()
        return _pem(self._next()[1]) if (self._folder / NEXT_CERT_FILE).exists() else None

    def make_next(self, now: datetime) -> bytes:
        """Make the CA that is to follow; return its certificate, PEM. One that lies there is destroyed: somebody may have its key."""
        with folder_lock(self._folder):
            self._mend()
            self._drop()
            key, cert = _new_ca(now)
            replace_private(self._folder / NEXT_KEY_FILE, private_pem(key))
            replace_private(self._folder / NEXT_CERT_FILE, _pem(cert), mode=0o644)
        return _pem(cert)

    def promote_next(self) -> bytes:
        """Let the CA that is to follow be the CA, and destroy the old key. Return the certificate of the CA, PEM."""
        with folder_lock(self._folder):
            self._mend()
            if (self._folder / NEXT_CERT_FILE).exists():
                self._next()  # what does not belong together replaces nothing
                (self._folder / GONE_KEY_FILE).hardlink_to(self._folder / CA_KEY_FILE)
                (self._folder / NEXT_KEY_FILE).replace(self._folder / CA_KEY_FILE)
                sync_folder(self._folder)
                (self._folder / NEXT_CERT_FILE).replace(self._folder / CA_CERT_FILE)
                sync_folder(self._folder)
                destroy_files([self._folder / GONE_KEY_FILE])
        return self.certificate_pem()

    def drop_next(self) -> None:
        """Destroy the CA that is to follow. Nothing to do is no error."""
        with folder_lock(self._folder):
            self._mend()
            self._drop()

    def _drop(self) -> None:
        (self._folder / NEXT_CERT_FILE).unlink(missing_ok=True)
        destroy_files([self._folder / NEXT_KEY_FILE])
        sync_folder(self._folder)

    def _settle(self) -> None:
        """End what a power cut left half done. Cheap: each use of the CA asks."""
        halves = (self._folder / NEXT_KEY_FILE).exists(), (self._folder / NEXT_CERT_FILE).exists()
        if halves[0] is not halves[1] or (self._folder / GONE_KEY_FILE).exists():
            with folder_lock(self._folder):
                self._mend()

    def _mend(self) -> None:
        """Complete a promotion of which one half is done; drop a pair that lacks one half; destroy a key that was replaced."""
        key_file, cert_file = self._folder / NEXT_KEY_FILE, self._folder / NEXT_CERT_FILE
        own, gone = self._folder / CA_KEY_FILE, self._folder / GONE_KEY_FILE
        if cert_file.exists() and not key_file.exists() and _belong(own, cert_file):
            cert_file.replace(self._folder / CA_CERT_FILE)
            sync_folder(self._folder)
        elif key_file.exists() and not cert_file.exists() and _belong(key_file, self._folder / CA_CERT_FILE):
            if not gone.exists():
                gone.hardlink_to(own)
            key_file.replace(own)
            sync_folder(self._folder)
        elif cert_file.exists() is not key_file.exists():
            self._drop()
        if gone.exists() and gone.samefile(own):
            gone.unlink()
        else:
            destroy_files([gone])

    def certificate_pem(self) -> bytes:
        """Return the CA certificate, PEM."""
        return _pem(self._load()[1])

    def certificate_sha256(self) -> Sha256:
        """Return the SHA-256 of the CA certificate in DER: the fingerprint pinned in claim tokens."""
        return sha256_hex(self._load()[1].public_bytes(serialization.Encoding.DER))

    def view(self) -> AuthorityView:
        """Return what can be shown of the CA's certificate."""
        return view_of(self._load()[1])

    def issue_client(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: str,
        now: datetime,
        life: timedelta,
        *,
        choice: CaChoice = USUAL_CA,
    ) -> Issued:
        """Return a clientAuth certificate for `public_key` with CN `subject`. choice: of which CA, and from when on."""
        ca = self._next() if choice.by_next and self.next_pem() is not None else self._load()
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return _issue(ca, public_key, subject, _Span(now, life, choice.before_s), usage)

    def issue_server(
        self, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime, life: timedelta
    ) -> Issued:
        """Return a serverAuth certificate whose SANs are `hosts` (DNS names or IP addresses; at least one)."""
        sans = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return _issue(self._load(), public_key, hosts[0][:64], _Span(now, life), usage, sans)

    def issue_crl(self, serials: Sequence[str], now: datetime) -> bytes:
        """Return the signed list of revoked certificates (PEM), valid for CRL_LIFE, of each CA; all name the same. serials: hex.

        A broker that looks into such lists wants one of each CA that it trusts.
        """
        cas = [self._load(), *([self._next()] if self.next_pem() is not None else [])]
        begun = (now - CLOCK_SLACK).replace(microsecond=0)
        builder = x509.RevokedCertificateBuilder().revocation_date(begun)
        revoked = [builder.serial_number(int(serial, 16)).build() for serial in serials]
        return b"".join(  # all at once: adding one by one copies the list each time
            x509.CertificateRevocationListBuilder(revoked_certificates=revoked)
            .issuer_name(ca_cert.subject)
            .last_update(begun)
            .next_update(begun + CRL_LIFE)
            .sign(ca_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            for ca_key, ca_cert in cas
        )

    def _next(self) -> "_Pair":
        return _read_ca(self._folder / NEXT_KEY_FILE, self._folder / NEXT_CERT_FILE)

    def _load(self) -> "_Pair":
        self._settle()
        files = self._folder / CA_KEY_FILE, self._folder / CA_CERT_FILE
        stamp = _stamp_of(*files)  # the signing process of another server may have promoted the next CA
        if self._loaded is None or self._loaded[0] != stamp:
            self._loaded = (stamp, _read_ca(*files))
        return self._loaded[1]


_Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
_Stamp = tuple[tuple[int, int], ...]


def _stamp_of(*files: Path) -> _Stamp:
    return tuple((found.st_ino, found.st_mtime_ns) for found in (one.stat() for one in files if one.exists()))


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _new_ca(now: datetime) -> _Pair:
    key = new_p256_key()
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgefleet device CA {serial:x}"[:40])])
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), serial)
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, cert


class _Span(NamedTuple):
    now: datetime
    life: timedelta
    before_s: int = 0


def _issue(
    ca: _Pair,
    public_key: ec.EllipticCurvePublicKey,
    subject: str,
    span: _Span,
    usage: x509.ExtendedKeyUsage,
    sans: x509.SubjectAlternativeName | None = None,
) -> Issued:
    ca_key, ca_cert = ca
    serial = x509.random_serial_number()
    not_before = (span.now - CLOCK_SLACK).replace(microsecond=0)
    if span.before_s:
        not_before = min(not_before, datetime.fromtimestamp(span.before_s - 1, UTC))
    not_after = min((span.now + span.life).replace(microsecond=0), ca_cert.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder(
            ca_cert.subject, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]), public_key, serial
        )
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if sans is not None:
        builder = builder.add_extension(sans, critical=False)
    cert = builder.sign(ca_key, hashes.SHA256())
    return Issued(
        pem=_pem(cert),
        subject=subject,
        serial=f"{serial:x}",
        key_sha256=sha256_hex(public_der(public_key)),
        not_before=not_before,
        not_after=not_after,
        issuer=sha256_hex(ca_cert.public_bytes(serialization.Encoding.DER)),
    )


def _belong(key_file: Path, cert_file: Path) -> bool:
    try:
        _read_ca(key_file, cert_file)
    except (KeysMissingError, KeysUnreadableError):
        return False
    return True


def _read_ca(key_file: Path, cert_file: Path) -> _Pair:
    try:
        key_pem, cert_pem = key_file.read_bytes(), cert_file.read_bytes()
    except OSError as e:
        raise KeysMissingError(
            f"the device CA cannot be read from the key folder: {e.strerror}",
            next_step="run `edgectl server init` for a new server, or restore the key folder from its backup",
        ) from e
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        cert = x509.load_pem_x509_certificate(cert_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise KeysUnreadableError(
            f"the device CA files hold no usable key and certificate: {e}",
            next_step=f"restore {key_file.name} and {cert_file.name} from their backup",
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or cert.public_key() != key.public_key():
        raise KeysUnreadableError(
            f"{key_file.name} and {cert_file.name} do not belong together",
            next_step="restore both files from the same backup",
        )
    return key, cert


def view_of(certificate: x509.Certificate) -> AuthorityView:
    """Return what can be shown of a CA's certificate."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return AuthorityView(
        subject=str(names[0].value) if names else "",
        sha256=sha256_hex(certificate.public_bytes(serialization.Encoding.DER)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def checked_csr_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a CSR whose own signature is right; everything else in it is ignored.

    Raises BadCsrError.
    """
    hint = "Make a P-256 key on the device and send a PEM certificate request signed with it."
    if len(csr_pem) > MAX_CSR_BYTES:
        raise BadCsrError(
            f"the certificate request has {len(csr_pem)} bytes, more than {MAX_CSR_BYTES}", next_step=hint
        )
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        public_key = csr.public_key()
        is_signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise BadCsrError("the certificate request cannot be read", next_step=hint) from e
    if not is_signed:
        raise BadCsrError("the certificate request is not signed with its own key", next_step=hint)
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise BadCsrError("the certificate request holds a key that is not ECDSA P-256", next_step=hint)
    return public_key


def new_p256_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 private key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Return the key as PEM SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def public_key_sha256(pem: str) -> Sha256:
    """Return the SHA-256 (DER SPKI) of a public key in PEM."""
    key = serialization.load_pem_public_key(pem.encode())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256_hex(key.public_bytes(serialization.Encoding.DER, form))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
