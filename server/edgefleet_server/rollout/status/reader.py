"""Reads rollouts for people: one, many, those found by a part of their name, and the devices on which a release failed.

The names of the fields are public: never renamed. A stage's state is that of its strata together: the worst one where
something went wrong, else the one that is least far. Failures are read without the snapshot: a rollout of many devices must
not be read whole to name a few.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.rollout.analysis.facts import facts_of_lots
from edgefleet_server.rollout.analysis.stage_gates import abort_level
from edgefleet_server.rollout.commands.duty_separation import Makers
from edgefleet_server.rollout.effects import StepReport
from edgefleet_server.rollout.failure_ratio import log_e_abort, log_e_promote, with_false_alarms, with_hidden_failures
from edgefleet_server.rollout.model import StageRun, StageState, Strength
from edgefleet_server.rollout.planner import tick
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.spec.model import Mode, Spec
from edgefleet_server.rollout.spec.parser import dump_spec, stage_text, stored_spec
from edgefleet_server.rollout.state_machines import is_exposed, is_failure
from edgefleet_server.rollout.status.confirmation_views import ConfirmationView, confirmation_views, named_in
from edgefleet_server.rollout.status.decision_views import DecisionView, decision_view
from edgefleet_server.rollout.status.devices import RolloutDevice, device_lines
from edgefleet_server.rollout.status.explanation import DeviceExplanation, Place, explain
from edgefleet_server.rollout.status.metric_views import MetricView, metric_views
from edgefleet_server.rollout.status.model import (
    ApprovalView,
    RateView,
    WaitView,
    approval_view,
    rate_view,
    rollout_waits,
    stage_waits,
    stopped_by,
)
from edgefleet_server.rollout.status.outlook import OutlookView, outlook
from edgefleet_server.rollout.status.summary import CountsView, RolloutSummary, SummaryReader, counts_of
from edgefleet_server.rollout.status.whereabouts import Whereabouts
from edgefleet_server.rollout.store import device_counts, rollouts
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_terms.rollout_states import RolloutState

MAX_STAGE_DEVICES: Final = 100

MAX_PLACES: Final = 1000
"""Rollouts that are not settled and that one device may have a place in: far more than there are models on it."""

_UNSETTLED: Final = (
    RolloutState.RUNNING.value,
    RolloutState.PAUSED.value,
    RolloutState.AWAITING_APPROVAL.value,
    RolloutState.ROLLING_BACK.value,
    RolloutState.REGRESSED.value,
)
"""States in which a rollout still has something to say of its devices."""

_WORST_FIRST: Final = (
    StageState.FAILED,
    StageState.HELD,
    StageState.EXPOSING,
    StageState.SOAKING,
    StageState.JUDGING,
    StageState.PENDING,
    StageState.PASSED,
    StageState.SKIPPED,
)

_NOT_ASKED: Final = StepReport("")
_WEAKEST_FIRST: Final = (Strength.OVERRIDE, Strength.WEAK, Strength.EVIDENCE)


@dataclass(frozen=True)
class PooledView:
    """All strata together: evidence against the release so far, and where it stops (e_abort) or is taken back (e_take_back)."""

    exposed: int
    failed: int
    e_abort: float
    abort_at: float
    e_take_back: float = 0.0


@dataclass(frozen=True)
class StratumView:
    """One stage of one stratum. Its counts are of all devices of the stratum up to and with this stage.

    e_abort, e_take_back: evidence that more devices fail than may, and that more fail than liars explain; each acts at abort_at.
    """

    stratum: str
    state: str
    verdict: str | None
    code: str
    reason: str
    rule: str
    strength: str | None
    bound: str
    population: int
    cut: str
    members: int
    opened_at: datetime | None
    soak_until: datetime | None
    ended_at: datetime | None
    e_abort: float | None
    e_promote: float | None
    counts: CountsView
    quality: Sequence[MetricView] = ()
    abort_at: float | None = None
    approval: ApprovalView | None = None
    stopped_by: str = ""
    e_take_back: float | None = None
    confirmations: Sequence[ConfirmationView] = ()
    """Failures in this stage that other devices were asked about, in order."""


@dataclass(frozen=True)
class StageView:
    """One stage over all strata. devices: those that took the release up in it, at most 100.

    stopped_by: who ended it by hand while nothing spoke against the release; "" where it ended by itself.
    """

    idx: int
    name: str
    state: str
    verdict: str | None
    reason: str
    strength: str | None
    devices: Sequence[str]
    size_text: str
    soak_s: float
    promote: str
    opened_at: datetime | None
    ended_at: datetime | None
    counts: CountsView
    strata: Sequence[StratumView]
    rate: RateView | None = None
    waits: Sequence[WaitView] = ()
    mode: str = Mode.ACTIVE.value
    match: str = ""
    stopped_by: str = ""


@dataclass(frozen=True)
class RolloutView:
    """One rollout, whole."""

    id: str
    name: str
    release: str
    model: str
    version: str
    state: str
    code: str
    reason: str
    stage: str | None
    selector: str
    is_partial: bool
    is_braked: bool
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    counts: CountsView
    pooled: PooledView
    stages: Sequence[StageView]
    spec: Mapping[str, Any] = field(default_factory=dict)
    waits: Sequence[WaitView] = ()
    outlook: OutlookView | None = None
    """What it does now and when it decides next; null unless it runs. Then `reason` is its text."""
    stopped_by: str = ""
    """Who aborted it by hand; "" unless a person did."""
    downloads: int = 0
    """Leases that it holds: downloads that may be under way. 0 in a rollout without limits."""


@dataclass(frozen=True)
class RolloutReading:
    """One rollout with one device more than a page has, how many devices there are, and where all of them are."""

    rollout: RolloutView
    devices: Sequence[RolloutDevice]
    total: int
    whereabouts: Whereabouts


class RolloutReader:
    """Reads rollouts for people."""

    def __init__(self, db: Database, fleet: RolloutFleet, clock: Clock, loader: SnapshotLoader) -> None:
        self._db = db
        self._clock = clock
        self._fleet = fleet
        self._standing = SummaryReader(fleet, loader)

    def page(
        self,
        wanted: PageRequest,
        *,
        states: Sequence[str] = (),
        model: str | None = None,
        device: str | None = None,
        is_whole: bool = False,
    ) -> tuple[list[RolloutView], int]:
        """Return one rollout more than a page has, newest first unless it is turned, and how many there are.

        is_whole: also what the open ones wait for.
        """
        with self._db.read() as session:
            last = None if wanted.after is None else rollouts.rollout(session, wanted.after)
            behind, limit = None if last is None else (last.created_at, last.id), wanted.limit + 1
            rows = rollouts.page(
                session,
                states=states,
                model=model,
                device=device,
                behind=behind,
                limit=limit,
                is_oldest_first=wanted.is_turned,
            )
            total = rollouts.count(session, states=states, model=model, device=device)
            return [self._view(session, row, is_whole=is_whole) for row in rows], total

    def counts(self) -> dict[str, int]:
        """Return the number of rollouts in each state, zero included."""
        with self._db.read() as session:
            counted = rollouts.count_by_state(session)
        return {state.value: counted.get(state.value, 0) for state in RolloutState}

    def rollouts(self, *, limit: int) -> list[RolloutView]:
        """Return the newest rollouts, newest first."""
        return self.page(PageRequest(limit))[0][:limit]

    def rollout(self, rollout_id: str) -> RolloutView:
        """Return one rollout. Raises RolloutUnknownError."""
        with self._db.read() as session:
            return self._view(session, rollouts.rollout(session, rollout_id), is_whole=True)

    def makers(self, rollout_id: str) -> Makers:
        """Return who made a rollout or moved it on. Raises RolloutUnknownError."""
        with self._db.read() as session:
            row = rollouts.rollout(session, rollout_id)
            return Makers(row.makers, row.created_by)

    def reading(
        self, rollout_id: str, page: PageRequest, *, states: Sequence[str] = (), stage: str | None = None
    ) -> RolloutReading:
        """Return one rollout as its page shows it. Raises RolloutUnknownError."""
        with self._db.read() as session:
            row = rollouts.rollout(session, rollout_id)
            standing = self._standing.standing(session, row, self._clock.now(), is_whole=True)
            shown = self._shown(session, row, standing, is_whole=True)
            devices, total = self._page(session, standing, page, states, stage, None)
            return RolloutReading(shown, devices, total, self._standing.whereabouts(session, row, standing))

    def devices(self, rollout_id: str, *, limit: int = 10_000) -> list[RolloutDevice]:
        """Return the first devices of a rollout in order of id. Raises RolloutUnknownError."""
        return self.device_page(rollout_id, PageRequest(limit))[0][:limit]

    def device_page(
        self,
        rollout_id: str,
        page: PageRequest,
        *,
        state: str | None = None,
        stage: str | None = None,
        device: str | None = None,
    ) -> tuple[list[RolloutDevice], int]:
        """Return one device of a rollout more than a page has, in order of id, and how many there are. Raises RolloutUnknownError."""
        with self._db.read() as session:
            row = rollouts.rollout(session, rollout_id)
            standing = self._standing.standing(session, row, self._clock.now(), is_whole=True)
            return self._page(session, standing, page, () if state is None else (state,), stage, device)

    def decisions(self, rollout_id: str, *, before: int | None = None, limit: int = 200) -> list[DecisionView]:
        """Return decisions, newest first, each made again from its evidence. Raises RolloutUnknownError."""
        with self._db.read() as session:
            row = rollouts.rollout(session, rollout_id)
            names = [one.name for one in stored_spec(row.spec).stages]
            found = rollouts.decisions(session, rollout_id, before=before, limit=limit)
            return [decision_view(one, names[one.stage]) for one in found]

    def explanation(self, device_id: str) -> DeviceExplanation:
        """Return why a device does not run what it should, and what would move it. Raises DeviceUnknownError."""
        device = self._fleet.reader.device(device_id)
        places: dict[str, Place] = {}
        for rollout in self.page(PageRequest(MAX_PLACES), states=_UNSETTLED, device=device_id)[0]:
            if rollout.model not in places:
                for one in self.device_page(rollout.id, PageRequest(1), device=device_id)[0][:1]:
                    is_regressed = rollout.state == RolloutState.REGRESSED
                    places[rollout.model] = Place(rollout.id, is_regressed, one)
        return explain(device, places, self._clock.now())

    def count_decisions(self, rollout_id: str) -> int:
        """Return how many decisions a rollout has."""
        with self._db.read() as session:
            return rollouts.count_decisions(session, rollout_id)

    def _view(self, session: Session, row: Rollout, *, is_whole: bool = False) -> RolloutView:
        standing = self._standing.standing(session, row, self._clock.now(), is_whole=is_whole)
        return self._shown(session, row, standing, is_whole=is_whole)

    def _shown(self, session: Session, row: Rollout, standing: RolloutSummary, *, is_whole: bool) -> RolloutView:
        snapshot, lots, now = standing.snapshot, standing.lots, standing.now
        spec, state = snapshot.spec, snapshot.state
        report = tick.explain(snapshot, now, lots) if is_whole else _NOT_ASKED
        first = device_counts.first_exposed(session, row.id, len(spec.stages), MAX_STAGE_DEVICES)
        named = named_in(snapshot.confirmations)
        names = self._fleet.offers.display_names(named) if named else {}
        stages = [_stage_view(standing, index, first[index], report, names) for index in range(len(spec.stages))]
        serving = [lot for lot in lots if not lot[0].is_accepted and spec.stages[lot[0].stage].mode is Mode.ACTIVE]
        now_does = outlook(snapshot, lots, now)
        failed = sum(n for a, n in serving if is_failure(a))
        exposed = sum(n for a, n in serving if is_exposed(a))
        return RolloutView(
            id=row.id,
            name=row.name,
            release=f"{row.model}@{row.version}",
            model=row.model,
            version=row.version,
            state=row.state,
            code=row.code,
            reason=row.reason if now_does is None else now_does.text,
            stage=next((one.name for one in stages if one.state not in _PAST), None),
            selector=row.selector,
            is_partial=state is RolloutState.FINISHED and any(one.state == StageState.FAILED for one in stages),
            is_braked=row.is_braked,
            created_at=row.created_at,
            created_by=row.created_by,
            started_at=row.started_at,
            finished_at=row.ended_at,
            counts=counts_of(snapshot, lots, now),
            pooled=PooledView(
                exposed,
                failed,
                _number(log_e_abort(failed, exposed, spec.gates.install.max_failure)),
                abort_level(spec),
                _number(log_e_abort(failed, exposed, _take_back_above(spec))),
            ),
            stages=stages,
            spec=dump_spec(spec),
            waits=rollout_waits(report, state, lots),
            outlook=now_does,
            stopped_by=stopped_by(row.code, row.reason),
            downloads=len(snapshot.pace.leases),
        )

    def _page(
        self,
        session: Session,
        standing: RolloutSummary,
        page: PageRequest,
        states: Sequence[str],
        stage: str | None,
        device: str | None,
    ) -> tuple[list[RolloutDevice], int]:
        snapshot = standing.snapshot
        names = [one.name for one in snapshot.spec.stages]
        stages = None if stage is None else [at for at, name in enumerate(names) if stage in (name, str(at))]
        found, total = device_counts.device_page(
            session, snapshot.id, page, states=states, stages=stages, device=device
        )
        model = ReleaseRef.parse(snapshot.spec.release).model
        return device_lines(self._fleet.offers, model, standing, names, found), total


_PAST: Final = frozenset({StageState.PASSED.value, StageState.SKIPPED.value})


def _stage_view(
    standing: RolloutSummary, index: int, first: Sequence[str], report: StepReport, names: Mapping[str, str]
) -> StageView:
    """Return one stage. names: display names of the devices that its confirmations name."""
    snapshot, now = standing.snapshot, standing.now
    stage = snapshot.spec.stages[index]
    cells = [cell for cell in snapshot.cells if cell.stage == index]
    state = next((one for one in _WORST_FIRST if any(cell.state is one for cell in cells)), StageState.PENDING)
    if state is StageState.PENDING and any(cell.state is StageState.PASSED for cell in cells):
        state = StageState.EXPOSING
    leading = [cell for cell in cells if cell.state is state] or cells
    strengths = [one for one in _WEAKEST_FIRST if any(cell.strength is one for cell in cells)]
    strata = [_stratum_view(standing, cell, names) for cell in cells]
    opened = [cell.opened_at for cell in cells if cell.opened_at is not None]
    ended = [cell.ended_at for cell in cells if cell.ended_at is not None]
    mine = [lot for lot in standing.lots if lot[0].stage == index]
    return StageView(
        idx=index,
        name=stage.name,
        state=state.value,
        verdict=leading[0].verdict.value if leading and leading[0].verdict is not None else None,
        reason=_together(leading, len(cells)),
        strength=strengths[0].value if strengths else None,
        devices=first,
        size_text=stage_text(stage),
        soak_s=stage.soak.total_seconds(),
        promote=stage.promote.value,
        opened_at=min(opened, default=None),
        ended_at=max(ended) if cells and len(ended) == len(cells) else None,
        counts=counts_of(snapshot, mine, now),
        strata=strata,
        rate=rate_view(snapshot, index, now),
        waits=stage_waits(report, index, mine),
        mode=stage.mode.value,
        match=stage.match,
        stopped_by=next((name for one in leading if (name := stopped_by(one.code, one.reason))), ""),
    )


def _together(cells: Sequence[StageRun], of: int) -> str:
    """Return why these cells stand where they stand; each stratum by name when there are several."""
    reasons = {cell.stratum: cell.reason for cell in cells if cell.reason}
    if len(set(reasons.values())) == 1 and len(cells) == of:
        return next(iter(reasons.values()))
    return "; ".join(f"{stratum}: {reason}" for stratum, reason in reasons.items())


def _stratum_view(standing: RolloutSummary, cell: StageRun, names: Mapping[str, str]) -> StratumView:
    snapshot, now = standing.snapshot, standing.now
    facts = facts_of_lots(snapshot, cell, standing.lots, cell.ended_at or now)
    stages = snapshot.spec.stages
    mine = [lot for lot in standing.lots if stages[lot[0].stage].mode is stages[cell.stage].mode]
    lane = [(a, n) for a, n in mine if a.stratum == cell.stratum and a.stage <= cell.stage]
    is_open = cell.opened_at is not None
    counts = facts.counts
    gate = snapshot.spec.gates.install
    below = with_hidden_failures(gate.promote_below, gate.liars)
    above = _take_back_above(snapshot.spec)
    return StratumView(
        stratum=cell.stratum,
        state=cell.state.value,
        verdict=None if cell.verdict is None else cell.verdict.value,
        code=cell.code,
        reason=cell.reason,
        rule=facts.rule.value if is_open else "",
        strength=None if cell.strength is None else cell.strength.value,
        bound=cell.bound,
        population=cell.population,
        cut=str(cell.cut),
        members=sum(n for _, n in lane) if is_open else 0,
        opened_at=cell.opened_at,
        soak_until=cell.soak_until,
        ended_at=cell.ended_at,
        e_abort=_number(log_e_abort(counts.failed, counts.exposed, gate.max_failure)) if is_open else None,
        e_promote=_number(log_e_promote(counts.exposed - counts.healthy, counts.exposed, below)) if is_open else None,
        counts=counts_of(snapshot, lane if is_open else (), now),
        quality=metric_views(facts) if is_open else (),
        abort_at=abort_level(snapshot.spec),
        approval=approval_view(snapshot.spec, cell),
        stopped_by=stopped_by(cell.code, cell.reason),
        e_take_back=_number(log_e_abort(counts.failed, counts.exposed, above)) if is_open else None,
        confirmations=confirmation_views(snapshot, cell, names),
    )


def _take_back_above(spec: Spec) -> float:
    """Return the share of failures that the evidence must rule out to take a release back."""
    return with_false_alarms(spec.gates.install.max_failure, spec.gates.install.liars)


def _number(log: float) -> float:
    """Return exp(log) as JSON takes it."""
    return math.exp(min(log, 700.0))
