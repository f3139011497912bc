"""What every store of blobs has to do: each test against each store of EDGEFLEET_STORES, in the suite S3 alone.

`./dev soak stores` runs them against all that `tests/support/cloud_stores.py` can start.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import obstore
import pytest

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.process.backup import backup_places
from edgefleet_server.process.backup.backup_catalog import names_of
from edgefleet_server.process.backup.backup_check import BackupChecker
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
from tests.house.soak import SOAKS
from tests.server.backup import servers
from tests.server.registry import upload_kills
from tests.server.registry.test_garbage_collection import DELETE, run
from tests.support.buckets import Answer, FaultyProxy, Request, s3_error
from tests.support.cloud_stores import STORES, CloudStore, PartNumbers, service_account
from tests.support.servers import ApiHouse

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]
CHOSEN: Final = os.environ.get("EDGEFLEET_STORES", "s3").split(",")
"""Names of `STORES`."""
IS_SUITE: Final = "EDGEFLEET_STORES" not in os.environ
LARGE = os.urandom(20 * 1024 * 1024 + 5)
SMALL = os.urandom(70_000)
PHRASE = b"five words at random"
_numbers = itertools.count(1)


@dataclass
class Bucket:
    """One empty bucket behind a proxy, and a server's settings for it."""

    cloud: CloudStore
    name: str
    proxy: FaultyProxy
    settings: ServerSettings
    blobs: RemoteBlobs

    def put(self, data: bytes) -> Sha256:
        with self.blobs.writer(limit_bytes=len(data)) as writer:
            writer.write(data)
            return writer.finish(None)

    def need(self, what: str) -> None:
        """End the test where the imitation lacks this."""
        if what in self.cloud.lacks:
            pytest.skip(self.cloud.lacks[what])

    def other(self, **changes: object) -> ServerSettings:
        """Return the settings of another server."""
        given: dict[str, object] = dict(self.cloud.given(self.proxy, self.name))
        return load_settings(self.settings.data_dir, **(given | changes))

    def keys(self) -> list[str]:
        """Return all names that are in the folder of the bucket."""
        return [str(one["path"]) for page in obstore.list(open_object_store(self.settings)) for one in page]

    def refuse_part(self, number: int) -> None:
        """Answer 403 to one part from now on."""
        numbers = PartNumbers()
        refused = s3_error(403, "AccessDenied")
        self.proxy.fault = lambda request: refused(request) if numbers.of(request) == number else None


@pytest.fixture(scope="module", params=CHOSEN)
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStore]:
    with STORES[request.param](tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def bucket(cloud: CloudStore, tmp_path: Path) -> Iterator[Bucket]:
    name = f"blobs{next(_numbers)}"
    cloud.make(name)
    with cloud.proxy().running() as proxy:
        settings = load_settings(tmp_path / "data", **cloud.given(proxy, name))
        blobs = open_blob_store(settings)
        assert isinstance(blobs, RemoteBlobs)
        yield Bucket(cloud, name, proxy, settings, blobs)


def test_a_small_blob_is_put_found_read_in_ranges_listed_and_removed(bucket: Bucket) -> None:
    bucket.put(b"small")
    assert [one.method for one in bucket.proxy.seen] == ["PUT", "HEAD"]
    bucket.blobs.remove(sha256_hex(b"small"))
    sha256 = bucket.put(SMALL)
    writes = bucket.proxy.count("PUT")
    assert bucket.put(SMALL) == sha256
    assert bucket.proxy.count("PUT") == writes, "from 64 KiB on it is asked for first"
    plain = RemoteBlobs(lambda: open_object_store(bucket.settings), bucket.settings.run_dir / "spool")
    for store in (bucket.blobs, plain):
        assert store.size(sha256) == len(SMALL)
        assert store.read_range(sha256, 0, 1) == SMALL[:1]
        assert store.read_range(sha256, 69_990, 10) == SMALL[-10:]
        assert store.read_range(sha256, 5, 0) == b""
        with pytest.raises(BlobStoreError):
            store.read_range(sha256, 69_990, 11)
    obstore.put(open_object_store(bucket.settings), "notes/of-another", b"not ours")
    (listed,) = bucket.blobs.list()
    assert (listed.sha256, listed.length) == (sha256, len(SMALL))
    assert abs((listed.stored_at - SystemClock().now()).total_seconds()) < 600
    bucket.blobs.remove(sha256)
    bucket.blobs.remove(sha256)
    assert bucket.blobs.size(sha256) is None
    with pytest.raises(BlobUnknownError):
        plain.read_range(sha256, 0, 1)
    with pytest.raises(BlobUnknownError):
        bucket.blobs.read_range(sha256, 0, 1)
    assert list(bucket.blobs.list()) == []


def test_a_large_blob_goes_in_parts_is_listed_and_comes_back_in_one_request(bucket: Bucket) -> None:
    bucket.need("parts")
    sha256, numbers = bucket.put(LARGE), PartNumbers()
    assert len([one for one in bucket.proxy.seen if numbers.of(one)]) == 3
    assert b"".join(read_chunks(bucket.blobs, sha256, 0, len(LARGE))) == LARGE
    assert bucket.proxy.count("GET", sha256) == 1, "20 ranges, one request"
    assert [(one.sha256, one.length) for one in bucket.blobs.list()] == [(sha256, len(LARGE))]
    writes = bucket.proxy.count("PUT")
    assert bucket.put(LARGE) == sha256
    assert bucket.proxy.count("PUT") == writes, "what is there is not sent again"
    assert list((bucket.settings.run_dir / "spool").iterdir()) == []


def test_a_part_that_breaks_is_sent_again_alone(bucket: Bucket) -> None:
    bucket.need("parts")
    broken: list[str] = []
    numbers = PartNumbers()

    def fault(request: Request) -> Answer | None:
        if numbers.of(request) == 2 and len(broken) < 2:
            broken.append(request.path)
            return s3_error(503, "SlowDown")(request)
        return None

    bucket.proxy.fault = fault
    sha256 = bucket.put(LARGE)
    assert len(broken) == 2
    sent = [number for one in bucket.proxy.seen if (number := numbers.of(one))]
    assert sorted(sent) == [1, 2, 2, 2, 3]
    assert bytes(obstore.get(open_object_store(bucket.settings), f"{sha256[:2]}/{sha256}").bytes()) == LARGE


def test_an_upload_that_fails_for_good_leaves_no_parts_and_says_why(bucket: Bucket) -> None:
    bucket.need("parts")
    bucket.refuse_part(2)
    with pytest.raises(BlobStoreError, match="lack a right") as caught:
        bucket.put(LARGE)
    assert "policy" in caught.value.next_step
    assert bucket.blobs.size(sha256_hex(LARGE)) is None
    bucket.proxy.fault = lambda request: None
    assert bucket.keys() == []
    assert bucket.cloud.unfinished(bucket.name) in (0, None)
    assert list((bucket.settings.run_dir / "spool").iterdir()) == []


def test_a_body_that_is_cut_goes_on_and_wrong_bytes_are_refused(bucket: Bucket) -> None:
    data = SMALL if "parts" in bucket.cloud.lacks else LARGE
    sha256 = bucket.put(data)
    cut: list[str] = []

    def fault(request: Request) -> str | None:
        if request.method == "GET" and sha256 in request.path and not cut:
            cut.append(request.path)
            return "cut"
        return None

    bucket.proxy.fault = fault
    try:
        assert bucket.blobs.read_range(sha256, 5, 100) == data[5:105]
    except BlobStoreError:
        assert bucket.blobs.read_range(sha256, 5, 100) == data[5:105], "the next read fetches it"
    assert cut
    other = sha256_hex(b"other")
    obstore.put(open_object_store(bucket.settings), f"{other[:2]}/{other}", b"x" * 5)
    with pytest.raises(BlobUnknownError):
        bucket.blobs.read_range(other, 0, 5)


def test_check_proves_the_store_leaves_nothing_and_says_what_is_wrong(bucket: Bucket) -> None:
    facts = probe(bucket.settings)
    names = {"s3": "id", "gs": "edgefleet@test.iam.gserviceaccount.com", "az": "the account devstoreaccount1"}
    assert (facts.kind, facts.who, facts.problem) == (bucket.cloud.scheme, names[bucket.cloud.scheme], "")
    assert bucket.keys() == []
    bad = probe(bucket.other(blob_url=f"{bucket.cloud.scheme}://nobucket"))
    assert "no such bucket" in bad.problem
    gone = probe(bucket.other(blob_endpoint="http://127.0.0.1:9"))
    assert "cannot be reached" in gone.problem
    other_key = {"gs": service_account(), "az": base64.b64encode(b"another").decode()}.get(bucket.cloud.scheme, "other")
    wrong = probe(bucket.other(blob_secret_key=other_key))
    assert ("not that of the storage account" in wrong.problem) == bucket.cloud.checks_keys
    bucket.proxy.fault = s3_error(403, "AccessDenied")
    assert "lack a right" in probe(bucket.settings).problem
    bucket.proxy.fault = s3_error(503, "SlowDown")
    assert "too busy" in probe(bucket.settings).problem


def test_all_blobs_are_listed_in_the_soak_more_than_one_page(bucket: Bucket) -> None:
    count = 3 if IS_SUITE else {"az": 5_001}.get(bucket.cloud.name, 1_001)
    store = open_object_store(bucket.settings)
    digests = sorted(sha256_hex(str(number).encode()) for number in range(count))
    for one in digests:
        obstore.put(store, f"{one[:2]}/{one}", b"1", use_multipart=False)
    assert [one.sha256 for one in bucket.blobs.list()] == digests


def test_the_key_may_come_from_the_environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    given = bucket.cloud.settings
    variables = {
        "s3": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"},
        "gs": {"GOOGLE_SERVICE_ACCOUNT": str(bucket.settings.data_dir / "key.json")},
        "az": {
            "AZURE_STORAGE_ACCOUNT_NAME": given.get("blob_access_key_id", ""),
            "AZURE_STORAGE_ACCOUNT_KEY": given["blob_secret_key"],
        },
    }
    bucket.settings.data_dir.mkdir(exist_ok=True)
    (bucket.settings.data_dir / "key.json").write_text(given["blob_secret_key"])
    for name, value in variables[bucket.cloud.scheme].items():
        monkeypatch.setenv(name, value)
    address = {name: getattr(bucket.settings, name) for name in ("blob_url", "blob_endpoint")}
    facts = probe(load_settings(bucket.settings.data_dir, **address))
    assert facts.problem == ""
    assert all("authorization" in one.headers for one in bucket.proxy.seen)


def test_the_key_may_be_in_a_file(bucket: Bucket, tmp_path: Path) -> None:
    file = tmp_path / "store.secret"
    file.write_text(bucket.cloud.settings["blob_secret_key"] + "\n")
    given = {**bucket.cloud.given(bucket.proxy, bucket.name), "blob_secret_key_file": file}
    del given["blob_secret_key"]
    assert probe(load_settings(tmp_path / "data", **given)).problem == ""


def test_a_backup_goes_into_a_bucket_goes_on_after_a_refused_write_and_comes_back(
    bucket: Bucket, tmp_path: Path
) -> None:
    house = servers.begin(tmp_path / "server")
    house.db.dispose()

    def fault(request: Request) -> Answer | None:
        is_write = request.method == "PUT" and "tables" in request.path
        writes = sum(one.method == "PUT" and "tables" in one.path for one in bucket.proxy.seen)
        return s3_error(403, "AccessDenied")(request) if is_write and writes > 3 else None

    given = bucket.cloud.given(bucket.proxy, bucket.name)
    access = tmp_path / "bucket.toml"
    access.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items() if name != "blob_url"))

    def place(*, is_new: bool) -> AbstractContextManager[BackupPlace]:
        return opened_place(
            f"{bucket.cloud.scheme}://{bucket.name}/a/b",
            is_new=is_new,
            settings=lambda: backup_places.bucket_settings(tmp_path / "server", access),
        )

    def backup() -> None:
        with place(is_new=True) as opened:
            BackupWriter(load_settings(tmp_path / "server"), opened, SystemClock(), silent).make(KeysChoice(PHRASE))

    bucket.proxy.fault = fault
    with pytest.raises(BackupPlaceError, match="write backups: these credentials lack a right") as refused:
        backup()
    assert "rights of the policy" in str(refused.value.next_step)
    bucket.proxy.fault = lambda request: None
    with place(is_new=False) as opened:
        assert names_of(opened)[0] == []
    backup()
    with place(is_new=False) as opened:
        assert len(names_of(opened)[0]) == 1
        assert BackupChecker(opened, SystemClock(), silent).check(None, PHRASE, is_deep=True)["problems"] == []
        Restorer(opened, Target(tmp_path / "back"), silent).restore(None, PHRASE)
    assert (tmp_path / "back" / "server.toml").exists()
    access.write_text("tenant = 'x'\n")
    with pytest.raises(SettingsError, match="say nothing of a bucket"), place(is_new=False):
        pass


def test_a_server_stores_serves_and_collects(bucket: Bucket, tmp_path: Path) -> None:
    with ExitStack() as stack:
        house = ApiHouse(tmp_path / "server", **bucket.cloud.given(bucket.proxy, bucket.name))
        stack.callback(house.close)
        sha256 = Sha256(house.put(b"nobody's"))
        assert house.client(Role.PUBLISHER).get(f"/api/v1/blobs/{sha256}").content == b"nobody's"
        for _ in range(2):
            house.clock.turn(days=8)
            found = run(house, DELETE)
        assert (found["deleted"]["count"], found["failed"]) == (1, 0)
        assert bucket.keys() == []


@pytest.mark.parametrize("story", list(upload_kills.STORIES)[: SOAKS["upload-kills"].in_ci if IS_SUITE else None])
def test_a_process_that_is_killed_in_the_middle_of_a_part_is_not_seen_and_the_next_is_whole(
    bucket: Bucket, story: str
) -> None:
    bucket.need("parts")
    problems, unfinished = upload_kills.play(bucket.cloud, story, random.Random(story))
    assert problems == []
    assert unfinished in (1, None), "what garbage collection or a lifecycle rule ends a day later"


def silent(_stage: str, _done: int, _total: int, _words: str) -> None:
    """Show nothing."""
