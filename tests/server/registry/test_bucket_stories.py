"""What a command does with blobs in a bucket: garbage collection, and comparison with the database."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.process.blob_collection.garbage_collector import Terms
from edgefleet_server.process.server_check import describe
from edgefleet_server.registry import blobs
from edgefleet_server.registry.blobs import RemoteBlobs, open_blob_store
from edgefleet_server.registry.object_store.s3_signature import S3Key, address, signed
from edgefleet_server.registry.object_store.unfinished_uploads import Look, UnfinishedUploads
from tests.server.registry.collection_races import collector, publish
from tests.server.registry.test_garbage_collection import DELETE, LOOK, WEEK, run
from tests.server.registry.test_object_store import bucket_settings
from tests.support.buckets import Answer, FaultyProxy, Request, make_bucket, moto_server, s3_error
from tests.support.servers import ApiHouse

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def house(moto: str, tmp_path: Path) -> Iterator[ApiHouse]:
    """A server with its blobs in a bucket."""
    httpx.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    make_bucket(moto, "blobs")
    given = bucket_settings(tmp_path, moto)
    names = ("blob_url", "blob_endpoint", "blob_access_key_id", "blob_secret_key", "blob_region")
    made = ApiHouse(tmp_path / "server", **{name: getattr(given, name) for name in names})
    yield made
    made.close()


def stored(house: ApiHouse) -> list[Sha256]:
    """Return what lies in the bucket, as another process sees it."""
    return sorted(one.sha256 for one in open_blob_store(house.settings).list())


def test_garbage_in_a_bucket_is_looked_at_marked_and_removed(house: ApiHouse) -> None:
    kept, gone = Sha256(house.put(b"named")), Sha256(house.put(b"nobody's"))
    publish(house, "1.0.0", b"named")
    house.clock.turn(days=8)
    assert run(house, LOOK)["waiting"]["count"] == 1
    assert run(house)["marked"] == 1
    assert stored(house) == sorted([kept, gone]), "neither a look nor a mark removes a byte"
    house.clock.turn(days=8)
    assert run(house, LOOK)["due"]["count"] == 1
    assert stored(house) == sorted([kept, gone])
    found = run(house)
    assert (found["deleted"]["count"], found["deleted"]["bytes"], found["failed"]) == (1, 8, 0)
    assert stored(house) == [kept]
    with house.parts.registry.upload() as writer:
        writer.write(b"killed before its record")
        stray = writer.finish(None)
    house.clock.turn(days=3650)  # objects have the time of the machine
    assert run(house)["strays"]["count"] == 1
    assert stray in stored(house)
    assert run(house, Terms(WEEK, deletes=True, strays=True))["strays_deleted"]["count"] == 1
    assert stored(house) == [kept]
    assert run(house, DELETE)["deleted"]["count"] == 0


def test_a_host_with_another_bucket_than_the_others_is_named(house: ApiHouse, moto: str) -> None:
    make_bucket(moto, "another")
    other = house.settings.model_copy(update={"blob_url": "s3://another/fleet"})
    nothing = describe(other)["blobs"]
    assert (nothing["problem"], nothing["compared"]) == ("", 0), "no blob says yet which store it is"
    sha256 = Sha256(house.put(b"at the first host"))
    house.put(b"a second one")
    same = describe(house.settings)["blobs"]
    assert (same["problem"], same["compared"], same["missing"]) == ("", 2, 0)
    assert "get-bucket-lifecycle-configuration --bucket blobs" in same["unchecked"]
    found = describe(other)["blobs"]
    assert (found["compared"], found["missing"]) == (2, 2)
    assert "s3://another/fleet lacks 2 of the newest 2 blobs" in found["problem"]
    assert "use another store" in found["problem"]
    assert "migrate --blobs" in found["next"]
    folder = describe(house.settings.model_copy(update={"blob_url": None}))["blobs"]
    assert (folder["kind"], folder["missing"]) == ("folder", 2), "a folder of one host is another store as well"
    open_blob_store(house.settings).remove(sha256)
    some = describe(house.settings)["blobs"]
    assert (some["missing"], "some were removed" in some["problem"]) == (1, True)


def test_what_a_killed_upload_left_here_goes_and_what_is_written_stays(house: ApiHouse) -> None:
    spool = house.settings.run_dir / "spool"
    spool.mkdir(parents=True)
    left, young = spool / "upload-killed", spool / "upload-young"
    for file in (left, young):
        file.write_bytes(b"half")
    store = open_blob_store(house.settings)
    assert isinstance(store, RemoteBlobs)
    with store.writer(limit_bytes=10) as writer:
        assert [left.exists(), young.exists()] == [True, True], "both are new"
        writer.write(b"mine")
        old = time.time() - 2 * blobs.YOUNG_S
        for file in spool.iterdir():
            os.utime(file, (old, old))
        with open_blob_store(house.settings).writer(limit_bytes=10):  # as another process of this folder
            assert [left.exists(), young.exists()] == [False, False]
        assert writer.finish(None) == sha256_hex(b"mine")
    assert list(spool.iterdir()) == []
    assert store.size(sha256_hex(b"mine")) == 4


def begin_upload(moto: str, key: str) -> None:
    """Begin an upload in parts, send one, and leave it."""
    begun = httpx.post(f"{moto}/blobs/{key}?uploads=", timeout=30).raise_for_status().text
    upload = begun.partition("<UploadId>")[2].partition("<")[0]
    query = {"partNumber": "1", "uploadId": upload}
    httpx.put(f"{moto}/blobs/{key}", params=query, content=b"half a blob", timeout=30).raise_for_status()


def unfinished(moto: str) -> int:
    return httpx.get(f"{moto}/blobs?uploads", timeout=30).text.count("<UploadId>")


def test_uploads_that_were_cut_off_are_shown_and_ended(house: ApiHouse, moto: str) -> None:
    ours, other = sha256_hex(b"ours"), sha256_hex(b"of another server")
    for key in (f"fleet/one/{ours[:2]}/{ours}", f"fleet/two/{other[:2]}/{other}", "fleet/one/notes/of-another"):
        begin_upload(moto, key)
    found = run(house, LOOK)["unfinished"]
    assert (found["count"], found["young"], found["ended"]) == (1, 0, 0)
    assert found["oldest"] is not None
    assert unfinished(moto) == 3, "a look ends nothing"
    found = run(house)
    assert (found["unfinished"]["ended"], found["failed"]) == (1, 0)
    assert unfinished(moto) == 2, "those of others stay"
    assert run(house)["unfinished"]["count"] == 0
    (row,) = [one for one in house.parts.access.audit(PageRequest(10)).items if one.action == "collect_blobs"]
    assert row.object == "0 blobs (0 bytes) and 0 without a record (0 bytes) deleted, 1 uploads ended, 0 marked"


@pytest.mark.parametrize(("hours", "is_old"), [(23, False), (25, True)])
def test_an_upload_of_the_last_day_is_left_alone(house: ApiHouse, moto: str, hours: int, is_old: bool) -> None:
    """Every upload of moto was begun in 2010; the proxy says another time."""
    ours = sha256_hex(b"ours")
    begin_upload(moto, f"fleet/one/{ours[:2]}/{ours}")
    begun = (house.clock.now() - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()

    def dated(request: Request, answer: Answer) -> Answer:
        return replace(answer, body=re.sub(rb"(?<=<Initiated>)[^<]+", begun, answer.body))

    with FaultyProxy(moto, came=dated).running() as proxy:
        uploads = UnfinishedUploads(house.settings.model_copy(update={"blob_endpoint": proxy.url}), house.clock)
        found = collector(house, uploads=uploads).run(DELETE)["unfinished"]
    assert (found["count"], found["young"], found["ended"]) == ((1, 0, 1) if is_old else (0, 1, 0))
    assert unfinished(moto) == (0 if is_old else 1)


def test_uploads_of_a_store_that_does_not_say_are_named(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(environ: Mapping[str, str] | None = None, **changes: object) -> Look:
        changed = house.settings.model_copy(update=changes)
        return UnfinishedUploads(changed, house.clock, environ or {}).look()

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    assert "comes from a role" in look(blob_access_key_id="", blob_secret_key=None).unchecked
    assert "lifecycle rule" in look(blob_url="gs://x/y").next
    assert look(blob_url="az://x/y") == look(blob_url=None) == Look()
    assert "no such bucket" in look(blob_url="s3://nobucket/x").unchecked
    assert "cannot be reached" in look(blob_endpoint="http://127.0.0.1:9").unchecked
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    assert look(keys, blob_access_key_id="", blob_secret_key=None) == Look()


def test_uploads_are_read_page_by_page_and_a_refusal_to_end_one_is_counted(house: ApiHouse, moto: str) -> None:
    keys = [f"fleet/one/{one[:2]}/{one}" for one in sorted(sha256_hex(bytes([number])) for number in range(3))]

    def page(request: Request) -> Answer | None:
        if request.method == "DELETE":
            return s3_error(403, "AccessDenied")(request)
        marker = parse_qs(urlsplit(request.path).query).get("key-marker", [""])[0]
        key = next(one for one in keys if one > marker)
        entry = f"<Upload><Key>{key}</Key><UploadId>a+b/c=</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
        more = f"<IsTruncated>{str(key != keys[-1]).lower()}</IsTruncated><NextKeyMarker>{key}</NextKeyMarker>"
        return Answer(200, {}, f'<R xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{more}{entry}</R>'.encode())

    with FaultyProxy(moto, page).running() as proxy:
        changed = house.settings.model_copy(update={"blob_endpoint": proxy.url})
        uploads = UnfinishedUploads(changed, house.clock)
        look = uploads.look()
        assert [one.key for one in look.uploads] == keys
        assert not uploads.end(look.uploads[0])
        assert parse_qs(urlsplit(proxy.seen[-1].path).query) == {"uploadId": ["a+b/c="]}


def test_the_key_of_a_role_is_asked_for_and_its_token_is_sent(
    house: ApiHouse, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ECS or with an identity of a pod: the container is told where its credentials are."""
    role = {"AccessKeyId": "of-role", "SecretAccessKey": "s", "Token": "t", "Expiration": "2100-01-01T00:00:00Z"}

    def credentials(request: Request) -> Answer | None:
        is_asked = request.path == "/credentials"
        return Answer(200, {"content-type": "application/json"}, json.dumps(role).encode()) if is_asked else None

    with FaultyProxy(moto, credentials).running() as proxy:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{proxy.url}/credentials")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        changes = {"blob_access_key_id": "", "blob_secret_key": None, "blob_endpoint": proxy.url}
        assert UnfinishedUploads(house.settings.model_copy(update=changes), house.clock, {}).look() == Look()
        sent = proxy.seen[-1].headers
    assert sent["x-amz-security-token"] == "t"
    assert "Credential=of-role/" in sent["authorization"]


@pytest.mark.parametrize("token", ["", "a token"])
def test_a_signature_is_that_of_botocore(token: str) -> None:
    now = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    url = address(
        "https://s3.example:9000/blobs", "flotte é/ab/c+d", {"uploads": "", "prefix": "a/b c", "key-marker": "+="}
    )
    ours = signed("GET", url, "eu-north-1", S3Key("id", "secret", token), now)
    theirs = AWSRequest("GET", url, headers={"X-Amz-Content-SHA256": ours["x-amz-content-sha256"]})
    signer = S3SigV4Auth(Credentials("id", "secret", token or None), "s3", "eu-north-1")
    theirs.context["timestamp"] = ours["x-amz-date"]
    theirs.headers["X-Amz-Date"] = ours["x-amz-date"]
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert ours["authorization"].rpartition("=")[2] == signer.signature(text, theirs)
