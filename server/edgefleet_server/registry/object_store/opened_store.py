"""Opening the object store that the settings name (ADR 0154).

Credentials: the key of the settings, else what obstore finds in the environment: `AWS_…` variables, a web identity (IRSA), a
container's credentials, and last the metadata of the instance. It reads no `~/.aws` profile.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store, from_url

from edgefleet_server.registry.errors import BlobStoreError
from edgefleet_server.settings import ServerSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

CLOUD_SCHEMES: Final = ("s3", "gs", "az")
TRIES: Final = 6


def is_remote(url: str) -> bool:
    """Return whether a URL of blobs leads to another machine's store."""
    return urlsplit(url).scheme in CLOUD_SCHEMES


def open_object_store(settings: ServerSettings, *, tries: int = TRIES) -> ObjectStore:
    """Return the store of `blob_url`; sends nothing. tries: how often a call is repeated at busy or broken answers.

    Raises BlobStoreError, SettingsError (a file of a secret cannot be read).
    """
    url = settings.blob_url or settings.blobs_dir.absolute().as_uri()
    parts = urlsplit(url)
    client, retry = _client(settings), _retry(tries)
    try:
        if parts.scheme == "s3":
            return S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                config=_s3_config(settings, parts.netloc),
                client_options=client,
                retry_config=retry,
            )
        if parts.scheme in CLOUD_SCHEMES:
            return from_url(url, client_options=client, retry_config=retry)
        if parts.scheme == "file":
            return from_url(url)
    except (OSError, ValueError, BaseError) as error:
        raise BlobStoreError(
            f"the blob store {url} cannot be opened: {error}",
            next_step="correct `blob_url` and the settings of the store",
        ) from error
    raise BlobStoreError(
        f"{url} is no address of a blob store", next_step="use s3://BUCKET/PREFIX, gs://, az:// or file:///FOLDER"
    )


def who(store: ObjectStore) -> str:
    """Return as which identity an S3 store is asked, "" where the store does not say."""
    if not isinstance(store, S3Store):
        return ""
    config: dict[str, Any] = dict(store.config)
    if config.get("skip_signature"):
        return "nobody (unsigned)"
    named = config.get("access_key_id") or config.get("role_arn")
    return str(named) if named else "the role of this machine or container"


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


def _endpoint(settings: ServerSettings, bucket: str) -> str:
    """Return the endpoint; obstore wants the bucket's name in it where the bucket is in the host's name."""
    endpoint = settings.blob_endpoint.rstrip("/")
    if not settings.blob_virtual_host:
        return endpoint
    parts = urlsplit(endpoint)
    return endpoint if parts.netloc.startswith(f"{bucket}.") else f"{parts.scheme}://{bucket}.{parts.netloc}"


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
