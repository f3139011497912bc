"""Answers why the latency of a model rose."""

from collections.abc import Callable
from datetime import datetime

from edgefleet_protocol.ids import ModelName
from edgefleet_server.telemetry.latency.cause_text import explained
from edgefleet_server.telemetry.latency.evidence_loader import EvidenceLoader
from edgefleet_server.telemetry.latency.rules import judge
from edgefleet_server.telemetry.latency.views import LatencyExplanation


class LatencyExplainer:
    """Answers. Thread-safe; calls block: for some tenths of a second where a fleet is large."""

    def __init__(
        self, loader: EvidenceLoader, check_model: Callable[[ModelName], object], check_device: Callable[[str], None]
    ) -> None:
        """Wire the parts. check_model, check_device: raise an error unless there is such a one."""
        self._loader = loader
        self._check_model = check_model
        self._check_device = check_device

    def explain(self, model: ModelName, since: datetime, until: datetime, device: str = "") -> LatencyExplanation:
        """Return why answers of a model got slower in a span of time, on one device or on all.

        Raises ModelUnknownError, DeviceUnknownError.
        """
        self._check_model(model)
        if device:
            self._check_device(device)
            case = self._loader.of_device(model, device, since, until)
        else:
            case = self._loader.of_fleet(model, since, until)
        return explained(case, judge(case), since, until, device)
