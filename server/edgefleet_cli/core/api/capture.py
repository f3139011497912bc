"""The API: captured inputs and predictions. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class CaptureFetch(Struct, frozen=True):
    device: str = ""
    id: str = ""
    limit: int = 0
    model: str = ""
    reason: str = ""
    state: str = ""
    until: str = ""


class CaptureFetchIn(Body, frozen=True, kw_only=True):
    limit: int | Unset = UNSET
    model: str | Unset = UNSET
    reason: str | Unset = UNSET


class CaptureKeyIn(Body, frozen=True, kw_only=True):
    public_key: str


class CaptureKey(Struct, frozen=True):
    public_key: str = ""
    set_at: str = ""
    set_by: str = ""


class SealedCapture(Struct, frozen=True):
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
    taken_at: str = ""
    trace_id: str = ""


class Capture(Struct, frozen=True):
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
    taken_at: str = ""
    trace_id: str = ""


class Prediction(Struct, frozen=True):
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
    items: tuple[Prediction, ...] = ()
    last_id: int = 0
    seen: int = 0
    state: str = ""
    until: str | None = None
