"""What the first page shows, read from the services. All viewers share readings of the whole fleet (`db.read_cache`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cmp_to_key
from typing import Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ModelName
from edgefleet_server.alerting.active_alerts.model import AlertView
from edgefleet_server.alerting.active_alerts.service import ActiveAlerts
from edgefleet_server.alerting.alert_rules.fleet_facts import DriftVerdict
from edgefleet_server.alerting.model import AlertDeed
from edgefleet_server.alerting.service import AlertService
from edgefleet_server.dashboard.core.rows import ACTIVE, rollout_line
from edgefleet_server.dashboard.fleet.device_query import Search
from edgefleet_server.dashboard.objectives.pages import worst_first
from edgefleet_server.dashboard.overview import map_picture, tiles
from edgefleet_server.dashboard.overview.first_steps import Step, StepFacts, first_steps
from edgefleet_server.dashboard.overview.fleet_sentence import (
    FleetFacts,
    ObjectiveFact,
    RolloutFact,
    Sentence,
    sentence_of,
)
from edgefleet_server.dashboard.overview.map_picture import Colouring, MapPicture
from edgefleet_server.dashboard.overview.rollout_cards import RolloutCard, card_of
from edgefleet_server.dashboard.story.model import Story
from edgefleet_server.dashboard.story.today import TodayReader
from edgefleet_server.dashboard.timelines.time_range import Asked, TimeRange
from edgefleet_server.dashboard.timelines.views import TimelineViews
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.health_state import ATTENTION, Health
from edgefleet_server.fleet.inventory.device_list import DeviceLister, Facets, Trouble
from edgefleet_server.fleet.inventory.fleet_map import LETTERS, FleetMap, FleetMapper, Grouping, MapQuestion
from edgefleet_server.objectives.model import SloView
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.registry.rules import is_newer
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.status.reader import RolloutReader, RolloutView
from edgefleet_server.telemetry.drift.views import ModelDrift
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope

SHOWN_ROLLOUTS: Final = 5
SHOWN_ENDED: Final = 3
SHOWN_ALERTS: Final = 5
SHOWN_TROUBLED: Final = 5
SHOWN_SLOS: Final = 4
SHOWN_MODELS: Final = 5
SHOWN_VERSIONS: Final = 6
DRIFT_MODELS: Final = 3
NAMED: Final = 200
DAY: Final = timedelta(days=1)
_NOT_WELL: Final = ("rollback_incomplete", "regressed")


class Drift(Protocol):
    """What is needed of drift."""

    def of_model(self, name: ModelName) -> ModelDrift:
        """Return the drift of the version that most devices report."""
        ...


class Verdicts(Protocol):
    """What is needed of what was judged of drift before."""

    def known(self) -> tuple[Sequence[DriftVerdict], frozenset[str]]:
        """Return the verdicts, and the names of all models."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """Alerts of two kinds: those of a monitoring system outside, and our own; objectives; drift, and what was judged of it before."""

    outside: AlertService
    own: ActiveAlerts
    objectives: ObjectiveBook
    drift: Drift
    verdicts: Verdicts


@dataclass(frozen=True, slots=True)
class Devices:
    """What is read of devices."""

    lists: DeviceLister
    map: FleetMapper
    today: TodayReader


@dataclass(frozen=True, slots=True)
class MapQuery:
    """Which map, as the address of the page asks for it. model: whose versions colours tell apart, "" = the one that most devices run."""

    group: Grouping = Grouping.SITE
    colour: Colouring = Colouring.HEALTH
    model: str = ""


@dataclass(frozen=True, slots=True)
class ModelShares:
    """A model and the devices that run each version of it, the newest first: version, devices, percent, class of the fill, address."""

    model: str
    devices: int
    shares: Sequence[tuple[str, int, float, str, str]]


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page."""

    sentence: Sentence
    steps: Sequence[Step]
    range: TimeRange
    tiles: Sequence[tiles.Tile]
    map: MapPicture
    rollouts: Sequence[RolloutCard]
    active_rollouts: int
    ended: Sequence[RolloutCard]
    firing: Sequence[AlertView]
    open_alerts: int
    suppressed_alerts: int
    outside: Sequence[AlertDeed]
    slos: Sequence[SloView]
    troubled: Sequence[Trouble]
    models: Sequence[ModelShares]
    more_models: int
    story: Story


class OverviewPages:
    """Builds the page and the answers of its map. Thread-safe; calls block."""

    def __init__(
        self, devices: Devices, rollouts: RolloutReader, registry: RegistryService, watch: Watch, timelines: TimelineViews, clock: Clock
    ) -> None:  # fmt: skip
        """Wire the services."""
        self._devices = devices
        self._rollouts = rollouts
        self._registry = registry
        self._watch = watch
        self._timelines = timelines
        self._clock = clock

    def overview(self, asked: MapQuery, window: Asked) -> Overview:
        """Return the first page. Raises BadSpanError."""
        now, facets, counts = self._clock.now(), self._devices.lists.facets(), self._watch.own.counts()
        health, versions = self._devices.map.health(), _versions(facets)
        active, total = self._rollouts.page(PageRequest(SHOWN_ROLLOUTS), states=ACTIVE)
        ended = self._ended(now)
        slos = worst_first(self._watch.objectives.slos())
        figures = self._timelines.view(Scope.FLEET, "", window, LinesBy.NONE)
        drifts = self._drifts_of(list(versions))
        facts = FleetFacts(
            devices=health,
            sites=_sites(self._devices.map.read(MapQuestion())),
            critical=counts.firing.get("critical", 0),
            alerts=counts.open - counts.firing.get("critical", 0),
            suspects=facets.suspects,
            objectives=[ObjectiveFact(one.name, one.title, one.state.value) for one in slos],
            rollouts=[_fact(one) for one in (*active, *(one for one in ended if one.state in _NOT_WELL))],
        )
        devices = sum(health.values())
        models = len(versions) or len(self._registry.model_names())
        shares = model_shares(facets)
        return Overview(
            sentence=sentence_of(facts),
            steps=first_steps(StepFacts(devices, models, sum(one.devices for one in shares))),
            range=replace(
                figures.range,
                spans=[one for one in tiles.SPANS if one in (*tiles.OFFERED, figures.range.span)],
                other=_parts(asked),
                may_be_wide=False,
                is_wide=False,
            ),
            tiles=tiles.tiles(figures.charts, slos, health, drifts),
            map=self.map_picture(asked, versions, devices),
            rollouts=[card_of(rollout_line(one)) for one in active[:SHOWN_ROLLOUTS]],
            active_rollouts=total,
            ended=[card_of(rollout_line(one)) for one in ended],
            firing=self._watch.own.firing(SHOWN_ALERTS) if counts.open else (),
            open_alerts=counts.open,
            suppressed_alerts=counts.suppressed,
            outside=[one for one in self._watch.outside.deeds(limit=SHOWN_ALERTS) if one.at >= now - DAY],
            slos=slos[:SHOWN_SLOS],
            troubled=self._devices.lists.troubled(SHOWN_TROUBLED),
            models=shares[:SHOWN_MODELS],
            more_models=max(0, len(shares) - SHOWN_MODELS),
            story=self._devices.today.story(),
        )

    def map_picture(self, asked: MapQuery, versions: Mapping[str, Sequence[str]], devices: int) -> MapPicture:
        """Return the map as the page has it."""
        model, question = _asked(asked, versions)
        found = self._devices.map.read(question)
        return map_picture.picture(found, question, asked.colour, model, list(versions), devices)

    def map_plain(self, asked: MapQuery) -> dict[str, object]:
        """Return the map as the script reads it."""
        model, question = _asked(asked, _versions(self._devices.lists.facets()))
        return map_picture.plain(self._devices.map.read(question), question, asked.colour, model)

    def map_names(self, asked: MapQuery, group: str, start: int) -> list[list[str]]:
        """Return id and display name of some devices of a group of the map, from a place on; none where the group is not known."""
        _, question = _asked(asked, _versions(self._devices.lists.facets()))
        found = self._devices.map.read(question)
        mine = next((one for one in found.groups if one.name == group), None)
        ids = [] if mine is None else mine.named(start, NAMED)
        names = self._devices.lists.names_of(ids)
        return [[one, names.get(one, "")] for one in ids]

    def _ended(self, now: datetime) -> list[RolloutView]:
        """Return the rollouts that ended within a day, the newest first."""
        recent = self._rollouts.rollouts(limit=SHOWN_ROLLOUTS + SHOWN_ENDED)
        ended = [one for one in recent if one.state not in ACTIVE and (one.finished_at or one.created_at) >= now - DAY]
        return ended[:SHOWN_ENDED]

    def _drifts_of(self, models: Sequence[str]) -> list[ModelDrift]:
        verdicts, known = self._watch.verdicts.known()
        order = judged_first(models, [one.model for one in verdicts if one.signals], known, DRIFT_MODELS)
        return [self._watch.drift.of_model(ModelName(one)) for one in order]


def judged_first(running: Sequence[str], drifting: Sequence[str], known: Collection[str], most: int) -> list[str]:
    """Return the models to look at for drift: those that drifted when they were judged last, then those that most devices run.

    Devices may run one that this server does not know, or not any more.
    """
    order = dict.fromkeys([*(one for one in drifting if one in running), *running])
    return [one for one in order if one in known][:most]


def _parts(asked: MapQuery) -> tuple[tuple[str, str], ...]:
    """Return what links of the page keep of the map's question."""
    parts = {"group": asked.group.value, "colour": asked.colour.value, "model": asked.model}
    usual = {"group": Grouping.SITE.value, "colour": Colouring.HEALTH.value}
    return tuple((name, value) for name, value in parts.items() if value != usual.get(name, ""))


def _asked(asked: MapQuery, versions: Mapping[str, Sequence[str]]) -> tuple[str, MapQuestion]:
    model = asked.model if asked.model in versions else next(iter(versions), "")
    return model, map_picture.question(asked.group, asked.colour, versions, model)


def _versions(facets: Facets) -> dict[str, list[str]]:
    """Return the versions that devices run of each model, the newest first; the model that most devices run first."""
    found: dict[str, list[str]] = {}
    for model, version, _ in facets.versions:
        found.setdefault(model, []).append(version)
    return {model: sorted(known, key=cmp_to_key(_newer_first)) for model, known in found.items()}


def _newer_first(one: str, other: str) -> int:
    return -1 if is_newer(one, other, {}) else int(is_newer(other, one, {}))


def model_shares(facets: Facets) -> list[ModelShares]:
    """Return who runs which version of each model, the model that most devices run first."""
    devices = {(model, version): n for model, version, n in facets.versions}
    return [
        _model_shares(model, known, {one: devices[model, one] for one in known})
        for model, known in _versions(facets).items()
    ]


def _model_shares(model: str, known: Sequence[str], devices: Mapping[str, int]) -> ModelShares:
    """Return who runs which version. The oldest of many are one part."""
    whole, named = sum(devices.values()), known if len(known) <= SHOWN_VERSIONS else known[: SHOWN_VERSIONS - 1]
    parts = [(one, devices[one], Search().toggled(f"model.{model}", one)) for one in named]
    older = known[len(named) :]
    if older:
        those = Search(f"model.{model} in ({','.join(older)})")
        parts.append((f"{len(older)} older", sum(devices[one] for one in older), those))
    shares = [
        (label, n, round(100 * n / whole, 3), f"f-s{min(rank, 3) + 1}", search.address())
        for rank, (label, n, search) in enumerate(parts)
    ]
    return ModelShares(model, whole, shares)


def _sites(found: FleetMap) -> dict[Health, str]:
    """Return the site of each health that needs attention, where all devices of it are at one."""
    sites: dict[Health, str] = {}
    for health in ATTENTION:
        having = [group for group in found.groups if group.counts.get(LETTERS[health])]
        if len(having) == 1 and len(found.groups) > 1:
            sites[health] = having[0].name
    return sites


def _fact(one: RolloutView) -> RolloutFact:
    return RolloutFact(one.id, one.release, one.state)
