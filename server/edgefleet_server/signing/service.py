"""Signing as the rest of the server sees it: TUF, the director's signature, and certificates.

Every method joins the caller's transaction when there is one (`db.session()` nests).
"""

import logging
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlmodel import Session

from edgefleet_ceremony.root_fields import OFFLINE_ROLES
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE
from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_protocol.envelope import Envelope, Signature, dump_envelope
from edgefleet_protocol.messages import RepoHead, encode
from edgefleet_protocol.verify import PublicKey
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.authority import (
    CA_CERT_FILE,
    CLOCK_SLACK,
    CRL_LIFE,
    Authority,
    DeviceAuthority,
    Issued,
    checked_csr_key,
    new_p256_key,
    private_pem,
    public_der,
    public_key_sha256,
    public_pem,
)
from edgefleet_server.signing.ceremony.service import CeremonyService
from edgefleet_server.signing.client_check import FoundByClient, find_as_client
from edgefleet_server.signing.client_identities import BriefIdentity, ClientIdentity
from edgefleet_server.signing.errors import RepositoryMissingError, RoleUnknownError
from edgefleet_server.signing.fast_forward_recovery import (
    ResignPlan,
    RoleChange,
    SignedVersions,
    VersionsSeen,
    role_changes,
)
from edgefleet_server.signing.key_rotation import DIRECTOR_KEYS, KeyRotation
from edgefleet_server.signing.keys.broker_trust import BrokerTrustReader
from edgefleet_server.signing.keys.key_files import replace_private
from edgefleet_server.signing.keys.key_keeper import KeyKeeper
from edgefleet_server.signing.keys.key_ring import KeyRing
from edgefleet_server.signing.keys.key_views import with_keys
from edgefleet_server.signing.keys.outside_certificates import OutsideCertificates
from edgefleet_server.signing.keys.own_certificates import hosts_in, is_usable
from edgefleet_server.signing.keys.signer_uris import SecretOf, public_key_of, public_pem_of
from edgefleet_server.signing.keys.trusted_cas import TrustedCas
from edgefleet_server.signing.named_files.audit_role import AuditRole
from edgefleet_server.signing.named_files.place_announcer import PlaceAnnouncer
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.repository import TufRepository
from edgefleet_server.signing.teams.service import TeamService
from edgefleet_server.signing.trust import (
    MODEL_PREFIX,
    USUAL_CA,
    CaChoice,
    RefusedCertificates,
    RoleView,
    TargetView,
    TrustView,
    roles_of,
    target_of,
)

DEVICE_CERT_LIFE: Final = timedelta(days=90)
SERVICE_CERT_LIFE: Final = timedelta(days=397)
SERVER_CERT_LIFE: Final = timedelta(days=397)
CANARY_LIFE: Final = timedelta(days=3)
EVICTION_LIFE: Final = timedelta(minutes=5)
SERVER_KEY_FILE: Final = "server.key"
SERVER_CERT_FILE: Final = "server.crt"
ROOT_WARNING: Final = (
    "there is ONE root key, keys/root.pem, and its passphrase is next to it in keys/root.passphrase. Before real devices depend "
    "on it, copy both to offline media and delete root.passphrase here (keys/README.txt)."
)

_FILE = re.compile(r"(?:(\d{1,19})\.)?([a-z0-9][a-z0-9._-]{0,79})\.json")
_log = logging.getLogger(__name__)


class SigningService:
    """Signs with the keys of one key folder; metadata and certificates are rows of the database."""

    def __init__(
        self,
        db: Database,
        keys_dir: Path,
        clock: Clock,
        secret: SecretOf = lambda: None,
        *,
        keepers: "tuple[KeyKeeper, Authority] | None" = None,
    ) -> None:
        """Wire the parts. No key is read before it is needed. secret: the passphrase of key files and the PIN of tokens, None for none.

        keepers: who holds the keys of TUF and of the device CA, the signing process; None: this process, in `keys_dir`.
        """
        self._db = db
        self._keys_dir = keys_dir
        self._clock = clock
        self._ring, self._authority = keepers or (KeyRing(keys_dir, clock, secret), DeviceAuthority(keys_dir))
        self._repository = TufRepository(self._ring)
        self.audit = AuditRole(self._ring, self._repository)
        self.ceremony = CeremonyService(db, self._ring, self._repository, self.audit, clock)
        self.teams = TeamService(db, self._ring, self._repository, self.ceremony, clock)
        self.keys = KeyRotation(db, self._ring, self._repository, clock)
        self.cas = TrustedCas(self._authority, db, clock)
        self.outside = OutsideCertificates(self._authority, db, clock)
        self.broker_trust = BrokerTrustReader(self._authority, self.cas, db, clock)
        self.places = PlaceAnnouncer(db, self._repository, self.ceremony, clock)

    # -- beginning ---------------------------------------------------------------------------------------------------

    def init(self, hosts: Sequence[str] = ()) -> None:
        """Make all keys, the device CA, the listeners' certificate for `hosts` and the first TUF metadata.

        Raises KeysExistError when the folder holds keys. Says on the log that the root is a single key.
        """
        self._ring.create()
        self._authority.create(self._clock.now())
        self.issue_server_certificate(hosts)
        with self._db.session() as session:
            self._repository.create(session, self._clock.now())
        _log.warning("WARNING: %s", ROOT_WARNING)

    def is_initialised(self) -> bool:
        """Return whether keys and TUF metadata are there."""
        with self._db.read() as session:
            return self._ring.exists() and store.latest(session, "root") is not None

    def start(self) -> None:
        """Sign what is due, and the timestamp in any case."""
        with self._db.session() as session:
            self._repository.resign_due(session, self._clock.now(), force_timestamp=True)
        self.note_keys()
        self.ceremony.finish()
        self.teams.finish()

    def note_keys(self) -> None:
        """Bring the inventory of keys to what metadata says of them. A crash after a change of metadata leaves that to the next start."""
        with self._db.read() as session:
            keys = self._repository.role_keys(session)
        self._ring.settle(keys.named(), keys.root.version)

    def resign_due(self) -> bool:
        """Sign again what has passed half of its life; return whether the repository head changed. For the engine tick."""
        now = self._clock.now()
        self.ceremony.finish()
        self.ceremony.ask_due()
        self.teams.finish()
        self.teams.ask_due()
        with self._db.read() as session:
            if not self._repository.due(session, now):
                return False
        with self._db.session() as session:
            return self._repository.resign_due(session, now, force_timestamp=False)

    # -- TUF ---------------------------------------------------------------------------------------------------------

    def add_target(self, path: str, length: int, sha256: Sha256, custom: Mapping[str, Any]) -> bool:
        """Sign a bundle as TUF target; return False when exactly this was signed before. Raises TargetExistsError."""
        with self._db.session() as session:
            return self._repository.add_target(session, path, length, sha256, custom, self._clock.now())

    def remove_targets(self, paths: Sequence[str]) -> int:
        """Let TUF name these bundles no more; return how many it did. Holds the turn to sign until the caller's transaction ends."""
        with self._db.session() as session:
            return self._repository.remove_targets(session, paths, self._clock.now())

    def publish_audit_head(self, head: bytes, size: int) -> bool:
        """Let TUF name a head of the audit trail, over `size` entries; return False when it does already. Raises KeysMissingError."""
        with self._db.session() as session:
            return self.audit.publish_head(session, head, size, self._clock.now())

    def release_numbers(self, model: str, made: Mapping[str, datetime]) -> Mapping[str, int]:
        """Return the security versions of a model's releases. made: when each was published, for those that were signed without one."""
        with self._db.read() as session:
            return self._repository.release_numbers(session, model, made)

    def is_of_a_team(self, model: str) -> bool:
        """Return whether a team signs the bundles of a model, and not this server. Holds the turn to sign until the transaction ends."""
        with self._db.session() as session:
            store.take_turn(session)
            return self.teams.is_theirs(model)

    def withdraw_targets(self, withdrawal: TargetWithdrawal) -> bool:
        """Let TUF name these bundles no more and say what was withdrawn; False when it says so already. Holds the turn to sign.

        A model's team is asked to sign that.
        """
        with self._db.session() as session:
            store.take_turn(session)
            asked = self.teams.withdraw(session, withdrawal)
            if asked is not None:
                return asked
            return self._repository.withdraw_targets(session, withdrawal, self._clock.now())

    def versions(self) -> SignedVersions:
        """Return the versions of all roles but root and timestamp. Reads one file."""
        with self._db.read() as session:
            return SignedVersions(self._repository.versions(session))

    def recovery(self, seen: VersionsSeen) -> list[RoleChange]:
        """Return the roles that `outrun` would sign, and to which version; none when it would sign nothing."""
        now = self._clock.now()
        with self._db.read() as session:
            plan = self._repository.resigning(session, seen, now)
            timestamp = store.latest(session, "timestamp")
            ours = {**self._repository.versions(session), "timestamp": timestamp[0] if timestamp else 0}
        return [] if plan is None else role_changes(SignedVersions(ours), plan, now)

    def outrun(self, seen: VersionsSeen) -> ResignPlan | None:
        """Sign the repository ahead of what was seen of it; return what was signed, None when it is ahead already.

        Only for what drawn devices agree on or an operator says: it signs for all, and a role that it makes cannot be removed.
        """
        with self._db.session() as session:
            plan = self._repository.outrun(session, seen, self._clock.now())
            if plan is not None and plan.everything:
                self.ceremony.ask_above(plan.above)
            return plan

    def lost_models(self) -> list[str]:
        """Return the models that devices knew before this server was restored from an older copy, and that it has no bundle of."""
        with self._db.read() as session:
            return self._repository.lost_models(session)

    def metadata_file(self, name: str) -> bytes | None:
        """Return a TUF file by the name that clients ask for (`timestamp.json`, `7.snapshot.json`), or None."""
        found = _FILE.fullmatch(name)
        if found is None:
            return None
        version, role = found.groups()
        with self._db.read() as session:
            if version is not None:
                return store.version_of(session, role, int(version)) if int(version) < 2**63 else None
            newest = store.latest(session, role) if role == "timestamp" else None
            return None if newest is None else newest[1]

    def root_chain(self, pinned: Sha256 | None = None) -> list[bytes]:
        """Return the root files from the pinned one (or from the first, when `pinned` is None or unknown) to the newest."""
        with self._db.read() as session:
            chain = [data for _, data in store.all_versions(session, "root")]
        if not chain:
            raise RepositoryMissingError(
                "the database holds no root of trust", next_step="run `edgectl server init` for this data folder"
            )
        start = next((i for i, data in enumerate(chain) if sha256_hex(data) == pinned), 0)
        return chain[start:]

    def roles(self) -> list[RoleView]:
        """Return the TUF roles in the order of trust, models by name. Raises RepositoryMissingError."""
        with self._db.read() as session:
            due = self._repository.resign_times(session)
            names = dict.fromkeys([*OFFLINE_ROLES, *due, *sorted(self._repository.team_roles(session))])
            roles = roles_of(store.newest_files(session, list(names)), due)
            keys = self._repository.role_keys(session)
        inventory = self._ring.inventory().settled(keys.named(), keys.root.version)
        publics = {one.keyid: public_key_of(one) for one in inventory.keys} | keys.keys()
        return with_keys(roles, inventory, {keyid: (one.scheme, public_pem_of(one)) for keyid, one in publics.items()})

    def role(self, name: str) -> RoleView:
        """Return one TUF role. Raises RoleUnknownError, RepositoryMissingError."""
        found = next((one for one in self.roles() if one.name == name), None)
        if found is None:
            raise RoleUnknownError(f"no TUF role is called {name[:80]!r}")
        return found

    def trust(self) -> TrustView:
        """Return what can be shown of roles, keys and certificates. Raises RepositoryMissingError, KeysMissingError."""
        with self._db.read() as session:
            roles = self.roles()
            certificates = store.count_certificates(session, self._clock.now())
        return TrustView(
            roles=[one for one in roles if not one.name.startswith(MODEL_PREFIX)],
            model_roles=[one for one in roles if one.name.startswith(MODEL_PREFIX)],
            authority=self._authority.view(),
            certificates=certificates,
            is_root_here=self._ring.has_root(),
            first_root_sha256=sha256_hex(self.root_chain()[0]),
        )

    def target(self, path: str) -> TargetView | None:
        """Return how TUF names a bundle's target path today, None when nothing signed does."""
        role = f"{MODEL_PREFIX}{path.split('/', 1)[0]}"
        with self._db.read() as session:
            file = store.newest_files(session, [role]).get(role)
        return None if file is None else target_of(path, role, file)

    def find_as_client(self, path: str) -> FoundByClient:
        """Return how a device finds a bundle's target path, verified from the first root. Blocks on database and disk.

        Raises RepositoryUnsoundError, RepositoryStaleError, RepositoryMissingError.
        """
        return find_as_client(self.root_chain()[0], self.metadata_file, path, self._clock.now())

    def root_expires(self) -> datetime:
        """Return when the newest root expires: it needs its offline key to be renewed."""
        with self._db.read() as session:
            return self._repository.root_expires(session)

    def root_sha256(self) -> Sha256:
        """Return the SHA-256 of the newest root file: what a claim token pins."""
        return sha256_hex(self.root_chain()[-1])

    def repo_head(self) -> bytes:
        """Return the message for `repo/head`: newest root version, and the timestamp file that devices are to know."""
        with self._db.read() as session:
            root = store.latest(session, "root")
            timestamp = self._repository.announced_timestamp(session)
        if root is None or timestamp is None:
            raise RepositoryMissingError(
                "the database holds no TUF metadata", next_step="run `edgectl server init` for this data folder"
            )
        return encode(RepoHead(root_version=root[0], timestamp=timestamp.data))

    # -- director ----------------------------------------------------------------------------------------------------

    def sign_desired(self, payload: bytes) -> bytes:
        """Return the DSSE envelope of an encoded desired document, signed by the director key."""
        return self._sign_envelopes(DESIRED_TYPE, [payload])[0]

    def sign_all_desired(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Return the DSSE envelopes of encoded desired documents, in their order: one question to the signing process for many."""
        return self._sign_envelopes(DESIRED_TYPE, payloads)

    def sign_hold(self, payload: bytes) -> bytes:
        """Return the DSSE envelope of an encoded hold, signed by the director key."""
        return self._sign_envelopes(HOLD_TYPE, [payload])[0]

    def director_keyid(self) -> str:
        """Return the id of the director's key, the first where there are several: what documents are signed with today."""
        with self._db.read() as session:
            return self._director(session)[0][0]

    def director_key(self) -> PublicKey:
        """Return the director's public key as devices find it in TUF: the first, where there are several. Raises RepositoryMissingError."""
        with self._db.read() as session:
            key = self._ring.signer(self._director(session)[0][0]).public_key
        return PublicKey(key.keyid, key.keytype, key.scheme, str(key.keyval["public"]))

    def _sign_envelopes(self, payload_type: str, payloads: Sequence[bytes]) -> list[bytes]:
        if not payloads:
            return []
        with self._db.read() as session:
            keyids, threshold = self._director(session)
        signed = self._ring.sign_documents(keyids, threshold, payload_type, payloads)
        return [
            dump_envelope(Envelope(payload_type, payload, tuple(Signature(keyid, sig) for keyid, sig in by_key)))
            for payload, by_key in zip(payloads, signed, strict=True)
        ]

    def _director(self, session: Session) -> tuple[list[str], int]:
        """Return the ids of the director's keys and how many must sign. Read once for a transaction, which may sign 100,000 documents."""
        known: tuple[list[str], int] | None = session.info.get(DIRECTOR_KEYS)
        if known is None:
            known = session.info[DIRECTOR_KEYS] = self._repository.director_keys(session)
        return known

    # -- certificates ------------------------------------------------------------------------------------------------

    @property
    def ca_file(self) -> Path:
        """The device CA's certificate; while it is rotated brokers trust the next one too (`cas`)."""
        return self._keys_dir / CA_CERT_FILE

    @property
    def server_cert_file(self) -> Path:
        """The listeners' certificate (device listener and broker)."""
        return self._keys_dir / SERVER_CERT_FILE

    @property
    def server_key_file(self) -> Path:
        """The listeners' private key."""
        return self._keys_dir / SERVER_KEY_FILE

    def ca_pem(self) -> bytes:
        """Return the device CA's certificate, PEM."""
        return self._authority.certificate_pem()

    def ca_sha256(self) -> Sha256:
        """Return the SHA-256 of the device CA's certificate in DER: what a claim token pins."""
        return self._authority.certificate_sha256()

    def check_csr(self, csr_pem: bytes) -> Sha256:
        """Return the SHA-256 of the CSR's public key (DER SPKI) once its proof of possession holds. Raises BadCsrError."""
        return sha256_hex(public_der(checked_csr_key(csr_pem)))

    def issue_device_certificate(
        self, csr_pem: bytes, device_id: str, choice: CaChoice = USUAL_CA
    ) -> tuple[Issued, str]:
        """Return a certificate for the CSR's key with CN `device_id`, and the key as PEM. Raises BadCsrError."""
        key, now = checked_csr_key(csr_pem), self._clock.now()
        with self._db.session() as session:
            issued = self._authority.issue_client(key, device_id, now, DEVICE_CERT_LIFE, choice=choice)
            store.add_certificate(session, issued, "device")
        return issued, public_pem(key)

    def revoke_device_certificates(self, device_id: str) -> int:
        """Mark every certificate of a device revoked; return how many. Joins the caller's transaction."""
        with self._db.session() as session:
            return store.revoke_subject(session, device_id, self._clock.now())

    def key_of_certificate(self, device_id: str, serial: str) -> str | None:
        """Return the SHA-256 of the public key in a valid certificate of a device; None when it has no such certificate."""
        with self._db.read() as session:
            found = store.certificate(session, serial)
        if found is None or found.subject != device_id or found.kind != "device" or found.revoked_at is not None:
            return None
        return found.key_sha256

    def retire_certificates(self, device_id: str, serial: str, replaced_key: str) -> int:
        """Revoke the certificates of a device that are older than the one in use, and those for the replaced key ("" = none).

        Returns how many. replaced_key: SHA-256. Joins the caller's transaction.
        """
        with self._db.session() as session:
            used = store.certificate(session, serial)
            return 0 if used is None else store.revoke_older(session, used, replaced_key, self._clock.now())

    def retire_key(self, device_id: str, public_key: str) -> int:
        """Revoke the certificates of a device for a key (PEM) that it has replaced; return how many. Joins the caller's transaction."""
        with self._db.session() as session:
            return store.revoke_key(session, device_id, public_key_sha256(public_key), self._clock.now())

    def revocation_mark(self) -> tuple[int, datetime | None]:
        """Return what changes whenever a certificate is revoked."""
        with self._db.read() as session:
            return store.revocation_mark(session)

    def refused_certificates(self, instance: str) -> tuple[RefusedCertificates, BriefIdentity]:
        """Return what brokers must refuse from now on, signed, and a canary: a certificate that was revoked for this very list.

        A broker that lets the canary in does not go by this list. Certificates that have ended are left out.
        """
        now, key, name = self._clock.now(), new_p256_key(), f"canary-{instance}"
        issued = self._authority.issue_client(key.public_key(), name, now, CANARY_LIFE)
        with self._db.session() as session:
            store.forget_canaries(session, now)
            store.add_certificate(session, issued, store.CANARY)
            store.revoke_subject(session, name, now)
            serials, devices = store.revoked_certificates(session, now)
        cas, crl = self.cas.bundle(), self._authority.issue_crl(serials, now)
        refused = RefusedCertificates(frozenset(serials), frozenset(devices), crl, now - CLOCK_SLACK + CRL_LIFE, cas)
        return refused, BriefIdentity(name, issued.pem, private_pem(key))

    def brief_identity(self, name: str) -> BriefIdentity:
        """Return a certificate for a few minutes that is recorded nowhere: to look whether the broker lets in, and to evict a device."""
        key = new_p256_key()
        issued = self._authority.issue_client(key.public_key(), name, self._clock.now(), EVICTION_LIFE)
        return BriefIdentity(name, issued.pem, private_pem(key))

    def issue_server_certificate(self, hosts: Sequence[str] = ()) -> None:
        """Write a new `server.key` and `server.crt` for localhost, this machine's name and `hosts`."""
        now = self._clock.now()
        key = new_p256_key()
        names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts]
        usable = [name for name in names if name and name not in {"0.0.0.0", "::"}]  # noqa: S104  # never a SAN
        issued = self._authority.issue_server(key.public_key(), usable, now, SERVER_CERT_LIFE)
        with self._db.session() as session:
            store.take_turn(session)  # of two processes that write the pair at once each would leave one half
            replace_private(self.server_key_file, private_pem(key))
            replace_private(self.server_cert_file, issued.pem + self.ca_pem(), mode=0o644)
            store.add_certificate(session, issued, "server")

    def renew_own(self, instance: str = "") -> bool:
        """Issue the listeners' and this server's certificates again where another CA issued them or they end soon; True if any.

        instance: "" = only the listeners'.
        """
        ca, own, now = self.ca_pem(), self._keys_dir / f"srv-{instance}.crt", self._clock.now()
        is_good = is_usable(self.server_cert_file, ca, now), not own.exists() or is_usable(own, ca, now)
        if not is_good[0]:
            self.issue_server_certificate(hosts_in(self.server_cert_file))
        if not is_good[1]:
            self.service_identity(instance)
        return not all(is_good)

    def service_identity(self, instance: str) -> ClientIdentity:
        """Make a fresh client certificate `srv-<instance>` in the key folder and return its files."""
        name = f"srv-{instance}"
        key = new_p256_key()
        issued = self._authority.issue_client(key.public_key(), name, self._clock.now(), SERVICE_CERT_LIFE)
        identity = ClientIdentity(name, self._keys_dir / f"{name}.crt", self._keys_dir / f"{name}.key", self.ca_file)
        replace_private(identity.key_file, private_pem(key))
        replace_private(identity.cert_file, issued.pem, mode=0o644)
        with self._db.session() as session:
            store.add_certificate(session, issued, "service")
        return identity
