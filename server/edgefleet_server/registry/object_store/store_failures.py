"""What a store's refusal means: one sentence of why, and what to do next."""

from typing import Final

from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

from edgefleet_server.registry.errors import BlobStoreError

_NO_BUCKET: Final = ("there is no such bucket", "make the bucket, or correct its address")
_MEANINGS: Final = (
    (("NoSuchBucket", "ContainerNotFound"), *_NO_BUCKET),
    (
        ("RequestTimeTooSkewed",),
        "the clock of this machine differs too much from that of the store",
        "set the clock (NTP); requests are signed with the time",
    ),
    (
        ("InvalidAccessKeyId",),
        "the store does not know the access key",
        "correct `blob_access_key_id`, or AWS_ACCESS_KEY_ID in the server's environment",
    ),
    (
        ("SignatureDoesNotMatch",),
        "the secret key is not that of the access key",
        "correct `blob_secret_key` or its file, or AWS_SECRET_ACCESS_KEY in the server's environment",
    ),
    (
        ("AuthenticationFailed", "failed to authenticate", "Invalid Access Key"),
        "the key is not that of the storage account",
        "correct `blob_access_key_id` (the account) and `blob_secret_key` or its file, or the AZURE_STORAGE_ACCOUNT_… variables",
    ),
    (
        ("Account must be specified",),
        "no storage account is named",
        "set `blob_access_key_id` to the name of the account, or AZURE_STORAGE_ACCOUNT_NAME in the server's environment",
    ),
    (
        (
            "Unable to decode service account",
            "Unable to open service account",
            "Error reading pem file",
            "invalid_grant",
        ),
        "the key of the service account cannot be used",
        "let `blob_secret_key_file` or GOOGLE_SERVICE_ACCOUNT name the whole JSON file that Google Cloud gave out",
    ),
    (
        ("InvalidResourceName", "InvalidBucketName"),
        "the store takes no bucket or container of that name",
        "correct the name in `blob_url`: lower case letters, digits and hyphens",
    ),
    (
        ("ExpiredToken",),
        "the session token has ended",
        "give the server credentials that renew themselves, or new ones",
    ),
    (
        ("KMS.",),
        "the key of KMS cannot be used",
        "allow the server kms:GenerateDataKey and kms:Decrypt on it, or correct `blob_kms_key`",
    ),
    (
        ("AccessDenied", "AuthorizationFailure", "AuthorizationPermissionMismatch"),
        "these credentials lack a right",
        "give them the rights of the policy in docs/operate/object-store.md",
    ),
    (
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "Missing region"),
        "the bucket is in another region",
        "set `blob_region` to the bucket's region",
    ),
    (
        ("SlowDown", "503 ", "ServiceUnavailable"),
        "the store is too busy",
        "it was tried several times; try again later",
    ),
    (
        ("URL scheme is not allowed", "BadScheme"),
        "the address is plain http",
        "use https://, or set `blob_allow_http` where the network is your own",
    ),
    (
        ("error sending request", "client error (Connect)", "dns error", "Connection refused"),
        "the store cannot be reached",
        "check `blob_endpoint`, name resolution, firewall and `blob_ca_file`",
    ),
)


def meaning_of(error: Exception, *, is_write: bool = False) -> tuple[str, str] | None:
    """Return why a call failed and what to do next, None where the words of the store say nothing that is known here.

    is_write: something was put, so what was not found is the bucket, also where a store says 404 and nothing else.
    """
    text = " ".join(str(error).split())[:200]
    for words, meaning, following in _MEANINGS:
        if any(word in str(error) for word in words):
            return f"{meaning} ({text})", following
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return f"these credentials lack a right ({text})", (
            "give them the rights of the policy in docs/operate/object-store.md, or check the keys"
        )
    if is_write and isinstance(error, FileNotFoundError | NotFoundError) and "Error performing" in text:
        return f"{_NO_BUCKET[0]} ({text})", _NO_BUCKET[1]
    return None


def store_failed(what: str, error: Exception) -> BlobStoreError:
    """Return the error of a call that failed. what: the verb of what was tried ("read", "store")."""
    why, following = meaning_of(error, is_write=what == "store") or (
        " ".join(str(error).split())[:300],
        "check the free space and rights of the blob folder, or the object store's address and keys",
    )
    return BlobStoreError(f"the blob store could not {what} the bytes: {why}", next_step=following)


def is_lost_bucket(error: Exception) -> bool:
    """Return whether "not found" means the bucket, which says nothing about a blob."""
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)
