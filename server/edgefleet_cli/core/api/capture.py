"""Answers of the API: captured inputs and predictions.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct


class CaptureFetch(Struct, frozen=True):
    """A device asked for its captured records. state: asked, done, or expired (it did not answer in time)."""

    asked_at: str = ""
    device: str = ""
    id: str = ""
    limit: int = 0
    model: str = ""
    reason: str = ""
    received: int = 0
    state: str = ""
    until: str = ""


class CaptureKey(Struct, frozen=True):
    """The key that records are sealed to from now on: 64 hex digits of a raw X25519 public key."""

    public_key: str = ""
    set_at: str = ""
    set_by: str = ""


class SealedCapture(Struct, frozen=True):
    """One record. sealed: base64 of what the device sealed (ADR 0030)."""

    bytes: int = 0
    device: str = ""
    fetch: str = ""
    id: str = ""
    key: str = ""
    label: int = 0
    model: str = ""
    reason: str = ""
    received_at: str = ""
    sealed: str = ""
    seen: int = 0
    sha256: str = ""
    taken_at: str = ""
    trace_id: str = ""


class Capture(Struct, frozen=True):
    """What can be told of one captured record without opening it. seen: how many predictions of its reason and class it stands for."""

    bytes: int = 0
    device: str = ""
    fetch: str = ""
    id: str = ""
    key: str = ""
    label: int = 0
    model: str = ""
    reason: str = ""
    received_at: str = ""
    seen: int = 0
    sha256: str = ""
    taken_at: str = ""
    trace_id: str = ""


class Prediction(Struct, frozen=True):
    """One answer of a watched device. labels, scores: its best classes, or its first numbers with the label ""."""

    at: str = ""
    hidden: bool = False
    labels: tuple[str, ...] = ()
    lane: str = ""
    latency_ms: float = 0.0
    model: str = ""
    nonfinite: bool = False
    scores: tuple[float | None, ...] = ()
    trace_id: str = ""
    version: str = ""


class Predictions(Struct, frozen=True):
    """What a watched device has shown after message `after_id`, oldest first. last_id: to ask from next time."""

    items: tuple[Prediction, ...] = ()
    last_id: int = 0
    seen: int = 0
    state: str = ""
    until: str | None = None
