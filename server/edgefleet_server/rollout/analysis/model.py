"""Values of a decision: the facts it rests on, the verdict, and the decision that is stored. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from edgefleet_server.rollout.analysis.budget_facts import BudgetFact
from edgefleet_server.rollout.model import Strength
from edgefleet_server.rollout.spec.model import Bound, Control, GateKind, Metric, OnBreach, OnFail


class QualityVerdict(StrEnum):
    """What is known of one metric in one stratum. Of several, the first of FAIL, HOLD and NO_DATA, PASS counts."""

    FAIL = "fail"
    HOLD = "hold"
    NO_DATA = "no_data"
    PASS = "pass"  # noqa: S105 not a password


# ---- what is judged, stored with the decision


class MetricFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The devices' values of one metric as counts in bins: [index, devices], index 0 from `low` on, each `step` wide.

    The value is what `bound` is about: a log ratio (non_inferior_rel; max of a time or an energy), a difference
    (non_inferior_abs), a ratio (max), or 1 - the ratio (min). at: the value that may not be exceeded; beyond `low` or `high`
    it is clipped. missing: devices that should have a value. clipped: how many lay beyond `high`.
    """

    name: Metric
    bound: Bound
    value: float
    on_breach: OnBreach
    low: float
    high: float
    at: float
    step: float
    bins: list[tuple[int, int]]
    missing: int = 0
    clipped: int = 0


class DriftFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices answer with other classes than before, of those with enough data to judge; and of their control devices."""

    floor: float
    on_breach: OnBreach
    judged: int = 0
    drifted: int = 0
    control_judged: int = 0
    control_drifted: int = 0


class QualityFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the quality gate of one cell rests on.

    expected: exposed devices of the stratum so far on which the release did not fail; measured: those with values; unpaired:
    those of them that had nothing to be compared with. own_expected, own_measured: of this very stage.
    """

    control: Control
    expected: int
    measured: int
    unpaired: int = 0
    own_expected: int = 0
    own_measured: int = 0
    metrics: list[MetricFacts] = msgspec.field(default_factory=list)
    drift: DriftFacts | None = None


PASSES: Final = 200

PASSES_TO: Final = 202
"""Flagger takes 200 to 202 for yes: `pkg/controller/webhook.go`."""


class GateFact(msgspec.Struct, frozen=True, kw_only=True):
    """A gate as a decision sees it. status None: not asked yet, no answer, or one that is older than `fresh_s`.

    passes_to: the highest status that passes. In evidence from when only 200 did it is missing: that decides as it did.
    """

    name: str
    kind: GateKind
    status: int | None = None
    error: str = ""
    body: str = ""
    age_s: float | None = None
    fresh_s: float = 60.0
    passes_to: int = PASSES

    @property
    def passes(self) -> bool:
        """Whether the latest answer has a status that passes, and is no older than it may be."""
        is_yes = self.status is not None and PASSES <= self.status <= self.passes_to
        return is_yes and self.age_s is not None and 0 <= self.age_s <= self.fresh_s

    @property
    def answer(self) -> str:
        """What it answered, in words."""
        if self.age_s is None:
            return "not asked yet"
        what = self.error or f"answered {self.status}"
        return what if 0 <= self.age_s <= self.fresh_s else f"{what}, {self.age_s:.0f} s ago"


SMALL_STRATUM: Final = 73
"""Clean devices that the promote e-process needs at its defaults; a stratum with fewer uses the small-fleet rules."""


class Rule(StrEnum):
    """The promote rule that a stage uses in one stratum."""

    ALL_HEALTHY = "all_healthy"
    EVIDENCE = "evidence"


# ---- what is judged


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of one stratum, over all stages opened so far; accepted failures are in none of them but `accepted`.

    members: below the cut; offered: not taken up yet; exposed = pending + healthy + failed; healthy: past their soak;
    failed: failed, lost, rolled back by themselves or regressed, also when a person had them tried again since;
    unreachable, incompatible: outside of the evidence.
    """

    members: int = 0
    offered: int = 0
    exposed: int = 0
    pending: int = 0
    healthy: int = 0
    failed: int = 0
    unreachable: int = 0
    incompatible: int = 0
    accepted: int = 0


class WordFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that a plain rule would act on, and what others show whom the server asked about them (ADR 0087).

    fresh: failures by class about which nobody was asked yet; lost devices of one site are one. verdict: of the newest question
    about failures that still count, "" = none. code, error_class: its plain rule, and what was reported. drawn, failed, healthy:
    devices; need: how many must fail; proof: what the server's own check found. is_answered: a person has gone on since.
    acts_alone: one word takes back (`on_unconfirmed: rollback`, while the rollout runs). is_over: the rollout has ended.
    """

    fresh: dict[str, int] = msgspec.field(default_factory=dict)
    verdict: str = ""
    code: str = ""
    error_class: str = ""
    drawn: int = 0
    failed: int = 0
    healthy: int = 0
    need: int = 0
    proof: str = ""
    is_answered: bool = False
    acts_alone: bool = False
    is_over: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision about one cell rests on. Stored with the decision, so that it can be made again.

    failures: count by error class, `lost` among them (its sum is `counts.failed`). soaking: healthy devices whose soak is
    not over (they are pending). pooled_exposed, pooled_failed: over all strata of the rollout. open_for_s: since the cell
    opened or was last resumed. stage_members: devices of this very stage that are not out of reach (unreachable,
    incompatible); stage_tried: those of them that are exposed; None: unknown, the whole stratum is looked at instead.
    liars: share of the devices whose word may be false; 0 also in evidence of rules 1, which knew no liars.
    beside_metrics: metrics of the spec may fail a stage, if not this one: the error probability is shared with them here, too.
    words: None in evidence of when one word was enough for a plain rule.
    """

    stage: int
    stratum: str
    population: int
    counts: Counts
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    soaking: int = 0
    pooled_exposed: int = 0
    pooled_failed: int = 0
    stage_members: int | None = None
    stage_tried: int | None = None
    rule: Rule = Rule.ALL_HEALTHY
    max_failure: float = 0.03
    promote_below: float = 0.05
    alpha_abort: float = 0.01
    alpha_promote: float = 0.05
    liars: float = 0.0
    on_fail: OnFail = OnFail.ROLLBACK
    open_for_s: float = 0.0
    inconclusive_after_s: float = 172_800.0
    inconclusive_do: OnFail = OnFail.PAUSE
    gates: list[GateFact] = msgspec.field(default_factory=list)
    quality: QualityFacts | None = None
    beside_metrics: bool = False
    words: WordFacts | None = None
    budget: BudgetFact | None = None


Figures = Mapping[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Advance:
    """The stage passed in this stratum. bound: in words, for example "4 of 4 healthy: failure below 53 % at 95 %"."""

    code: str
    reason: str
    figures: Figures
    strength: Strength
    bound: str


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """No verdict yet: what is missing."""

    code: str
    reason: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop offering and wait for a person. pooled: on the evidence of all strata together, so all of them stop."""

    code: str
    reason: str
    figures: Figures
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class RollBack:
    """The release is bad here: take it back. pooled: on the evidence of all strata together, so all of them stop."""

    code: str
    reason: str
    figures: Figures
    pooled: bool = False


Decision = Advance | KeepWaiting | Pause | RollBack
