"""The pages of the dashboard with the services that each area uses."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import APIRouter, FastAPI

from edgefleet_server.composition.container import Parts
from edgefleet_server.dashboard import documentation_pages, help_pages, search_pages
from edgefleet_server.dashboard.accounts import pages as accounts_pages
from edgefleet_server.dashboard.actions import preview_pages
from edgefleet_server.dashboard.alerts import pages as alerts_pages
from edgefleet_server.dashboard.audit import pages as audit_pages
from edgefleet_server.dashboard.core import pickers
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import Gate
from edgefleet_server.dashboard.core.pickers import Readers
from edgefleet_server.dashboard.core.render import compile_ahead
from edgefleet_server.dashboard.costs import pages as cost_pages
from edgefleet_server.dashboard.devices import pages as devices_pages
from edgefleet_server.dashboard.devices.views import DevicePages, Sources
from edgefleet_server.dashboard.drift import pages as drift_pages
from edgefleet_server.dashboard.drift.fleet_drift import FleetDriftReader
from edgefleet_server.dashboard.enrolment import pages as enrolment_pages
from edgefleet_server.dashboard.enrolment.views import EnrolmentReader
from edgefleet_server.dashboard.fleet import pages as fleet_pages
from edgefleet_server.dashboard.fleet.views import FleetPages
from edgefleet_server.dashboard.models.model_views import ModelSources, ModelViews
from edgefleet_server.dashboard.objectives import pages as objectives_pages
from edgefleet_server.dashboard.overview import pages as overview_pages
from edgefleet_server.dashboard.overview.first_look import FirstLook
from edgefleet_server.dashboard.overview.views import Devices, MapQuery, OverviewPages, Watch
from edgefleet_server.dashboard.registry import accuracy_pages, card_pages, data_set_pages, publish_page
from edgefleet_server.dashboard.registry import pages as registry_pages
from edgefleet_server.dashboard.registry.views import RegistryViews
from edgefleet_server.dashboard.retraining import pages as retraining_pages
from edgefleet_server.dashboard.rollout_page.gate_timelines import GateTimelines
from edgefleet_server.dashboard.rollouts import experiment_pages
from edgefleet_server.dashboard.rollouts import pages as rollouts_pages
from edgefleet_server.dashboard.rollouts.views import RolloutPages
from edgefleet_server.dashboard.rollouts.wizard import NewRolloutPages
from edgefleet_server.dashboard.routes import Area, build_router
from edgefleet_server.dashboard.settings import (
    device_ca_pages,
    identity_pages,
    move_pages,
    notification_pages,
    pipeline_pages,
    policy_pages,
    protection_pages,
)
from edgefleet_server.dashboard.settings import pages as settings_pages
from edgefleet_server.dashboard.settings.views import SettingsPages
from edgefleet_server.dashboard.timelines import pages as timelines_pages
from edgefleet_server.dashboard.timelines.chart_limits import Limits
from edgefleet_server.dashboard.timelines.explanations import Explanations
from edgefleet_server.dashboard.timelines.time_range import Asked
from edgefleet_server.dashboard.timelines.views import TimelineViews
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.inventory.device_list import DeviceQuery, Order
from edgefleet_server.model_cards.service import CardSources, ModelCards
from edgefleet_server.registry.errors import ModelUnknownError

MODELS_AHEAD: Final = 3
"""Models whose page is read before a person asks for it."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The pages, to be mounted at the root, and what they read: charts, and the page of a model. visits: requests of users so far."""

    router: APIRouter
    charts: TimelineViews
    models: ModelViews
    visits: Callable[[], int]


def build_dashboard(parts: Parts) -> Dashboard:
    """Return the pages."""
    gate = Gate(parts.access, behind_proxy=parts.settings.behind_proxy, identities=parts.identities)
    shell = Shell(gate, parts.clock, parts.fleet.names.name_of, _pickers(parts))
    stream = parts.fleet.stream
    charts = TimelineViews(parts.timelines.reader, parts.readings, parts.clock, lambda: _limits(parts))
    explanations = Explanations(parts.timelines.explainer, parts.readings)
    views = RegistryViews(
        parts.registry, parts.signing, parts.fleet.reader, parts.fleet.lists, parts.rollout.reader, parts.comparisons
    )
    models = _models(parts, views, charts, explanations)
    areas = [*_operating(parts, charts), *_looking_up(parts, views, charts, models, explanations)]
    return Dashboard(build_router(shell, areas, lambda: stream.is_closing), charts, models, lambda: gate.visits)


def first_look(parts: Parts, app: FastAPI) -> FirstLook:
    """Return what keeps the overview, the list of devices and the models that most devices run ready. app: that serves them."""
    dashboard: Dashboard = app.state.dashboard
    overview, lists = _overview(parts, dashboard.charts), parts.fleet.lists

    def look() -> int:
        compile_ahead("login.html", "fleet/overview.html", "fleet/list.html", "registry/model.html")
        overview.overview(MapQuery(), Asked())
        lists.page(DeviceQuery(order=Order.HEALTH))
        facets = lists.facets()
        running = dict.fromkeys(model for model, _, _ in facets.versions)
        for name in list(running)[:MODELS_AHEAD]:
            with suppress(ModelUnknownError):  # devices may run what was never published here
                dashboard.models.overview(name, None, Asked(), None)
        return facets.devices

    return FirstLook(look, dashboard.visits, parts.clock)


def _overview(parts: Parts, charts: TimelineViews) -> OverviewPages:
    watch = Watch(parts.alerts, parts.alarm.alerts, parts.objectives, parts.drift, parts.alarm.verdicts)
    devices = Devices(parts.fleet.lists, parts.fleet.map, parts.today)
    return OverviewPages(devices, parts.rollout.reader, parts.registry, watch, charts, parts.clock)


def _pickers(parts: Parts) -> Readers:
    """Return what fields offer."""
    lists, registry, page = parts.fleet.lists, parts.registry, PageRequest(pickers.MOST)

    def models() -> list[pickers.Choice]:
        return pickers.model_choices((one.name for one in registry.models(page).items), lists.facets().versions)

    def releases() -> list[pickers.Choice]:
        found = [str(one.ref) for one in registry.releases(page).items if one.withdrawn is None and one.bundles]
        return pickers.release_choices(found, lists.facets().versions)

    def selectors() -> list[pickers.Choice]:
        facets = lists.facets()
        return pickers.selector_choices(facets.groups, facets.labels, facets.profiles, facets.versions)

    def sites() -> list[pickers.Choice]:
        return [(value, pickers.devices_text(n)) for key, value, n in lists.facets().labels if key == "site"]

    return {
        "models": models,
        "releases": releases,
        "selectors": selectors,
        "sites": sites,
        "undo": lambda: [*models(), *releases()],
    }


def _limits(parts: Parts) -> Limits:
    rules = {name: one.threshold for name, one in parts.alarm.rules.settings().items() if one.is_enabled}
    return Limits(parts.objectives.asked(), rules)


def _operating(parts: Parts, charts: TimelineViews) -> list[Area]:
    """Return the areas of devices and rollouts."""
    fleet, rollouts, registry, clock = parts.fleet, parts.rollout, parts.registry, parts.clock
    gates = GateTimelines(parts.timelines.reader, parts.readings, clock)
    shown = RolloutPages(rollouts, fleet.feed, gates, clock)
    lists = FleetPages(fleet.lists, fleet.map, fleet.groups, parts.telemetry, parts.alarm.alerts, charts)
    sources = Sources(
        parts.alarm.alerts, parts.timelines.explainer, fleet.presence, parts.readings, fleet.protection.rules_of
    )
    device = DevicePages(
        fleet.reader,
        fleet.feed,
        fleet.tasks,
        parts.telemetry,
        parts.watching,
        registry,
        parts.drift,
        charts,
        sources,
        clock,
    )
    waiting = EnrolmentReader(fleet.approvals, fleet.enroller, fleet.lists, fleet.readmissions)
    return [
        partial(overview_pages.add_pages, reader=_overview(parts, charts)),
        partial(fleet_pages.add_pages, reader=lists, covered=fleet.protection.covered),
        partial(devices_pages.add_pages, reader=device, tasks=fleet.tasks),
        partial(
            enrolment_pages.add_pages,
            reader=waiting,
            registry=registry,
            clock=clock,
            waits=parts.settings.enrol_approval,
        ),
        partial(
            rollouts_pages.add_pages,
            pages=shown,
            new_pages=NewRolloutPages(fleet.devices, fleet.lists, registry, rollouts),
            rollouts=rollouts,
            registry=registry,
        ),
        partial(experiment_pages.add_pages, reader=rollouts.experiments, pages=shown),
        partial(
            alerts_pages.add_pages,
            alerts=parts.alarm.alerts,
            rules=parts.alarm.rules,
            silences=parts.alarm.silences,
            timelines=charts,
            clock=clock,
        ),
        partial(alerts_pages.add_quiet_pages, silences=parts.alarm.silences),
        partial(drift_pages.add_pages, reader=FleetDriftReader(parts.drift, parts.alarm.verdicts)),
        partial(objectives_pages.add_pages, objectives=parts.objectives, models=registry.model_names),
        partial(cost_pages.add_pages, costs=parts.costing.book, clock=clock),
        partial(
            retraining_pages.add_pages,
            triggers=parts.retraining.triggers,
            retrainings=parts.retraining.runs,
            models=registry.model_names,
        ),
    ]


def cards_of(parts: Parts) -> ModelCards:
    """Return what makes model cards of these parts."""
    sources = CardSources(
        parts.registry,
        parts.comparisons,
        parts.truth.accuracy,
        parts.fleet.reader,
        parts.rollout.reader,
        parts.governance.policies.check,
    )
    return ModelCards(parts.db, sources, parts.clock)


def _models(parts: Parts, views: RegistryViews, charts: TimelineViews, explanations: Explanations) -> ModelViews:
    sources = ModelSources(
        views=views,
        timelines=charts,
        places=parts.places,
        objectives=parts.objectives,
        drift=parts.drift,
        explanations=explanations,
        rollups=parts.telemetry.rollups,
        readings=parts.readings,
        clock=parts.clock,
    )
    return ModelViews(sources)


def _looking_up(
    parts: Parts, views: RegistryViews, charts: TimelineViews, models: ModelViews, explanations: Explanations
) -> list[Area]:
    """Return the areas of models, the trail, settings and the search."""
    fleet, registry, clock = parts.fleet, parts.registry, parts.clock
    keys = registry_pages.KeySources(registry, parts.signing, fleet.sampling, fleet.recovery, parts.predictions, clock)
    settings = SettingsPages(
        parts.settings, parts.db, fleet.addresses, parts.health, parts.conversion, parts.access, clock
    )
    return [
        partial(publish_page.add_pages, registry=registry),
        partial(card_pages.add_pages, cards=cards_of(parts)),
        partial(data_set_pages.add_pages, data_sets=parts.erasures.data_sets),
        partial(timelines_pages.add_pages, views=charts, explanations=explanations, clock=clock),
        partial(
            accuracy_pages.add_pages,
            accuracy=parts.truth.accuracy,
            uploads=parts.truth.uploads,
            objectives=parts.objectives.asked,
            clock=clock,
        ),
        partial(
            registry_pages.add_pages,
            views=views,
            keys=keys,
            costs=parts.costs,
            drift=parts.drift,
            devices=fleet.reader,
            models=models,
            policies=parts.governance.policies,
        ),
        partial(
            audit_pages.add_pages,
            access=parts.access,
            feed=fleet.feed,
            models=registry.model_names,
            clock=clock,
        ),
        partial(settings_pages.add_pages, pages=settings, webhooks=parts.webhooks),
        partial(
            accounts_pages.add_pages,
            accounts=parts.access.accounts,
            own_tokens=parts.access.own_tokens,
            identities=parts.identities,
        ),
        partial(identity_pages.add_pages, identities=parts.identities),
        partial(pipeline_pages.add_pages, pipelines=parts.pipelines),
        partial(protection_pages.add_pages, protection=fleet.protection),
        partial(policy_pages.add_pages, policies=parts.governance.policies),
        partial(move_pages.add_pages, moves=fleet.moves),
        partial(device_ca_pages.add_pages, rotations=fleet.ca_rotations),
        partial(notification_pages.add_pages, contacts=parts.alarm.contacts, alerts=parts.alerts, registry=registry),
        partial(search_pages.add_pages, search=parts.search),
        help_pages.add_pages,
        documentation_pages.add_pages,
        partial(preview_pages.add_pages, clock=clock),
    ]
