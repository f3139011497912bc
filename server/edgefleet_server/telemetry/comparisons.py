"""Two versions of a model, read and compared: what their reports say, what was predicted, what devices told of them.

Its own module because it joins the registry with what the telemetry feature knows, and `comparing` is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef, parse_model_name
from edgefleet_server.registry.model import BundleView, ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.bundle_lines import BundleLine, bundle_line
from edgefleet_server.telemetry.comparing import ProfilePair, compared
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.service import TelemetryService

RECENT: Final = timedelta(hours=24)
RECENT_WINDOWS: Final = 400


@dataclass(frozen=True)
class ComparedVersion:
    """One of the two versions."""

    ref: str
    version: str
    state: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class Comparison:
    """Two versions of a model, profile by profile; no profile when neither has a bundle."""

    model: str
    before: ComparedVersion
    after: ComparedVersion
    profiles: Sequence[ProfilePair]


class Comparisons:
    """Reads what versions are compared by. Thread-safe; calls block."""

    def __init__(
        self, registry: RegistryService, costs: CostService, telemetry: TelemetryService, clock: Clock
    ) -> None:
        """Wire the services."""
        self._registry = registry
        self._costs = costs
        self._telemetry = telemetry
        self._clock = clock

    def lines(self, bundles: Sequence[BundleView]) -> list[BundleLine]:
        """Return what is known of each of these bundles."""
        told = {one.profile: one for one in self._costs.performance(bundles)}
        since = self._clock.now() - RECENT
        return [
            bundle_line(one, told.get(one.profile), self._telemetry.recent(one.sha256, since, RECENT_WINDOWS))
            for one in bundles
        ]

    def compare(self, name: str, before: str, after: str) -> Comparison:
        """Return two versions side by side, each also by an alias. Raises ModelUnknownError, ReleaseUnknownError, BadIdError."""
        model = self._registry.model(parse_model_name(name)).name
        a, b = (self._registry.release(ReleaseRef.parse(f"{model}@{one}")) for one in (before, after))
        return Comparison(model, _side(a), _side(b), self.pairs(a, b))

    def pairs(self, before: ReleaseView, after: ReleaseView) -> list[ProfilePair]:
        """Return two releases profile by profile."""
        labels = (str(before.ref.version), str(after.ref.version))
        return compared(self.lines(before.bundles), self.lines(after.bundles), labels)


def _side(release: ReleaseView) -> ComparedVersion:
    return ComparedVersion(
        str(release.ref), str(release.ref.version), release.state.value, release.created_at, release.created_by
    )
