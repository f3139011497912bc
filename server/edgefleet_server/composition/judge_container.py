"""What judges models: their answers by signals and by labels that came for them, their releases by policies, and all by evidence."""

from dataclasses import dataclass
from importlib.metadata import version as version_of

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName, ReleaseRef
from edgefleet_server.access.audit_chain.chain_book import AuditChain
from edgefleet_server.composition.fleet_container import Fleet
from edgefleet_server.conversion.reports import report_of
from edgefleet_server.db.database import Database
from edgefleet_server.governance.evidence_maker import EvidenceMaker
from edgefleet_server.governance.release_policies.release_facts import ReleaseFactsReader
from edgefleet_server.governance.release_policies.service import PolicyBook
from edgefleet_server.model_cards.card_statements import Statements
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.signing.service import SigningService
from edgefleet_server.telemetry.drift.service import KEPT_S, DriftService
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyService
from edgefleet_server.telemetry.ground_truth.uploads import FeedbackUploads
from edgefleet_server.telemetry.predictions.tombstones import Tombstones
from edgefleet_server.telemetry.signals.references import BundleReferences
from edgefleet_terms.feature_importance import NOT_ASKED, Importance, read_importance


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Accuracy in the field, and labels in bulk."""

    accuracy: AccuracyService
    uploads: FeedbackUploads


def build_judges(
    db: Database,
    clock: Clock,
    fleet: Fleet,
    registry: RegistryService,
    references: BundleReferences,
    judged_every_s: float = KEPT_S,
) -> tuple[GroundTruth, DriftService]:
    """Wire what judges answers by labels, and what judges signals: each shows what the other says."""
    accuracy = AccuracyService(
        db, clock, registry, fleet.reader.crowds_of, lambda name, version: drift.of_model(name, version).concept
    )
    drift = DriftService(
        db,
        clock,
        registry,
        references,
        fleet.reader.crowds_of,
        fleet.feed,
        accuracy.concept,
        min(KEPT_S, judged_every_s),
        lambda ref: importance_of(registry, ref),
    )

    def running(model: ModelName) -> list[str]:
        return [str(one.id) for one in fleet.devices.population(f"model.{model}")]

    uploads = FeedbackUploads(
        db, clock, fleet.tasks, lambda ids: fleet.reader.profiles_of(list(ids)), running, registry.model,
        Tombstones(fleet.logging),
    )  # fmt: skip
    return GroundTruth(accuracy, uploads), drift


def importance_of(registry: RegistryService, ref: ReleaseRef) -> Importance:
    """Return which inputs of a release matter, as its conversion's report has it; `NOT_ASKED` without one."""
    try:
        return read_importance(report_of(registry, ref).get("importance"))
    except EdgefleetError:  # no report, or its bytes are lost: drift is judged all the same
        return NOT_ASKED


@dataclass(frozen=True, slots=True)
class Governance:
    """What an auditor is given, and what releases have to have."""

    evidence: EvidenceMaker
    policies: PolicyBook


def build_governance(
    db: Database,
    clock: Clock,
    registry: RegistryService,
    signing: SigningService,
    trail: AuditChain,
) -> Governance:
    """Wire the parts, and let nothing deploy a release that lacks what policies require, of its card too."""
    evidence = EvidenceMaker(db, trail, signing, clock, version_of("edgefleet"))
    policies = PolicyBook(db, clock, ReleaseFactsReader(registry, signing, Statements(db, registry).stated))
    registry.withdrawals.add_guard(policies.keep_to)
    return Governance(evidence, policies)
