"""Blobs in S3 as a real server (moto) speaks it, through a proxy that breaks what a network and a store break."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import obstore
import pytest
from obstore.store import S3Store

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.clock import SystemClock
from edgefleet_server.process.backup import backup_places
from edgefleet_server.process.backup.backup_catalog import names_of
from edgefleet_server.process.backup.backup_places import BackupPlace, opened_place
from edgefleet_server.process.backup.backup_writer import BackupWriter, KeysChoice
from edgefleet_server.process.backup.errors import BackupPlaceError
from edgefleet_server.process.backup.restorer import Restorer, Target
from edgefleet_server.registry.blobs import RemoteBlobs, open_blob_store, read_chunks
from edgefleet_server.registry.errors import BlobStoreError, BlobUnknownError
from edgefleet_server.registry.object_store.opened_store import open_object_store
from edgefleet_server.registry.object_store.store_probe import probe
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings, load_settings
from tests.house.tree import ROOT
from tests.server.backup import servers
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


def test_a_large_blob_goes_in_parts_is_listed_and_comes_back_in_one_request(bucket: Bucket) -> None:
    sha256 = bucket.put(LARGE)
    assert bucket.proxy.count("PUT", "partNumber=") == 3
    assert b"".join(read_chunks(bucket.blobs, sha256, 0, len(LARGE))) == LARGE
    assert bucket.proxy.count("GET", sha256) == 1, "20 ranges, one request"
    assert [(one.sha256, one.length) for one in bucket.blobs.list()] == [(sha256, len(LARGE))]
    writes = bucket.proxy.count("PUT")
    assert bucket.put(LARGE) == sha256
    assert bucket.proxy.count("PUT") == writes, "what is there is not sent again"
    bucket.blobs.remove(sha256)
    assert bucket.blobs.size(sha256) is None
    with pytest.raises(BlobUnknownError):
        bucket.blobs.read_range(sha256, 0, 1)
    assert list((bucket.settings.run_dir / "spool").iterdir()) == []


def test_a_part_that_breaks_is_sent_again_alone(bucket: Bucket) -> None:
    broken: list[str] = []

    def fault(request: Request) -> Answer | None:
        if "partNumber=2" in request.path and len(broken) < 2:
            broken.append(request.path)
            return s3_error(503, "SlowDown")(request)
        return None

    bucket.proxy.fault = fault
    sha256 = bucket.put(LARGE)
    assert len(broken) == 2
    assert bucket.proxy.count("PUT", "partNumber=") == 5, "three parts, one of them three times"
    assert bytes(obstore.get(open_object_store(bucket.settings), f"{sha256[:2]}/{sha256}").bytes()) == LARGE


def test_an_upload_that_fails_for_good_leaves_no_parts_and_says_why(bucket: Bucket) -> None:
    def fault(request: Request) -> Answer | None:
        return s3_error(403, "AccessDenied")(request) if "partNumber=2" in request.path else None

    bucket.proxy.fault = fault
    with pytest.raises(BlobStoreError, match="lack a right") as caught:
        bucket.put(LARGE)
    assert "policy" in caught.value.next_step
    assert bucket.blobs.size(sha256_hex(LARGE)) is None
    bucket.proxy.fault = lambda request: None
    left = httpx.get(f"{bucket.proxy.upstream}/blobs?uploads", timeout=30).text
    assert "<UploadId>" not in left
    assert list((bucket.settings.run_dir / "spool").iterdir()) == []


def test_a_body_that_is_cut_goes_on_and_wrong_bytes_are_refused(bucket: Bucket) -> None:
    sha256 = bucket.put(LARGE)
    cut: list[str] = []

    def fault(request: Request) -> str | None:
        if request.method == "GET" and sha256 in request.path and not cut:
            cut.append(request.path)
            return "cut"
        return None

    bucket.proxy.fault = fault
    try:
        assert bucket.blobs.read_range(sha256, 5, 100) == LARGE[5:105]
    except BlobStoreError:
        assert bucket.blobs.read_range(sha256, 5, 100) == LARGE[5:105], "the next read fetches it"
    assert cut
    other = sha256_hex(SMALL)
    obstore.put(open_object_store(bucket.settings), f"{other[:2]}/{other}", b"x" * len(SMALL))
    with pytest.raises(BlobUnknownError):
        bucket.blobs.read_range(other, 0, 10)


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


def test_check_proves_the_store_and_leaves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    facts = probe(bucket.settings)
    assert (facts.kind, facts.who, facts.problem) == ("s3", "id", "")
    assert [one for page in obstore.list(open_object_store(bucket.settings)) for one in page] == []
    bad = probe(bucket_settings(tmp_path, bucket.proxy.url, blob_url="s3://nobucket"))
    assert "no such bucket" in bad.problem
    gone = probe(bucket_settings(tmp_path, "http://127.0.0.1:9"))
    assert "cannot be reached" in gone.problem


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


def test_a_backup_goes_into_a_bucket_by_the_same_settings_and_goes_on_after_a_refused_write(
    moto: str, tmp_path: Path
) -> None:
    httpx.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    make_bucket(moto, "vault")
    house = servers.begin(tmp_path / "data")
    house.db.dispose()

    def fault(request: Request) -> Answer | None:
        writes = proxy.count("PUT", "/tables/")
        return s3_error(403, "AccessDenied")(request) if request.method == "PUT" and writes > 3 else None

    with FaultyProxy(moto).running() as proxy:
        proxy.fault = fault
        access = tmp_path / "bucket.toml"
        access.write_text(
            f"blob_endpoint = '{proxy.url}'\nblob_access_key_id = 'id'\nblob_secret_key = 'key'\nblob_region = 'us-east-1'\n"
        )

        def place(*, is_new: bool) -> AbstractContextManager[BackupPlace]:
            return opened_place(
                "s3://vault/a/b",
                is_new=is_new,
                settings=lambda: backup_places.bucket_settings(tmp_path / "data", access),
            )

        def backup() -> None:
            with place(is_new=True) as opened:
                BackupWriter(load_settings(tmp_path / "data"), opened, SystemClock(), silent).make(KeysChoice(PHRASE))

        with pytest.raises(BackupPlaceError, match="write backups: these credentials lack a right") as refused:
            backup()
        assert "rights of the policy" in str(refused.value.next_step)
        proxy.fault = lambda request: None
        with place(is_new=False) as opened:
            assert names_of(opened)[0] == []
        backup()
        with place(is_new=False) as opened:
            assert len(names_of(opened)[0]) == 1
            Restorer(opened, Target(tmp_path / "back"), silent).restore(None, PHRASE)
        assert (tmp_path / "back" / "server.toml").exists()
        access.write_text("tenant = 'x'\n")
        with pytest.raises(SettingsError, match="say nothing of a bucket"), place(is_new=False):
            pass


def silent(_stage: str, _done: int, _total: int, _words: str) -> None:
    """Show nothing."""


ACTIONS = {
    "GET ?list-type": "s3:ListBucket", "GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject",
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
