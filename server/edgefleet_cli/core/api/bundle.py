"""Answers of the API: blobs and bundles.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct


class Blob(Struct, frozen=True):
    """A stored blob."""

    length: int = 0
    sha256: str = ""


class Signature(Struct, frozen=True):
    """How the trust repository names a bundle's path today. state: signed; differs (it names other bytes); missing (it does not)."""

    expires: str | None = None
    length: int | None = None
    role: str | None = None
    sha256: str | None = None
    state: str = ""
    version: int | None = None


class BundleInside(Struct, frozen=True):
    """A signed bundle with its signature and what is in it. leaves: sha256 of its leaf index, itself a blob."""

    bundle_bytes: int = 0
    bytes: int | None = None
    fp32_bytes: int | None = None
    latency_ms: dict[str, Any] | None = None
    leaves: str = ""
    manifest: dict[str, Any] | None = None
    metric: dict[str, Any] | None = None
    model: str = ""
    parity: dict[str, Any] | None = None
    peak_rss_bytes: int | None = None
    precision: str = ""
    predicted: dict[str, Any] | None = None
    profile: str = ""
    ratio: float | None = None
    runtime: str = ""
    runtimes: tuple[dict[str, Any], ...] = ()
    sha256: str = ""
    signature: Signature = Signature()
    signed_at: str = ""
    target: str = ""
    trouble: str = ""
    verdict: str | None = None
    version: str = ""
    work: dict[str, Any] | None = None


class Bundle(Struct, frozen=True):
    """A signed bundle: what it is, what it was proved on, how well it did. Sizes in bytes."""

    bundle_bytes: int = 0
    bytes: int | None = None
    fp32_bytes: int | None = None
    latency_ms: dict[str, Any] | None = None
    metric: dict[str, Any] | None = None
    model: str = ""
    parity: dict[str, Any] | None = None
    peak_rss_bytes: int | None = None
    precision: str = ""
    predicted: dict[str, Any] | None = None
    profile: str = ""
    ratio: float | None = None
    runtime: str = ""
    runtimes: tuple[dict[str, Any], ...] = ()
    sha256: str = ""
    signed_at: str = ""
    target: str = ""
    verdict: str | None = None
    version: str = ""
    work: dict[str, Any] | None = None
