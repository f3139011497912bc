"""The pages of experiments: releases that run, or ran, as candidates, and what they showed there."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.rollouts.trial_words import arms, says, verdict
from edgefleet_server.dashboard.rollouts.views import RolloutPages, metric_picture
from edgefleet_server.rollout.status.experiments import ExperimentReader

TAB: Final = "experiments"


def add_pages(router: APIRouter, shell: Shell, reader: ExperimentReader, pages: RolloutPages) -> None:
    """Add the pages."""

    @router.get("/experiments", operation_id="show_experiments")
    def show_experiments(request: Request, model: Annotated[str, Query(max_length=63)] = "") -> Response:
        """Show rollouts with shadow or split stages, by model."""

        def build() -> dict[str, Any]:
            found = reader.experiments(model or None)
            return {"models": sorted({one.model for one in found}), "experiments": found, "model": model}

        return shell.shown(request, "experiments/list.html", build, tab=TAB)

    @router.get("/experiments/{rollout_id}", operation_id="show_experiment")
    def show_experiment(request: Request, rollout_id: str) -> Response:
        """Show what a release did as a candidate, and let a user decide."""

        def build() -> dict[str, Any]:
            experiment = reader.experiment(rollout_id)
            return {
                "is_still": True,  # adding up windows costs, and devices send one a minute
                "experiment": experiment,
                "head": verdict(experiment),
                "arms": arms,
                "says": says,
                "trials": experiment.trials,
                "steering": pages.steering(rollout_id),
                "picture": metric_picture,
            }

        return shell.shown(request, "experiments/show.html", build, tab=TAB)
