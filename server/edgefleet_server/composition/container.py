"""The parts of one server process, wired once. The apps of this package and `process.lifecycle` hand each router what it uses."""

from dataclasses import dataclass, field
from datetime import timedelta

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.accounts.password_hasher import PasswordHasher
from edgefleet_server.access.identities.service import IdentityBook
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.trusted_pipelines.service import PipelineBook
from edgefleet_server.alerting.alert_rules.drift_rules import FRESH
from edgefleet_server.alerting.service import AlertService
from edgefleet_server.composition.alarm_container import Alarm, Watched, build_alarm
from edgefleet_server.composition.figures_loader import FiguresLoader, FigureSources
from edgefleet_server.composition.fleet_container import Fleet, build_fleet
from edgefleet_server.composition.judge_container import Governance, GroundTruth, build_governance, build_judges
from edgefleet_server.composition.objective_container import Costing, build_costing, build_objectives
from edgefleet_server.composition.timeline_container import Timelines, build_timelines
from edgefleet_server.composition.trigger_container import (
    Retraining,
    Sources,
    build_retraining,
    pushed_launchers,
)
from edgefleet_server.composition.worker_container import ConverterParts, build_first_parts, child_limits
from edgefleet_server.conversion.release_proof import ReleaseProver
from edgefleet_server.conversion.sandbox import Converter, converter_command
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.dashboard.story.today import TodayReader
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.key_sources import source_of
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.fleet.inventory.fleet_counts import FleetCounter, VersionPlaces
from edgefleet_server.fleet.presence.fleet_samples import FleetSampler
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.observability.health import Health
from edgefleet_server.observability.prometheus import Metrics
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.registry.blobs import open_blob_store
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.retirement import ReleaseRetirement
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.store.maker_history import MakerHistory
from edgefleet_server.search.service import SearchService
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerSettings
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.drift.service import DriftService
from edgefleet_server.telemetry.ground_truth.truth_intake import TruthIntake
from edgefleet_server.telemetry.live_predictions import LivePredictions
from edgefleet_server.telemetry.predictions.erasure import Erasures
from edgefleet_server.telemetry.predictions.part_intake import PartIntake
from edgefleet_server.telemetry.predictions.service import FleetSide, PredictionLogs
from edgefleet_server.telemetry.release_comparison import Comparisons
from edgefleet_server.telemetry.rollups.model import KEPT
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.signals.references import BundleReferences
from edgefleet_server.telemetry.signals.signal_intake import DriftIntake
from edgefleet_server.webhook.service import WebhookService

PROOF_S = 120.0
"""How long the server runs the golden vectors of a bundle that a device speaks against."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a request, the gateway or the engine may call; the conversion worker makes do with `worker_container`."""

    settings: ServerSettings
    clock: Clock
    shared: Clock
    """The time that all processes of the database go by: of leases, and of what is due."""
    db: Database
    access: AccessService
    pipelines: PipelineBook
    identities: IdentityBook
    sealer: Sealer
    signing: SigningService
    registry: RegistryService
    conversion: ConversionService
    prover: ReleaseProver
    fleet: Fleet
    sampler: FleetSampler
    places: VersionPlaces
    telemetry: TelemetryService
    costs: CostService
    drift: DriftService
    timelines: Timelines
    truth: GroundTruth
    comparisons: Comparisons
    captures: CaptureService
    predictions: PredictionLogs
    erasures: Erasures
    watching: LivePredictions
    rollout: RolloutService
    retirement: ReleaseRetirement
    poster: HttpPoster
    webhooks: WebhookService
    alerts: AlertService
    objectives: ObjectiveBook
    costing: Costing
    alarm: Alarm
    retraining: Retraining
    search: SearchService
    governance: Governance
    today: TodayReader
    readings: Readings
    """What pages read a moment ago."""
    metrics: Metrics
    health: Health = field(default_factory=Health)


def build_parts(settings: ServerSettings, clock: Clock, *, is_turned: bool = False) -> Parts:
    """Wire all services on one database; open and start nothing. is_turned: the clock is a test's, and rollouts go by it too."""
    # registry asks fleet which profiles its devices have, fleet asks registry for bundles: the late call breaks the circle
    first = build_first_parts(settings, clock, lambda: fleet.reader.profiles_in_use(), is_turned=is_turned)  # noqa: PLW0108
    db, shared, signing, registry = first.db, first.shared, first.signing, first.registry
    fleet = build_fleet(db, signing, registry, clock, settings, shared)
    poster = HttpPoster(parse_networks(settings.webhook_networks), clock, ca_file=settings.webhook_ca_file)
    sealer, references = Sealer(db, source_of(settings), shared), BundleReferences(registry)
    telemetry = build_telemetry(db, clock, references, fleet)
    truth, drift = build_judges(db, clock, fleet, registry, references, settings.drift_judged_every_s)
    objectives = build_objectives(db, fleet, registry, telemetry, truth.accuracy, clock, shared)
    rollout = RolloutService(db, fleet, registry, shared, telemetry, objectives.budget)
    access = build_access(db, clock, fleet, sealer, settings.rate_limit_per_min)
    metrics, costs = build_metrics(rollout, access), CostService(db, clock, registry, fleet.reader.profiles_of)
    predictions = build_prediction_logs(settings, db, clock, fleet, access)
    webhooks = WebhookService(db, fleet.feed, poster, shared, settings, sealer)
    watched = Watched(fleet, telemetry, signing, webhooks, registry, drift, objectives, access)
    alarm = _watch_fleet(metrics, costs, first, watched, settings)
    loop = Sources(watched, alarm, rollout, sealer, pushed_launchers(poster, clock, shared, settings))
    return Parts(
        settings=settings,
        clock=clock,
        shared=shared,
        db=db,
        access=access,
        pipelines=PipelineBook(db, clock, access, poster.get, settings.dashboard_address),
        identities=build_identities(db, clock, access, poster, settings),
        sealer=registry.fleet_key.open_with(sealer),
        signing=signing,
        registry=registry,
        conversion=first.conversion,
        prover=build_prover(settings, registry, signing, clock),
        fleet=fleet,
        sampler=FleetSampler(db, shared, KEPT, FRESH, drift.is_measured),
        places=VersionPlaces(db, clock),
        telemetry=telemetry,
        costs=costs,
        drift=drift,
        timelines=build_timelines(db, clock, fleet, registry, telemetry, drift),
        truth=truth,
        comparisons=Comparisons(registry, costs, telemetry, clock),
        captures=CaptureService(db, clock, fleet.reader, fleet.sampling, fleet.desired),
        predictions=predictions,
        erasures=Erasures(db, clock, fleet.logging, predictions, fleet.feed, settings.backup_keep_days),
        watching=LivePredictions(db, clock, fleet.reader, fleet.desired),
        rollout=rollout,
        retirement=ReleaseRetirement(db, registry, signing, first.conversion, rollout, fleet),
        alerts=AlertService(db, rollout, clock),
        poster=poster,
        webhooks=webhooks,
        objectives=objectives,
        costing=build_costing(db, clock, fleet, registry, telemetry, first.conversion, predictions),
        alarm=alarm,
        retraining=build_retraining(db, loop, clock, shared),
        search=SearchService(db, fleet.finder, registry, rollout),
        governance=build_governance(db, clock, registry, signing, access.chain),
        today=TodayReader(fleet.feed, fleet.health, registry, shared),
        readings=Readings(clock),
        metrics=metrics,
    )


def build_metrics(rollout: RolloutService, access: AccessService) -> Metrics:
    """Return metrics that count what happens."""
    metrics = Metrics()
    rollout.carrier.counted.subscribe(metrics.count_transitions, metrics.count_documents)
    access.refusals.on_refusal(metrics.refused_requests.inc)
    return metrics


def _watch_fleet(
    metrics: Metrics, costs: CostService, first: ConverterParts, watched: Watched, settings: ServerSettings
) -> Alarm:
    """Return what raises alerts; let the metrics ask for figures of the fleet, and the registry for what bundles will cost."""
    clock = first.clock
    alarm = build_alarm(first.db, watched, clock=clock, shared=first.shared, settings=settings)
    watched.registry.forecast_with(costs.forecast)
    sources = FigureSources(
        FleetCounter(first.db),
        first.registry,
        watched.fleet.feed,
        alarm.alerts,
        first.signing,
        settings.data_dir,
        watched.telemetry.rollups,
        watched.objectives,
    )
    metrics.watch_fleet(FiguresLoader(sources, clock).load, clock.monotonic_s)
    return alarm


def build_telemetry(db: Database, clock: Clock, references: BundleReferences, fleet: Fleet) -> TelemetryService:
    """Wire what takes in what devices tell of their models."""
    intake = PartIntake(fleet.logging, fleet.feed)
    truths = TruthIntake(references)
    return TelemetryService(db, clock, DriftIntake(references), fleet.memberships.of, intake, truths)


def build_access(
    db: Database,
    clock: Clock,
    fleet: Fleet,
    sealer: Sealer,
    rate_limit_per_min: int = 0,
    hasher: PasswordHasher | None = None,
) -> AccessService:
    """Wire access with the groups that scopes of grants name: they stay as they are."""
    access = AccessService(db, clock, rate_limit_per_min=rate_limit_per_min, hasher=hasher, sealer=sealer)
    access.people.know_groups(fleet.groups.pin_scope)
    fleet.groups.add_guard(access.people.uses_group)
    return access


def build_identities(
    db: Database, clock: Clock, access: AccessService, poster: HttpPoster, settings: ServerSettings
) -> IdentityBook:
    """Wire sign-in by identity providers. Raises SettingsError for roles that cannot be given."""
    try:
        identities = IdentityBook(db, clock, access, poster, settings)
    except (EdgefleetError, ValueError) as error:
        raise SettingsError(
            f"identity_providers cannot be used: {error}", next_step="correct their `roles` in server.toml"
        ) from error
    identities.know_history(MakerHistory(db).take_over)
    return identities


def build_prediction_logs(
    settings: ServerSettings, db: Database, clock: Clock, fleet: Fleet, access: AccessService
) -> PredictionLogs:
    """Wire what keeps prediction logs, in the blob store of the settings. Touches nothing."""
    pack_after = timedelta(seconds=settings.prediction_pack_s)
    sides = FleetSide(fleet.logging, fleet.sampling, fleet.reader.facts_of)
    return PredictionLogs(db, clock, sides, open_blob_store(settings, is_spooled=False), access, pack_after)


def build_prover(
    settings: ServerSettings, registry: RegistryService, signing: SigningService, clock: Clock
) -> ReleaseProver:
    """Wire what proves releases, with the converters of the settings. Starts nothing."""
    return ReleaseProver(
        registry,
        signing,
        clock,
        Converter(converter_command(settings.converter_command), settings.tools_folder, settings.data_dir),
        child_limits(settings, min(PROOF_S, settings.job_timeout_s)),
        settings.run_dir / "proofs" / settings.instance,
    )
