"""Enrolment: claim token in, identity out. Its own short process, so that `cryptography` never burdens the running agent.

1. The token pins the CA certificate (sha256 of its DER) and `root.json` (sha256 of its bytes). Nothing else is trusted.
2. The CA is fetched without verification, compared with the pin, and only then is TLS verified against it; nothing but that
   public certificate is asked for before.
3. The key is made here and written (0600) before it is used: a lost answer is asked for again with the same key, and the
   server then gives the same device and takes no further use of the token.
4. The identity folder is complete or absent: made next to it, fsynced, renamed.
5. Where an operator has to approve the device (202), it asks again with that same key until it is let in, rejected, or was not
   decided about in time. Until then a server that is away is waited for. Killed and started again it goes on.
Source: docs/how-to/enrol-a-device.md, ADR 0053.
"""

import json
import secrets
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import encode_record, fsync_dir, write_file
from edgefleet_agent.enrolment.folder_guard import look, refusal
from edgefleet_agent.enrolment.key_move import move_keys
from edgefleet_agent.enrolment.server_api import (
    Answer,
    ask,
    cert_life_s,
    cert_serial,
    kept_key,
    kept_model_key,
    key_fingerprint,
    make_csr,
    problem_of,
    verifying_context,
)
from edgefleet_agent.errors import (
    AlreadyEnrolledError,
    ClaimTokenError,
    EnrollRefusedError,
    EnrollRejectedError,
    FolderRefusedError,
    PinMismatchError,
    ServerUnreachableError,
)
from edgefleet_agent.identity.store import CA_FILE, CERT_FILE, KEY_FILE, RECORD_FILE, ROOT_FILE, Identity
from edgefleet_agent.paths import STATE_NAMES, StatePaths, default_state
from edgefleet_agent.reporting.device_facts import facts, key_storage
from edgefleet_protocol.claim import CLAIM_PREFIX, ClaimToken, decode_claim
from edgefleet_protocol.digest import parse_sha256, sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_device_id, parse_tenant

PENDING_KEY = "pending-key.pem"
MAX_RETRY_S = 300


class ServerAnswer(msgspec.Struct, frozen=True):
    """What a device that waits is answered. retry_s: when to ask again."""

    retry_s: float = 10.0


def parse_claim_token(text: str) -> ClaimToken:
    """Return what the token says. Raises ClaimTokenError."""
    body = text.strip()
    if not body.startswith(CLAIM_PREFIX):
        raise ClaimTokenError(f"a claim token begins with {CLAIM_PREFIX}, this text with {body[:8]!r}")
    try:
        token = decode_claim(body)
        parse_sha256(token.ca)
        parse_sha256(token.root)
        host = urlsplit(token.url)
    except (ValueError, EdgefleetError) as error:
        raise ClaimTokenError("the claim token is damaged: it does not hold what one must hold") from error
    if host.scheme != "https" or not host.hostname:
        raise ClaimTokenError(f"the claim token names {token.url[:100]!r}, which is not an https address")
    return token


def enroll(
    token_text: str,
    state: Path,
    *,
    profile: str | None = None,
    name: str = "",
    waits: Callable[[str], object] = str,
    tpm: bool = False,
) -> Identity:
    """Make this machine a device of the token's server and return its identity. Blocks on network, disk and people.

    profile: sent as a request among the facts; the server decides. name: for people; a name in the token goes before it.
    waits: called with the key's fingerprint when an operator has to approve it first. tpm: keys are wrapped by the TPM before they
    touch the disk. Raises ClaimTokenError, AlreadyEnrolledError, FolderRefusedError, ServerUnreachableError, PinMismatchError,
    EnrollRefusedError, EnrollRejectedError, TpmError, OSError.
    """
    token = parse_claim_token(token_text)
    paths = StatePaths(state)
    if paths.identity.exists():
        raise AlreadyEnrolledError(f"{state} already belongs to a device")
    _check_folder(state)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if tpm:
        move_keys(state)
    ca_pem = pinned_ca(token)
    key = kept_key(paths.root / PENDING_KEY)  # of an enrolment that was begun here before
    nonce = secrets.token_hex(16)
    stated = facts() | {
        "model_key": kept_model_key(paths.model_key),
        "key_storage": key_storage(paths.root / PENDING_KEY),
        "names_requests": True,
    }
    stated |= ({"wanted_profile": profile} if profile else {}) | ({"display_name": name} if name else {})
    body = {"token": token_text.strip(), "csr": make_csr(key), "facts": stated, "nonce": nonce}
    answer = _ask(token, ca_pem, body, lambda: waits(key_fingerprint(key)))
    if answer.nonce != nonce:
        raise PinMismatchError("the server's answer is not to this request: its nonce differs")
    root = _pinned_root(token, answer)
    identity = _identity(answer, token)
    _store(paths, identity, answer.cert, ca_pem, root)
    return identity


def _check_folder(state: Path) -> None:
    found = refusal(look(state, STATE_NAMES), STATE_NAMES, "--state", default_state())
    if found is not None:
        raise FolderRefusedError(f"{found.what}; {found.why}", next_step=found.next_step)


def pinned_ca(token: ClaimToken) -> str:
    """Return the CA certificate (PEM) that a token pins. Raises PinMismatchError, EnrollRefusedError, ServerUnreachableError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only a public certificate is read, and compared with the pin below
    status, data = ask(token.url, context, "GET", "/device/v1/ca")
    if status != 200:
        raise EnrollRefusedError(
            f"{token.url} answered {status} when asked for its CA certificate",
            next_step="check that the address in the claim token is the device listener of an edgefleet server",
        )
    try:
        pem = data.decode("ascii")
        der = ssl.PEM_cert_to_DER_cert(pem)
    except (UnicodeDecodeError, ValueError) as error:
        raise PinMismatchError(f"{token.url} did not send a certificate") from error
    if sha256_hex(der) != token.ca:
        raise PinMismatchError(f"{token.url} shows another CA certificate than the one pinned in the claim token")
    return pem


def _ask(token: ClaimToken, ca_pem: str, body: dict[str, Any], waits: Callable[[], object]) -> Answer:
    context = verifying_context(ca_pem)
    while True:
        try:
            status, data = ask(token.url, context, "POST", "/device/v1/enroll", json.dumps(body).encode())
        except ServerUnreachableError:
            if "waiting" not in body:
                raise
            status, data = 503, b"{}"
        if status == 202 and "waiting" not in body:
            body["waiting"] = True
            waits()
        elif status != 202 and (status < 500 or "waiting" not in body):
            break
        time.sleep(_retry_s(data))
    if status != 200:
        raise _refusal(status, data)
    try:
        return msgspec.json.decode(data, type=Answer)
    except msgspec.MsgspecError as error:
        raise EnrollRefusedError(
            f"the server's answer cannot be read: {error}", next_step="update the agent or the server"
        ) from error


def _retry_s(data: bytes) -> float:
    try:
        answer = msgspec.json.decode(data, type=ServerAnswer)
    except msgspec.MsgspecError:
        answer = ServerAnswer()
    return min(max(answer.retry_s, 1.0), MAX_RETRY_S)


def _refusal(status: int, data: bytes) -> EnrollRefusedError:
    detail, next_step = problem_of(status, data)
    if status == 403:
        return EnrollRejectedError(f"not let in: {detail}")
    return EnrollRefusedError(
        f"the server refused the enrolment: {detail}",
        next_step=next_step or "ask the operator for a new claim token: edgectl device enroll",
    )


def _pinned_root(token: ClaimToken, answer: Answer) -> bytes:
    """Return the bytes of the pinned root. The chain's documents are JSON values; their signed file is the compact, sorted form."""
    for document in answer.root_chain:
        data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        if sha256_hex(data) == token.root:
            return data
    raise PinMismatchError("the server's root.json is not the one pinned in the claim token")


def _identity(answer: Answer, token: ClaimToken) -> Identity:
    if answer.broker is None:
        raise EnrollRefusedError(
            "the server has no running broker, so it could not say where to connect",
            next_step="start the server with its gateway, then run the same command again",
        )
    try:
        cert_from_s, cert_until_s = cert_life_s(answer.cert.encode())
    except ValueError as error:
        raise EnrollRefusedError("the server's answer holds no certificate", next_step="update the server") from error
    return Identity(
        device=parse_device_id(answer.device_id),
        tenant=parse_tenant(answer.tenant),
        profile=answer.profile,
        broker_host=answer.broker.host,
        broker_port=answer.broker.port,
        mqtt=answer.broker.mqtt,
        url=answer.url or token.url,
        enrolled_at=SystemClock().now().isoformat(timespec="seconds"),
        server_id=answer.server_id,
        cert_from_s=cert_from_s,
        cert_until_s=cert_until_s,
        display_name=answer.display_name,
        cert_serial=cert_serial(answer.cert.encode()),
    )


def _store(paths: StatePaths, identity: Identity, cert: str, ca_pem: str, root: bytes) -> None:
    folder = paths.root / ".identity.new"
    folder.mkdir(mode=0o700, exist_ok=True)
    pending = paths.root / PENDING_KEY
    write_file(folder / KEY_FILE, pending.read_bytes(), mode=0o600)
    write_file(folder / CERT_FILE, cert.encode(), mode=0o644)
    write_file(folder / CA_FILE, ca_pem.encode(), mode=0o644)
    write_file(folder / ROOT_FILE, root, mode=0o444)
    write_file(folder / RECORD_FILE, encode_record(identity), mode=0o644)
    folder.rename(paths.identity)
    fsync_dir(paths.root)
    pending.unlink()
