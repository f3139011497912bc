"""How objectives stand, in words, and the file of a new one from what was picked. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_server.dashboard.core.filters import duration, times
from edgefleet_server.dashboard.core.line_chart import Limit
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.objectives.model import BudgetPoint, BudgetState, Indicator, SloView
from edgefleet_server.objectives.openslo import API_VERSION, KIND, SOURCE, THRESHOLDS

KINDS: Final[Mapping[str, str]] = {
    "ok": "ok",
    "burning": "bad",
    "slow_burn": "warn",
    "spent": "bad",
    "no_data": "off",
    "calm": "ok",
    "near": "warn",
    "few": "off",
}
"""The colour and shape of a state of an objective or of a pair of windows."""
WORDS: Final[Mapping[str, str]] = {
    "ok": "ok",
    "burning": "burning",
    "slow_burn": "slow burn",
    "spent": "spent",
    "no_data": "no data",
    "calm": "calm",
    "near": "near its limit",
    "few": "too few failed to say",
}
METRICS: Final[Mapping[str, str]] = {
    Indicator.SUCCESS.value: "requests succeed",
    Indicator.LATENCY.value: "answers are fast enough",
    Indicator.AVAILABILITY.value: "devices are connected",
    Indicator.ACCURACY.value: "labelled answers are right",
    Indicator.ANSWER_AGE.value: "answers are fresh",
    Indicator.RELEASE_AGE.value: "releases are young",
}
"""What an objective can ask, in the order of the picker."""
USUAL: Final[Mapping[str, float]] = {"latency_ms": 100, "answer_age_s": 3600, "release_age_days": 90}
TARGETS: Final = ("0.9", "0.95", "0.99", "0.995", "0.999")
WINDOWS: Final = ("1d", "7d", "28d", "90d")


@dataclass(frozen=True, slots=True)
class Choice:
    """What was picked for a new objective. threshold: "" = the usual one of the metric."""

    model: str = ""
    metric: str = "success"
    threshold: str = ""
    target: str = "0.99"
    window: str = "28d"
    site: str = ""

    @property
    def name(self) -> str:
        """Return a name for it."""
        tail = self.metric.split("_")[0]
        return "-".join(
            part for part in (self.model.replace(".", "-").replace("_", "-"), self.where.lower(), tail) if part
        )[:63]

    @property
    def where(self) -> str:
        """Return the site that it is about, "" = all: labels are counted of all devices together."""
        return "" if self.metric == Indicator.ACCURACY.value else self.site

    @property
    def unit(self) -> str:
        """Return the unit of its threshold, "" for a share."""
        return next((unit for one, (unit, _, _) in THRESHOLDS.items() if one.value == self.metric), "")

    @property
    def limit(self) -> float:
        """Return its threshold."""
        try:
            limit = float(self.threshold)
        except ValueError:
            limit = math.nan
        return limit if math.isfinite(limit) else USUAL.get(self.metric, 0.0)


def document_of(choice: Choice) -> dict[str, Any]:
    """Return the OpenSLO file of what was picked."""
    source = {"type": SOURCE, "spec": {"metric": choice.metric} | ({"site": choice.where} if choice.where else {})}
    if choice.unit:
        metric: dict[str, Any] = {"thresholdMetric": {"metricSource": source}}
        goal: dict[str, Any] = {"op": "lte", "value": choice.limit}
    else:
        metric = {"ratioMetric": {"counter": True, "rawType": "success", "raw": {"metricSource": source}}}
        goal = {}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": choice.name},
        "spec": {
            "service": choice.model,
            "indicator": {"metadata": {"name": f"{choice.name}-indicator"[:63]}, "spec": metric},
            "timeWindow": [{"duration": choice.window, "isRolling": True}],
            "budgetingMethod": "Occurrences",
            "objectives": [goal | {"target": float(choice.target)}],
        },
    }


def headline(slos: Sequence[SloView]) -> tuple[str, str, str]:
    """Return colour, sentence and what stands below it: of all objectives."""
    if not slos:
        return (
            "off",
            "No model has an objective yet",
            "An objective says how good is good enough, so that alerts speak of what users feel.",
        )
    bad = [one for one in slos if one.state in {BudgetState.BURNING, BudgetState.SPENT}]
    slow = [one for one in slos if one.state is BudgetState.SLOW_BURN]
    unknown = [one for one in slos if one.state is BudgetState.NO_DATA]
    counted = len(slos) - len(unknown)
    rest = (
        f" {_count(len(unknown))} had no events in the window, so nothing is said of {'it' if len(unknown) == 1 else 'them'}."
        if unknown
        else ""
    )
    if bad or slow:
        worst = (bad or slow)[0]
        count = len(bad) + len(slow)
        title = (
            f"{worst.title} {_verb(worst)}"
            if count == 1
            else f"{count} of {len(slos)} objectives are not kept or will not last"
        )
        return ("bad" if bad else "warn"), title, f"{burn_text(worst)} {worst.says}.{rest}"
    if not counted:
        return "off", "Nothing was counted yet", "Devices on the normal profile report every quarter of an hour."
    least = min((one for one in slos if one.left is not None), key=lambda one: one.left or 0.0)
    title = (
        f"{least.title} is kept"
        if len(slos) == 1
        else f"{counted} of {len(slos)} objectives are kept"
        if unknown
        else f"All {len(slos)} objectives are kept"
    )
    return "ok", title, f"The least that is left of a budget is {100 * (least.left or 0.0):.0f} %: {least.title}.{rest}"


def _count(n: int) -> str:
    return "1 objective" if n == 1 else f"{n} objectives"


def _verb(slo: SloView) -> str:
    return {
        BudgetState.BURNING: "burns its budget fast",
        BudgetState.SLOW_BURN: "burns its budget faster than it may",
        BudgetState.SPENT: "has spent its budget",
    }.get(slo.state, "is kept")


def burn_text(slo: SloView) -> str:
    """Return how fast a budget burns, in words: by the fastest pair of windows that burns, else by the one nearest to its limit."""
    known = [
        (min(one.long_burn, one.short_burn), one)
        for one in slo.burns
        if one.long_burn is not None and one.short_burn is not None
    ]
    if not known:
        return "Nothing was counted lately."
    burning = [one for one in known if one[1].state == "burning"]
    burn, pair = burning[0] if burning else max(known, key=lambda one: one[0] / one[1].factor)
    if burn == 0:
        return "Nothing fails now."
    lasts = slo.window_s / 86_400 / burn
    if burn <= 1:
        return f"Burns {times(burn)} as fast as it may: the budget lasts."
    hours = "hours" if lasts < 1 else f"{lasts:.0f} days"
    return f"Burns {times(burn)} as fast as it may over the last {duration(pair.long_s)}: a whole budget would last {hours}."


def budget_chart(history: Sequence[BudgetPoint]) -> Chart | None:
    """Return the chart of what was left of a budget, None without any figures."""
    at = [int(one.at.timestamp()) for one in history]
    left = [None if one.left is None else round(100 * one.left, 2) for one in history]
    if not any(one is not None for one in left):
        return None
    limits = [Limit("spent at", 0)]
    return Chart("budget", "Budget left", "%", ("budget left",), [at, left], at[0], at[-1], limits=limits)


def burn_chart(history: Sequence[BudgetPoint], allowed: float) -> Chart | None:
    """Return the chart of how fast the budget burned from point to point, None without events. 1: it lasts just its window."""
    at = [int(one.at.timestamp()) for one in history]
    burn = [None if one.total == 0 else round((one.total - one.good) / (allowed * one.total), 3) for one in history]
    if not any(one is not None for one in burn):
        return None
    limits = [Limit("limit", 1)]
    return Chart(
        "burn", "How fast it burns", "times as fast as it may", ("burn",), [at, burn], at[0], at[-1], limits=limits
    )
