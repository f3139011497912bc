"""A proof that the blob store works: an object is written, read and removed."""

import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import obstore

from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.object_store.opened_store import open_object_store, who
from edgefleet_server.registry.object_store.store_failures import store_failed
from edgefleet_server.settings import ServerSettings

_BYTES = 1024


@dataclass(frozen=True)
class StoreFacts:
    """A store that was asked. problem: "" when writing, reading and removing worked. took_ms: all three together."""

    kind: str
    where: str
    who: str
    encryption: str
    took_ms: int
    problem: str
    next: str


def probe(settings: ServerSettings) -> StoreFacts:
    """Ask the store of the settings; a refusal is in the answer. Local folders are named and not asked."""
    url = settings.blob_url
    kind = urlsplit(url).scheme if url else "folder"
    where = url or str(settings.blobs_dir)
    if kind in ("folder", "file"):
        return StoreFacts(kind, where, "", "", 0, "", "")
    began, identity, problem, following = time.monotonic(), "", "", ""
    try:
        store = open_object_store(settings, tries=2)
        identity = who(store)
        _write_read_remove(store)
    except BlobStoreError as error:
        problem, following = error.message, error.next_step
    took = int((time.monotonic() - began) * 1000)
    return StoreFacts(kind, where, identity, settings.blob_encryption, took, problem, following)


def _write_read_remove(store: obstore.store.ObjectStore) -> None:
    """Raises BlobStoreError."""
    key, data = f"probe/{secrets.token_hex(16)}", secrets.token_bytes(_BYTES)
    what = "store"
    try:
        obstore.put(store, key, data)
        what = "read"
        came = bytes(obstore.get_range(store, key, start=0, length=_BYTES))
        what = "remove"
        obstore.delete(store, key)
    except (OSError, obstore.exceptions.BaseError) as error:
        raise store_failed(what, error) from error
    if came != data:
        raise BlobStoreError(
            "the blob store gave other bytes than were put into it",
            next_step="look for a proxy or cache in front of it",
        )
