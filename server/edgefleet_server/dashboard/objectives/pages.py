"""Pages of objectives: all of them, one with its budget and what used it, and a new one from what is picked."""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.objectives.budget_words import (
    KINDS,
    METRICS,
    TARGETS,
    WINDOWS,
    WORDS,
    Choice,
    budget_chart,
    burn_chart,
    burn_text,
    document_of,
    headline,
)
from edgefleet_server.objectives.model import BudgetUse, SloView
from edgefleet_server.objectives.service import ObjectiveBook

TAB: Final = "slos"
Pick = Annotated[str, Query(max_length=127)]
_COMMON: Final = {"kinds": KINDS, "words": WORDS, "burn_text": burn_text}


def add_pages(router: APIRouter, shell: Shell, objectives: ObjectiveBook, models: Callable[[], Sequence[str]]) -> None:
    """Add the pages. models: returns the names of all."""
    _add_list(router, shell, objectives)
    _add_new(router, shell, models)

    @router.get("/slos/{name}", operation_id="show_slo")
    def show_slo(request: Request, name: str) -> Response:
        """Show one objective: what is left of its budget, how that went, what used it, and how fast it burns."""

        def build() -> dict[str, Any]:
            found = objectives.slo(name)
            drawn = (budget_chart(found.history), burn_chart(found.history, 1.0 - found.slo.target))
            return {
                "slo": found.slo,
                "head": headline([found.slo]),
                "charts": [one for one in drawn if one is not None],
                "uses": by_place(objectives.uses(name)),
                "document": json.dumps(found.document, indent=2),
                **_COMMON,
            }

        return shell.shown(request, "objectives/slo.html", build, tab=TAB)


def _add_list(router: APIRouter, shell: Shell, objectives: ObjectiveBook) -> None:
    @router.get("/slos", operation_id="show_slos")
    def show_slos(request: Request) -> Response:
        """Show all objectives, the one with the least budget left first."""

        def build() -> dict[str, Any]:
            slos = worst_first(objectives.slos())
            return {"slos": slos, "head": headline(slos), **_COMMON}

        return shell.shown(request, "objectives/list.html", build, tab=TAB)


def _add_new(router: APIRouter, shell: Shell, models: Callable[[], Sequence[str]]) -> None:
    @router.get("/slos/new", operation_id="new_slo")
    def new_slo(
        request: Request,
        model: Pick = "",
        metric: Pick = "success",
        threshold: Pick = "",
        target: Pick = "0.99",
        window: Pick = "28d",
        site: Pick = "",
    ) -> Response:
        """Pick what an objective asks; the page shows its file, ready to be set."""

        def build() -> dict[str, Any]:
            known = list(models())
            choice = Choice(
                model if model in known else next(iter(known), ""),
                metric if metric in METRICS else "success",
                threshold.strip(),
                target if target in TARGETS else "0.99",
                window if window in WINDOWS else "28d",
                site.strip(),
            )
            return {
                "is_still": True,
                "models": known,
                "metrics": list(METRICS.items()),
                "targets": [(one, f"{100 * float(one):g} %") for one in TARGETS],
                "windows": [(one, one.removesuffix("d") + (" day" if one == "1d" else " days")) for one in WINDOWS],
                "choice": choice,
                "document": json.dumps(document_of(choice), indent=2) if choice.model else "",
            }

        return shell.shown(request, "objectives/new.html", build, tab=TAB)


def by_place(uses: Sequence[BudgetUse]) -> list[tuple[str, list[BudgetUse]]]:
    """Return what used a budget by kind of place, in the order that it came; places of which nothing is known have no name."""
    found: dict[str, list[BudgetUse]] = {}
    for one in uses:
        if one.name:
            found.setdefault(one.place, []).append(one)
    return list(found.items())


def worst_first(slos: Sequence[SloView]) -> list[SloView]:
    """Return objectives, those with the least budget left first; those without data last."""
    return sorted(slos, key=lambda one: (one.left is None, one.left or 0.0, one.name))
