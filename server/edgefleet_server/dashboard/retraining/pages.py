"""Pages of retraining: triggers and retrainings, one of each, a new trigger, and what starts one now."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.retraining.loop_steps import KINDS, loop_steps
from edgefleet_server.dashboard.retraining.trigger_words import (
    COOL_DOWN,
    DEADLINES,
    LASTING,
    LAUNCHERS,
    NOTHING,
    ON,
    PERIODS,
    REASONS,
    SETTINGS,
    STRATEGIES,
    budget_left,
    headline,
    picked,
    rollout_text,
    terms_text,
    waits,
)
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.retraining.model import OPEN, RetrainingView, TriggerView
from edgefleet_server.rollout.commands.duty_separation import Makers

TAB: Final = "retraining"
SHOWN: Final = 50
Pick = Annotated[str, Query(max_length=127)]
_COMMON: Final = {
    "kinds": KINDS, "on_words": ON, "launchers": LAUNCHERS, "terms_text": terms_text, "budget_left": budget_left,
    "rollout_text": rollout_text, "open_states": OPEN, "waits": waits, "capture_reasons": REASONS,
}  # fmt: skip


class Triggers(Protocol):
    """What is needed of triggers."""

    def triggers(self, model: str = "") -> list[TriggerView]:
        """Return all triggers, or those of a model."""
        ...

    def trigger(self, name: str) -> TriggerView:
        """Return one trigger. Raises TriggerUnknownError."""
        ...


class Retrainings(Protocol):
    """What is needed of retrainings."""

    def page(
        self, page: PageRequest, *, model: str = "", trigger: str = "", states: Sequence[str] = ()
    ) -> tuple[list[RetrainingView], int]:
        """Return up to `limit` + 1 retrainings, newest first, and how many there are."""
        ...

    def run(self, run_id: str) -> RetrainingView:
        """Return one retraining. Raises RetrainingUnknownError."""
        ...

    def makers(self, run_id: str) -> Makers:
        """Return who may not approve it. Raises RetrainingUnknownError."""
        ...


def add_pages(
    router: APIRouter, shell: Shell, triggers: Triggers, retrainings: Retrainings, models: Callable[[], Sequence[str]]
) -> None:
    """Add the pages. models: returns the names of all."""
    _add_list(router, shell, triggers, retrainings)
    _add_new(router, shell, models)
    _add_start(router, shell, triggers)

    @router.get("/retraining/triggers/{name}", operation_id="show_trigger")
    def show_trigger(request: Request, name: str) -> Response:
        """Show one trigger: when it fires, what is left of its budget, and what it started."""

        def build() -> dict[str, Any]:
            found = triggers.trigger(name)
            runs, total = retrainings.page(PageRequest(SHOWN), trigger=name)
            return {"trigger": found, "runs": runs[:SHOWN], "total": total, **_COMMON}

        return shell.shown(request, "retraining/trigger.html", build, tab=TAB)

    @router.get("/retraining/{run_id}", operation_id="show_retraining")
    def show_retraining(request: Request, run_id: str) -> Response:
        """Show one retraining: the whole loop, from its cause to whether that is gone."""

        def build() -> dict[str, Any]:
            run = retrainings.run(run_id)
            return {"run": run, "steps": loop_steps(run), "makers": retrainings.makers(run_id), **_COMMON}

        return shell.shown(request, "retraining/run.html", build, tab=TAB)


def _add_list(router: APIRouter, shell: Shell, triggers: Triggers, retrainings: Retrainings) -> None:
    @router.get("/retraining", operation_id="show_retrainings")
    def show_retrainings(request: Request, model: Pick = "") -> Response:
        """Show all triggers, and the retrainings, newest first."""

        def build() -> dict[str, Any]:
            known = triggers.triggers(model)
            runs, total = retrainings.page(PageRequest(SHOWN), model=model)
            shown = runs[:SHOWN]
            return {
                "triggers": known,
                "runs": [(one, loop_steps(one)) for one in shown],
                "total": total,
                "head": headline(known, shown),
                "model": model,
                **_COMMON,
            }

        return shell.shown(request, "retraining/list.html", build, tab=TAB)


def _add_new(router: APIRouter, shell: Shell, models: Callable[[], Sequence[str]]) -> None:
    @router.get("/retraining/new", operation_id="new_trigger")
    def new_trigger(
        request: Request, model: Pick = "", on: Pick = "drift", launcher: Pick = "runner", strategy: Pick = "canary"
    ) -> Response:
        """Pick what a trigger looks at and what trains; the page shows the fields of that."""

        def build() -> dict[str, Any]:
            known = list(models())
            return {
                "is_still": True,
                "models": known,
                "choice": picked(known, model, on, launcher, strategy),
                "settings": SETTINGS,
                "strategies": [*STRATEGIES, NOTHING],
                "lasting": LASTING,
                "cool_downs": COOL_DOWN,
                "periods": PERIODS,
                "deadlines": DEADLINES,
                **_COMMON,
            }

        return shell.shown(request, "retraining/new.html", build, tab=TAB)


def _add_start(router: APIRouter, shell: Shell, triggers: Triggers) -> None:
    @router.get("/retraining/start", operation_id="choose_trigger")
    def choose_trigger(request: Request, model: Pick = "") -> Response:
        """Show the triggers of a model, each with the button that starts it now."""

        def build() -> dict[str, Any]:
            return {"triggers": triggers.triggers(model), "model": model, **_COMMON}

        return shell.shown(request, "retraining/start.html", build, tab=TAB)
