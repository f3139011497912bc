"""The role of the audit trail: `targets` delegates it from the first head on, to a key of its own, and it names the newest head."""

from datetime import datetime

from sqlmodel import Session
from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.signing import store
from edgefleet_server.signing.keys.key_keeper import KeyKeeper
from edgefleet_server.signing.repository import TufRepository
from edgefleet_server.signing.teams.role_metadata import delegate
from edgefleet_terms.audit_chain.audit_head import AUDIT_ROLE, HEAD_TARGET
from edgefleet_terms.evidence.evidence_manifest import EvidenceSignature


class AuditRole:
    """Changes the role inside the caller's session; the caller commits."""

    def __init__(self, ring: KeyKeeper, repository: TufRepository) -> None:
        """Use these keys and this repository."""
        self._ring, self._repository = ring, repository

    def publish_head(self, session: Session, head: bytes, size: int, now: datetime) -> bool:
        """Let TUF name a head of the audit trail, over `size` entries, in place of the one before; return False when it does already.

        The first one makes the role and its key. Raises KeysMissingError.
        """
        store.take_turn(session)
        targets, changed = self._repository.load(session, "targets"), dict[str, Targets]()
        if self._delegate(targets):
            changed["targets"], signed = targets, Targets(version=1)
        else:
            signed = self._repository.load(session, AUDIT_ROLE)
        known, digest = signed.targets.get(HEAD_TARGET), sha256_hex(head)
        if known is not None and known.hashes.get("sha256") == digest:
            return False
        custom = {"custom": {"size": size}}
        signed.targets = {
            HEAD_TARGET: TargetFile(len(head), {"sha256": digest}, HEAD_TARGET, unrecognized_fields=custom)
        }
        is_news = bool(changed)
        self._repository.publish(session, {**changed, AUDIT_ROLE: signed}, now, announce=is_news)
        return True

    def delegate(self, session: Session, now: datetime) -> None:
        """Let targets delegate the audit trail to a key of its own, unless it does: later its first head would change targets."""
        store.take_turn(session)
        targets = self._repository.load(session, "targets")
        if self._delegate(targets):
            self._repository.publish(session, {"targets": targets, AUDIT_ROLE: Targets(version=1)}, now)

    def sign_evidence(self, session: Session, manifest: bytes) -> EvidenceSignature:
        """Return the signature of a manifest of evidence by the role's key. Raises RoleUnknownError before the first head, SigningError."""
        keyids, _ = self._repository.role_keys(session).of(AUDIT_ROLE)
        return EvidenceSignature(keyid=keyids[0], sig=self._ring.sign_evidence(keyids[0], manifest).hex())

    def _delegate(self, targets: Targets) -> bool:
        assert targets.delegations is not None
        if AUDIT_ROLE in (targets.delegations.roles or {}):
            return False
        delegate(targets, AUDIT_ROLE, self._ring.prepare(AUDIT_ROLE), [f"{AUDIT_ROLE}/*"])
        return True
