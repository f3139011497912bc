"""Retraining, wired on one database."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.retraining.model import Launcher, LauncherKind
from edgefleet_server.retraining.run_maker import RunMaker
from edgefleet_server.retraining.runner_leases import LeaseBook
from edgefleet_server.retraining.service import RetrainingService
from edgefleet_server.retraining.trigger_book import TriggerBook
from edgefleet_server.telemetry.captures import CaptureService

_LOOKED_AT: Final = 50


@dataclass(frozen=True, slots=True)
class Retraining:
    """Everything about retraining. All are thread-safe; calls block."""

    triggers: TriggerBook
    runs: RetrainingService
    leases: LeaseBook
    maker: RunMaker


class RunningReleases:
    """Says which release of a model is trained further: the one that most devices run, else its newest one that is signed."""

    def __init__(self, fleet: Fleet, registry: RegistryService) -> None:
        """Wire the parts."""
        self._fleet = fleet
        self._registry = registry

    def parent_of(self, model: str) -> str:
        """Return `name@version`, "" when the model has no release that can be."""
        running = self._fleet.devices.versions("", model)
        if running:
            return f"{model}@{max(sorted(running), key=lambda version: running[version])}"
        newest = self._registry.releases(PageRequest(_LOOKED_AT, None), model).items
        return next((str(one.ref) for one in newest if one.bundles and one.withdrawn is None), "")


@dataclass(frozen=True, slots=True)
class Sources:
    """What retraining works with. launchers: of the kinds that are called."""

    fleet: Fleet
    registry: RegistryService
    sealer: Sealer
    launchers: Mapping[LauncherKind, Launcher]


def build_retraining(db: Database, sources: Sources, clock: Clock, shared: Clock) -> Retraining:
    """Wire retraining. Touches nothing. shared: the clock that all processes of the database go by."""
    fleet, registry = sources.fleet, sources.registry
    maker = RunMaker(db, fleet.feed, RunningReleases(fleet, registry), shared)
    triggers = TriggerBook(db, registry, maker, sources.sealer, sources.launchers)
    captures = CaptureService(db, clock, fleet.reader, fleet.sampling, fleet.desired)
    runs = RetrainingService(db, maker, captures)
    return Retraining(triggers, runs, LeaseBook(db, maker, registry), maker)
