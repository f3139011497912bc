"""The page of a model's ground truth: accuracy over time, classes, business figures, and the form for labels that came later."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.registry.accuracy_chart import accuracy_charts, figure_charts
from edgefleet_server.dashboard.timelines.time_range import AskedQuery, TimeRange
from edgefleet_server.objectives.model import Slo
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyBy, AccuracyService
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads

SPANS: Final[Mapping[str, timedelta]] = {
    "2d": timedelta(days=2),
    "30d": timedelta(days=30),
    "1y": timedelta(days=365),
}
USUAL: Final = "30d"
WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "none": ("as before", "good"),
    "few": ("too few labels", "plain"),
    "unsure": ("lower, not sure yet", "plain"),
    "drift": ("worse", "bad"),
    "inputs": ("worse, as inputs drift", "bad"),
}
UPLOADS: Final = 20
Version = Annotated[str, Query(max_length=63)]


def add_pages(
    router: APIRouter,
    shell: Shell,
    accuracy: AccuracyService,
    uploads: FeedbackUploads,
    objectives: Callable[[str], Sequence[Slo]],
    clock: Clock,
) -> None:
    """Add the page. objectives: those of a model."""

    @router.get("/models/{name}/accuracy", operation_id="show_model_accuracy")
    def show_model_accuracy(
        request: Request, name: str, asked: AskedQuery, version: Version = "", by: AccuracyBy = AccuracyBy.RELEASE
    ) -> Response:
        """Show how often labelled answers of a model are right, over time, and how labels that were sent fared."""

        def build() -> dict[str, Any]:
            model = parse_model_name(name)
            chosen, now = asked.span if asked.span in SPANS else USUAL, clock.now()
            window = asked.window(now)
            since, until = window or (now - SPANS[chosen], None)
            page = accuracy.of_model(model, version=version, by=by, since=since, until=until)
            charts, figures = (
                accuracy_charts(page.lines, objectives(model), asked.scale),
                figure_charts(page.figures, asked.scale),
            )
            return {
                "page": page,
                "state": WORDS[page.concept.state],
                "charts": charts,
                "figures": figures,
                "uploads": uploads.uploads(model, UPLOADS),
                "period": TimeRange(
                    span="" if window else chosen,
                    spans=list(SPANS),
                    usual=USUAL,
                    window=asked.kept(*window) if window else None,
                    scale=asked.scale,
                    other=(("version", version), ("by", "" if by is AccuracyBy.RELEASE else by.value)),
                ),
                "lines": [(one.value, one is by) for one in AccuracyBy],
            }

        return shell.shown(request, "registry/accuracy.html", build, tab="models")
