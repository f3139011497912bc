"""Answers the questions of the signing process: looks at each, signs it or refuses, and says on the log what was signed."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import HOLD_TYPE
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.server_places import TARGET as PLACES_TARGET
from edgefleet_server.signing.authority import DeviceAuthority
from edgefleet_server.signing.errors import KeysUnreadableError, StatementRefusedError
from edgefleet_server.signing.keys.inventory import KeyAlgorithm, dump_inventory, parse_inventory
from edgefleet_server.signing.keys.key_ring import KeyRing
from edgefleet_server.signing.keys.signer_uris import KeySigner, SecretOf
from edgefleet_server.signing.role_lives import LIFE
from edgefleet_server.signing.signer import messages as m
from edgefleet_server.signing.signer import quotas, statements
from edgefleet_server.signing.signer.handovers import Handovers
from edgefleet_server.signing.signer.signed_versions import SignedVersions
from edgefleet_server.signing.trust import MODEL_PREFIX, CaChoice
from edgefleet_terms.audit_chain.audit_head import AUDIT_ROLE

DEVICE_CERT_LIFE: Final = timedelta(days=90)
OTHER_CERT_LIFE: Final = timedelta(days=397)
MAX_SERIAL: Final = 40
_log = logging.getLogger(__name__)


class QuestionHandler:
    """The keys of one folder behind what may be asked. Thread-safe: one question at a time."""

    def __init__(
        self, folder: Path, clock: Clock, secret: SecretOf = lambda: None, places: Collection[str] | None = None
    ) -> None:
        """Read what was signed last. secret: the passphrase of key files and the PIN of tokens.

        places: URIs of key services at which keys may be taken in, None for all.
        """
        self._clock = clock
        self._ring = KeyRing(folder, clock, secret)
        self._authority = DeviceAuthority(folder)
        self._versions = SignedVersions(folder)
        self._handovers = Handovers(folder)
        self._places = places
        self._quotas = quotas.Quotas()
        self._started = clock.now()
        self._signed: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._lock = Lock()
        self._answers: dict[type, Callable[[Any], object]] = {
            m.AskStatus: self._status,
            m.AskInventory: lambda _asked: dump_inventory(self._ring.inventory()),
            m.AskPublic: self._public,
            m.AskRoot: lambda _asked: _part(self._ring.root_signer()) if self._ring.has_root() else None,
            m.SignDocuments: self._sign_documents,
            m.SignMetadata: self._sign_metadata,
            m.SignEvidence: self._sign_evidence,
            m.Prepare: self._prepare,
            m.TakeIn: self._take_in,
            m.Settle: lambda asked: self._ring.settle(asked.named, asked.root_version),
            m.Discard: lambda asked: self._discard(asked.keyids),
            m.DiscardUnused: lambda asked: self._ring.discard_unused(asked.roles, asked.named),
            m.Destroy: self._destroy,
            m.IssueCertificate: self._issue,
            m.IssueCrl: self._issue_crl,
            m.ChangeCa: self._change_ca,
            m.AskCa: self._cas,
        }

    def answer(self, asked: m.AnyQuestion) -> m.Answer:
        """Return the answer to a question; what is refused or fails is an answer too. Blocks on files, and on places of keys."""
        with self._lock:
            try:
                return m.answered(self._answers[type(asked)](asked))
            except EdgefleetError as error:
                role = _counted_as(_role_of(asked))
                if isinstance(error, StatementRefusedError):
                    self._refused[role] += 1
                _log.warning("refused to sign: %s", error.message, extra={"role": role, "code": error.code})
                return m.Answer(code=error.code, message=error.message, next_step=error.next_step)
            except OSError as error:  # an answer, since a question that is asked again would find half of it done
                _log.error("the key folder cannot be written or read", extra={"error": repr(error)})
                return m.Answer(
                    code=KeysUnreadableError.code,
                    message=f"the signing process cannot use its key folder: {error.strerror}",
                    next_step="look at the disk and the rights of the key folder",
                )
            except Exception as error:  # noqa: BLE001  # a question that no client of ours asks
                _log.warning("a question makes no sense", extra={"kind": type(asked).__name__, "error": repr(error)})
                return m.Answer(
                    code=StatementRefusedError.code, message=f"the question makes no sense: {error!r}"[:300]
                )

    # -- signing -----------------------------------------------------------------------------------------------------

    def _sign_documents(self, asked: m.SignDocuments) -> list[list[tuple[str, bytes]]]:
        if len(asked.payloads) > m.MAX_DOCUMENTS:
            raise StatementRefusedError(f"more than {m.MAX_DOCUMENTS} documents in one question")
        if len(asked.keyids) > statements.MAX_KEYS or len(set(asked.keyids)) != len(asked.keyids):
            raise StatementRefusedError(f"more than {statements.MAX_KEYS} keys, or one of them twice")
        for keyid in asked.keyids:
            statements.check_key(self._ring.record(keyid), "director")
        now, last_hold = self._clock.now(), self._versions.last(statements.HOLD)
        numbers = statements.check_documents(asked.payload_type, asked.payloads, now, last_hold)
        self._take("documents", len(asked.payloads) * len(asked.keyids), quotas.DOCUMENTS)
        if asked.payload_type == HOLD_TYPE and numbers:
            self._versions.note(statements.HOLD, max(*numbers, last_hold))
        signed = self._ring.sign_documents(asked.keyids, asked.threshold, asked.payload_type, asked.payloads)
        self._note("director", asked.payloads)
        return signed

    def _sign_metadata(self, asked: m.SignMetadata) -> str:
        role = asked.role
        if role == "root":
            signer: KeySigner = self._ring.root_signer()
            if signer.public_key.keyid != asked.keyid:
                raise StatementRefusedError(f"the key {asked.keyid[:12]} of root is not in the key folder")
        else:
            statements.check_key(self._ring.record(asked.keyid), role)
            signer = self._ring.signer(asked.keyid)
        has_places = role == "targets" and PLACES_TARGET.encode() in asked.content
        pems = (self._authority.certificate_pem(), self._authority.next_pem()) if has_places else ()
        cas = frozenset(pem.decode("ascii").strip() for pem in pems if pem is not None)
        inventory, handed_over = self._ring.inventory(), self._handovers.roles()
        facts = statements.MetadataFacts(inventory, self._versions.last, self._clock.now(), cas, handed_over)
        version = statements.check_metadata(role, asked.content, facts)
        self._take(role, 1, quotas.METADATA)
        if role == "snapshot" and not self._versions.last(
            role
        ):  # the first one: what this server signed before is known from now on
            for name, known in statements.named_versions(asked.content).items():
                self._versions.note(name, known)
        self._versions.note(role, version)
        signature = signer.sign(asked.content)
        self._note(role, [asked.content], version=version)
        return str(signature.signature)

    def _sign_evidence(self, asked: m.SignEvidence) -> bytes:
        statements.check_key(self._ring.record(asked.keyid), AUDIT_ROLE)
        statements.check_evidence(asked.manifest, self._clock.now())
        self._take("evidence", 1, quotas.EVIDENCE)
        signed = self._ring.sign_evidence(asked.keyid, asked.manifest)
        self._note(AUDIT_ROLE, [asked.manifest], evidence=True)
        return signed

    # -- keys --------------------------------------------------------------------------------------------------------

    def _public(self, asked: m.AskPublic) -> m.PublicPart:
        signer = self._ring.signer(asked.keyid)
        if asked.probe:
            signer.probe()
        return _part(signer)

    def _prepare(self, asked: m.Prepare) -> m.PublicPart:
        self._take("new keys", 1, quotas.KEYS)
        if asked.role == "root":
            raise StatementRefusedError("the signing process makes no key of root")
        statements.check_role(asked.role)
        statements.check_kept(asked.role, self._handovers.roles())
        key = self._ring.prepare(asked.role, besides=asked.besides, algorithm=KeyAlgorithm(asked.algorithm))
        return m.PublicPart(key.keyid, key.scheme, str(key.keyval["public"]))

    def _take_in(self, asked: m.TakeIn) -> m.PublicPart:
        self._take("new keys", 1, quotas.KEYS)
        (record,) = parse_inventory(asked.record).keys
        statements.check_given(record, self._places)
        statements.check_kept(record.role, self._handovers.roles())
        key = self._ring.take_in(record)
        return m.PublicPart(key.keyid, key.scheme, str(key.keyval["public"]))

    def _discard(self, keyids: Sequence[str]) -> None:
        _log.warning("keys are revoked, and their files deleted: %s", ", ".join(keyids))
        self._ring.discard(keyids)

    def _destroy(self, asked: m.Destroy) -> list[str]:
        statements.check_destroyed(asked.role)
        if asked.role != "root":  # whose key may be brought back for one operation
            self._handovers.note(asked.role)
        return self._ring.destroy(asked.role, asked.named)

    # -- certificates ------------------------------------------------------------------------------------------------

    def _issue(self, asked: m.IssueCertificate) -> m.Certificate:
        key = serialization.load_der_public_key(asked.spki)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise StatementRefusedError("the device CA certifies P-256 keys only")
        is_device = asked.hosts is None and statements.check_subject(asked.subject)
        life, most = timedelta(seconds=asked.life_s), DEVICE_CERT_LIFE if is_device else OTHER_CERT_LIFE
        if not timedelta(0) < life <= most:
            raise StatementRefusedError(f"a certificate of {asked.subject[:80]} lives {most.days} days at most")
        self._take("certificates", 1, quotas.CERTIFICATES)
        now = self._clock.now()
        if asked.hosts is None:
            made = self._authority.issue_client(key, asked.subject, now, life, choice=self._choice(asked, now))
        else:
            made = self._authority.issue_server(key, asked.hosts, now, life)
        self._note("device-ca", [made.pem], subject=asked.subject, serial=made.serial)
        return m.Certificate(
            made.pem, made.subject, made.serial, made.key_sha256, made.not_before, made.not_after, made.issuer
        )

    def _issue_crl(self, asked: m.IssueCrl) -> bytes:
        if len(asked.serials) > m.MAX_SERIALS or any(len(one) > MAX_SERIAL for one in asked.serials):
            raise StatementRefusedError(f"a list of more than {m.MAX_SERIALS} certificates, or a serial that is none")
        self._take("lists of revoked certificates", 1, quotas.METADATA)
        made = self._authority.issue_crl(asked.serials, self._clock.now())
        self._note("device-ca", [made], revoked=len(asked.serials))
        return made

    def _choice(self, asked: m.IssueCertificate, now: datetime) -> CaChoice:
        if asked.before_s and asked.before_s < (now - OTHER_CERT_LIFE).timestamp():
            raise StatementRefusedError("a certificate that began so long ago")
        return CaChoice(asked.by_next, asked.before_s)

    def _change_ca(self, asked: m.ChangeCa) -> bytes:
        _log.warning("the device CA is changed: %s", asked.act)
        if asked.act == "drop":
            self._authority.drop_next()
            return b""
        if asked.act == "promote":
            return self._authority.promote_next()
        self._take("new keys", 1, quotas.KEYS)
        return self._authority.make_next(self._clock.now())

    def _cas(self, _asked: m.AskCa) -> list[bytes]:
        following = self._authority.next_pem()
        return [self._authority.certificate_pem()] + ([following] if following is not None else [])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _status(self, _asked: m.AskStatus) -> m.Status:
        return m.Status(os.getpid(), self._started, dict(self._signed), dict(self._refused))

    def _take(self, what: str, count: int, limit: int) -> None:
        self._quotas.take(what, count, limit, self._clock.monotonic_s())

    def _note(self, role: str, contents: Sequence[bytes], **facts: object) -> None:
        self._signed[_counted_as(role)] += len(contents)
        if _log.isEnabledFor(logging.INFO):
            digest = sha256()
            for one in contents:
                digest.update(one)
            fields = {"role": role, "count": len(contents), "sha256": digest.hexdigest(), **facts}
            _log.info("signed", extra=fields)


def _part(signer: KeySigner) -> m.PublicPart:
    key = signer.public_key
    return m.PublicPart(key.keyid, key.scheme, str(key.keyval["public"]))


def _role_of(asked: m.AnyQuestion) -> str:
    if isinstance(asked, m.SignDocuments):
        return "director"
    if isinstance(asked, m.IssueCertificate | m.IssueCrl | m.ChangeCa):
        return "device-ca"
    return AUDIT_ROLE if isinstance(asked, m.SignEvidence) else str(getattr(asked, "role", ""))


def _counted_as(role: str) -> str:
    """Return under which name a role is counted: few names, whatever is asked."""
    if role in LIFE or role in {"", "device-ca"}:
        return role
    return "models" if role.startswith(MODEL_PREFIX) else "other"
