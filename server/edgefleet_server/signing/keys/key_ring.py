"""The key ring: the one object that holds private keys. It answers "sign these bytes with this key", and makes keys ready for use.

Which key may sign is never asked here: callers take the ids from root and delegations. Nothing is read before it is needed.

`root.pem` is encrypted. Its passphrase is written next to it in `root.passphrase`, so that a first start works without a ceremony;
`README.txt` in the folder says plainly that this protects nothing until both leave the machine.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.envelope import pae
from edgefleet_server.signing.errors import (
    KeyRevokedError,
    KeysExistError,
    KeysMissingError,
    KeysUnreadableError,
)
from edgefleet_server.signing.keys import key_files
from edgefleet_server.signing.keys.inventory import (
    Inventory,
    KeyAlgorithm,
    KeyRecord,
    KeySource,
    KeyState,
    dump_inventory,
    parse_inventory,
)
from edgefleet_server.signing.keys.key_files import (
    INVENTORY_FILE,
    NOTE,
    NOTE_FILE,
    PASSPHRASE_FILE,
    ROOT_FILE,
    PrivateKey,
    destroy_files,
    load_private_key,
    pem_of,
    write_private,
)
from edgefleet_server.signing.keys.key_keeper import signers
from edgefleet_server.signing.keys.signer_uris import FILE_SCHEME, FileKey, KeySigner, SecretOf, check_uri, open_signer
from edgefleet_server.signing.trust import MODEL_PREFIX
from edgefleet_terms.evidence.evidence_manifest import PAYLOAD_TYPE

ONLINE_ROLES: Final = ("targets", "releases", "snapshot", "timestamp", "director")
_NOT_OURS: Final = frozenset({ROOT_FILE, "device-ca.pem", "device-ca-next.pem", "device-ca-gone.pem"})


class KeyRing:
    """The TUF and director keys of one key folder. Thread-safe: what it remembers is only ever added."""

    def __init__(self, folder: Path, clock: Clock, secret: SecretOf = lambda: None) -> None:
        """Remember the folder. secret: the passphrase of encrypted files and the PIN of tokens."""
        self._folder = folder
        self._clock = clock
        self._secret = secret
        self._signers: dict[str, KeySigner] = {}
        self._seen: tuple[tuple[int, int, int], Inventory] | None = None

    # -- the folder --------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the folder (0700), the root key, a key for each online role, and the note. Blocks on fsync. Raises KeysExistError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        if self._path(INVENTORY_FILE).exists():
            raise KeysExistError(
                f"{self._path(INVENTORY_FILE)} exists already; keys are never overwritten",
                next_step="use the existing keys, or choose an empty data folder for a new server",
            )
        passphrase = secrets.token_urlsafe(32).encode()
        root = key_files.new_private_key(KeyAlgorithm.ED25519)
        write_private(self._path(ROOT_FILE), pem_of(root, passphrase))
        write_private(self._path(PASSPHRASE_FILE), passphrase)
        write_private(self._path(NOTE_FILE), NOTE.encode())
        made = Inventory()
        for role in ONLINE_ROLES:
            made = made.with_key(self._make(role, KeyAlgorithm.ED25519, f"{role}.pem", KeyState.ACTIVE))
        write_private(self._path(INVENTORY_FILE), dump_inventory(made))
        key_files.sync_folder(self._folder)

    def exists(self) -> bool:
        """Return whether this is a folder of keys."""
        return self._path(INVENTORY_FILE).is_file() or all(self._path(f"{role}.pem").is_file() for role in ONLINE_ROLES)

    def has_root(self) -> bool:
        """Return whether the root key and its passphrase both lie here: then a copy of the folder is enough to own the fleet."""
        return all(self._path(name).is_file() for name in (ROOT_FILE, PASSPHRASE_FILE))

    def inventory(self) -> Inventory:
        """Return the inventory; of a folder that has none yet, the keys that lie in it. Raises KeysUnreadableError."""
        try:
            found = self._path(INVENTORY_FILE).stat()
        except FileNotFoundError:
            return self._found_keys(Inventory())
        mark = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._seen is None or self._seen[0] != mark:
            self._seen = mark, parse_inventory(self._path(INVENTORY_FILE).read_bytes())
        return self._seen[1]

    def change(self, make: Callable[[Inventory], Inventory]) -> Inventory:
        """Replace the inventory by what `make` returns of it, unless that is the same; return it. Blocks on fsync."""
        with key_files.folder_lock(self._folder):
            before = self.inventory()
            after = make(before)
            if after != before or not self._path(INVENTORY_FILE).exists():
                key_files.replace_private(self._path(INVENTORY_FILE), dump_inventory(after))
            return after

    def settle(self, named: Collection[str], root_version: int) -> None:
        """Note what metadata says. named: ids of all keys that may sign today."""
        before = self.inventory()
        if before.settled(named, root_version) != before or not self._path(INVENTORY_FILE).exists():
            self.change(lambda found: found.settled(named, root_version))

    # -- keys to come ------------------------------------------------------------------------------------------------

    def prepare(
        self,
        role: str,
        *,
        besides: Collection[str] | None = None,
        algorithm: KeyAlgorithm = KeyAlgorithm.ED25519,
    ) -> SSlibKey:
        """Return the public part of a key for a role whose private part is safe: one that is there, else a new one. Blocks on fsync.

        besides: ids that metadata names; then none that it has ever named, so that what a crash left prepared is used next.
        """
        with key_files.folder_lock(self._folder):
            inventory = self.inventory() if besides is None else self.inventory().settled(besides, 0)
            known = inventory.usable(role, unused=besides is not None)
            if known is None or (besides is not None and known.algorithm is not algorithm):
                plain = f"{role}.pem" if not (role.startswith(MODEL_PREFIX) or inventory.of_role(role)) else ""
                name = "" if plain and self._path(plain).exists() else plain
                known = self._make(role, algorithm, name, KeyState.PREPARED)
                key_files.sync_folder(self._folder)
                key_files.replace_private(self._path(INVENTORY_FILE), dump_inventory(inventory.with_key(known)))
        return self.signer(known.keyid).public_key

    def take_in(self, record: KeyRecord) -> SSlibKey:
        """Add a key that lies elsewhere, once it has signed; return its public part. Blocks on the network.

        Raises SignerUriError, SignerUnavailableError, KeyRevokedError.
        """
        check_uri(record.uri)
        known = self.inventory().key(record.keyid)
        if known is not None and known.state is KeyState.REVOKED:
            raise _revoked(known)
        signer = open_signer(record, self._folder, self._secret)
        signer.sign(b"edgefleet: a first signature, to see that the place answers")
        if known is None:
            self.change(lambda found: found.with_key(record))
        return signer.public_key

    def discard(self, keyids: Collection[str]) -> None:
        """Revoke keys and delete their files. What lies elsewhere is to be disabled there."""
        after = self.change(lambda found: found.revoked(keyids))
        for keyid in keyids:
            record = after.key(keyid)
            self._signers.pop(keyid, None)
            if record is not None and record.uri.startswith(f"{FILE_SCHEME}:"):
                self._path(record.uri.partition(":")[2]).unlink(missing_ok=True)
        key_files.sync_folder(self._folder)

    def discard_unused(self, roles: Collection[str], named: Collection[str]) -> None:
        """Revoke keys that were made here for these roles and that no metadata ever named: who copied the folder has them too."""
        known = self.inventory().settled(named, 0)
        unused = [one for role in roles for one in known.of_role(role) if one.state is KeyState.PREPARED]
        gone = [one.keyid for one in unused if one.source is KeySource.MADE]
        if gone:
            self.discard(gone)

    def destroy(self, role: str, named: Collection[str]) -> list[str]:
        """Revoke a role's keys that no metadata names any more, and destroy their files; return those that were there.

        For a role that is signed elsewhere from now on; may be repeated. named: ids of all keys that may sign today. With root goes its
        passphrase, and the note in the folder says how things are then. What lies elsewhere is to be disabled there. Blocks on fsync.
        """
        if role == "root":
            gone = destroy_files([self._path(ROOT_FILE), self._path(PASSPHRASE_FILE)])
            if gone:
                key_files.replace_private(self._path(NOTE_FILE), key_files.NOTE_AFTER_CEREMONY.encode())
            return gone
        old = [one for one in self.inventory().of_role(role) if one.keyid not in named]
        if any(one.state is not KeyState.REVOKED for one in old):
            self.change(lambda found: found.revoked([one.keyid for one in old]))
        for one in old:
            self._signers.pop(one.keyid, None)
        files = [self._path(one.uri.partition(":")[2]) for one in old if one.uri.startswith(f"{FILE_SCHEME}:")]
        return destroy_files(files)

    # -- signing -----------------------------------------------------------------------------------------------------

    def signer(self, keyid: str, role: str = "") -> KeySigner:  # only the signing process asks for whom
        """Return the signer of a key. Raises KeysMissingError, KeysUnreadableError, KeyRevokedError, SignerUnavailableError."""
        if keyid not in self._signers:
            self._signers[keyid] = open_signer(self.record(keyid), self._folder, self._secret)
        return self._signers[keyid]

    def record(self, keyid: str) -> KeyRecord:
        """Return a key that may be used. Raises KeysMissingError, KeyRevokedError."""
        inventory = self.inventory()
        record = inventory.key(keyid) or self._found_keys(inventory).key(keyid)
        if record is None:
            raise KeysMissingError(
                f"the key {keyid[:12]} is not among those of the key folder",
                next_step="restore the key folder from its backup, or copy it from the other server",
            )
        if record.state is KeyState.REVOKED:
            raise _revoked(record)
        return record

    def sign(self, keyid: str, payload: bytes) -> bytes:
        """Return the signature of a key, raw. Raises what `signer` does."""
        return self.signer(keyid).sign_bytes(payload)

    def sign_documents(
        self, keyids: Sequence[str], threshold: int, payload_type: str, payloads: Sequence[bytes]
    ) -> list[list[tuple[str, bytes]]]:
        """Return the signatures of each payload of the director, by key id. Raises what `signer` does."""
        signing = [(one.public_key.keyid, one.sign_bytes) for one in signers(self, "director", keyids, threshold)]
        contents = [pae(payload_type, payload) for payload in payloads]
        return [[(keyid, sign(content)) for keyid, sign in signing] for content in contents]

    def sign_evidence(self, keyid: str, manifest: bytes) -> bytes:
        """Return the signature of a manifest of evidence, over its DSSE form. Raises what `signer` does."""
        return self.signer(keyid).sign_bytes(pae(PAYLOAD_TYPE, manifest))

    def root_signer(self) -> KeySigner:
        """Return the root signer; needs `root.pem` and `root.passphrase` here. Raises KeysMissingError."""
        passphrase_file = self._path(PASSPHRASE_FILE)
        if not passphrase_file.is_file():
            raise KeysMissingError(
                f"{PASSPHRASE_FILE} is not in the key folder, so the root key cannot be used",
                next_step="bring root.pem and root.passphrase back from their offline medium for this one operation",
            )
        private = load_private_key(self._path(ROOT_FILE), passphrase_file.read_bytes())
        return FileKey(private, SSlibKey.from_crypto(private.public_key()))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _make(self, role: str, algorithm: KeyAlgorithm, name: str, state: KeyState) -> KeyRecord:
        private = key_files.new_private_key(algorithm)
        record = self._described(private, role, name, state, self._clock.now(), KeySource.MADE)
        write_private(self._path(record.uri.partition(":")[2]), pem_of(private, self._secret()))
        return record

    def _found_keys(self, inventory: Inventory) -> Inventory:
        """Return the inventory with the key files that it does not know, as a server had them before there was one."""
        known = {one.uri for one in inventory.keys}
        for path in sorted(self._folder.glob("*.pem")):
            if path.name in _NOT_OURS or f"{FILE_SCHEME}:{path.name}" in known:
                continue
            try:
                private = load_private_key(path, self._secret())
            except (KeysMissingError, KeysUnreadableError):
                continue
            made = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0)
            role = path.stem
            record = self._described(private, role, path.name, KeyState.ACTIVE, made, KeySource.FOUND)
            if inventory.key(record.keyid) is None:
                inventory = inventory.with_key(record)
        return inventory

    def _described(
        self, private: PrivateKey, role: str, name: str, state: KeyState, made: datetime, source: KeySource
    ) -> KeyRecord:
        public = SSlibKey.from_crypto(private.public_key())
        name = name or f"{role}.{public.keyid[:12]}.pem"
        return KeyRecord(
            public.keyid,
            role,
            f"{FILE_SCHEME}:{name}",
            KeyAlgorithm(public.scheme),
            str(public.keyval["public"]),
            state,
            made,
            source,
        )


def _revoked(record: KeyRecord) -> KeyRevokedError:
    return KeyRevokedError(
        f"the key {record.keyid[:12]} of {record.role} was revoked, and nothing is signed with it",
        next_step=f"`edgectl key rotate {record.role}` gives the role a new key",
    )
