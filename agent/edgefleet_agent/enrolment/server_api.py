"""The device listener as `enroll` and `renew` ask it: HTTPS with the server's own CA, one short request, one answer.

Never imported by agentd: with `http.client` and `cryptography` it would cost what the short process is there to save.
"""

import http.client
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgefleet_agent.core.durable import write_file
from edgefleet_agent.enrolment.wrapped_key import opened, wrapped
from edgefleet_agent.errors import EnrollRefusedError, PinMismatchError, ServerUnreachableError
from edgefleet_agent.identity.tpm_secret import model_secret, passphrase, secret_of
from edgefleet_protocol.claim import fingerprint
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.hpke import SealedError, new_key, public_of

MAX_ANSWER_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 20.0


class Broker(msgspec.Struct, frozen=True):
    """Where the broker is; mqtt: "5" or "3.1.1"."""

    host: str
    port: int
    mqtt: str = "5"


class Answer(msgspec.Struct, frozen=True):
    """The answer to an enrolment or a renewal. cert, ca: PEM. root_chain: root documents as JSON values."""

    device_id: str
    tenant: str
    cert: str
    ca: str
    root_chain: list[dict[str, Any]]
    profile: str
    broker: Broker | None
    url: str
    server_id: str = ""
    nonce: str = ""
    display_name: str = ""


def verifying_context(ca_pem: str) -> ssl.SSLContext:
    """Return a TLS context that trusts this CA and nothing else. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    return context


def ask(
    url: str,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    bearer: str = "",
) -> tuple[int, bytes]:
    """Send one request to the listener at `url` and return status and body.

    Raises PinMismatchError, ServerUnreachableError, EnrollRefusedError (answer too large). Blocks at most TIMEOUT_S a read.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    connection = http.client.HTTPSConnection(address.hostname, address.port or 443, timeout=TIMEOUT_S, context=context)
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, address.path.rstrip("/") + path, body=body, headers=headers)
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
    except ssl.SSLCertVerificationError as error:
        raise PinMismatchError(
            f"{url} shows a certificate that the pinned CA did not sign: {error.verify_message}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnreachableError(f"{url} does not answer: {error}") from error
    finally:
        connection.close()
    if len(data) > MAX_ANSWER_BYTES:
        raise EnrollRefusedError(f"the server's answer is larger than {MAX_ANSWER_BYTES} bytes")
    return response.status, data


def problem_of(status: int, data: bytes) -> tuple[str, str]:
    """Return what a refusing answer says, and what to do next ("" when it does not say)."""
    try:
        problem = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    return str(problem.get("detail") or f"status {status}"), str(problem.get("next") or "")


def key_pem(key: ec.EllipticCurvePrivateKey, secret: bytes) -> bytes:
    """Return a private key as it lies on the disk. secret: of `tpm_secret`, b"" for a plain file."""
    plain = serialization.NoEncryption()
    form = serialization.BestAvailableEncryption(secret.hex().encode()) if secret else plain
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form)


def kept_key(*files: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in the first of these files that holds one, else a new one, on the disk (0600, the last file) by now.

    Raises as `tpm_secret.secret_of` does.
    """
    for file in files:
        with suppress(FileNotFoundError):
            kept = load_key(file)
            if kept is not None:
                return kept
    key = ec.generate_private_key(ec.SECP256R1())
    write_file(files[-1], key_pem(key, secret_of(files[-1].parent)), mode=0o600)
    return key


def kept_model_key(file: Path) -> str:
    """Return the public part (hex) of the key in `file`, a new one where it holds none: keys of sealed bundles come sealed to it.

    Raises as `tpm_secret.secret_of` does.
    """
    wrapping = model_secret(file.parent)
    try:
        key = opened(file.read_bytes(), wrapping)
    except (OSError, SealedError):
        key = new_key()[0]
        write_file(file, wrapped(key, wrapping), mode=0o600)
    return public_of(key).hex()


def load_key(file: Path) -> ec.EllipticCurvePrivateKey | None:
    """Return the P-256 key in `file`, None when it holds none. Raises OSError, and as `tpm_secret.passphrase` does."""
    pem = file.read_bytes()
    password = passphrase(file.parent) if b"ENCRYPTED" in pem else None
    try:
        loaded = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError):
        return None
    return loaded if isinstance(loaded, ec.EllipticCurvePrivateKey) else None


def key_fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    """Return what people compare of a key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return fingerprint(sha256_hex(key.public_key().public_bytes(serialization.Encoding.DER, form)))


def make_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a certificate request (PEM) that proves possession of `key`; its subject means nothing to the server."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgefleet device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def cert_serial(pem: bytes) -> str:
    """Return the serial of a certificate, lower-case hex. Raises ValueError when it is none."""
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def cert_life_s(pem: bytes) -> tuple[int, int]:
    """Return from and until of a certificate, unix seconds. Raises ValueError when it is none."""
    cert = x509.load_pem_x509_certificate(pem)
    return int(cert.not_valid_before_utc.timestamp()), int(cert.not_valid_after_utc.timestamp())
