"""Reads experiments for people: rollouts with stages in which the release runs as a candidate, and what it showed there.

`reader` shows how a rollout stands, this what a trial measured. Nothing here writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.ids import DeviceId, ProfileName, ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.rollout.errors import NoExperimentError
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.spec.model import Mode, Spec, profile_of
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE
from edgefleet_server.rollout.status import experiment_results
from edgefleet_server.rollout.status.experiment_results import Hours, StratumResult
from edgefleet_server.rollout.store import assignments, rollouts
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_server.telemetry.service import TelemetryService

SHOWN: Final = 200
"""Newest experiments on one page."""
CANDIDATE_MODES: Final = tuple(mode.value for mode in Mode if mode is not Mode.ACTIVE)
"""Modes of stages that make a rollout an experiment."""
DEVICES: Final = 60
WINDOWS: Final = 240
"""Devices, and newest windows of each, that a result is made of: a page must not cost what a night of figures does."""


@dataclass(frozen=True)
class ExperimentView:
    """A rollout with a trial. modes: shadow, split, or both; share_pct: of the requests in a split, 0 without one."""

    id: str
    name: str
    release: str
    model: str
    state: str
    reason: str
    is_open: bool
    modes: Sequence[str]
    share_pct: int
    selector: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class TrialView:
    """What one mode of an experiment showed. devices: that reported on it; is_cut: more did, and were left out."""

    mode: str
    stages: Sequence[str]
    began_at: datetime | None
    ended_at: datetime | None
    devices: int
    is_cut: bool
    results: Sequence[StratumResult]


@dataclass(frozen=True)
class ExperimentResult(ExperimentView):
    """An experiment with what it showed, a trial a mode."""

    trials: Sequence[TrialView]


class ExperimentReader:
    """Reads experiments. Thread-safe; calls block."""

    def __init__(self, db: Database, loader: SnapshotLoader, telemetry: TelemetryService | None) -> None:
        self._db = db
        self._loader = loader
        self._telemetry = telemetry

    def experiments(self, model: str | None = None) -> list[ExperimentView]:
        """Return the newest SHOWN experiments (of a model), newest first."""
        return self.page(PageRequest(SHOWN), model=model)[0][:SHOWN]

    def page(self, wanted: PageRequest, *, model: str | None = None) -> tuple[list[ExperimentView], int]:
        """Return one experiment more than a page has (of a model), newest first unless it is turned, and how many there are."""
        with self._db.read() as session:
            last = None if wanted.after is None else rollouts.rollout(session, wanted.after)
            rows = rollouts.page(
                session,
                states=(),
                model=model,
                modes=CANDIDATE_MODES,
                behind=None if last is None else (last.created_at, last.id),
                limit=wanted.limit + 1,
                is_oldest_first=wanted.is_turned,
            )
            total = rollouts.count(session, states=(), model=model, modes=CANDIDATE_MODES)
            return [_view(row, stored_spec(row.spec)) for row in rows], total

    def experiment(self, rollout_id: str) -> ExperimentResult:
        """Return one experiment and what it showed, a trial a mode. Raises RolloutUnknownError, NoExperimentError."""
        with self._db.read() as session:
            row = rollouts.rollout(session, rollout_id)
            spec = stored_spec(row.spec)
            modes = _modes(spec)
            if not modes:
                raise NoExperimentError(
                    f"rollout {row.id} has no stage with a candidate",
                    next_step="write `mode: shadow` or `mode: split` in a stage, or start from the strategy shadow or ab",
                )
            return ExperimentResult(
                **vars(_view(row, spec)), trials=[self._trial(session, row, spec, mode) for mode in modes]
            )

    def _trial(self, session: Session, row: Rollout, spec: Spec, mode: Mode) -> TrialView:
        mine = {index for index, stage in enumerate(spec.stages) if stage.mode is mode}
        cells = [one for one in rollouts.cells(session, row.id) if one.stage in mine and one.opened_at is not None]
        hours = {
            name: Hours(min(begins), None if None in ends else max(end for end in ends if end is not None))
            for name in {one.stratum for one in cells}
            if (begins := [one.opened_at for one in cells if one.stratum == name and one.opened_at is not None])
            for ends in [[one.ended_at for one in cells if one.stratum == name]]
        }
        begin = min((one.begin for one in hours.values()), default=None)
        ends = [one.end for one in hours.values()]
        found: list[StratumResult] = []
        devices: list[str] = []
        if begin is not None and self._telemetry is not None:
            strata = {one.device: one.stratum for one in assignments.assignments(session, row.id)}
            bundles = self._loader.bundles(ReleaseRef.parse(spec.release))
            digests = {name: bundles[profile].sha256 for name in hours if (profile := _profile(name)) in bundles}
            devices = self._telemetry.devices_of_lane(
                sorted(set(digests.values())), experiment_results.CANDIDATE, begin, limit=DEVICES + 1
            )
            chosen = {DeviceId(one): strata[DeviceId(one)] for one in devices[:DEVICES] if one in strata}
            windows = self._telemetry.periods(sorted(chosen), row.model, begin, windows=WINDOWS)
            found = experiment_results.results(spec, mode, hours, chosen, digests, windows)
        return TrialView(
            mode=mode.value,
            stages=[spec.stages[index].name for index in sorted(mine)],
            began_at=begin,
            ended_at=None if not ends or None in ends else max(end for end in ends if end is not None),
            devices=min(len(devices), DEVICES),
            is_cut=len(devices) > DEVICES,
            results=found,
        )


def _profile(stratum: str) -> ProfileName:
    return ProfileName(profile_of(stratum))


def _modes(spec: Spec) -> list[Mode]:
    """Return the candidate modes that a spec has, in their order."""
    found = {stage.mode for stage in spec.stages}
    return [mode for mode in Mode if mode in found and mode is not Mode.ACTIVE]


def _view(row: Rollout, spec: Spec) -> ExperimentView:
    return ExperimentView(
        id=row.id,
        name=row.name,
        release=spec.release,
        model=row.model,
        state=row.state,
        reason=row.reason,
        is_open=row.state in ROLLOUT_ACTIVE,
        modes=[one.value for one in _modes(spec)],
        share_pct=max(stage.share_pct for stage in spec.stages),
        selector=row.selector,
        created_at=row.created_at,
        created_by=row.created_by,
    )
