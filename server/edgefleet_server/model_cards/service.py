"""Model cards: what people state of a release is kept, all else is read from where it is known when a card is asked for."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName, ReleaseRef
from edgefleet_server.conversion.reports import report_of
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.governance.release_policies.model import PolicyCheck
from edgefleet_server.model_cards import store
from edgefleet_server.model_cards.card_sections import CardFacts, count_in, sections_of
from edgefleet_server.model_cards.card_statements import Statements
from edgefleet_server.model_cards.model import ModelCard, Statement
from edgefleet_server.model_cards.tables import ModelCardRow
from edgefleet_server.registry.model import BundleView, ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.status.reader import RolloutView
from edgefleet_server.telemetry.bundle_metrics import BundleLine
from edgefleet_server.telemetry.ground_truth.accuracy import AccuracyBy
from edgefleet_server.telemetry.ground_truth.views import ModelAccuracy
from edgefleet_terms.feature_importance import read_importance
from edgefleet_terms.parent_verdict import read_comparison

_ROLLOUTS: Final = 100
_SHOWN: Final = 20


class BundleLines(Protocol):
    """What a card needs of the comparison of releases."""

    def lines(self, bundles: Sequence[BundleView]) -> list[BundleLine]:
        """Return what is known of bundles."""
        ...


class FieldAccuracy(Protocol):
    """What a card needs of ground truth."""

    def of_model(self, name: ModelName, *, version: str = "", by: AccuracyBy = AccuracyBy.RELEASE) -> ModelAccuracy:
        """Return the ground truth of a version."""
        ...


class Running(Protocol):
    """What a card needs of the fleet."""

    def running(self) -> Mapping[str, Mapping[str, int]]:
        """Return how many devices run each version, by model."""
        ...


class Rollouts(Protocol):
    """What a card needs of rollouts."""

    def page(self, wanted: PageRequest, *, model: str | None = None) -> tuple[list[RolloutView], int]:
        """Return rollouts, newest first, and how many there are."""
        ...

    def rollout(self, rollout_id: str) -> RolloutView:
        """Return one rollout, whole: with its approvals."""
        ...


@dataclass(frozen=True, slots=True)
class CardSources:
    """Where a card reads what is known."""

    registry: RegistryService
    bundles: BundleLines
    accuracy: FieldAccuracy
    fleet: Running
    rollouts: Rollouts
    policies: Callable[[ReleaseRef], PolicyCheck]


class ModelCards:
    """Keeps statements and makes cards. Thread-safe; calls block."""

    def __init__(self, db: Database, sources: CardSources, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._sources = sources
        self._statements = Statements(db, sources.registry)
        self._clock = clock

    def card(self, ref: ReleaseRef) -> ModelCard:
        """Return the card of a release as it stands now. Raises ReleaseUnknownError."""
        release = self._sources.registry.release(ref)
        stated, facts = self.stated(ref), self._facts(release)
        data = facts.report.get("data")
        return ModelCard(
            ref=str(ref),
            made_at=self._clock.now(),
            stated=stated,
            sections=sections_of(facts, stated),
            importance=_mapping(facts.report.get("importance")),
            bundles=[_bundle(one) for one in facts.bundles],
            hold_out=count_in(_mapping(data), "hold_out_samples"),
        )

    def stated(self, ref: ReleaseRef) -> Statement:
        """Return what people state of a release: its own statement, else that of the nearest parent. Raises ReleaseUnknownError."""
        return self._statements.stated(ref)

    def state(self, ref: ReleaseRef, stated: Mapping[str, Any], by: str) -> ModelCard:
        """Keep what a person states of a release, in the place of what was; return the card. Joins the caller's transaction.

        Raises ReleaseUnknownError.
        """
        release = self._sources.registry.release(ref)
        row = ModelCardRow(
            model=ref.model,
            version=ref.version,
            source_sha256=release.source_sha256,
            stated=dict(stated),
            changed_at=self._clock.now(),
            changed_by=by,
        )
        with self._db.session() as session:
            store.put(session, row)
        return self.card(ref)

    def changed_at(self, ref: ReleaseRef) -> datetime | None:
        """Return when a release's own statement was last changed; None where there is none."""
        with self._db.read() as session:
            row = store.find(session, ref)
            return None if row is None else row.changed_at

    def _facts(self, release: ReleaseView) -> CardFacts:
        sources, ref = self._sources, release.ref
        report: Mapping[str, Any] = {}
        with suppress(EdgefleetError):  # none, or its bytes are lost: the card says "not measured" where it would stand
            report = report_of(sources.registry, ref)
        field = sources.accuracy.of_model(ref.model, version=ref.version)
        by_segment = sources.accuracy.of_model(ref.model, version=ref.version, by=AccuracyBy.SEGMENT)
        rollouts, _ = sources.rollouts.page(PageRequest(_ROLLOUTS), model=ref.model)
        return CardFacts(
            release=release,
            source=sources.registry.source_of(ref),
            report=report,
            importance=read_importance(report.get("importance")),
            comparison=read_comparison(report.get("comparison")),
            bundles=sources.bundles.lines(release.bundles),
            field=field,
            segments=by_segment.lines,
            running=sources.fleet.running().get(ref.model, {}).get(ref.version, 0),
            rollouts=[sources.rollouts.rollout(one.id) for one in rollouts if one.version == ref.version][:_SHOWN],
            policies=sources.policies(ref),
        )


def _bundle(one: BundleLine) -> dict[str, Any]:
    metric = one.metric
    return {
        "profile": one.view.profile,
        "runtime": one.view.runtime,
        "precision": one.view.precision,
        "bytes": one.bytes,
        "verdict": one.verdict,
        "metric": metric.name if metric is not None and metric.is_measured else None,
        "value": metric.value if metric is not None and metric.is_measured else None,
        "n": metric.n if metric is not None and metric.is_measured else None,
        "sha256": one.view.sha256,
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
