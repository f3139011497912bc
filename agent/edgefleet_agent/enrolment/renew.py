"""Renewal of the identity: a new key and a certificate for it, put next to the old ones. Its own short process, never in agentd.

1. The old key signs a short ES256 token; the server gives a certificate for the new key and honours both until the new is used.
2. One new key until it has connected: it is on the disk (0600) before it is used, so that after a lost answer, or when the
   certificate in `next/` was never tried, the same key is asked for again and the server never waits for a key that is gone.
3. What comes back is believed only for this nonce, this device, this key, and when the pinned CA signed it.
4. `next/` is complete or absent: made next to it, fsynced, renamed. agentd takes over when it has connected with it.
`python -m edgefleet_agent.enrolment.renew --state DIR [--if-due] [--hear]`: exit 0 renewed or not due, 1 failed (reason on stderr).
Source: docs/operate/device.md, "Certificates".
"""

import argparse
import base64
import json
import logging
import secrets
import ssl
import sys
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import encode_record, fsync_dir, write_file, write_record
from edgefleet_agent.core.logs import set_up_logging
from edgefleet_agent.enrolment.server_api import (
    Answer,
    ask,
    cert_life_s,
    kept_key,
    kept_model_key,
    key_pem,
    load_key,
    make_csr,
    problem_of,
    verifying_context,
)
from edgefleet_agent.errors import (
    IdentityBusyError,
    PinMismatchError,
    RenewRefusedError,
    ServerUnreachableError,
    StateFileError,
)
from edgefleet_agent.identity.place_follower import due_s, load_announced
from edgefleet_agent.identity.renewal_timer import BUSY
from edgefleet_agent.identity.store import (
    CA_FILE,
    CERT_FILE,
    KEY_FILE,
    RECORD_FILE,
    Identity,
    load_identity,
)
from edgefleet_agent.identity.takeover import NEXT_FOLDER, finish_take_over, identity_lock, remove_flat
from edgefleet_agent.identity.tpm_secret import secret_of
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.device_facts import key_storage
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError

PENDING_KEY = "renewal-key.pem"
TOKEN_LIFE_S = 240
_FIELD_BYTES = 32

log = logging.getLogger(__name__)


def renew(state: Path, clock: Clock, *, if_due: bool = False, hears: bool = False) -> Identity | None:
    """Put a renewed identity next to the one in `state` and return it; None when `if_due` and it is not yet time.

    hears: ask first what is announced, of a server that the known CAs may not vouch for.

    Blocks on network and disk. Raises NotEnrolledError, IdentityBusyError, ServerUnreachableError, PinMismatchError,
    RenewRefusedError, StateFileError, OSError.
    """
    folder = StatePaths(state).identity
    identity = load_identity(folder)
    with identity_lock(folder):
        if finish_take_over(folder):
            identity = load_identity(folder)
        identity = _with_life(folder, identity)
        if hears:
            _hear(state, identity, clock)
        announced = load_announced(folder)
        if if_due and clock.now().timestamp() < due_s(identity, announced):
            return None
        old_key = _key_of(folder)
        # of a renewal that has not connected yet
        new_key = kept_key(folder / NEXT_FOLDER / KEY_FILE, folder / PENDING_KEY)
        nonce = secrets.token_hex(16)
        csr = make_csr(new_key)
        asked: dict[str, object] = {
            "csr": csr,
            "model_key": kept_model_key(StatePaths(state).model_key),
            "nonce": nonce,
            "key_storage": key_storage(folder / KEY_FILE),
        }
        if announced is not None:
            asked["place"] = announced.number
        body = json.dumps(asked).encode()
        token = device_token(identity, old_key, clock, csr=csr)
        answer = _answer(*_ask(folder, identity, token, "POST", "/device/v1/renew", body))
        if answer.nonce != nonce:
            raise RenewRefusedError("the server's answer is not to this request: its nonce differs")
        renewed = _checked(identity, answer, new_key, _trusted(folder))
        _store(folder, renewed, new_key, answer.cert, (folder / CA_FILE).read_text("ascii"))
    log.info("identity renewed", extra={"device": identity.device, "until_s": renewed.cert_until_s})
    return renewed


def ask_as_device(folder: Path, clock: Clock, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request to the device listener with a token of the device in `folder`; return status and body.

    Raises as `server_api.ask`, and NotEnrolledError, StateFileError, OSError.
    """
    identity = load_identity(folder)
    return _ask(folder, identity, device_token(identity, _key_of(folder), clock), method, path, body)


def _key_of(folder: Path) -> ec.EllipticCurvePrivateKey:
    key = load_key(folder / KEY_FILE)
    if key is None:
        raise StateFileError(f"{folder / KEY_FILE} holds no P-256 key", next_step="enrol the device again")
    return key


def _hear(state: Path, identity: Identity, clock: Clock) -> None:
    """Write what the repository announces. Who answers may be anybody: only signatures count, and the token is good for metadata only."""
    from edgefleet_agent.verifier.documents import Documents  # TUF takes long to load

    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    key = _key_of(StatePaths(state).identity)

    def source(name: str, _most: int) -> bytes | None:
        token = device_token(identity, key, clock, "/tuf")
        status, data = ask(identity.url, anybody, "GET", f"/device/v1/tuf/{name}", bearer=token)
        return data if status == 200 else None

    Documents(Task("hold", str(state), identity.device), source, clock).hear()


def device_token(
    identity: Identity, key: ec.EllipticCurvePrivateKey, clock: Clock, scope: str = "", csr: str = ""
) -> str:
    """Return an ES256 JWT of this device for one request to the device listener. csr: the only one that it gets a certificate for."""
    claims = {
        "sub": identity.device,
        "aud": identity.server_id + scope,
        "exp": int(clock.now().timestamp()) + TOKEN_LIFE_S,
        "jti": secrets.token_hex(16),
    }
    if csr:
        claims["csr"] = sha256_hex(csr.encode())
    head = _base64url(json.dumps({"alg": "ES256", "typ": "JWT"}).encode())
    body = _base64url(json.dumps(claims).encode())
    r, s = decode_dss_signature(key.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
    return f"{head}.{body}.{_base64url(r.to_bytes(_FIELD_BYTES, 'big') + s.to_bytes(_FIELD_BYTES, 'big'))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _with_life(folder: Path, identity: Identity) -> Identity:
    """Return the identity with the life of its certificate, noted on the disk when an older agent did not."""
    if identity.cert_until_s:
        return identity
    try:
        cert_from_s, cert_until_s = cert_life_s((folder / CERT_FILE).read_bytes())
    except ValueError as error:
        raise StateFileError(
            f"{folder / CERT_FILE} holds no certificate", next_step="enrol the device again"
        ) from error
    known = msgspec.structs.replace(identity, cert_from_s=cert_from_s, cert_until_s=cert_until_s)
    write_record(folder / RECORD_FILE, known)
    return known


def _trusted(folder: Path) -> list[str]:
    """Return the CAs of the place in use, and those that are announced."""
    announced = load_announced(folder)
    return [(folder / CA_FILE).read_text("ascii"), *(announced.cas if announced is not None else ())]


def _ask(folder: Path, identity: Identity, token: str, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    """Ask the place in use, then those announced. Raises as `ask` does."""
    announced = load_announced(folder)
    urls = [identity.url, *(place.url for place in announced.places)] if announced is not None else [identity.url]
    context = verifying_context("".join(_trusted(folder)))
    *others, last = dict.fromkeys(urls)
    for url in others:
        try:
            return ask(url, context, method, path, body, token)
        except (PinMismatchError, ServerUnreachableError) as error:
            log.warning("another place is asked", extra={"reason": str(error)})
    return ask(last, context, method, path, body, token)


def _answer(status: int, data: bytes) -> Answer:
    if status != 200:
        detail, next_step = problem_of(status, data)
        raise RenewRefusedError(f"the server refused the renewal: {detail}", next_step=next_step)
    try:
        return msgspec.json.decode(data, type=Answer)
    except msgspec.MsgspecError as error:
        raise RenewRefusedError(f"the server's answer cannot be read: {error}") from error


def _checked(identity: Identity, answer: Answer, key: ec.EllipticCurvePrivateKey, cas: list[str]) -> Identity:
    """Return the renewed identity after a look at what came. Raises RenewRefusedError."""
    try:
        cert = x509.load_pem_x509_certificate(answer.cert.encode())
        issuers = x509.load_pem_x509_certificates("".join(cas).encode())
        if not any(_is_from(cert, one) for one in issuers):
            raise InvalidSignature
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RenewRefusedError("the pinned CA did not sign the certificate in the server's answer") from error
    names = [name.value for name in cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if cert.public_key() != key.public_key() or names != [identity.device] or answer.device_id != identity.device:
        raise RenewRefusedError("the certificate in the server's answer is for another key or device")
    broker = answer.broker if not identity.place else None  # what was announced is signed
    return msgspec.structs.replace(
        identity,
        broker_host=broker.host if broker is not None else identity.broker_host,
        broker_port=broker.port if broker is not None else identity.broker_port,
        mqtt=broker.mqtt if broker is not None else identity.mqtt,
        profile=answer.profile,
        display_name=answer.display_name,
        cert_from_s=int(cert.not_valid_before_utc.timestamp()),
        cert_until_s=int(cert.not_valid_after_utc.timestamp()),
        cert_serial=f"{cert.serial_number:x}",
    )


def _is_from(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _store(folder: Path, identity: Identity, key: ec.EllipticCurvePrivateKey, cert: str, ca_pem: str) -> None:
    new, pem = folder / f".{NEXT_FOLDER}.new", key_pem(key, secret_of(folder))
    remove_flat(new)
    new.mkdir(mode=0o700)
    write_file(new / KEY_FILE, pem, mode=0o600)
    write_file(new / CERT_FILE, cert.encode(), mode=0o644)
    write_file(new / CA_FILE, ca_pem.encode(), mode=0o644)
    write_file(new / RECORD_FILE, encode_record(identity), mode=0o644)
    if (folder / NEXT_FOLDER).exists():
        # never tried, and the new one has the same key
        write_file(folder / PENDING_KEY, pem, mode=0o600)
        remove_flat(folder / NEXT_FOLDER)
    new.rename(folder / NEXT_FOLDER)
    fsync_dir(folder)
    (folder / PENDING_KEY).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one renewal. Returns the exit status."""
    parser = argparse.ArgumentParser("edgefleet_agent.enrolment.renew")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--if-due", action="store_true")
    parser.add_argument("--hear", action="store_true")
    args = parser.parse_args(arguments)
    set_up_logging("INFO", "renew")
    try:
        renew(args.state, SystemClock(), if_due=args.if_due, hears=args.hear)
    except (EdgefleetError, OSError) as error:
        code = error.code if isinstance(error, EdgefleetError) else "agent.disk"
        log.warning("identity not renewed", extra={"code": code, "reason": str(error)})
        return BUSY if isinstance(error, IdentityBusyError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
