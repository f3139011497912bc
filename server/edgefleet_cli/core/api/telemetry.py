"""Answers of the API: figures that devices measure, of devices, releases and profiles.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct, field


class Observed(Struct, frozen=True):
    """What devices of a profile reported of a bundle: medians over devices (`edgefleet_profiles.cost.observed`)."""

    answers: int = 0
    devices: int = 0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    memory_bytes: int | None = None
    windows: int = 0


class CostExample(Struct, frozen=True):
    """One model that a cost model rests on. left_out: `{figure: error}` of predicting it from all the others, by ratio."""

    left_out: dict[str, float] = field(default_factory=dict)
    observed: Observed = Observed()
    release: str = ""


class CostState(Struct, frozen=True):
    """The state of a profile's cost model. basis: fitted, ratio or none; error: of each figure, at `level`."""

    basis: str = ""
    devices: int = 0
    error: dict[str, float] = field(default_factory=dict)
    examples: tuple[CostExample, ...] = ()
    level: float = 0.0
    models: int = 0
    profile: str = ""
    reason: str = ""


class Performance(Struct, frozen=True):
    """One bundle: what was predicted when it was published, what would be today where nobody reported yet, what devices reported."""

    current: dict[str, Any] | None = None
    error: dict[str, float] = field(default_factory=dict)
    observed: Observed | None = None
    predicted: dict[str, Any] | None = None
    profile: str = ""
    within: dict[str, bool] = field(default_factory=dict)


class Shadow(Struct, frozen=True):
    """How a candidate compares with what serves, on the same inputs. agreement: agreed ÷ judged, None where nothing was judged."""

    active_p50_ms: float | None = None
    active_p95_ms: float | None = None
    agreed: int = 0
    agreement: float | None = None
    compared: int = 0
    delta_p50: float | None = None
    delta_p95: float | None = None
    dropped: int = 0
    failed: int = 0
    judged: int = 0
    kept: int = 0
    offered: int = 0
    overlap: float | None = None


class Window(Struct, frozen=True):
    """One window of one model. Latencies are milliseconds, within 1 %; None when nothing was counted."""

    classes: tuple[int, ...] = ()
    crashes: int = 0
    errors: int = 0
    joules_per_answer: float | None = None
    lane: str = ""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    length_s: int = 0
    model: str = ""
    n: int = 0
    nonfinite: int = 0
    received_at: str = ""
    sha256: str = ""
    shadow: Shadow | None = None
    t0: str = ""
    timeouts: int = 0
    version: str = ""
    worker_cpu_s: float = 0.0
    worker_rss_bytes: int = 0
