"""The API: captured inputs, predictions and their logs. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class CaptureFetch(Struct, frozen=True):
    asked_at: str = ""
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


class MissingNumbers(Struct, frozen=True):
    n: int = 0
    ranges: tuple[str, ...] = ()
    reason: str = ""


class CheckedPredictionLog(Struct, frozen=True):
    device: str = ""
    first: int = 0
    head: str = ""
    last: int = 0
    log: str = ""
    missing: tuple[MissingNumbers, ...] = ()
    newest: int = 0
    parts: int = 0
    problems: tuple[str, ...] = ()
    ratio: float = 0.0
    rows: int = 0
    written: int = 0


class DataSetPurgeIn(Body, frozen=True, kw_only=True):
    digest: str
    erasure: str
    records: int | Unset | None = UNSET


class ErasedDataSet(Struct, frozen=True):
    id: str = ""
    made_by: str = ""
    model: str = ""
    place: str = ""
    purged_at: str | None = None
    records: int = 0


class Erasure(Struct, frozen=True):
    asked_at: str = ""
    asked_by: str = ""
    backups_until: str | None = None
    captures: int = 0
    data_sets: tuple[ErasedDataSet, ...] = ()
    devices: int = 0
    files: int = 0
    finished_at: str | None = None
    id: str = ""
    late: int = 0
    models: tuple[str, ...] = ()
    overwritten: bool = False
    remains: tuple[str, ...] = ()
    rows: int = 0


class ErasureIn(Body, frozen=True, kw_only=True):
    models: tuple[str, ...] | Unset = UNSET
    subject: str


class PredictionLogFile(Struct, frozen=True):
    bytes: int = 0
    id: str = ""
    model: str = ""
    parts: int = 0
    received_from: str = ""
    received_to: str = ""
    rows: int = 0


class PredictionLogIn(Body, frozen=True, kw_only=True):
    inputs: bool | Unset = UNSET
    keep_days: int | Unset = UNSET
    ratio: float | Unset = UNSET


class PredictionLogVerification(Struct, frozen=True):
    erased: int = 0
    is_whole: bool = False
    logs: tuple[CheckedPredictionLog, ...] = ()
    lost: int = 0
    model: str = ""
    rows: int = 0


class PredictionLog(Struct, frozen=True):
    bytes: int = 0
    devices: int = 0
    inputs: bool = False
    is_sealed: bool = False
    keep_days: int = 0
    lost: int = 0
    model: str = ""
    newest_at: str | None = None
    ratio: float = 0.0
    rows: int = 0
    set_at: str = ""
    set_by: str = ""
    state: str = ""
    waiting: int = 0


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


class WrittenRecordIn(Body, frozen=True, kw_only=True):
    device: str
    record: str
    trace_id: str | Unset = UNSET


class WrittenDataSetIn(Body, frozen=True, kw_only=True):
    digest: str
    format: str
    model: str
    place: str
    records: tuple[WrittenRecordIn, ...]
    retraining: str | Unset = UNSET


class WrittenDataSet(Struct, frozen=True):
    digest: str = ""
    format: str = ""
    id: str = ""
    made_at: str = ""
    made_by: str = ""
    model: str = ""
    place: str = ""
    purged_at: str | None = None
    records: int = 0
    retraining: str = ""
    state: str = "there"


class WrittenRecord(Struct, frozen=True):
    device: str = ""
    record: str = ""
