"""The API: what bundles cost on devices, predicted and observed. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import Struct, field


class Observed(Struct, frozen=True):
    devices: int = 0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    memory_bytes: int | None = None


class CostExample(Struct, frozen=True):
    left_out: dict[str, float] = field(default_factory=dict)
    observed: Observed = Observed()
    release: str = ""


class CostState(Struct, frozen=True):
    basis: str = ""
    devices: int = 0
    error: dict[str, float] = field(default_factory=dict)
    examples: tuple[CostExample, ...] = ()
    level: float = 0.0
    models: int = 0
    profile: str = ""
    reason: str = ""


class Performance(Struct, frozen=True):
    current: dict[str, Any] | None = None
    error: dict[str, float] = field(default_factory=dict)
    observed: Observed | None = None
    predicted: dict[str, Any] | None = None
    profile: str = ""
    within: dict[str, bool] = field(default_factory=dict)
