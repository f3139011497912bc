"""The parts that watch the fleet and send messages, wired on one database."""

from dataclasses import dataclass
from datetime import timedelta

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.service import AccessService
from edgefleet_server.alerting.active_alerts.engine import AlertEngine
from edgefleet_server.alerting.active_alerts.rule_settings import RuleBook
from edgefleet_server.alerting.active_alerts.service import ActiveAlerts
from edgefleet_server.alerting.active_alerts.silences import SilenceBook
from edgefleet_server.alerting.alert_facts.drift_verdicts import DriftVerdicts
from edgefleet_server.alerting.alert_facts.facts_loader import FactsLoader, Sources
from edgefleet_server.alerting.alert_facts.model_facts import ModelFacts
from edgefleet_server.alerting.contact_points.apprise_client import AppriseClient
from edgefleet_server.alerting.contact_points.service import TRANSPORT, ContactBook
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory.device_health import DeviceHealthReader
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.webhook.channels import Channels
from edgefleet_server.webhook.service import WebhookService


@dataclass(frozen=True, slots=True)
class Alarm:
    """Everything about alerts of this fleet. All are thread-safe; calls block."""

    alerts: ActiveAlerts
    rules: RuleBook
    silences: SilenceBook
    contacts: ContactBook
    engine: AlertEngine
    verdicts: DriftVerdicts


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched, and what sends."""

    fleet: Fleet
    telemetry: TelemetryService
    signing: SigningService
    webhooks: WebhookService
    registry: RegistryService
    drift: DriftService
    objectives: ObjectiveBook
    access: AccessService


def build_alarm(db: Database, watched: Watched, *, clock: Clock, shared: Clock, settings: ServerSettings) -> Alarm:
    """Wire the parts. Touches nothing. shared: the clock that all processes of the database go by."""
    rules = RuleBook(db, watched.fleet.devices, shared)
    silences = SilenceBook(db, watched.fleet.devices, shared)
    apprise = AppriseClient(settings.webhook_networks, settings.data_dir, clock)
    channels = Channels(db, watched.webhooks, shared, TRANSPORT, timedelta(seconds=settings.webhook_give_up_s))
    contacts = ContactBook(
        db, channels, watched.fleet.feed, watched.fleet.devices, apprise, shared, lambda: settings.dashboard_address
    )
    judged_every = timedelta(seconds=settings.drift_judged_every_s)
    verdicts = DriftVerdicts(db, watched.drift.of_model, watched.registry.model_names, judged_every)
    sources = Sources(
        health=DeviceHealthReader(db),
        series=watched.telemetry.series,
        troubled=watched.fleet.lists.troubled,
        roles=watched.signing.roles,
        ca_ends=lambda: [one.not_after for one in watched.fleet.ca_rotations.cas()],
        trail=watched.access.chain.own_check,
        tokens=watched.access.ending,
        folder=settings.data_dir,
        verdicts=verdicts,
        models=ModelFacts(watched.objectives, watched.telemetry.rollups, clock),
        protections=watched.fleet.protection.rules,
        devices_that_said=watched.fleet.feed.devices_that_said,
    )
    engine = AlertEngine(
        db,
        FactsLoader(sources),
        rules,
        silences,
        contacts,
        shared,
        every=timedelta(seconds=settings.alert_every_s),
        wait=timedelta(seconds=settings.alert_wait_s),
    )
    return Alarm(ActiveAlerts(db, shared), rules, silences, contacts, engine, verdicts)
