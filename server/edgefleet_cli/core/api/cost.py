"""The API: what bundles cost on devices, and models in bytes and money. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import Struct, field


class BundleSaving(Struct, frozen=True):
    bundle: str = ""
    candidate: str = ""
    candidate_bytes: int = 0
    drop: float | None = None
    how: str = ""
    model: str = ""
    profile: str = ""
    release: str = ""
    saved: float | None = None
    saved_bytes: int = 0
    sent_bytes: int = 0
    smaller: str = ""
    smaller_bytes: int = 0


class Observed(Struct, frozen=True):
    answers: int = 0
    devices: int = 0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    memory_bytes: int | None = None
    windows: int = 0


class CostExample(Struct, frozen=True):
    left_out: dict[str, float] = field(default_factory=dict)
    observed: Observed = Observed()
    release: str = ""


class CostMoney(Struct, frozen=True):
    conversion: float | None = None
    device_hours: float | None = None
    down: float | None = None
    energy: float | None = None
    storage: float | None = None
    total: float = 0.0
    unpriced_bytes: int = 0
    up: float | None = None


class CostLine(Struct, frozen=True):
    answers: int = 0
    capture_bytes: int = 0
    conversion_s: float | None = None
    device_hours: float = 0.0
    devices: int | None = None
    down_bytes: int = 0
    joules: float | None = None
    measured_answers: int = 0
    measured_devices: int | None = None
    money: CostMoney | None = None
    name: str = ""
    prediction_bytes: int = 0
    stored_bytes: int | None = None
    telemetry_bytes: int = 0
    up_bytes: int = 0


class CostMethod(Struct, frozen=True):
    figure: str = ""
    how: str = ""


class WindowSaving(Struct, frozen=True):
    how: str = ""
    model: str = ""
    saved: float | None = None
    saved_bytes: int = 0
    times: int = 0
    window_bytes: float = 0.0
    windows: int = 0


class CostReport(Struct, frozen=True):
    bundles_sent: int = 0
    by: str = ""
    compared: int = 0
    counted_since: str | None = None
    currency: str = ""
    group: str = ""
    is_sum: bool = False
    lines: tuple[CostLine, ...] = ()
    longer_windows: tuple[WindowSaving, ...] = ()
    methods: tuple[CostMethod, ...] = ()
    model: str = ""
    since: str = ""
    smaller_bundles: tuple[BundleSaving, ...] = ()
    total: CostLine = CostLine()
    until: str = ""


class CostState(Struct, frozen=True):
    basis: str = ""
    devices: int = 0
    error: dict[str, float] = field(default_factory=dict)
    examples: tuple[CostExample, ...] = ()
    level: float = 0.0
    models: int = 0
    profile: str = ""
    reason: str = ""


class GroupPrice(Struct, frozen=True):
    down_gb: float | None = None
    group: str = ""
    up_gb: float | None = None


class Prices(Struct, frozen=True):
    conversion_hour: float | None = None
    currency: str = ""
    device_hour: float | None = None
    down_gb: float | None = None
    groups: tuple[GroupPrice, ...] = ()
    kwh: float | None = None
    stored_gb_month: float | None = None
    up_gb: float | None = None


class KnownPrices(Struct, frozen=True):
    prices: Prices = Prices()
    set_at: str = ""
    set_by: str = ""


class Performance(Struct, frozen=True):
    current: dict[str, Any] | None = None
    error: dict[str, float] = field(default_factory=dict)
    observed: Observed | None = None
    predicted: dict[str, Any] | None = None
    profile: str = ""
    within: dict[str, bool] = field(default_factory=dict)
