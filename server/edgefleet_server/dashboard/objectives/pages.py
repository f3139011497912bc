"""Pages of objectives: all of them, and one with the chart of its budget."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.objectives.model import BudgetPoint, SloView
from edgefleet_server.objectives.service import ObjectiveBook

TAB: Final = "slos"
TONES: Final[Mapping[str, str]] = {
    "ok": "good",
    "burning": "bad",
    "slow_burn": "warn",
    "spent": "bad",
    "no_data": "plain",
    "calm": "good",
    "near": "warn",
    "few": "plain",
}
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
EXAMPLE: Final = json.dumps(
    {
        "apiVersion": "openslo/v1",
        "kind": "SLO",
        "metadata": {"name": "NAME"},
        "spec": {
            "service": "MODEL",
            "indicator": {
                "spec": {
                    "thresholdMetric": {"metricSource": {"type": "edgefleet", "spec": {"metric": "latency_ms"}}},
                }
            },
            "timeWindow": [{"duration": "28d", "isRolling": True}],
            "budgetingMethod": "Occurrences",
            "objectives": [{"op": "lte", "value": 100, "target": 0.99}],
        },
    },
    indent=2,
)


def add_pages(router: APIRouter, shell: Shell, objectives: ObjectiveBook) -> None:
    """Add the pages."""

    @router.get("/slos", operation_id="show_slos")
    def show_slos(request: Request) -> Response:
        """Show all objectives, and set one."""

        def build() -> dict[str, Any]:
            return {"slos": worst_first(objectives.slos()), "tones": TONES, "words": WORDS, "example": EXAMPLE}

        return shell.shown(request, "objectives/list.html", build, tab=TAB)

    @router.get("/slos/{name}", operation_id="show_slo")
    def show_slo(request: Request, name: str) -> Response:
        """Show one objective: what is left of its budget, how that went, and how fast it burns."""

        def build() -> dict[str, Any]:
            found = objectives.slo(name)
            return {
                "slo": found.slo,
                "chart": budget_chart(found.history),
                "document": json.dumps(found.document, indent=2),
                "tones": TONES,
                "words": WORDS,
            }

        return shell.shown(request, "objectives/slo.html", build, tab=TAB)


def worst_first(slos: Sequence[SloView]) -> list[SloView]:
    """Return objectives, those with the least budget left first; those without data last."""
    return sorted(slos, key=lambda one: (one.left is None, one.left or 0.0, one.name))


def budget_chart(history: Sequence[BudgetPoint]) -> Chart | None:
    """Return the chart of what was left of a budget, None without any figures."""
    at = [int(one.at.timestamp()) for one in history]
    left = [None if one.left is None else round(100 * one.left, 2) for one in history]
    if not any(one is not None for one in left):
        return None
    return Chart("budget", "Budget left", "%", ("budget left",), [at, left], at[0], at[-1])
