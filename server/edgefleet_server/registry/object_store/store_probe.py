"""A proof that the blob store works: an object is written, read and removed; and that it holds this database's blobs (ADR 0166)."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import obstore

from edgefleet_protocol.digest import Sha256
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.object_store.opened_store import open_object_store, who
from edgefleet_server.registry.object_store.store_failures import store_failed
from edgefleet_server.settings import ServerSettings

COMPARED: Final = 20
"""So many of the newest blobs that the database names are looked for in the store."""
_BYTES = 1024
_UNCHECKED: Final = {
    "s3": "lifecycle rules: `aws s3api get-bucket-lifecycle-configuration --bucket {bucket}`;"
    " uploads that were cut off: `edgectl server garbage-collect`",
    "gs": "lifecycle rules: `gcloud storage buckets describe gs://{bucket} --format='default(lifecycle_config)'`",
    "az": "lifecycle rules: `az storage account management-policy show` for the account of {bucket}",
}


@dataclass(frozen=True)
class StoreFacts:
    """A store that was asked. problem: "" when writing, reading and removing worked, and it has what it was compared with.

    took_ms: all together. compared: how many of the newest blobs of the database were looked for; missing: how many of them it
    does not have whole. unchecked: what no question here can answer, and the command that shows it.
    """

    kind: str
    where: str
    who: str
    encryption: str
    took_ms: int
    problem: str
    next: str
    compared: int = 0
    missing: int = 0
    unchecked: str = ""


@dataclass(frozen=True)
class Expected:
    """What a store has to hold. named: lengths by digest, the newest blobs of the database; size: asks the store for one."""

    named: Mapping[Sha256, int]
    size: Callable[[Sha256], int | None]


def probe(settings: ServerSettings, expected: Expected | None = None) -> StoreFacts:
    """Ask the store of the settings; a refusal is in the answer. Local folders take no probe; what they must hold is looked for."""
    url = settings.blob_url
    kind = urlsplit(url).scheme if url else "folder"
    where = url or str(settings.blobs_dir)
    is_local = kind in ("folder", "file")
    began, identity, problem, following, missing = time.monotonic(), "", "", "", 0
    try:
        if not is_local:
            store = open_object_store(settings, tries=2)
            identity = who(store)
            _write_read_remove(store)
        if expected is not None:
            missing = sum(expected.size(sha256) != length for sha256, length in expected.named.items())
            problem, following = _difference(where, missing, len(expected.named))
    except BlobStoreError as error:
        problem, following = error.message, error.next_step
    took = 0 if is_local else int((time.monotonic() - began) * 1000)
    encryption = "" if is_local else settings.blob_encryption
    compared = 0 if expected is None else len(expected.named)
    unchecked = _UNCHECKED.get(kind, "").format(bucket=urlsplit(url or "").netloc)
    return StoreFacts(kind, where, identity, encryption, took, problem, following, compared, missing, unchecked)


def _difference(where: str, missing: int, compared: int) -> tuple[str, str]:
    """Return what is wrong with a store that lacks blobs, and what to do; empty texts where it lacks none."""
    if missing == 0:
        return "", ""
    problem = f"{where} lacks {missing} of the newest {compared} blobs that the database names"
    if missing == compared:
        return f"{problem}: other hosts of this database use another store", (
            "give all hosts the same `blob_url` and `blob_endpoint`, compare them with `edgectl server check --settings` on each;"
            " a store is moved by `edgectl server migrate --blobs URL`"
        )
    return f"{problem}: some were removed, or a host with another store took them", (
        "compare `blob_url` and `blob_endpoint` of all hosts; copy what is in the other store into this one, see that no lifecycle"
        " rule expires objects, or restore the blobs from a backup"
    )


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
