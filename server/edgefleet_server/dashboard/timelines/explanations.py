"""Why latency rose, kept for a moment: the page of a model says it, and the page of its latency says it at length."""

from datetime import datetime

from edgefleet_protocol.ids import ModelName
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.telemetry.latency.service import LatencyExplainer
from edgefleet_server.telemetry.latency.views import LatencyExplanation


class Explanations:
    """Reads them. Thread-safe; calls block."""

    def __init__(self, explainer: LatencyExplainer, readings: Readings) -> None:
        """Wire the parts."""
        self._explainer = explainer
        self._readings = readings

    def of(self, model: ModelName, since: datetime, until: datetime, device: str = "") -> LatencyExplanation:
        """Return why a model's latency rose, as old as `Readings` keeps it. Raises what `LatencyExplainer.explain` raises."""
        asked = (model, since, until, device)
        return self._readings.of("latency", asked, lambda: self._explainer.explain(*asked))
