"""Pages of drift: a model's signals, and one signal in full."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.registry.histogram_chart import histogram, trend
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.drift.views import SignalDrift
from edgefleet_server.telemetry.signals.model import Scale

SPANS: Final[Mapping[Scale, str]] = {Scale.MINUTES: "5 minutes", Scale.HOUR: "1 hour", Scale.DAY: "1 day"}
SOURCES: Final[Mapping[str, str]] = {
    "reference": "reference data of the release",
    "calibration": "calibration data of the release",
    "baseline": "a period that was chosen",
    "learned": "what devices learned",
    "none": "what each device learned",
}
PERIODS: Final = (("the last 24 hours", 1), ("the last 7 days", 7), ("the last 30 days", 30))
Version = Annotated[str, Query(max_length=63)]
Over = Annotated[Scale | None, Query()]


def add_drift_pages(router: APIRouter, shell: Shell, drift: DriftService, clock: Clock) -> None:
    """Add the pages."""

    @router.get("/models/{name}/drift", operation_id="show_model_drift")
    def show_model_drift(request: Request, name: str, version: Version = "", over: Over = None) -> Response:
        """Show a model's drift: in words, then signal by signal, then what counts as normal."""

        def build() -> dict[str, Any]:
            page = drift.of_model(parse_model_name(name), version, over)
            now = clock.now().replace(microsecond=0)
            periods = [((now - timedelta(days=days)).isoformat(), text) for text, days in PERIODS]
            return {
                **_common(page, over),
                "page": page,
                "figures": _figures(page.signals),
                "periods": periods,
                "trend": trend,
            }

        return shell.shown(request, "registry/drift.html", build, tab="models")

    @router.get("/models/{name}/drift/{signal}", operation_id="show_signal_drift")
    def show_signal_drift(
        request: Request, name: str, signal: str, version: Version = "", over: Over = None
    ) -> Response:
        """Show one signal: its histogram before and after, by cohort, and the devices that moved."""

        def build() -> dict[str, Any]:
            asked = (parse_model_name(name), version, over)
            found = drift.of_signal(asked[0], signal, version, over)
            one = found.signal
            cohorts = [(cohort, histogram(one.bins, one.before, cohort.shares)) for cohort in found.cohorts]
            return {
                **_common(found, over),
                "page": found,
                "is_old": drift.of_model(*asked).is_old,
                "figure": histogram(one.bins, one.before, one.after),
                "cohorts": cohorts,
                "bins": list(zip(one.bins, one.before, one.after, strict=False)),
            }

        return shell.shown(request, "registry/signal.html", build, tab="models")


def _common(page: Any, over: Scale | None) -> dict[str, Any]:
    query = f"&version={page.version}" if page.version else ""
    return {
        "spans": [(scale.value, text, scale.value == page.scale) for scale, text in SPANS.items()],
        "query": query,
        "over": "" if over is None else over.value,
        "sources": SOURCES,
    }


def _figures(signals: Sequence[SignalDrift]) -> list[Any]:
    return [histogram(one.bins, one.before, one.after) for one in signals]
