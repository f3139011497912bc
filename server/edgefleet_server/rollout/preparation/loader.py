"""Reads what the planner needs to know of one rollout, in the caller's transaction.

The controller and a person's commands load by it.

What this process still knows of rollouts from its last pass is kept (`SnapshotCache`), so that the next one reads only what changed.
Nothing rests on it: whatever is not surely what the database holds is read again.
- Assignments are written under the fence alone, and every claim and every command raises it by one. Who wrote them last with fence n
  and holds n + 1 now knows that nobody wrote in between.
- Reports have marks (`ReportedStateReader.marks`); only those whose mark differs are read.
- Members are matched again when nine times the time has passed that matching took, so that matching takes a tenth of the time at most.
- The snapshot of a look that found nothing to do stays right in all that is written under the fence, while the fence is the same.

Thread-safe: what is kept is never changed, only replaced. Each shelf keeps MOST_KEPT devices at most.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName, ReleaseRef, RolloutId
from edgefleet_server.fleet.desired.model import WantedRef
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.reported.model import ModelReport
from edgefleet_server.registry.rules import is_measured
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.model import (
    Answers,
    Assignment,
    Bundle,
    CandidateReport,
    Member,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
)
from edgefleet_server.rollout.planner.first_approval import approvers, asks_first
from edgefleet_server.rollout.ports import Budgets, RolloutFleet
from edgefleet_server.rollout.preparation import confirmation_loader
from edgefleet_server.rollout.preparation.budget_loader import budget_of
from edgefleet_server.rollout.preparation.membership import (
    by_stratum,
    members_of,
    suspects_in,
    without_unapproved,
)
from edgefleet_server.rollout.preparation.overlap import queued_behind
from edgefleet_server.rollout.spec.fields import NO_ROLLBACK, PREVIOUS
from edgefleet_server.rollout.spec.model import Membership, Mode, Spec
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS
from edgefleet_server.rollout.store import assignments as store_assignments
from edgefleet_server.rollout.store import measurements, rollouts, throttle, webhook_gates
from edgefleet_server.rollout.store.tables import Rollout

MOST_KEPT: Final = 250_000
PATIENCE: Final = 9
_Value = TypeVar("_Value")
Mark = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A rollout's assignments as they were written under a fence, in order of device."""

    fence: int
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class CachedReports:
    """What devices said, and the marks of that."""

    marks: Mapping[DeviceId, Mark] = field(default_factory=dict)
    reports: Mapping[DeviceId, Report] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CachedMembers:
    """Who matched, and until when (monotonic seconds) that is good enough."""

    until_s: float
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class CachedIdle:
    """A rollout as a look found it that had nothing to do, and the fence of that look."""

    fence: int
    snapshot: Snapshot


class _Shelf(Generic[_Value]):
    """Values by rollout, the least used given up first when their sizes together are too much."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, _Value]] = OrderedDict()

    def get(self, name: str) -> _Value | None:
        found = self._kept.get(name)
        return None if found is None else found[1]

    def drop(self, name: str) -> None:
        self._kept.pop(name, None)

    def put(self, name: str, size: int, value: _Value) -> None:
        self._kept.pop(name, None)
        self._kept[name] = (size, value)
        while self._kept and sum(size for size, _ in list(self._kept.values())) > MOST_KEPT:
            self._kept.popitem(last=False)


class SnapshotCache:
    """What is kept of all rollouts of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._written: _Shelf[Written] = _Shelf()
        self._heard: _Shelf[CachedReports] = _Shelf()
        self._matched: _Shelf[CachedMembers] = _Shelf()
        self._rested: _Shelf[CachedIdle] = _Shelf()

    def assignments(self, rollout_id: str, fence: int) -> tuple[Assignment, ...] | None:
        """Return a rollout's assignments when they are surely those of the database. fence: the one that is held."""
        found = self._written.get(rollout_id)
        if found is not None and found.fence + 1 != fence:
            self._written.drop(rollout_id)  # a later fence must not make it look right again
            return None
        return None if found is None else found.assignments

    def wrote(self, rollout_id: str, fence: int, assignments: Sequence[Assignment]) -> None:
        """Keep what was written, once it is committed."""
        self._written.put(rollout_id, len(assignments), Written(fence, tuple(assignments)))

    def heard(self, rollout_id: str) -> CachedReports:
        """Return what is known of devices' reports."""
        return self._heard.get(rollout_id) or CachedReports()

    def hear(self, rollout_id: str, heard: CachedReports) -> None:
        """Keep what devices said."""
        self._heard.put(rollout_id, len(heard.reports), heard)

    def now_s(self) -> float:
        """Return the monotonic time, in seconds."""
        return self._clock.monotonic_s()

    def members(self, rollout_id: str) -> tuple[Member, ...] | None:
        """Return who matched a moment ago, None when that is too long ago."""
        found = self._matched.get(rollout_id)
        return found.members if found is not None and self.now_s() < found.until_s else None

    def match(self, rollout_id: str, members: tuple[Member, ...], began_s: float) -> None:
        """Keep who matched, for a multiple of the time since `began_s`."""
        now_s = self.now_s()
        self._matched.put(rollout_id, len(members), CachedMembers(now_s + PATIENCE * (now_s - began_s), members))

    def rest(self, rollout_id: str, fence: int, snapshot: Snapshot) -> None:
        """Keep a rollout that had nothing to do under a fence, once that is committed."""
        self._rested.put(rollout_id, 1 + len(snapshot.assignments) + len(snapshot.members), CachedIdle(fence, snapshot))

    def rested(self, rollout_id: str, fence: int) -> Snapshot | None:
        """Return what was kept under this very fence. fence: of the row, which is locked."""
        found = self._rested.get(rollout_id)
        return None if found is None or found.fence != fence else found.snapshot

    def rouse(self, rollout_id: str) -> None:
        """Forget what was kept: it has something to do, or could not be looked at."""
        self._rested.drop(rollout_id)


LARGE: Final = 2_000
"""Devices from which on it pays to read only what is new."""
SMALL: Final = 200
"""Devices up to which a rollout is read with others, while all of them are locked."""
_NOBODY: Final[tuple[Member, ...]] = ()


class SnapshotLoader:
    """Makes snapshots."""

    def __init__(
        self, fleet: RolloutFleet, registry: RegistryService, clock: Clock, budgets: Budgets | None = None
    ) -> None:
        self._budgets = budgets
        self._fleet = fleet
        self._registry = registry
        self.memory = SnapshotCache(clock)

    def snapshot(self, session: Session, row: Rollout) -> Snapshot:
        """Return a rollout as it is now. The caller has locked its row and raised its fence."""
        state = RolloutState(row.state)
        spec = stored_spec(row.spec)
        kept = self.memory.assignments(row.id, row.fence)
        assignments = store_assignments.assignments(session, row.id) if kept is None else kept
        devices = _asked(spec, assignments)
        model = ModelName(row.model)
        bundles = self.bundles(ReleaseRef(model, row.version))  # type: ignore[arg-type]
        cells = tuple(rollouts.cells(session, row.id))
        members = self._members_now(session, spec, row.id, bundles, cells) if state in ROLLOUT_WALKS else _NOBODY
        asked = confirmation_loader.load(session, self._fleet, row.id, assignments)
        reports = self._reports_now(row.id, devices, model)
        return Snapshot(
            id=RolloutId(row.id),
            state=state,
            spec=spec,
            pace=throttle.pace_facts(session, self._fleet.devices, row.id, spec, assignments),
            salt=row.salt,
            bundles=by_stratum(bundles, members, assignments),
            members=members,
            cells=cells,
            assignments=tuple(assignments),
            reports=reports,
            answers=_answers(session, row.id, spec),
            code=row.code,
            reason=row.reason,
            behind=queued_behind(session, self._fleet.offers, row, spec) if state is RolloutState.VALIDATING else (),
            rollback_bundles=by_stratum(self.rollback_bundles(spec), members, assignments),
            withdrawn=self._registry.withdrawals.withdrawn_digests(model),
            measured=() if spec.gates.quality is None else measurements.measured(session, row.id),
            confirmations=asked.confirmations,
            checks=asked.checks,
            sites=asked.sites,
            seed=asked.seed,
            suspects=suspects_in(members, reports),
            budget=budget_of(spec, self._budgets),
        )

    def again(self, session: Session, kept: Sequence[Snapshot]) -> list[Snapshot]:
        """Return rollouts as they are now that nobody wrote since: what is not written under their fence is read again.

        Bundles and what devices say are read of all at once, members and answers of each.
        The caller has locked their rows. Only for those that `can_be_read_again`.
        """
        refs = [ReleaseRef.parse(one.spec.release) for one in kept]
        bundles = {ref: self.bundles(ref) for ref in dict.fromkeys(refs)}
        devices: dict[ModelName, list[DeviceId]] = {ref.model: [] for ref in refs}
        for ref, one in zip(refs, kept, strict=True):
            devices[ref.model] += _asked(one.spec, one.assignments)
        reports = {model: self.reports(some, model) for model, some in devices.items()}
        withdrawn = {model: self._registry.withdrawals.withdrawn_digests(model) for model in devices}
        return [
            self._again(session, one, bundles[ref], reports[ref.model], withdrawn[ref.model])
            for ref, one in zip(refs, kept, strict=True)
        ]

    def _again(
        self,
        session: Session,
        kept: Snapshot,
        bundles: Mapping[ProfileName, Bundle],
        reports: Mapping[DeviceId, Report],
        withdrawn: frozenset[str],
    ) -> Snapshot:
        spec, asked = kept.spec, _asked(kept.spec, kept.assignments)
        walks = kept.state in ROLLOUT_WALKS
        members = self._members_now(session, spec, kept.id, bundles, kept.cells) if walks else _NOBODY
        heard = {device: reports[device] for device in asked if device in reports}
        return replace(
            kept,
            bundles=by_stratum(bundles, members, kept.assignments),
            members=members,
            reports=heard,
            answers=_answers(session, kept.id, spec),
            rollback_bundles=by_stratum(self.rollback_bundles(spec), members, kept.assignments),
            withdrawn=withdrawn,
            suspects=suspects_in(members, heard),
        )

    def rollback_bundles(self, spec: Spec) -> dict[ProfileName, Bundle]:
        """Return the bundles of the release that `rollback_to` names, by profile; nothing where it names none."""
        back = spec.rollback_to
        return {} if back in (PREVIOUS, NO_ROLLBACK) else self.bundles(ReleaseRef.parse(back))

    def bundles(self, ref: ReleaseRef) -> dict[ProfileName, Bundle]:
        """Return the release's signed bundles by profile."""
        signed = self._registry.signed_bundles(ref)
        return {profile: Bundle(target, sha256, n, is_sealed) for profile, target, sha256, n, is_sealed in signed}

    def unproven(self, ref: ReleaseRef) -> frozenset[ProfileName]:
        """Return the profiles for which nothing but random input judged the release."""
        return frozenset(one.profile for one in self._registry.release(ref).bundles if not is_measured(one.report))

    def members(
        self, session: Session, spec: Spec, rollout_id: str | None, bundles: Mapping[ProfileName, Bundle] | None = None
    ) -> tuple[Member, ...]:
        """Return the devices of a rollout now; of one that is not made yet (None), those that it would have.

        bundles: of its release, by profile; needed where stages run it as a candidate, and where it is sealed.
        """
        members = self._matching(session, spec, rollout_id, bundles)
        return members if asks_first(spec) else without_unapproved(members, self._fleet.protection.members(), spec)

    def _matching(
        self, session: Session, spec: Spec, rollout_id: str | None, bundles: Mapping[ProfileName, Bundle] | None
    ) -> tuple[Member, ...]:
        is_fixed = rollout_id is not None and spec.membership is Membership.SNAPSHOT
        frozen = rollouts.frozen_members(session, rollout_id) if is_fixed and rollout_id is not None else None
        return members_of(self._fleet, spec, bundles or {}, frozen)

    def _allowed(self, members: tuple[Member, ...], spec: Spec, runs: Sequence[StageRun]) -> tuple[Member, ...]:
        """Return the members as protection rules let them take part. runs: the stages of the rollout, which was made."""
        approved = approvers(spec, runs)
        if all(one.stratum in approved for one in members):
            return members
        return without_unapproved(members, self._fleet.protection.members(), spec, runs, is_made=True)

    def _members_now(
        self,
        session: Session,
        spec: Spec,
        rollout_id: str,
        bundles: Mapping[ProfileName, Bundle],
        runs: Sequence[StageRun],
    ) -> tuple[Member, ...]:
        """Return the devices of a rollout, of a large one those of a moment ago; protection rules are always those of now."""
        return self._allowed(self._matched_now(session, spec, rollout_id, bundles), spec, runs)

    def _matched_now(
        self, session: Session, spec: Spec, rollout_id: str, bundles: Mapping[ProfileName, Bundle]
    ) -> tuple[Member, ...]:
        known = self.memory.members(rollout_id)
        if known is not None:
            return known
        began_s = self.memory.now_s()
        members = self._matching(session, spec, rollout_id, bundles)
        if len(members) >= LARGE:
            self.memory.match(rollout_id, members, began_s)
        return members

    def _reports_now(self, rollout_id: str, devices: Sequence[DeviceId], model: ModelName) -> Mapping[DeviceId, Report]:
        """Return what devices say of a model; of many only what is new is read."""
        if len(devices) < LARGE:
            return self.reports(devices, model)
        known, marks = self.memory.heard(rollout_id), self._fleet.offers.marks(devices)
        news = [device for device, mark in marks.items() if known.marks.get(device) != mark]
        reports = {**known.reports, **self.reports(news, model)}
        self.memory.hear(rollout_id, CachedReports(marks, reports))
        return reports

    def reports(self, devices: Sequence[DeviceId], model: ModelName) -> dict[DeviceId, Report]:
        """Return what devices say of a model."""
        reported = self._fleet.offers.model_reports(devices, model)
        return {device: _report(report, want) for device, (report, want) in reported.items()}

    def running(
        self, devices: Sequence[DeviceId], model: ModelName, bad: Mapping[DeviceId, str]
    ) -> dict[DeviceId, Bundle]:
        """Return what each device would be rolled back to; nothing for a device that runs nothing of this model.

        That is what it runs, else what its document asks for. A device that runs the release (`bad`: its digest) already
        would go back to what its other slot holds; when that is unknown, to the release itself: nothing older is known.
        """
        slots = self._fleet.offers.slots_of(devices, model)
        wants = self._fleet.offers.wants(devices, model)
        digests = {digest for both in slots.values() for digest in both if digest}
        known = self._registry.bundles_by_digest(sorted(digests)) if digests else {}
        found: dict[DeviceId, Bundle] = {}
        for device in devices:
            want = wants.get(device)
            choices = slots.get(device, ())
            bundles = [Bundle(b.target, b.sha256, b.length) for d in choices if (b := known.get(d)) is not None]  # type: ignore[call-overload]
            if want is not None and want.active is not None:
                bundles.append(Bundle(want.active.target, want.active.sha256, want.active.length))  # type: ignore[arg-type]
            better = [bundle for bundle in bundles if bundle.sha256 != bad.get(device)]
            if better or bundles:
                found[device] = (better or bundles)[0]
        return found


def can_be_read_again(snapshot: Snapshot) -> bool:
    """Whether few statements say again what is not written under the fence of a rollout: it is small, and shares nothing with others.

    Not while it waits for others, is measured, asks about a failure, or has limits or windows; nor where its devices are those of a list.
    """
    spec = snapshot.spec
    return (
        snapshot.state is not RolloutState.VALIDATING
        and spec.gates.quality is None
        and spec.gates.budget is None
        and not spec.recalls
        and not confirmation_loader.is_any_alive(snapshot)
        and spec.membership is not Membership.SNAPSHOT
        and len(snapshot.assignments) <= SMALL
        and len(snapshot.members) <= SMALL
    )


def _asked(spec: Spec, assignments: Sequence[Assignment]) -> list[DeviceId]:
    """Return the devices whose words a tick hears."""
    is_everybody = asks_all(spec)
    return [one.device for one in assignments if is_everybody or one.gen]


def _answers(session: Session, rollout_id: str, spec: Spec) -> Answers:
    return webhook_gates.answers(session, rollout_id) if any(stage.gates for stage in spec.stages) else {}


def asks_all(spec: Spec) -> bool:
    """Return whether the planner must know what devices say that were not offered anything: whether they are there, or candidates."""
    return spec.recalls or any(stage.mode is not Mode.ACTIVE for stage in spec.stages)


def _report(report: ModelReport, want: WantedRef | None) -> Report:
    return Report(
        reported_gen=report.reported_gen,
        phase=report.phase,
        active_sha256=report.active_sha256,
        previous_sha256=report.previous_sha256,
        wanted_sha256=report.wanted_sha256,
        attempt=report.attempt,
        gen=report.gen,
        error_class=report.error_class,
        error_code=report.error_code,
        reason=report.reason,
        refused_gen=report.refused_gen,
        refused_code=report.refused_code,
        refused_reason=report.refused_reason,
        is_revoked=report.is_revoked,
        is_suspect=report.is_suspect,
        is_online=report.status is DeviceStatus.ONLINE,
        last_seen=report.last_seen,
        wanted_by_server="" if want is None or want.active is None else want.active.sha256,
        set_by="" if want is None or want.active is None else want.active.rollout or "",
        candidate=_candidate(report, want),
    )


def _candidate(report: ModelReport, want: WantedRef | None) -> CandidateReport:
    reported, wanted = report.candidate, want.candidate if want is not None else None
    return CandidateReport(
        sha256=reported.sha256 if reported is not None else "",
        state=reported.state if reported is not None else "",
        code=reported.code if reported is not None else "",
        reason=reported.reason if reported is not None else "",
        wanted_by_server=wanted.sha256 if wanted is not None else "",
        set_by=(wanted.rollout or "") if wanted is not None else "",
    )
