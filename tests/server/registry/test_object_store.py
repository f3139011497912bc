"""Blobs in S3: what only S3 has. What every store does is in test_store_contract.py."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import obstore
import pytest
from obstore.store import S3Store

from edgefleet_protocol.digest import Sha256
from edgefleet_server.clock import SystemClock
from edgefleet_server.registry.blobs import RemoteBlobs, open_blob_store
from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.object_store.opened_store import open_object_store
from edgefleet_server.registry.object_store.store_probe import probe
from edgefleet_server.registry.object_store.unfinished_uploads import Look, UnfinishedUploads
from edgefleet_server.settings import ServerSettings, load_settings
from tests.house.tree import ROOT
from tests.support.buckets import Answer, FaultyProxy, Request, make_bucket, moto_server, s3_error

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]
LARGE = os.urandom(20 * 1024 * 1024 + 5)
SMALL = os.urandom(70_000)
PHRASE = b"five words at random"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@dataclass
class Bucket:
    """One bucket behind a proxy, and a server's settings for it."""

    proxy: FaultyProxy
    settings: ServerSettings
    blobs: RemoteBlobs

    def put(self, data: bytes) -> Sha256:
        with self.blobs.writer(limit_bytes=len(data)) as writer:
            writer.write(data)
            return writer.finish(None)


def bucket_settings(tmp_path: Path, url: str, **changes: object) -> ServerSettings:
    given: dict[str, object] = {
        "blob_url": "s3://blobs/fleet/one",
        "blob_endpoint": url,
        "blob_access_key_id": "id",
        "blob_secret_key": "key",
        "blob_region": "us-east-1",
    }
    return load_settings(tmp_path / "data", **(given | changes))


@pytest.fixture
def bucket(moto: str, tmp_path: Path) -> Iterator[Bucket]:
    httpx.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    make_bucket(moto, "blobs")
    with FaultyProxy(moto).running() as proxy:
        settings = bucket_settings(tmp_path, proxy.url)
        blobs = open_blob_store(settings)
        assert isinstance(blobs, RemoteBlobs)
        yield Bucket(proxy, settings, blobs)


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (404, "NoSuchBucket", "no such bucket"),
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "SignatureDoesNotMatch", "not that of the access key"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "AccessDenied", "lack a right"),
        (503, "SlowDown", "busy"),
        (400, "KMS.DisabledException", "key of KMS"),
    ],
)
def test_check_says_why_and_what_to_do(bucket: Bucket, status: int, code: str, why: str) -> None:
    bucket.proxy.fault = s3_error(status, code)
    facts = probe(bucket.settings)
    assert why in facts.problem
    assert facts.next


def test_encryption_is_asked_for(bucket: Bucket, tmp_path: Path) -> None:
    settings = bucket_settings(
        tmp_path, bucket.proxy.url, blob_encryption="aws:kms", blob_kms_key="arn:aws:kms:x:1:key/k"
    )
    obstore.put(open_object_store(settings), "ab/x", b"data")
    sent = bucket.proxy.seen[-1].headers
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:aws:kms:x:1:key/k"


@pytest.mark.parametrize(
    ("is_virtual", "host", "path"),
    [(True, "blobs.s3.example", "/fleet/one/ab/y"), (False, "s3.example", "/blobs/fleet/one/ab/y")],
)
def test_the_bucket_is_in_the_host_or_in_the_path(
    bucket: Bucket, tmp_path: Path, is_virtual: bool, host: str, path: str
) -> None:
    """The name does not resolve, so the request goes through an HTTP proxy, which sees where it was meant for."""
    settings = bucket_settings(tmp_path, "http://s3.example", blob_virtual_host=is_virtual, blob_allow_http=True)
    store = open_object_store(settings)
    assert isinstance(store, S3Store)
    bucket.proxy.fault = lambda request: Answer(200, {"etag": '"x"'}, b"")
    client: Any = {**(store.client_options or {}), "proxy_url": bucket.proxy.url}
    config: Any = {**store.config}
    through = S3Store(config.pop("bucket"), prefix=store.prefix, config=config, client_options=client)
    obstore.put(through, "ab/y", b"data")
    sent = bucket.proxy.seen[-1]
    assert sent.headers["host"] == host
    assert urlsplit(sent.path).path == path


ACTIONS = {
    "GET ?list-type": "s3:ListBucket", "GET ?uploads": "s3:ListBucketMultipartUploads",
    "GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject",
    "POST ?uploads": "s3:PutObject", "POST ?uploadId": "s3:PutObject",
    "POST ?delete": "s3:DeleteObject",
    "DELETE ?uploadId": "s3:AbortMultipartUpload", "DELETE": "s3:DeleteObject",
}  # fmt: skip
"""Which right S3 asks for: method and the word in the query that makes it another one."""


def test_the_policy_of_the_page_has_the_rights_that_are_used_and_no_others(bucket: Bucket) -> None:
    page = (ROOT / "docs" / "operate" / "object-store.md").read_text()
    documents = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    (document,) = [one for one in documents if "Statement" in one]
    listed = [one["Action"] for one in document["Statement"] if one["Effect"] == "Allow"]
    granted = {action for one in listed for action in ([one] if isinstance(one, str) else one)}
    sha256 = bucket.put(LARGE)
    bucket.put(SMALL)
    assert len(bucket.blobs.read_range(sha256, 0, 10)) == 10
    assert len(list(bucket.blobs.list())) == 2
    bucket.blobs.remove(sha256)
    assert probe(bucket.settings).problem == ""
    assert UnfinishedUploads(bucket.settings, SystemClock()).look() == Look()
    bucket.proxy.fault = lambda one: s3_error(403, "AccessDenied")(one) if "partNumber=2" in one.path else None
    with pytest.raises(BlobStoreError):
        bucket.put(LARGE)
    assert {_action(one) for one in bucket.proxy.seen} == granted


def _action(request: Request) -> str:
    query = urlsplit(request.path).query
    special = next(
        (word for word in ("list-type", "uploads", "uploadId", "delete") if word in re.split("[=&]", query)), ""
    )
    return (
        ACTIONS.get(f"{request.method} ?{special}") or ACTIONS.get(request.method) or f"{request.method} {request.path}"
    )
