"""Reads the drift of the fleet: of the models that drifted last, and of as many others as a page may judge."""

from collections.abc import Sequence
from typing import Final, Protocol

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName
from edgefleet_server.alerting.alert_rules.fleet_facts import DriftVerdict
from edgefleet_server.dashboard.drift.site_matrix import FleetGrid, Judged, fleet_grid, judging_order
from edgefleet_server.telemetry.drift.views import ModelDrift, SiteDrift

MOST_MODELS: Final = 8
"""Judged for a page: a first judgement takes some tenths of a second, the next ones within a minute nothing."""


class Judge(Protocol):
    """What is needed of the judge of drift."""

    def of_sites(self, name: ModelName) -> tuple[ModelDrift, Sequence[Sequence[SiteDrift]]]:
        """Return a model's drift, and of each signal how it is at each site. Raises ModelUnknownError."""
        ...


class Verdicts(Protocol):
    """What is needed of what was judged before."""

    def known(self) -> tuple[Sequence[DriftVerdict], frozenset[str]]:
        """Return the verdicts, and the names of all models."""
        ...


class FleetDriftReader:
    """Reads it. Thread-safe; calls block."""

    def __init__(self, judge: Judge, verdicts: Verdicts) -> None:
        """Wire the parts."""
        self._judge = judge
        self._verdicts = verdicts

    def read(self) -> FleetGrid:
        """Return the page."""
        verdicts, names = self._verdicts.known()
        order = judging_order(sorted(names), [one.model for one in verdicts if one.signals], MOST_MODELS)
        judged: list[Judged] = []
        for name in order:
            try:
                judged.append(self._judge.of_sites(ModelName(name)))
            except EdgefleetError:  # it was removed meanwhile
                continue
        return fleet_grid(judged, [one for one in names if one not in order])
