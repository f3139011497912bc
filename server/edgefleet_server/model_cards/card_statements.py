"""What people state of releases, as it is kept. Thread-safe; calls block."""

from dataclasses import replace
from typing import Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.model_cards import store
from edgefleet_server.model_cards.model import Statement
from edgefleet_server.registry.model import ReleaseView
from edgefleet_server.registry.service import RegistryService

_GENERATIONS: Final = 20


class Statements:
    """The statements of one database."""

    def __init__(self, db: Database, registry: RegistryService) -> None:
        """Wire the parts."""
        self._db, self._registry = db, registry

    def stated(self, ref: ReleaseRef) -> Statement:
        """Return what people state of a release: its own statement, else that of the nearest parent. Raises ReleaseUnknownError."""
        release = self._registry.release(ref)
        seen: set[str] = set()
        for _ in range(_GENERATIONS):
            found = self._own(release)
            parent = release.lineage.get("parent", "")
            if found is not None or not parent or parent in seen:
                return found or Statement()
            seen.add(parent)
            try:
                release = self._registry.release(ReleaseRef.parse(parent))
            except EdgefleetError:  # it was deleted
                break
        return Statement()

    def _own(self, release: ReleaseView) -> Statement | None:
        with self._db.read() as session:
            row = store.find(session, release.ref)
            if row is None or row.source_sha256 != release.source_sha256:
                return None
            known = {name: value for name, value in row.stated.items() if name in Statement.__dataclass_fields__}
            return replace(Statement(**known), of=str(release.ref), by=row.changed_by, at=row.changed_at)
