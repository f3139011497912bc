"""The page of a model's ground truth: accuracy over time, classes, business figures, and the form for labels that came later."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.registry.accuracy_chart import accuracy_charts, figure_charts
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyBy, AccuracyService
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads

SPANS: Final[Mapping[str, tuple[timedelta, str]]] = {
    "2d": (timedelta(days=2), "2 days"),
    "30d": (timedelta(days=30), "30 days"),
    "1y": (timedelta(days=365), "1 year"),
}
WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "none": ("as before", "good"),
    "few": ("too few labels", "plain"),
    "unsure": ("lower, not sure yet", "plain"),
    "drift": ("worse", "bad"),
    "inputs": ("worse, as inputs drift", "bad"),
}
UPLOADS: Final = 20
Version = Annotated[str, Query(max_length=63)]
Span = Annotated[str, Query(max_length=8)]


def add_pages(
    router: APIRouter, shell: Shell, accuracy: AccuracyService, uploads: FeedbackUploads, clock: Clock
) -> None:
    """Add the page."""

    @router.get("/models/{name}/accuracy", operation_id="show_model_accuracy")
    def show_model_accuracy(
        request: Request, name: str, version: Version = "", by: AccuracyBy = AccuracyBy.RELEASE, span: Span = "30d"
    ) -> Response:
        """Show how often labelled answers of a model are right, over time, and how labels that were sent fared."""

        def build() -> dict[str, Any]:
            model = parse_model_name(name)
            chosen = span if span in SPANS else "30d"
            since = clock.now() - SPANS[chosen][0]
            page = accuracy.of_model(model, version=version, by=by, since=since)
            return {
                "page": page,
                "state": WORDS[page.concept.state],
                "charts": accuracy_charts(page.lines),
                "figures": figure_charts(page.figures),
                "uploads": uploads.uploads(model, UPLOADS),
                "spans": [(key, text, key == chosen) for key, (_, text) in SPANS.items()],
                "lines": [(one.value, one is by) for one in AccuracyBy],
                "span": chosen,
            }

        return shell.shown(request, "registry/accuracy.html", build, tab="models")
