"""Answers of the API: experiments and what they showed.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct

from edgefleet_cli.core.api.rollout import Metric


class Agreement(Struct, frozen=True):
    """Figures of shadows, of one window or of many. What each means is said at `ShadowView`, which the API shows."""

    active_p95_ms: float | None = None
    agreed: int = 0
    agreement: float | None = None
    compared: int = 0
    delta_p50: float | None = None
    delta_p95: float | None = None
    dropped: int = 0
    failed: int = 0
    judged: int = 0
    offered: int = 0
    overlap: float | None = None


class Arm(Struct, frozen=True):
    """What answered, summed over devices. error_rate: of all requests; time-outs are errors. Latencies are milliseconds."""

    answers: int = 0
    devices: int = 0
    error_rate: float | None = None
    errors: int = 0
    lane: str = ""
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    nonfinite: int = 0


class StratumResult(Struct, frozen=True):
    """One stratum. devices: with windows of the candidate; metrics: the candidate against what serves, device by device."""

    active: Arm = Arm()
    asked: tuple[str, ...] = ()
    candidate: Arm = Arm()
    devices: int = 0
    metrics: tuple[Metric, ...] = ()
    shadow: Agreement | None = None
    stratum: str = ""


class Trial(Struct, frozen=True):
    """What one mode of an experiment showed. devices: that told of it; is_cut: more did, and were not looked at."""

    began_at: str | None = None
    devices: int = 0
    ended_at: str | None = None
    is_cut: bool = False
    mode: str = ""
    results: tuple[StratumResult, ...] = ()
    stages: tuple[str, ...] = ()


class ExperimentResult(Struct, frozen=True):
    """An experiment with what it showed, a trial a mode."""

    created_at: str = ""
    created_by: str = ""
    id: str = ""
    is_open: bool = False
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
    """A rollout with a trial. modes: shadow, split, or both; share_pct: of the requests in a split, 0 without one."""

    created_at: str = ""
    created_by: str = ""
    id: str = ""
    is_open: bool = False
    model: str = ""
    modes: tuple[str, ...] = ()
    name: str = ""
    reason: str = ""
    release: str = ""
    selector: str = ""
    share_pct: int = 0
    state: str = ""
