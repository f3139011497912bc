"""The API: blobs and bundles. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import Struct


class Signature(Struct, frozen=True):
    expires: str | None = None
    length: int | None = None
    role: str | None = None
    sha256: str | None = None
    state: str = ""
    version: int | None = None


class BundleInside(Struct, frozen=True):
    bundle_bytes: int = 0
    bytes: int | None = None
    fp32_bytes: int | None = None
    is_measured: bool = True
    is_sealed: bool = False
    latency_ms: dict[str, Any] | None = None
    latency_shapes: dict[str, tuple[int, ...]] | None = None
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
    search_ended: str | None = None
    sha256: str = ""
    signature: Signature = Signature()
    signed_at: str = ""
    target: str = ""
    trouble: str = ""
    verdict: str | None = None
    version: str = ""


class Bundle(Struct, frozen=True):
    bundle_bytes: int = 0
    bytes: int | None = None
    fp32_bytes: int | None = None
    is_measured: bool = True
    is_sealed: bool = False
    latency_ms: dict[str, Any] | None = None
    latency_shapes: dict[str, tuple[int, ...]] | None = None
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
    search_ended: str | None = None
    sha256: str = ""
    signed_at: str = ""
    target: str = ""
    verdict: str | None = None
    version: str = ""
