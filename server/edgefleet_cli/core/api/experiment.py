"""The API: experiments and what they showed. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.api.rollout import Metric
from edgefleet_cli.core.structs import Struct


class Agreement(Struct, frozen=True):
    agreed: int = 0
    agreement: float | None = None
    compared: int = 0
    dropped: int = 0
    failed: int = 0
    judged: int = 0
    offered: int = 0


class Arm(Struct, frozen=True):
    answers: int = 0
    devices: int = 0
    error_rate: float | None = None
    lane: str = ""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    nonfinite: int = 0


class StratumResult(Struct, frozen=True):
    active: Arm = Arm()
    asked: tuple[str, ...] = ()
    candidate: Arm = Arm()
    devices: int = 0
    metrics: tuple[Metric, ...] = ()
    shadow: Agreement | None = None
    stratum: str = ""


class Trial(Struct, frozen=True):
    began_at: str | None = None
    devices: int = 0
    is_cut: bool = False
    mode: str = ""
    results: tuple[StratumResult, ...] = ()
    stages: tuple[str, ...] = ()


class ExperimentResult(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    model: str = ""
    modes: tuple[str, ...] = ()
    name: str = ""
    reason: str = ""
    release: str = ""
    selector: str = ""
    share_pct: int = 0
    state: str = ""
    trials: tuple[Trial, ...] = ()


class Experiment(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    model: str = ""
    modes: tuple[str, ...] = ()
    name: str = ""
    reason: str = ""
    release: str = ""
    selector: str = ""
    share_pct: int = 0
    state: str = ""
