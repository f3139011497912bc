"""Uploads in parts that were begun and never ended (ADR 0169).

S3 keeps their parts, bills them, and shows them in no list of objects. obstore has no call for them, so the two requests are made here,
with the key of the settings or of the environment. Only uploads below the prefix of this store are looked at, and only of names that a
blob has.
"""

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Final
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx

from edgefleet_protocol.clock import Clock
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.object_store.blob_keys import sha256_of
from edgefleet_server.registry.object_store.opened_store import bucket_address
from edgefleet_server.registry.object_store.s3_signature import S3Key, address, signed
from edgefleet_server.registry.object_store.store_failures import meaning_of
from edgefleet_server.settings import ServerSettings

LEFT_ALONE: Final = timedelta(days=1)
"""An upload that was begun later may still be sent: 2 GiB in parts that each may take five minutes, and be tried again."""
_ROLE: Final = (
    "uploads that were cut off are not looked at: the key comes from a role, and only boto3 can ask for it",
    "`pip install 'edgefleet[awskms]'`, or give the bucket a lifecycle rule that ends incomplete uploads (docs/operate/object-store.md)",
)
_GCS: Final = (
    "uploads that were cut off are not looked at in Google Cloud Storage",
    "give the bucket a lifecycle rule that ends incomplete uploads (docs/operate/object-store.md)",
)
_ABSENT: Final = frozenset({404})


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload without an end. key: the name in the bucket that it would have had."""

    key: str
    upload_id: str
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. unchecked, next: why nothing was looked at and what to do instead; both "" where all was looked at."""

    uploads: Sequence[UnfinishedUpload] = ()
    unchecked: str = ""
    next: str = ""


class UnfinishedUploads:
    """The unfinished uploads of one store of blobs. Calls block."""

    def __init__(self, settings: ServerSettings, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        """Wire the parts; sends nothing."""
        self._settings = settings
        self._clock = clock
        self._environ = environ
        self._role = cache(role_key)

    def look(self) -> Look:
        """Return what can be found. A refusal is in the answer; a folder and Azure, which drops blocks after a week, have none."""
        parts = urlsplit(self._settings.blob_url or "")
        if parts.scheme == "gs":
            return Look(unchecked=_GCS[0], next=_GCS[1])
        if parts.scheme != "s3":
            return Look()
        try:
            if self._key() is None:
                return Look(unchecked=_ROLE[0], next=_ROLE[1])
            return Look(tuple(self._listed()))
        except BlobStoreError as error:
            return Look(unchecked=error.message, next=error.next_step)

    def end(self, one: UnfinishedUpload) -> bool:
        """End an upload, which removes its parts; False: the store refused. True where it has ended meanwhile."""
        try:
            self._ask("DELETE", one.key, {"uploadId": one.upload_id}, _ABSENT)
        except BlobStoreError:
            return False
        return True

    def close(self) -> None:
        """Close the connections to the store. Harmless when none was opened."""
        if "_client" in vars(self):
            self._client.close()

    def _listed(self) -> Iterator[UnfinishedUpload]:
        """Yield them page by page. Raises BlobStoreError."""
        prefix = urlsplit(self._settings.blob_url or "").path.strip("/")
        query = {"uploads": "", "prefix": f"{prefix}/" if prefix else ""}
        while True:
            page = _parsed(self._ask("GET", "", query))
            for entry in page.iter("Upload"):
                key, begun = entry.findtext("Key", ""), entry.findtext("Initiated", "")
                if sha256_of(key.removeprefix(query["prefix"])) is not None:
                    yield UnfinishedUpload(key, entry.findtext("UploadId", ""), _time(begun))
            if page.findtext("IsTruncated") != "true":
                return
            query["key-marker"] = page.findtext("NextKeyMarker", "")
            query["upload-id-marker"] = page.findtext("NextUploadIdMarker", "")

    def _key(self) -> S3Key | None:
        """Return the access key, None where a role is used. Raises SettingsError."""
        secret = self._settings.secret("blob_secret_key")
        if self._settings.blob_access_key_id and secret:
            return S3Key(self._settings.blob_access_key_id, secret)
        given = [
            self._environ.get(f"AWS_{name}", "") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
        ]
        return S3Key(*given) if given[0] and given[1] else self._role()

    def _ask(self, method: str, key: str, query: Mapping[str, str], accepted: frozenset[int] = frozenset()) -> bytes:
        """Send one request and return the body. Raises BlobStoreError."""
        access = self._key()
        assert access is not None
        region = (
            self._settings.blob_region or self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        )
        region = region or "us-east-1"
        url = address(bucket_address(self._settings, region, self._environ), key, query)
        headers = signed(method, url, region, access, self._clock.now())
        try:
            answer = self._client.request(method, url, headers=headers)
        except (httpx.HTTPError, OSError) as error:
            raise _failed(f"error sending request: {error}") from error
        if not answer.is_success and answer.status_code not in accepted:
            raise _failed(f"{answer.status_code} {answer.text}")
        return answer.content

    @cached_property
    def _client(self) -> httpx.Client:
        """One for all requests, else each would begin with a handshake. Raises OSError."""
        trust = ssl.create_default_context()
        if self._settings.blob_ca_file is not None:
            trust.load_verify_locations(cafile=self._settings.blob_ca_file)
        return httpx.Client(verify=trust, timeout=30)


def role_key() -> S3Key | None:
    """Return the key of the role of this process as boto3 finds it, None without boto3 or without a role. Blocks, asks the network."""
    try:
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        from botocore.session import get_session  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        found = get_session().get_credentials()
        if found is None:
            return None
        key = found.get_frozen_credentials()
    except BotoCoreError:
        return None
    return S3Key(str(key.access_key), str(key.secret_key), str(key.token or ""))


def _failed(text: str) -> BlobStoreError:
    why, following = meaning_of(OSError(text)) or (
        " ".join(text.split())[:300],
        "check the object store's address and keys",
    )
    return BlobStoreError(f"uploads that were cut off cannot be looked at: {why}", next_step=following)


def _parsed(answer: bytes) -> ET.Element:
    """Return a document without its namespaces. Raises BlobStoreError."""
    try:
        found = ET.fromstring(answer)  # noqa: S314  # of the store that the settings name; expat bounds entities
    except ET.ParseError as error:
        raise _failed(f"the store's answer is no XML: {error}") from error
    for one in found.iter():
        one.tag = one.tag.rpartition("}")[2]
    return found


def _time(text: str) -> datetime:
    """Raises BlobStoreError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise _failed(f"the store gave {text!r} as a time") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
