"""The keys and the device CA of the signing process, as the rest of signing uses them. No private part comes here."""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import Signature, SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.signing.authority import CA_CERT_FILE, CA_KEY_FILE, NEXT_CERT_FILE, Issued, public_der, view_of
from edgefleet_server.signing.errors import KeysExistError, KeysMissingError, SigningError, StatementRefusedError
from edgefleet_server.signing.keys.inventory import (
    KEY_TYPES,
    Inventory,
    KeyAlgorithm,
    KeyRecord,
    dump_inventory,
    parse_inventory,
)
from edgefleet_server.signing.keys.key_files import replace_private
from edgefleet_server.signing.signer import messages as m
from edgefleet_server.signing.signer.signer_connection import SignerConnection
from edgefleet_server.signing.trust import USUAL_CA, AuthorityView, CaChoice

REFRESH_S: Final = 1.0
_log = logging.getLogger(__name__)


class RemoteKeys:
    """The keys of TUF and of the director in the signing process (satisfies `KeyKeeper`)."""

    def __init__(self, connection: SignerConnection) -> None:
        """Ask over this connection."""
        self._connection = connection
        self._known: tuple[bytes, Inventory] = b"", Inventory()

    def create(self) -> None:
        """Refuse: the first keys are made by `edgectl server init`. Raises KeysExistError."""
        raise _made_elsewhere()

    def exists(self) -> bool:
        """Return whether there are keys."""
        return bool(self.inventory().keys)

    def has_root(self) -> bool:
        """Return whether the root key and its passphrase are with the others."""
        return self._connection.ask(m.AskRoot(), m.PublicPart | None) is not None  # type: ignore[arg-type]

    def inventory(self) -> Inventory:
        """Return which keys there are."""
        found = self._connection.ask(m.AskInventory(), bytes)
        if found != self._known[0]:
            self._known = found, parse_inventory(found)
        return self._known[1]

    def settle(self, named: Collection[str], root_version: int) -> None:
        """Note what metadata says."""
        self._connection.ask(m.Settle(sorted(named), root_version), object)

    def prepare(
        self,
        role: str,
        *,
        besides: Collection[str] | None = None,
        algorithm: KeyAlgorithm = KeyAlgorithm.ED25519,
    ) -> SSlibKey:
        """Return the public part of a key for a role whose private part is safe."""
        named = None if besides is None else sorted(besides)
        return _key_of(self._connection.ask(m.Prepare(role, algorithm.value, named), m.PublicPart))

    def take_in(self, record: KeyRecord) -> SSlibKey:
        """Add a key that lies elsewhere, once it has signed; return its public part."""
        return _key_of(self._connection.ask(m.TakeIn(dump_inventory(Inventory((record,)))), m.PublicPart))

    def discard(self, keyids: Collection[str]) -> None:
        """Revoke keys and delete their files."""
        self._connection.ask(m.Discard(sorted(keyids)), object)

    def discard_unused(self, roles: Collection[str], named: Collection[str]) -> None:
        """Revoke keys that were made for these roles and that no metadata ever named."""
        self._connection.ask(m.DiscardUnused(sorted(roles), sorted(named)), object)

    def destroy(self, role: str, named: Collection[str]) -> list[str]:
        """Revoke a role's keys that no metadata names any more, and destroy their files; return those that were there."""
        return self._connection.ask(m.Destroy(role, sorted(named)), list[str])

    def signer(self, keyid: str, role: str = "") -> "RemoteSigner":
        """Return what signs metadata of a role with a key. Raises what the key ring does."""
        return RemoteSigner(self._connection, role, _key_of(self._connection.ask(m.AskPublic(keyid), m.PublicPart)))

    def root_signer(self) -> "RemoteSigner":
        """Return what signs root, where its key is with the others. Raises KeysMissingError."""
        part = self._connection.ask(m.AskRoot(), m.PublicPart | None)  # type: ignore[arg-type]
        if part is None:
            raise KeysMissingError(
                "the root key or its passphrase is not in the key folder, so it cannot be used",
                next_step="bring root.pem and root.passphrase back from their offline medium for this one operation",
            )
        return RemoteSigner(self._connection, "root", _key_of(part))

    def sign_documents(
        self, keyids: Sequence[str], threshold: int, payload_type: str, payloads: Sequence[bytes]
    ) -> list[list[tuple[str, bytes]]]:
        """Return the signatures of each payload of the director, by key id. Asks once for many."""
        signed: list[list[tuple[str, bytes]]] = []
        for some in _portions(payloads):
            question = m.SignDocuments(list(keyids), threshold, payload_type, some)
            signed += self._connection.ask(question, list[list[tuple[str, bytes]]])
        return signed

    def sign_evidence(self, keyid: str, manifest: bytes) -> bytes:
        """Return the signature of a manifest of evidence, over its DSSE form."""
        return self._connection.ask(m.SignEvidence(keyid, manifest), bytes)


class RemoteSigner:
    """Signs metadata of one role with one key of the signing process (satisfies `KeySigner`)."""

    def __init__(self, connection: SignerConnection, role: str, public: SSlibKey) -> None:
        """Hold the public part. role: whose metadata is signed, "" for none."""
        self._connection = connection
        self._role = role
        self._public = public

    @property
    def public_key(self) -> SSlibKey:
        """The public part."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """Return the signature of metadata as TUF has it. Raises StatementRefusedError, and what the key ring does."""
        keyid = self._public.keyid
        return Signature(keyid, self._connection.ask(m.SignMetadata(self._role, keyid, payload), str))

    def sign_bytes(self, payload: bytes) -> bytes:
        """Return the signature of metadata, raw."""
        return bytes.fromhex(self.sign(payload).signature)

    def probe(self) -> None:
        """Let the key sign, where it lies elsewhere. Raises SignerUnavailableError."""
        self._connection.ask(m.AskPublic(self._public.keyid, probe=True), m.PublicPart)


class RemoteAuthority:
    """The device CA of the signing process (satisfies `Authority`). Copies of its certificates are files next to the server's own.

    They are brought up to date whenever they are read, at most once in REFRESH_S: a rotation may have been made from another host (ADR
    0167). While the signing process is away, or is of a version that does not know the question, the files are what is known.
    """

    def __init__(self, connection: SignerConnection, folder: Path) -> None:
        """Ask over this connection. folder: where the CA's certificate is."""
        self._connection = connection
        self._file, self._next_file = folder / CA_CERT_FILE, folder / NEXT_CERT_FILE
        self._key_file = folder / CA_KEY_FILE
        self._refreshed_s = -REFRESH_S

    def create(self, now: datetime) -> None:
        """Refuse: the CA is made by `edgectl server init`. Raises KeysExistError."""
        raise _made_elsewhere()

    def certificate_pem(self) -> bytes:
        """Return the CA certificate, PEM."""
        return self._certificate().public_bytes(serialization.Encoding.PEM)

    def certificate_sha256(self) -> Sha256:
        """Return the SHA-256 of the CA certificate in DER."""
        return sha256_hex(self._certificate().public_bytes(serialization.Encoding.DER))

    def view(self) -> AuthorityView:
        """Return what can be shown of the CA's certificate."""
        return view_of(self._certificate())

    def next_pem(self) -> bytes | None:
        """Return the certificate (PEM) of the CA that is to follow, None when there is none."""
        self._refresh()
        try:
            return self._next_file.read_bytes()
        except FileNotFoundError:
            return None

    def make_next(self, now: datetime) -> bytes:
        """Let the CA that is to follow be made; return its certificate, PEM."""
        made = self._connection.ask(m.ChangeCa("make"), bytes)
        replace_private(self._next_file, made, mode=0o644)
        return made

    def promote_next(self) -> bytes:
        """Let the CA that is to follow be the CA; return the certificate of the CA, PEM."""
        made = self._connection.ask(m.ChangeCa("promote"), bytes)
        replace_private(self._file, made, mode=0o644)
        self._next_file.unlink(missing_ok=True)
        return made

    def drop_next(self) -> None:
        """Let the CA that is to follow be destroyed."""
        self._connection.ask(m.ChangeCa("drop"), bytes)
        self._next_file.unlink(missing_ok=True)

    def issue_client(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: str,
        now: datetime,
        life: timedelta,
        *,
        choice: CaChoice = USUAL_CA,
    ) -> Issued:
        """Return a clientAuth certificate for `public_key` with CN `subject`. now: of the signing process's own clock."""
        return self._issue(public_key, subject, life, None, choice)

    def issue_server(
        self, public_key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime, life: timedelta
    ) -> Issued:
        """Return a serverAuth certificate whose SANs are `hosts`."""
        return self._issue(public_key, hosts[0], life, list(hosts))

    def issue_crl(self, serials: Sequence[str], now: datetime) -> bytes:
        """Return the signed list of revoked certificates (PEM). serials: hex."""
        return self._connection.ask(m.IssueCrl(list(serials)), bytes)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: str,
        life: timedelta,
        hosts: list[str] | None,
        choice: CaChoice = USUAL_CA,
    ) -> Issued:
        asked = m.IssueCertificate(
            public_der(public_key), subject, int(life.total_seconds()), hosts, choice.by_next, choice.before_s
        )
        made = self._connection.ask(asked, m.Certificate)
        key_sha256 = Sha256(made.key_sha256)
        return Issued(made.pem, made.subject, made.serial, key_sha256, made.not_before, made.not_after, made.issuer)

    def _refresh(self) -> None:
        """Write the files again where the signing process has other certificates; in its own folder they are its own."""
        if self._key_file.exists() or time.monotonic() - self._refreshed_s < REFRESH_S:
            return
        self._refreshed_s = time.monotonic()
        try:
            current, *following = self._connection.ask(m.AskCa(), list[bytes], patience_s=0.0)
        except SigningError as error:
            _log.debug("the certificates of the CA were not asked for", extra={"reason": error.message})
            return
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        if not following:
            self._next_file.unlink(missing_ok=True)
        for file, pem in [(self._file, current), *((self._next_file, one) for one in following)]:
            if not file.exists() or file.read_bytes() != pem:
                replace_private(file, pem, mode=0o644)

    def _certificate(self) -> x509.Certificate:
        self._refresh()
        try:
            return x509.load_pem_x509_certificate(self._file.read_bytes())
        except (OSError, ValueError) as error:
            raise KeysMissingError(
                f"the certificate of the device CA cannot be read: {error}",
                next_step=f"restore {self._file} from the backup, or copy it from the folder of the signing process",
            ) from error


def _portions(payloads: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the payloads in lists that one question takes."""
    some: list[bytes] = []
    size = 0
    for one in payloads:
        if len(one) > m.MAX_DOCUMENT_BYTES:
            raise StatementRefusedError(f"a document has {len(one)} bytes, and no device takes so many")
        if some and (len(some) == m.MAX_DOCUMENTS or size + len(one) > m.MAX_DOCUMENT_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += len(one)
    if some:
        yield some


def _key_of(part: m.PublicPart) -> SSlibKey:
    return SSlibKey(part.keyid, KEY_TYPES[KeyAlgorithm(part.algorithm)], part.algorithm, {"public": part.public})


def _made_elsewhere() -> KeysExistError:
    return KeysExistError(
        "the first keys are made before there is a signing process",
        next_step="make a server: `edgectl server init DIR`",
    )
