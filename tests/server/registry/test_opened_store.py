"""How a store is reached: where requests go and as whom, for Google Cloud Storage and Azure; and settings that do not fit a store."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest

from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.object_store.opened_store import open_object_store
from edgefleet_server.registry.object_store.store_probe import probe
from edgefleet_server.settings import ServerSettings, load_settings
from tests.support.buckets import Answer, FaultyProxy
from tests.support.cloud_stores import ACCOUNT_KEY, service_account

KEY = "blobs/ab/x"


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)


def settings(folder: Path, url: str, **given: object) -> ServerSettings:
    return load_settings(folder, blob_url=url, **given)


@pytest.mark.parametrize(
    ("url", "given", "path", "signed"),
    [
        ("gs://bucket/fleet", {}, "/bucket/fleet%2Fblobs%2Fab%2Fx", "Bearer "),
        ("az://box/fleet", {"blob_access_key_id": "acct"}, "/acct/box/fleet/blobs/ab/x", "SharedKey acct:"),
    ],
)
def test_a_request_goes_to_the_endpoint_and_is_signed(
    tmp_path: Path, url: str, given: dict[str, str], path: str, signed: str
) -> None:
    is_azure = url.startswith("az")
    with FaultyProxy("http://127.0.0.1:9", lambda request: Answer(201, {"etag": '"1"'}, b"")).running() as proxy:
        endpoint = f"{proxy.url}/acct/" if is_azure else f"{proxy.url}/"
        secret = ACCOUNT_KEY if is_azure else service_account()
        one = settings(tmp_path, url, blob_endpoint=endpoint, blob_secret_key=secret, **given)
        obstore.put(open_object_store(one), KEY, b"data")
    (sent,) = proxy.seen
    assert (sent.method, sent.path) == ("PUT", path)
    assert sent.headers["authorization"].startswith(signed)


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize(
    ("url", "given", "why", "following"),
    [
        ("gs://b", {"blob_region": "eu"}, "blob_region cannot be used at gs://b", "take them out"),
        ("az://b", {"blob_encryption": "AES256"}, "blob_encryption cannot be used at az://b", "take them out"),
        ("az://b", {"blob_virtual_host": True}, "blob_virtual_host cannot be used", "take them out"),
        ("gs://b", {"blob_access_key_id": "id"}, "blob_access_key_id cannot be used", "JSON file"),
        ("gs://b", {"blob_secret_key": "no json"}, "key of the service account cannot be used", "whole JSON file"),
        ("az://b", {"blob_secret_key": "a2V5"}, "blob_access_key_id is not", "storage account"),
        ("az://b", {}, "no storage account is named", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://b", {"blob_access_key_id": "a", "blob_secret_key": "§"}, "key is not that of the", "blob_secret_key"),
        ("ftp://b", {}, "is no address of a blob store", "s3://"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_what_to_do(
    tmp_path: Path, url: str, given: dict[str, object], why: str, following: str
) -> None:
    with pytest.raises(BlobStoreError) as refused:
        obstore.head(open_object_store(settings(tmp_path, url, **given)), KEY)
    assert why in refused.value.message
    assert "Debug source" not in refused.value.message.split(why)[0]
    assert following in refused.value.next_step
    facts = probe(settings(tmp_path, url, **given))
    assert (why in facts.problem, following in facts.next) == (True, True)
