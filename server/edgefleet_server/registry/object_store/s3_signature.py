"""Signed requests to S3: AWS Signature Version 4, for requests without a body (ADR 0169).

The rules are those of "Signing AWS requests" in Amazon's S3 API reference; a test compares with botocore.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlsplit

_NO_BODY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class S3Key:
    """An access key. token: of a session, "" for a lasting key."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def address(bucket_url: str, key: str, query: Mapping[str, str]) -> str:
    """Return the URL of an object, or of the bucket where the key is empty, encoded as it has to be for the signature."""
    path = f"/{quote(key, safe='/-_.~')}" if key else ""
    pairs = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(query.items()))
    return f"{bucket_url}{path}?{pairs}"


def signed(method: str, url: str, region: str, key: S3Key, now: datetime) -> dict[str, str]:
    """Return the headers of a request without a body. url: as `address` makes it; now: UTC."""
    parts = urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-content-sha256": _NO_BODY, "x-amz-date": stamp}
    if key.token:
        headers["x-amz-security-token"] = key.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join([method, parts.path or "/", parts.query, lines, names, _NO_BODY])
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    secret = f"AWS4{key.secret}".encode()
    for step in scope.split("/"):
        secret = hmac.digest(secret, step.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
