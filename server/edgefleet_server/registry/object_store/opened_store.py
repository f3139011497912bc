"""Opening the object store that the settings name (ADR 0154).

Credentials: the key of the settings, else what obstore finds in the environment of the process.

* S3: `AWS_…` variables, a web identity (IRSA), a container's credentials, last the metadata of the instance; no `~/.aws` profile.
* Google Cloud Storage: `GOOGLE_…` variables, the application default credentials, the metadata of the machine.
* Azure: `AZURE_…` variables, a workload identity, a managed identity.
"""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store, from_url

from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.registry.object_store.store_failures import meaning_of
from edgefleet_server.settings import ServerSettings

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, RetryConfig, S3Config

CLOUD_SCHEMES: Final = ("s3", "gs", "az")
ONLY_S3: Final = ("blob_region", "blob_virtual_host", "blob_encryption", "blob_kms_key")
"""Settings that would be passed over at another store: what they ask for would silently not be done."""
TRIES: Final = 6


def is_remote(url: str) -> bool:
    """Return whether a URL of blobs leads to another machine's store."""
    return urlsplit(url).scheme in CLOUD_SCHEMES


def open_object_store(settings: ServerSettings, *, tries: int = TRIES) -> ObjectStore:
    """Return the store of `blob_url`; sends nothing. tries: how often a call is repeated at busy or broken answers.

    Raises BlobStoreError, SettingsError (a file of a secret cannot be read).
    """
    url = settings.blob_url or settings.blobs_dir.absolute().as_uri()
    try:
        if is_remote(url):
            return _open_cloud(settings, url, tries)
        if urlsplit(url).scheme == "file":
            return from_url(url)
    except (OSError, ValueError, BaseError) as error:
        why, following = meaning_of(error) or (
            " ".join(str(error).split())[:300],
            "correct `blob_url` and the settings of the store",
        )
        raise BlobStoreError(f"the blob store {url} cannot be opened: {why}", next_step=following) from error
    raise BlobStoreError(
        f"{url} is no address of a blob store", next_step="use s3://BUCKET/PREFIX, gs://, az:// or file:///FOLDER"
    )


def _open_cloud(settings: ServerSettings, url: str, tries: int) -> ObjectStore:
    """Raises BlobStoreError, SettingsError, OSError, ValueError, BaseError."""
    parts = urlsplit(url)
    client, retry, prefix = _client(settings), _retry(tries), parts.path.strip("/") or None
    if parts.scheme == "s3":
        config = _s3_config(settings, parts.netloc)
        return S3Store(parts.netloc, prefix=prefix, config=config, client_options=client, retry_config=retry)
    foreign = [name for name in ONLY_S3 if getattr(settings, name)]
    if foreign:
        raise BlobStoreError(
            f"{', '.join(foreign)} cannot be used at {url}: they are settings of S3",
            next_step="take them out; for backups in another store write its settings into a file (--bucket-settings)",
        )
    if parts.scheme == "gs":
        gcs = _gcs_config(settings)
        return GCSStore(parts.netloc, prefix=prefix, config=gcs, client_options=client, retry_config=retry)
    azure = _azure_config(settings)
    return AzureStore(parts.netloc, prefix=prefix, config=azure, client_options=client, retry_config=retry)


def who(store: ObjectStore) -> str:
    """Return as which identity a store is asked, "" for a folder."""
    if isinstance(store, S3Store):
        config: dict[str, Any] = dict(store.config)
        if config.get("skip_signature"):
            return "nobody (unsigned)"
        named = config.get("access_key_id") or config.get("role_arn")
        return str(named) if named else "the role of this machine or container"
    if isinstance(store, GCSStore):
        key = dict(store.config).get("service_account_key")
        return str(json.loads(str(key)).get("client_email", "")) if key else "the default credentials of this machine"
    if isinstance(store, AzureStore):
        account = dict(store.config).get("account_name")
        return f"the account {account}" if account else "the account of the environment"
    return ""


def _s3_config(settings: ServerSettings, bucket: str) -> "S3Config":
    config: S3Config = {"virtual_hosted_style_request": settings.blob_virtual_host}
    if settings.blob_endpoint:
        config["endpoint"] = _endpoint(settings, bucket)
    if settings.blob_region:
        config["region"] = settings.blob_region
    secret = settings.secret("blob_secret_key")
    if bool(settings.blob_access_key_id) != bool(secret):
        raise BlobStoreError(
            "blob_access_key_id and blob_secret_key go together, only one is set",
            next_step="set both, or none to use the credentials of the environment",
        )
    if secret:
        config["access_key_id"], config["secret_access_key"] = settings.blob_access_key_id, secret
    if settings.blob_encryption:
        config["server_side_encryption"] = settings.blob_encryption
    if settings.blob_kms_key:
        config["sse_kms_key_id"] = settings.blob_kms_key
    return config


def _gcs_config(settings: ServerSettings) -> "GCSConfig":
    config: GCSConfig = {}
    if settings.blob_endpoint:
        config["base_url"] = settings.blob_endpoint.rstrip("/")
    if settings.blob_access_key_id:
        raise BlobStoreError(
            "blob_access_key_id cannot be used at gs://: a service account names itself in its key",
            next_step="take it out, and let `blob_secret_key_file` name the JSON file of the service account",
        )
    secret = settings.secret("blob_secret_key")
    if secret:
        config["service_account_key"] = secret
    return config


def _azure_config(settings: ServerSettings) -> "AzureConfig":
    config: AzureConfig = {}
    if settings.blob_endpoint:
        config["endpoint"] = settings.blob_endpoint.rstrip("/")
    secret = settings.secret("blob_secret_key")
    if secret and not settings.blob_access_key_id:
        raise BlobStoreError(
            "blob_secret_key is set, and blob_access_key_id is not",
            next_step="set blob_access_key_id to the name of the storage account",
        )
    if settings.blob_access_key_id:
        config["account_name"] = settings.blob_access_key_id
    if secret:
        config["account_key"] = secret
    return config


def bucket_address(settings: ServerSettings, region: str, environ: Mapping[str, str]) -> str:
    """Return where S3 has the bucket of `blob_url`, for requests that obstore has no call for."""
    bucket = urlsplit(settings.blob_url or "").netloc
    if settings.blob_virtual_host and settings.blob_endpoint:
        return _endpoint(settings, bucket)
    if settings.blob_virtual_host:
        return f"https://{bucket}.s3.{region}.amazonaws.com"
    named = [settings.blob_endpoint, *(environ.get(f"AWS_ENDPOINT{name}", "") for name in ("_URL_S3", "_URL", ""))]
    endpoint = next(filter(None, named), f"https://s3.{region}.amazonaws.com")
    return f"{endpoint.rstrip('/')}/{bucket}"


def _endpoint(settings: ServerSettings, bucket: str) -> str:
    """Return the endpoint; obstore wants the bucket's name in it where the bucket is in the host's name."""
    endpoint = settings.blob_endpoint.rstrip("/")
    if not settings.blob_virtual_host:
        return endpoint
    parts = urlsplit(endpoint)
    return (
        endpoint if parts.netloc.startswith(f"{bucket}.") else f"{parts.scheme}://{bucket}.{parts.netloc}{parts.path}"
    )


def _client(settings: ServerSettings) -> "ClientConfig":
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(seconds=300),
    }
    if settings.blob_endpoint.startswith("http://"):
        client["allow_http"] = True  # the settings refuse it unless it is loopback or said so
    if settings.blob_ca_file is not None:
        try:
            client["root_certificate"] = settings.blob_ca_file.read_bytes()
        except OSError as error:
            raise BlobStoreError(
                f"the CA file {settings.blob_ca_file} of the blob store cannot be read: {error.strerror}",
                next_step="correct `blob_ca_file`, or let the server's user read it",
            ) from error
    return client


def _retry(tries: int) -> "RetryConfig":
    return {
        "max_retries": tries - 1,
        "retry_timeout": timedelta(seconds=120),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
