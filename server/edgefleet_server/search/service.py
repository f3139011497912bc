"""The search: asks each feature for its own. Thread-safe; calls block."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory.search import InventorySearch
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.search.model import Hit, HitKind
from edgefleet_terms.rollout_states import shown_state

EACH: Final = 10
"""So many hits of one kind at most."""
_PATHS: Final = {
    HitKind.DEVICE: "devices",
    HitKind.GROUP: "groups",
    HitKind.MODEL: "models",
    HitKind.RELEASE: "releases",
    HitKind.ROLLOUT: "rollouts",
}


class SearchService:
    """Finds things by a part of their names."""

    def __init__(
        self, db: Database, devices: InventorySearch, registry: RegistryService, rollouts: RolloutService
    ) -> None:
        """Wire the features."""
        self._db = db
        self._devices = devices
        self._registry = registry
        self._rollouts = rollouts

    def find(self, text: str, limit: int = EACH) -> list[Hit]:
        """Return up to `limit` hits of each kind: devices, groups, models, releases, rollouts. Capitals do not matter."""
        wanted = text.strip().lower()
        if not wanted:
            return []
        with self._db.read():  # the features join it: one connection for all
            return list(self._all(wanted, limit))

    def _all(self, text: str, limit: int) -> Iterator[Hit]:
        for device in self._devices.devices(text, limit):
            yield _hit(HitKind.DEVICE, device.id, f"{device.status}, {device.profile}", device.display_name)
        for group in self._devices.groups(text, limit):
            yield _hit(HitKind.GROUP, group.name, group.selector or "every device")
        models, releases = self._registry.find(text, limit)
        for model in models:
            yield _hit(HitKind.MODEL, model, "")
        for release in releases:
            yield _hit(HitKind.RELEASE, str(release.ref), release.state)
        for rollout in self._rollouts.finder.rollouts(text, limit):
            yield _hit(HitKind.ROLLOUT, rollout.id, f"{rollout.release}, {shown_state(rollout.state)}")


def _hit(kind: HitKind, name: str, detail: str, display_name: str = "") -> Hit:
    return Hit(kind, name, detail, f"/api/v1/{_PATHS[kind]}/{quote(name, safe='@+')}", display_name)
