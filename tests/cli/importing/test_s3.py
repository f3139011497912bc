"""Models from S3, as a real server (moto) speaks it: an object, a folder, limits, what is not there, another digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import obstore
import pytest

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.datasets.dataset_writer import remove_records, write_data_set
from edgefleet_cli.datasets.model import DataFormat, DataSetError
from edgefleet_cli.datasets.places import FolderPlace, PlaceTakenError, place_of
from edgefleet_cli.importing.addresses import S3Address
from edgefleet_cli.importing.fetch_context import (
    LIMIT_VARIABLE,
    HostileNameError,
    ImportFailedError,
    ImportTooLargeError,
    WrongDigestError,
)
from edgefleet_cli.importing.s3 import s3_store
from tests.cli.datasets.planted import image_record
from tests.cli.importing.test_http import got
from tests.support.buckets import make_bucket, moto_server

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = os.urandom(3_000_000)
KEYS = {
    "digits/1.0.0/model.onnx": MODEL,
    "digits/1.0.0/data/weights.bin": b"weights",
    "digits/1.0.0/.DS_Store": b"hidden",
    "digits/1.0.0-beta/model.onnx": b"another",
    "bad/..%2F/model.onnx": b"x",
    "notes.txt": b"x",
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run a server with one bucket; return the environment that leads to it."""
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        make_bucket(url, "models")
        for key, body in KEYS.items():
            httpx.put(f"{url}/models/{key}", content=body, timeout=30).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_REGION": "us-east-1",
        }


@pytest.fixture
def aws(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same in the environment of this process, where obstore looks for credentials."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return s3


def test_an_object_comes_whole_and_where_from_is_told(aws: dict[str, str], tmp_path: Path) -> None:
    fetched = got("s3://models/digits/1.0.0/model.onnx", tmp_path / "in", environ=aws)
    assert fetched.path.read_bytes() == MODEL
    assert fetched.lineage["uri"] == "s3://models/digits/1.0.0/model.onnx"
    assert fetched.lineage["sha256"] == hashlib.sha256(MODEL).hexdigest()
    assert fetched.lineage["etag"]


def test_a_folder_is_its_visible_objects_and_no_neighbour(aws: dict[str, str], tmp_path: Path) -> None:
    fetched = got("s3://models/digits/1.0.0/", tmp_path / "in", environ=aws)
    found = {str(one.relative_to(fetched.path)): one.read_bytes() for one in fetched.path.rglob("*") if one.is_file()}
    assert found == {"model.onnx": MODEL, "data/weights.bin": b"weights"}
    assert fetched.path.name == "1.0.0"


def test_the_digest_is_checked(aws: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(WrongDigestError):
        got(f"s3://models/digits/1.0.0/model.onnx#sha256={'0' * 64}", tmp_path / "in", environ=aws)


@pytest.mark.parametrize("key", ["digits/1.0.0/model.onnx", "digits/1.0.0/"])
def test_more_than_the_limit_is_refused(aws: dict[str, str], tmp_path: Path, key: str) -> None:
    with pytest.raises(ImportTooLargeError):
        got(f"s3://models/{key}", tmp_path / "in", environ={**aws, LIMIT_VARIABLE: "1000000"})


def test_what_is_not_there_is_said(aws: dict[str, str], tmp_path: Path) -> None:
    for address in ("s3://models/no.onnx", "s3://models/no/", "s3://nobucket/m.onnx"):
        with pytest.raises(ImportFailedError):
            got(address, tmp_path / address.rpartition("/")[2].replace(".", "-"), environ=aws)
    with pytest.raises(UsageError, match="not a model file"):
        got("s3://models/notes.txt", tmp_path / "notes", environ=aws)


def test_an_object_whose_name_leads_elsewhere_is_refused(aws: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises((HostileNameError, ImportFailedError)):
        got("s3://models/bad/", tmp_path / "in", environ=aws)
    assert not (tmp_path / "model.onnx").exists()


def test_a_data_set_lies_in_s3_whole_or_not_at_all_and_loses_records_there(
    s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    policy = {"fields": {"image": [{"do": "keep"}]}}
    records = [image_record(number, policy, trace_id=f"trace{number}of")[0] for number in (1, 2, 3)]
    for format_ in DataFormat:
        place = place_of(f"s3://models/sets/{format_}", os.environ)
        made = write_data_set(records, {}, format_, place)
        write_data_set(records, {}, format_, FolderPlace(tmp_path / format_))
        files = {
            path.relative_to(tmp_path / format_).as_posix(): path.read_bytes()
            for path in (tmp_path / format_).rglob("*")
            if path.is_file()
        }
        assert objects(f"sets/{format_}/") == files, "as in a folder"
        with pytest.raises(PlaceTakenError):
            write_data_set(records, {}, format_, place)
        left = remove_records(place, {(records[0].device, records[0].id)})
        assert [one.id for one in left.records] == [records[1].id, records[2].id]
        held = objects(f"sets/{format_}/")
        assert set(left.files) | {"dataset.json"} == set(held)
        assert not any(b"trace1of" in name.encode() + data for name, data in held.items())
        again = place_of(f"s3://models/sets/{format_}", os.environ, replace=True)
        assert write_data_set(records, {}, format_, again) == made
        assert objects(f"sets/{format_}/") == files
    with pytest.raises(DataSetError, match="cannot"):
        write_data_set(records, {}, DataFormat.NPZ, place_of("s3://nobucket/sets", os.environ))
    with pytest.raises(UsageError):
        place_of("s3://models", os.environ)

    def broken(_: object) -> None:
        raise DataSetError("the server is away")

    with pytest.raises(DataSetError, match="away"):
        write_data_set(records, {}, DataFormat.NPZ, place_of("s3://models/sets/none", os.environ), finish=broken)
    assert objects("sets/none/") == {}


def objects(prefix: str) -> dict[str, bytes]:
    """Return the objects below a prefix, by what follows it."""
    store = s3_store(S3Address("models", prefix), os.environ)
    keys = [str(one["path"]) for page in obstore.list(store, prefix=prefix.rstrip("/")) for one in page]
    return {key.removeprefix(prefix): bytes(obstore.get(store, key).bytes()) for key in keys if key.startswith(prefix)}
