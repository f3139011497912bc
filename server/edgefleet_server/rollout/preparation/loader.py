"""Reads what the planner needs to know of one rollout, in the caller's transaction.

The controller and a person's commands load by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName, ReleaseRef, RolloutId
from edgefleet_server.fleet.desired.model import WantedRef
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.reported.model import ModelReport
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
)
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.preparation.cache import CachedReports, SnapshotCache
from edgefleet_server.rollout.preparation.overlap import queued_behind
from edgefleet_server.rollout.preparation.population import by_stratum, members_of
from edgefleet_server.rollout.spec.fields import NO_WAY_BACK, PREVIOUS
from edgefleet_server.rollout.spec.model import Membership, Mode, Spec
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS
from edgefleet_server.rollout.store import assignments as store_assignments
from edgefleet_server.rollout.store import measurements, rollouts, throttle, webhook_gates
from edgefleet_server.rollout.store.tables import Rollout

LARGE: Final = 2_000
"""Devices from which on it pays to read only what is new."""
SMALL: Final = 200
"""Devices up to which a rollout is read with others, while all of them are locked."""
_NOBODY: Final[tuple[Member, ...]] = ()


class SnapshotLoader:
    """Makes snapshots."""

    def __init__(self, fleet: RolloutFleet, registry: RegistryService, clock: Clock) -> None:
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
        members = self._members_now(session, spec, row.id, bundles) if state in ROLLOUT_WALKS else _NOBODY
        return Snapshot(
            id=RolloutId(row.id),
            state=state,
            spec=spec,
            pace=throttle.pace_facts(session, self._fleet.devices, row.id, spec, assignments),
            salt=row.salt,
            bundles=by_stratum(bundles, members, assignments),
            members=members,
            cells=tuple(rollouts.cells(session, row.id)),
            assignments=tuple(assignments),
            reports=self._reports_now(row.id, devices, model),
            answers=_answers(session, row.id, spec),
            code=row.code,
            reason=row.reason,
            behind=queued_behind(session, self._fleet.offers, row, spec) if state is RolloutState.VALIDATING else (),
            way_back=by_stratum(self.way_back(spec), members, assignments),
            measured=() if spec.gates.quality is None else measurements.measured(session, row.id),
        )

    def again(self, session: Session, kept: Sequence[Snapshot]) -> list[Snapshot]:
        """Return rollouts as they are now that nobody wrote since: what is not written under their fence is read anew.

        Bundles and what devices say are read of all at once, members and answers of each.
        The caller has locked their rows. Only for those that `can_be_read_again`.
        """
        refs = [ReleaseRef.parse(one.spec.release) for one in kept]
        bundles = {ref: self.bundles(ref) for ref in dict.fromkeys(refs)}
        devices: dict[ModelName, list[DeviceId]] = {ref.model: [] for ref in refs}
        for ref, one in zip(refs, kept, strict=True):
            devices[ref.model] += _asked(one.spec, one.assignments)
        reports = {model: self.reports(some, model) for model, some in devices.items()}
        return [
            self._again(session, one, bundles[ref], reports[ref.model]) for ref, one in zip(refs, kept, strict=True)
        ]

    def _again(
        self,
        session: Session,
        kept: Snapshot,
        bundles: Mapping[ProfileName, Bundle],
        reports: Mapping[DeviceId, Report],
    ) -> Snapshot:
        spec, asked = kept.spec, _asked(kept.spec, kept.assignments)
        members = self._members_now(session, spec, kept.id, bundles) if kept.state in ROLLOUT_WALKS else _NOBODY
        return replace(
            kept,
            bundles=by_stratum(bundles, members, kept.assignments),
            members=members,
            reports={device: reports[device] for device in asked if device in reports},
            answers=_answers(session, kept.id, spec),
            way_back=by_stratum(self.way_back(spec), members, kept.assignments),
        )

    def way_back(self, spec: Spec) -> dict[ProfileName, Bundle]:
        """Return the bundles of the release that `rollback_to` names, by profile; nothing where it names none."""
        back = spec.rollback_to
        return {} if back in (PREVIOUS, NO_WAY_BACK) else self.bundles(ReleaseRef.parse(back))

    def bundles(self, ref: ReleaseRef) -> dict[ProfileName, Bundle]:
        """Return the release's signed bundles by profile."""
        signed = self._registry.signed_bundles(ref)
        return {profile: Bundle(target, sha256, length) for profile, target, sha256, length in signed}

    def members(
        self, session: Session, spec: Spec, rollout_id: str | None, bundles: Mapping[ProfileName, Bundle] | None = None
    ) -> tuple[Member, ...]:
        """Return the devices of a rollout now; of one that is not made yet (None), those that it would have.

        bundles: of its release, by profile; needed for the stages that run it beside a version only.
        """
        is_fixed = rollout_id is not None and spec.membership is Membership.SNAPSHOT
        frozen = rollouts.frozen_members(session, rollout_id) if is_fixed and rollout_id is not None else None
        return members_of(self._fleet, spec, bundles or {}, frozen)

    def _members_now(
        self, session: Session, spec: Spec, rollout_id: str, bundles: Mapping[ProfileName, Bundle]
    ) -> tuple[Member, ...]:
        """Return the devices of a rollout, of a large one those of a moment ago."""
        known = self.memory.members(rollout_id)
        if known is not None:
            return known
        began_s = self.memory.now_s()
        members = self.members(session, spec, rollout_id, bundles)
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
        told = self._fleet.offers.model_reports(devices, model)
        return {device: _report(said, want) for device, (said, want) in told.items()}

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

    Not while it waits for others, is measured, or has limits or windows; nor where its devices are those of a list.
    """
    spec = snapshot.spec
    return (
        snapshot.state is not RolloutState.VALIDATING
        and spec.gates.quality is None
        and not spec.recalls
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


def _report(said: ModelReport, want: WantedRef | None) -> Report:
    return Report(
        reported_gen=said.reported_gen,
        phase=said.phase,
        active_sha256=said.active_sha256,
        previous_sha256=said.previous_sha256,
        wanted_sha256=said.wanted_sha256,
        attempt=said.attempt,
        gen=said.gen,
        error_class=said.error_class,
        error_code=said.error_code,
        reason=said.reason,
        refused_gen=said.refused_gen,
        refused_code=said.refused_code,
        refused_reason=said.refused_reason,
        is_revoked=said.is_revoked,
        is_online=said.status is DeviceStatus.ONLINE,
        last_seen=said.last_seen,
        wanted_by_server="" if want is None or want.active is None else want.active.sha256,
        candidate=_candidate(said, want),
    )


def _candidate(said: ModelReport, want: WantedRef | None) -> CandidateReport:
    told, wanted = said.candidate, want.candidate if want is not None else None
    return CandidateReport(
        sha256=told.sha256 if told is not None else "",
        state=told.state if told is not None else "",
        code=told.code if told is not None else "",
        reason=told.reason if told is not None else "",
        wanted_by_server=wanted.sha256 if wanted is not None else "",
    )
