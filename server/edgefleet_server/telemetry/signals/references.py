"""The references of bundles, read out of the blob store once and kept: a bundle never changes."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.drift.reference import MEMBER, Reference, basis_of, read_reference
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.registry.model import BundleView

KEPT: Final = 256
MAX_BYTES: Final = 4 * 1024 * 1024
_log = logging.getLogger(__name__)


class Bundles(Protocol):
    """What is needed of the registry."""

    def bundles_by_digest(self, digests: Sequence[str]) -> dict[Sha256, BundleView]:
        """Return the signed bundles that have these digests."""
        ...

    def member_of(self, bundle: BundleView, name: str, most_bytes: int) -> bytes | None:
        """Return a member of a signed bundle, None without one."""
        ...


@dataclass(frozen=True, slots=True)
class KnownBundle:
    """A signed bundle. reference: None when it carries none that can be read; basis: hex, "" without a reference."""

    view: BundleView
    reference: Reference | None
    basis: str


class BundleReferences:
    """Finds bundles and their references by digest. Thread-safe; calls block."""

    def __init__(self, registry: Bundles) -> None:
        """Wire the registry."""
        self._registry = registry
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, KnownBundle] = OrderedDict()

    def of(self, digests: Sequence[str]) -> dict[str, KnownBundle]:
        """Return those of these digests that are signed bundles. Raises BlobStoreError when the store does not answer."""
        found = {}
        with self._lock:
            for digest in digests:
                known = self._kept.get(digest)
                if known is not None:
                    self._kept.move_to_end(digest)
                    found[digest] = known
        missing = [digest for digest in digests if digest not in found]
        for digest, view in (self._registry.bundles_by_digest(missing) if missing else {}).items():
            found[str(digest)] = self.known(view)
        return found

    def known(self, view: BundleView) -> KnownBundle:
        """Return a bundle with its reference. Raises BlobStoreError when the store does not answer."""
        with self._lock:
            kept = self._kept.get(view.sha256)
        if kept is not None:
            return kept
        reference = self._read(view)
        known = KnownBundle(view, reference, "" if reference is None else basis_of(reference).hex())
        with self._lock:
            self._kept[view.sha256] = known
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return known

    def _read(self, view: BundleView) -> Reference | None:
        try:
            data = self._registry.member_of(view, MEMBER, MAX_BYTES)
            return None if data is None else read_reference(data)
        except EdgefleetError as error:
            if error.code.startswith("blob."):
                raise
            _log.warning("the drift reference of %s cannot be read: %s", view.target, error.message)
            return None
