"""Claim tokens and enrolment: how a machine becomes a device.

Rules:
- A claim's secret has 256 bits; only its SHA-256 is stored; it is compared in constant time.
- One use is taken atomically; the same key asking again with the same claim gets the same device and costs no use.
- The id is the server's choice, never the device's. The CSR's subject is not even looked at.
- The profile comes from the claim, else the most specific one that fits the facts.
- A device that may be a suspect one under a new id begins as suspect: only a person clears it.
- With a claim that asks for approval nothing of this happens until an operator lets the key in (`pending`, `approval`).
Source: docs/how-to/enrol-a-device.md; docs/operate/security.md.
"""

import base64
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from sqlmodel import Session

from edgefleet_profiles import most_specific
from edgefleet_protocol.claim import ClaimToken, decode_claim, encode_claim
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_protocol.errors import BadIdError, BadMessageError, EdgefleetError
from edgefleet_protocol.ids import DeviceId, ProfileName, parse_device_id, parse_profile_name
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.display_name import check_name, numbered, readable
from edgefleet_server.fleet.enrolment import store as enrolment_store
from edgefleet_server.fleet.enrolment.model import (
    NO_KEYS,
    BrokerAddress,
    ClaimOrder,
    ClaimView,
    DeviceIdentity,
    DeviceKeys,
    NewClaim,
)
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError, PendingEnrolments, Waiting
from edgefleet_server.fleet.errors import (
    BadClaimError,
    BadDeviceTokenError,
    BadFactsError,
    ClaimExpiredError,
    ClaimUnknownError,
    ClaimUsedUpError,
    DeviceRevokedError,
    NoProfileError,
)
from edgefleet_server.fleet.protection import store as protection_store
from edgefleet_server.fleet.readmission.service import ReadmissionBook
from edgefleet_server.fleet.reported.suspicion import Suspicion
from edgefleet_server.fleet.selectors.grammar import check_labels
from edgefleet_server.fleet.tables import FleetClaim, FleetDevice, FleetEnrolment, FleetPending
from edgefleet_server.signing.authority import public_key_sha256
from edgefleet_server.signing.service import SigningService

MAX_TOKEN_CHARS: Final = 2048
MAX_FACTS_BYTES: Final = 16 * 1024
ID_BYTES: Final = 10
EXTERNAL_PORT: Final = 8883
_ASK_AGAIN: Final = "ask an operator for a new one: edgectl device enroll"


class RuntimeFact(msgspec.Struct, frozen=True):
    """A runtime installed on the device."""

    name: str
    version: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What a device says of itself when it enrols. ram_mb: 0 = unknown. Unknown keys are ignored.

    model_key: X25519 public key, hex, that keys of sealed bundles come to it with; "": its agent opens no sealed models.
    key_storage: where its private keys are, by its own word: wrapped by the TPM of its board, or in files; "": its agent does not say.
    names_requests: the token of each renewal names its certificate request (ADR 0133), so one that does not is not the device's.
    """

    arch: str
    board: str = ""
    ram_mb: int = 0
    runtimes: list[RuntimeFact] = []
    python: str = ""
    glibc: str = ""
    agent_version: str = ""
    hostname: str = ""
    display_name: str = ""
    model_key: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    key_storage: Literal["", "file", "tpm"] = ""
    names_requests: bool = False


@dataclass(frozen=True)
class NewDevice:
    """What enrolment made: id, certificate (PEM), profile, and the root that the claim pins."""

    id: DeviceId
    cert: str
    profile: ProfileName
    pinned_root: Sha256


def parse_claim_token(text: str) -> tuple[str, str]:
    """Return claim id and secret. Raises BadClaimError."""
    try:
        if len(text) > MAX_TOKEN_CHARS:
            raise BadMessageError("longer than any claim token")
        token = decode_claim(text)
    except BadMessageError as e:
        raise BadClaimError("this is not a claim token", next_step=_ASK_AGAIN) from e
    return token.id, token.secret


def parse_facts(raw: Mapping[str, Any]) -> Facts:
    """Return the facts of an enrolment. Raises BadFactsError naming the field."""
    try:
        facts = msgspec.convert(dict(raw), Facts, strict=True)
    except msgspec.ValidationError as e:
        raise BadFactsError(
            f"the facts of this enrolment cannot be used: {e}", next_step="update the agent on the device"
        ) from e
    if len(json.dumps(msgspec.to_builtins(facts))) > MAX_FACTS_BYTES:
        raise BadFactsError(f"the facts of this enrolment exceed {MAX_FACTS_BYTES} bytes")
    return facts


class Enroller:
    """Makes claims and turns them into devices."""

    def __init__(
        self,
        db: Database,
        signing: SigningService,
        feed: EventLog,
        desired: DesiredBook,
        waiting: PendingEnrolments,
        suspicion: Suspicion,
        clock: Clock,
    ) -> None:
        """Wire the parts."""
        self._suspicion = suspicion
        self._db = db
        self._signing = signing
        self._feed = feed
        self._desired = desired
        self._waiting = waiting
        self._clock = clock

    def create_claims(self, order: ClaimOrder, *, url: str, created_by: str) -> list[NewClaim]:
        """Make claim tokens for the device listener at `url`. Raises BadLabelError, BadDisplayNameError, BadIdError."""
        checked = check_labels(order.labels)
        name = "" if not order.display_name else check_name(order.display_name)
        if order.name_prefix is not None:
            _check_prefix(order.name_prefix)
        now = self._clock.now()
        ca, root = self._signing.ca_sha256(), self._signing.root_sha256()
        made: list[NewClaim] = []
        with self._db.session() as session:
            for number in range(1, order.count + 1):
                claim_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
                session.add(
                    FleetClaim(
                        id=claim_id,
                        secret_sha256=sha256_hex(secret.encode()),
                        root_sha256=root,
                        uses=order.uses,
                        uses_left=order.uses,
                        expires_at=now + order.ttl,
                        profile=order.profile,
                        labels=checked,
                        name_prefix=order.name_prefix,
                        created_at=now,
                        created_by=created_by,
                        approval=order.approval,
                        display_name=numbered(name, number, order.count),
                    )
                )
                token = encode_claim(ClaimToken(url=url, id=claim_id, secret=secret, ca=ca, root=root))
                made.append(NewClaim(claim_id, token, now + order.ttl, order.approval))
        return made

    def claim_of(self, token: str) -> str:
        """Return the id of the claim that a token names, "" when it is none."""
        try:
            return parse_claim_token(token)[0]
        except BadClaimError:
            return ""

    def claims_in_force(self) -> Sequence[str]:
        """Return the ids of the claims that have not expired."""
        with self._db.read() as session:
            return enrolment_store.claims_in_force(session, self._clock.now())

    def claims(self, after: str | None, limit: int) -> tuple[list[ClaimView], int]:
        """Return up to `limit` claims after an id, and how many there are."""
        with self._db.read() as session:
            rows, total = enrolment_store.claims_page(session, after, limit)
            return self._claim_views(session, rows), total

    def claim(self, claim_id: str) -> ClaimView:
        """Return one claim. Raises ClaimUnknownError."""
        with self._db.read() as session:
            return self._claim_views(session, [_known(session, claim_id)])[0]

    def _claim_views(self, session: Session, rows: Sequence[FleetClaim]) -> list[ClaimView]:
        ids = [row.id for row in rows]
        devices = enrolment_store.devices_of_claims(session, ids)
        waiting = enrolment_store.count_waiting(session, ids, self._clock.now())
        return [
            ClaimView(
                id=row.id,
                uses=row.uses,
                uses_left=row.uses_left,
                expires_at=row.expires_at,
                created_at=row.created_at,
                created_by=row.created_by,
                profile=row.profile,
                labels=row.labels,
                devices=devices.get(row.id, []),
                approval=row.approval,
                pending=waiting.get(row.id, 0),
                display_name=row.display_name,
            )
            for row in rows
        ]

    def revoke_claim(self, claim_id: str) -> None:
        """Let no device enrol with a claim any more; the wait of keys with it ends. Raises ClaimUnknownError."""
        with self._db.session() as session:
            claim, now = _known(session, claim_id, lock=True), self._clock.now()
            claim.expires_at = min(claim.expires_at, now)
            enrolment_store.end_waiting(session, claim_id, now)

    def enroll(
        self, token: str, csr_pem: bytes, raw_facts: Mapping[str, Any], *, is_waiting: bool = False
    ) -> NewDevice:
        """Turn a claim and a CSR into a device with an empty desired document. is_waiting: the device believes to wait already.

        Raises ApprovalPendingError while an operator has to approve it, BadClaimError, ClaimExpiredError, ClaimUsedUpError,
        BadCsrError, BadFactsError, NoProfileError, DeviceRevokedError, KeyRejectedError, ApprovalExpiredError,
        TooManyPendingError.
        """
        claim_id, secret = parse_claim_token(token)
        key_sha256 = self._signing.check_csr(csr_pem)
        facts = parse_facts(raw_facts)
        with self._db.read() as session:  # who polls must not queue for the write lock
            claim = self._checked_claim(session, claim_id, secret)
            waits = self._waiting.peek(session, claim, key_sha256) if claim.approval else None
        if waits is None:
            with self._db.session() as session:
                claim = self._checked_claim(session, claim_id, secret)
                made = self._admitted(session, claim, csr_pem, key_sha256, facts, is_waiting=is_waiting)
            if isinstance(made, NewDevice):
                return made
            waits = made
        raise ApprovalPendingError(waits)

    def let_in(self, session: Session, row: FleetPending) -> DeviceId:
        """Make a device of a key that waited, in the caller's transaction. Raises ClaimUsedUpError."""
        claim = session.get(FleetClaim, row.claim_id)
        assert claim is not None, "claims are never deleted"
        self._take_use(session, claim)
        facts, key = msgspec.convert(row.facts, Facts), Sha256(row.key_sha256)
        return self._new_device(session, claim, row.csr.encode(), key, facts, ProfileName(row.profile)).id

    def _admitted(
        self, session: Session, claim: FleetClaim, csr_pem: bytes, key_sha256: Sha256, facts: Facts, *, is_waiting: bool
    ) -> NewDevice | Waiting:
        if claim.approval:
            enrolment_store.lock_claim(session, claim.id)
        again = session.get(FleetEnrolment, (claim.id, key_sha256))
        if again is None and claim.approval:  # a key that was let in has its device, with whatever claim it asks now
            again = enrolment_store.let_in_before(session, key_sha256)
        if again is not None:
            return self._repeated(session, claim, again)
        waits = self._waiting.find(session, claim, key_sha256, is_waiting=is_waiting)
        if waits is not None:
            return waits
        if claim.expires_at <= self._clock.now():
            raise ClaimExpiredError(
                f"this claim token expired at {claim.expires_at.isoformat(timespec='seconds')}", next_step=_ASK_AGAIN
            )
        plain: dict[str, Any] = msgspec.to_builtins(facts)
        profile = ProfileName(claim.profile) if claim.profile else _most_specific_profile(plain)
        if claim.approval and claim.uses_left > 0:
            return self._waiting.add(session, claim, key_sha256, csr_pem.decode(), plain, profile)
        self._take_use(session, claim)
        made = self._new_device(session, claim, csr_pem, key_sha256, facts, profile)
        self._waiting.settle(session, claim, key_sha256, made.id)
        return made

    @staticmethod
    def _take_use(session: Session, claim: FleetClaim) -> None:
        if not enrolment_store.claim_use(session, claim.id):
            raise ClaimUsedUpError(
                f"this claim token was used {claim.uses} of {claim.uses} times", next_step=_ASK_AGAIN
            )

    def renew(
        self,
        device: DeviceIdentity,
        csr_pem: bytes,
        readmissions: ReadmissionBook,
        keys: DeviceKeys = NO_KEYS,
        place: int = 0,
    ) -> str:
        """Return a certificate (PEM) for a new key; the old key stays valid until the new one is used.

        keys: what the device says of its others; "": as it was. place: number of the announcement that it knows; 0: it does not say.

        Raises BadCsrError, BadDeviceTokenError, DeviceRevokedError; ReadmissionPendingError, ReadmissionRefusedError after the end of
        its last certificate.
        """
        self._signing.check_csr(csr_pem)
        is_named = device.request == sha256_hex(csr_pem)
        with self._db.session() as session:
            row = store.device(session, device.id, lock=True)
            assert row is not None, "the caller authenticated it"
            if row.revoked_at is not None:  # since then: its new certificate would be revoked by nobody
                raise DeviceRevokedError(f"the device {row.id} was revoked", next_step="enrol with a new claim token")
            if not is_named and (device.request or row.facts.get("names_requests")):
                raise BadDeviceTokenError(
                    "the device token is refused: it does not name this certificate request",
                    next_step="renew with the agent that enrolled the device, or a newer one",
                )
            has_ended = row.cert_not_after <= self._clock.now()
            refusal = readmissions.ask(session, row) if has_ended else None
            if refusal is None:
                choice = store.ca_choice(session, max(row.place_told, place))
                issued, public_key = self._signing.issue_device_certificate(csr_pem, device.id, choice)
                row.next_public_key = public_key
                said = asdict(keys) | {"names_requests": is_named}
                told = {name: value for name, value in said.items() if value and row.facts.get(name) != value}
                if told:
                    row.facts = {**row.facts, **told}
                row.cert_not_after = issued.not_after
                self._feed.add([NewEvent("identity_renewed", device.id, detail={"serial": issued.serial})])
        if refusal is not None:  # raised here, so that what the device asked for is kept
            raise refusal
        return issued.pem.decode()

    def display_name(self, device_id: DeviceId) -> str:
        """Return what the device is called now, "" without a name."""
        with self._db.read() as session:
            return store.display_names(session, [device_id]).get(device_id, "")

    def promote_key(self, device_id: DeviceId, used_key: str) -> None:
        """Make the key of a renewal (PEM) the device's only one: it was used. Certificates for the old key are revoked."""
        with self._db.session() as session:
            row = store.device(session, device_id, lock=True)
            if row is not None and row.next_public_key == used_key:
                self._signing.retire_key(device_id, row.public_key)
                row.public_key = used_key
                row.next_public_key = None

    def connected(self, serials: Mapping[DeviceId, str]) -> None:
        """Take devices' words for the certificates that they connected with, in one transaction: what those replace is revoked.

        Its word is enough, because it can only cost the device itself older certificates. A serial that is not of this device,
        or for a key that was not issued last or used before, changes nothing: an interrupted renewal locks nobody out.
        """
        with self._db.session() as session:
            for device_id, serial in sorted(serials.items()):
                self._note_certificate(session, device_id, serial)

    def _note_certificate(self, session: Session, device_id: DeviceId, serial: str) -> None:
        row = store.device(session, device_id, lock=True)
        if row is None or row.revoked_at is not None or row.cert_serial == serial:
            return
        key = self._signing.key_of_certificate(device_id, serial)
        old = public_key_sha256(row.public_key)
        new = "" if row.next_public_key is None else public_key_sha256(row.next_public_key)
        if key is None or key not in (old, new):
            return
        row.cert_serial, row.cert_ca = serial, self._signing.cas.issuer_of(serial)
        self._signing.retire_certificates(device_id, serial, "" if key == old else old)
        if key != old and row.next_public_key is not None:
            row.public_key, row.next_public_key = row.next_public_key, None

    def _checked_claim(self, session: Session, claim_id: str, secret: str) -> FleetClaim:
        claim = session.get(FleetClaim, claim_id)
        expected = claim.secret_sha256 if claim is not None else "0" * 64
        is_right = hmac.compare_digest(expected, sha256_hex(secret.encode()))
        if claim is None or not is_right:
            raise BadClaimError("this claim token is not known here", next_step=_ASK_AGAIN)
        return claim

    def _repeated(self, session: Session, claim: FleetClaim, again: FleetEnrolment) -> NewDevice:
        row = store.device(session, again.device_id)
        assert row is not None, "devices are never deleted"
        if row.revoked_at is not None:
            raise DeviceRevokedError(
                f"the device {row.id} was revoked", next_step="enrol with a new claim token and a new key"
            )
        return NewDevice(DeviceId(row.id), again.cert, ProfileName(row.profile), Sha256(claim.root_sha256))

    def _new_device(
        self,
        session: Session,
        claim: FleetClaim,
        csr_pem: bytes,
        key_sha256: Sha256,
        facts: Facts,
        profile: ProfileName,
    ) -> NewDevice:
        prefix = claim.name_prefix or "d"
        suffix = base64.b32encode(secrets.token_bytes(ID_BYTES)).decode().lower()
        device_id = parse_device_id(f"{prefix}-{suffix}")
        choice = store.ca_choice(session, 0)
        issued, public_key = self._signing.issue_device_certificate(csr_pem, device_id, choice)
        cert, now = issued.pem.decode(), self._clock.now()
        plain: dict[str, Any] = msgspec.to_builtins(facts)
        own_name = plain.pop("display_name")
        session.refresh(claim, ["uses_left"])  # a use of it was taken by a statement
        before = enrolment_store.suspect_before(session, claim.id, key_sha256, public_key, plain)
        earlier = enrolment_store.protected_before(session, key_sha256, public_key, plain)
        session.add(
            FleetDevice(
                id=device_id,
                profile=profile,
                arch=facts.arch[:32],
                public_key=public_key,
                labels=dict(claim.labels),
                facts=plain,
                enrolled_at=now,
                cert_not_after=issued.not_after,
                cert_ca=issued.issuer,
                display_name=numbered(claim.display_name, claim.uses - claim.uses_left, claim.uses)
                or readable(own_name),
            )
        )
        session.add(FleetEnrolment(claim_id=claim.id, key_sha256=key_sha256, device_id=device_id, cert=cert, at=now))
        session.flush()
        protection_store.inherit(session, device_id, earlier)
        protection_store.note_members(session, now, [device_id])
        self._feed.add([NewEvent("enrolled", device_id, detail={"claim": claim.id, "profile": profile})])
        if before is not None:
            self._suspicion.mark(device_id, before)
        self._desired.ensure(device_id)
        return NewDevice(device_id, cert, profile, Sha256(claim.root_sha256))


def _known(session: Session, claim_id: str, *, lock: bool = False) -> FleetClaim:
    row = session.get(FleetClaim, claim_id, with_for_update=lock or None)
    if row is None:
        raise ClaimUnknownError(f"there is no claim token {claim_id[:32]!r}")
    return row


def _check_prefix(prefix: str) -> None:
    try:
        parse_device_id(f"{prefix}-{'a' * 16}")
    except BadIdError as e:
        raise BadIdError(
            f"{prefix!r} cannot begin a device id",
            next_step="use lower-case letters, digits and '-', beginning with a letter or digit, and not srv",
        ) from e


def _most_specific_profile(facts: Mapping[str, Any]) -> ProfileName:
    """Return the most specific profile that fits. Raises NoProfileError."""
    try:
        return parse_profile_name(most_specific(facts))
    except (EdgefleetError, ValueError, TypeError) as e:
        next_step = e.next_step if isinstance(e, EdgefleetError) else ""
        raise NoProfileError(str(e), next_step=next_step or "give the claim token a profile: --profile NAME") from e


def root_documents(chain: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return root files as JSON objects.

    The files are compact JSON with sorted keys, so `json.dumps(obj, sort_keys=True, separators=(",", ":"))` gives back
    exactly the bytes whose SHA-256 the claim token pins.
    """
    return [json.loads(data) for data in chain]


def external_broker(setting: str) -> BrokerAddress | None:
    """Return the address in `mqtts://HOST[:PORT]`, so that a process without a gateway can tell it; else None."""
    parts = urlsplit(setting)
    if parts.scheme != "mqtts" or not parts.hostname:
        return None
    return BrokerAddress(parts.hostname, parts.port or EXTERNAL_PORT, "5")
