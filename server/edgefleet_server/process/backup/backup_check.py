"""Finding out whether backups are whole: every file by its digest, every table by its count and sum; deeply, by a trial restore."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Metadata,
    Root,
    Snapshot,
    Targets,
)

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.audit_chain.chain_book import PIECE, AuditChain
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.process.backup import backup_manifest as naming
from edgefleet_server.process.backup.backup_catalog import chosen, manifest_of, names_of
from edgefleet_server.process.backup.backup_manifest import Manifest
from edgefleet_server.process.backup.backup_places import BackupPlace
from edgefleet_server.process.backup.backup_writer import Progress
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.process.backup.row_files import digest_of, read_rows
from edgefleet_server.process.backup.table_shapes import RowSum, packed
from edgefleet_server.process.backup_keys.key_opener import Opener, check_origin
from edgefleet_server.signing import store as signing_store
from edgefleet_terms.audit_chain.audit_head import AuditHead
from edgefleet_terms.audit_chain.chain_check import check as check_chain
from edgefleet_terms.audit_chain.hash_chain import ChainedEntry

_NOT_DELEGATED: Final = frozenset({"root", "timestamp", "snapshot", "targets"})
_PAGE: Final = 200


class BackupChecker:
    """Checks the backups of one place. Calls block for as long as it takes."""

    def __init__(self, place: BackupPlace, clock: Clock, progress: Progress) -> None:
        """Wire the parts."""
        self._place = place
        self._clock = clock
        self._progress = progress

    def check(self, name: str | None, opener: Opener, *, is_deep: bool) -> dict[str, Any]:
        """Check one backup, the newest without a name; return what was found. `problems` is empty where it is whole."""
        name = chosen(self._place, name)
        manifest, digest = manifest_of(self._place, name)
        problems = [*self._chain(), *self._tables(manifest), *self._blobs(manifest)]
        is_opened = is_proved = False
        try:
            is_opened, is_proved = check_origin(self._place, manifest, opener)
        except EdgefleetError as error:
            problems.append(str(error))
        if is_deep and not problems:
            problems += self._deeply(manifest, digest)
        whole, begun = names_of(self._place)
        return {
            "backup": name,
            "manifest": digest,
            "taken_at": manifest.database.taken_at.isoformat(),
            "version": manifest.version,
            "schema": manifest.database.revision,
            "from": manifest.database.kind,
            "rows": manifest.database.rows,
            "blobs": len(manifest.blobs),
            "bytes": manifest.size,
            "keys": manifest.keys.form,
            "recipient": manifest.keys.recipient,
            "keys_opened": is_opened,
            "origin_proved": is_proved,
            "is_deep": is_deep,
            "backups": whole,
            "unfinished": begun,
            "problems": problems,
        }

    def _chain(self) -> Iterator[str]:
        """Yield what is wrong with the order of the manifests. The oldest may name one that was removed."""
        whole, _ = names_of(self._place)
        before = ""
        for place, name in enumerate(whole):
            manifest, digest = manifest_of(self._place, name)
            if place and manifest.previous != before:
                yield f"the manifest of {name} does not follow the one before it: one was taken away or exchanged"
            before = digest

    def _tables(self, manifest: Manifest) -> Iterator[str]:
        tables = manifest.database.tables
        for done, table in enumerate(tables):
            if not table.written.rows:
                continue
            self._progress("tables", done, len(tables), table.shape.name)
            name, total = naming.table_name(manifest.name, table.shape.name), RowSum()
            try:
                with self._place.open(name) as file:
                    for rows in read_rows(file, name, table.written.sha256):
                        total.add(packed(rows))
            except (EdgefleetError, KeyError, OSError) as error:
                yield str(error) if isinstance(error, EdgefleetError) else f"{name} is missing"
                continue
            if (total.rows, total.text) != (table.written.rows, table.written.sum):
                yield f"{name} has {total.rows} rows, and the manifest says {table.written.rows}, or they differ"

    def _blobs(self, manifest: Manifest) -> Iterator[str]:
        yield from (f"the server had lost the blob {one} when the backup was made" for one in manifest.missing_blobs)
        there, missing = self._place.sizes(naming.BLOBS), set(manifest.missing_blobs)
        total, done = sum(one.bytes for one in manifest.blobs), 0
        for one in manifest.blobs:
            self._progress("blobs", done, total, one.path or one.sha256[:12])
            name = naming.blob_name(one.sha256)
            if name in there and one.sha256 not in missing:
                with self._place.open(name) as file:
                    if digest_of(file) != (one.sha256, one.bytes):
                        yield f"{name} is damaged"
            elif one.sha256 not in missing:
                yield f"{name} is missing"
            done += one.bytes

    def _deeply(self, manifest: Manifest, digest: str) -> list[str]:
        """Restore the database into a file that is thrown away, and look whether a server could use it."""
        with tempfile.TemporaryDirectory(prefix="edgefleet-verify-") as folder:
            db = Database(f"sqlite:///{Path(folder, 'edgefleet.db')}")
            try:
                restorer = Restorer(self._place, Target(Path(folder)), self._progress)
                restorer.fill(manifest, digest, db)
                return [*trail_problems(db, self._clock), *metadata_problems(db)]
            except EdgefleetError as error:
                return [str(error)]
            finally:
                db.dispose()


def trail_problems(db: Database, clock: Clock) -> Iterator[str]:
    """Yield what is wrong with the audit trail of a database."""
    chain = AuditChain(db, clock)

    def entries(after: int) -> Iterator[ChainedEntry]:
        while some := chain.entries(after, PIECE):
            yield from some
            after = some[-1].n

    heads, page = dict[int, AuditHead](), chain.heads(PageRequest(limit=_PAGE))
    heads |= {one.size: one for one in page.items}
    while page.next_key is not None:
        page = chain.heads(PageRequest(limit=_PAGE, after=page.next_key))
        heads |= {one.size: one for one in page.items}
    found = check_chain(entries(0), heads, (), entries)
    if found.finding is not None:
        yield f"the audit trail is damaged: {found.finding.words}"
    elif found.size != chain.state().entries:
        yield f"the audit trail has {found.size} entries, and its end says {chain.state().entries}"


def metadata_problems(db: Database) -> Iterator[str]:
    """Yield what is wrong with the newest signed metadata of a database: a signature, a version, a file that is not there."""
    with db.read() as session:
        files = {name: signing_store.latest(session, name) for name in signing_store.names(session)}
    found = {name: file[1] for name, file in files.items() if file is not None}
    if not {"root", "timestamp", "snapshot", "targets"} <= found.keys():
        yield "there is no signed metadata: no server was ever made on this database"
        return
    root: Metadata[Root] = Metadata.from_bytes(found["root"])
    snapshot: Metadata[Snapshot] = Metadata.from_bytes(found["snapshot"])
    parents: dict[str, Metadata[Targets]] = {
        name: Metadata.from_bytes(found[name]) for name in ("targets", "releases") if name in found
    }
    for name, data in found.items():
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        delegator = root.signed if name in _NOT_DELEGATED else _delegator(parents, name)
        try:
            if delegator is None:
                raise ValueError("no role delegates to it")
            delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
        except Exception as error:  # noqa: BLE001  # whatever the library says of it
            yield f"the metadata of {name} is not validly signed: {error}"
    for file, meta in snapshot.signed.meta.items():
        role = file.removesuffix(".json")
        if role not in found or int(Metadata.from_bytes(found[role]).signed.version) < meta.version:
            yield f"the snapshot names version {meta.version} of {role}, which is not there"


def _delegator(parents: Mapping[str, "Metadata[Targets]"], name: str) -> Any:
    for parent in parents.values():
        delegations = parent.signed.delegations
        if delegations is not None and delegations.roles is not None and name in delegations.roles:
            return parent.signed
    return None
