"""Answers of the API: what bundles cost on devices, predicted and observed.

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
