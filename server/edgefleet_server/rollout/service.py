"""Rollouts as the rest of the server sees them: make one, steer one, look at them (`reader`).

Thread-safe; calls block; every write joins the caller's transaction. A person's command raises the rollout's fence, so a tick
of the engine that began before it writes nothing.
"""

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy.event import listen
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ProfileName, ReleaseRef, RolloutId, parse_model_name
from edgefleet_server.access.model import Principal
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.selectors.count import DeviceSet
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.commands import retry, steer, undo
from edgefleet_server.rollout.commands.duty_separation import (
    Makers,
    refuse_unless_in_role,
    refuse_unless_second_person,
    with_maker,
)
from edgefleet_server.rollout.commands.undo import Undo
from edgefleet_server.rollout.controller.executor import Executor, event_of
from edgefleet_server.rollout.effects import AssignmentTransitioned, Plan
from edgefleet_server.rollout.errors import IllegalStateError, LintError, ReasonNeededError
from edgefleet_server.rollout.lint.budget_findings import about_budget
from edgefleet_server.rollout.lint.download_cost import cost_of
from edgefleet_server.rollout.lint.findings import Finding, about_unproven, lint
from edgefleet_server.rollout.lint.preview import PlanView, older_release, plan, with_findings, with_names
from edgefleet_server.rollout.lint.protection_findings import about_protection
from edgefleet_server.rollout.lint.rate_findings import pace_findings
from edgefleet_server.rollout.model import Assignment, Bundle, Member, RolloutState, Snapshot
from edgefleet_server.rollout.placement import is_countable
from edgefleet_server.rollout.planner.completion import plan_regression
from edgefleet_server.rollout.planner.stages import awaiting_approval
from edgefleet_server.rollout.ports import Budgets, RolloutFleet
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.preparation.membership import (
    Allows,
    anything,
    as_taking_part,
    by_stratum,
    counted,
    selectors_in,
    touched_by,
)
from edgefleet_server.rollout.preparation.metric_collector import MetricCollector
from edgefleet_server.rollout.preparation.overlap import (
    OpenRollout,
    Overlap,
    in_the_way,
    is_going_back,
    open_rollouts,
    overlaps,
)
from edgefleet_server.rollout.preparation.undo_loader import Undoer, steered
from edgefleet_server.rollout.spec.model import WATCH, Membership, Spec, Supersede
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec, releases_in, stored_spec, with_versions
from edgefleet_server.rollout.state_machines import (
    ROLLOUT_WALKS,
    UNCOUNTED,
    IllegalTransitionError,
    RolloutEvent,
    step_rollout,
)
from edgefleet_server.rollout.status.experiments import ExperimentReader
from edgefleet_server.rollout.status.failures import FailureReader
from edgefleet_server.rollout.status.finder import RolloutFinder
from edgefleet_server.rollout.status.reader import RolloutReader
from edgefleet_server.rollout.status.summary import has_pace
from edgefleet_server.rollout.store import assignments
from edgefleet_server.rollout.store import rollouts as store_rollouts
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_terms.reserved_labels import PIN_LABEL

SALT_BYTES: Final = 16


class RolloutService:
    """Makes and steers rollouts."""

    def __init__(  # what it works with
        self, db: Database, fleet: RolloutFleet, registry: RegistryService, clock: Clock, telemetry: TelemetryService,
        budgets: Budgets | None = None,
    ) -> None:  # fmt: skip
        """Wire the parts; from then on a group that an open rollout's selector names cannot be deleted."""
        self._db = db
        self._fleet = fleet
        self.clock = clock
        """The time that rollouts go by: who ticks them, or writes what a tick reads, goes by it too."""
        self._resolve = registry.resolve
        self._withdrawals = registry.withdrawals
        self._downgrade = registry.downgrade
        self.finder = RolloutFinder(db)
        self.loader = SnapshotLoader(fleet, registry, clock, budgets)
        self._budgets = budgets
        self.measurer = MetricCollector(telemetry)
        self.carrier = Executor(fleet, self.loader)
        self.reader = RolloutReader(db, fleet, clock, self.loader)
        self.failures = FailureReader(db)
        self.experiments = ExperimentReader(db, self.loader, telemetry)
        self._undoer = Undoer(fleet, registry, self.loader)
        self._wakers: list[Callable[[], None]] = []
        fleet.groups.add_guard(self.finder.uses_group)

    def on_change(self, waker: Callable[[], None]) -> None:
        """Call `waker` when a rollout was made or steered: the engine looks at once."""
        self._wakers.append(waker)

    # ---- making

    def plan(self, document: Any) -> PlanView:
        """Return what a spec would do now, with its findings. Raises BadSpecError and what the registry raises."""
        spec = with_versions(parse_spec(document), self._resolve)
        for ref in releases_in(spec):
            self._withdrawals.check_deployable(ref)
        made = with_findings(self._plan(spec, secrets.token_hex(SALT_BYTES)), self._outside(spec))
        ref = ReleaseRef.parse(spec.release)
        running = self._fleet.devices.versions(spec.selector, ref.model)
        made = with_findings(made, older_release(ref, self._downgrade(ref, running, made.matched)))
        return with_names(made, self._fleet.offers.display_names)

    def plan_of(self, rollout_id: str) -> PlanView:
        """Return who belongs to which stage of a rollout, and why. Raises RolloutUnknownError.

        Cuts of stages that were opened stay as they are, and so do devices that take part, whatever the selector says now.
        """
        with self._db.read() as session:
            row = store_rollouts.rollout(session, rollout_id)
            spec = stored_spec(row.spec)
            known = {one.device: one for one in assignments.assignments(session, row.id)}
            bundles = self.loader.bundles(ReleaseRef.parse(spec.release))
            now = {one.device: one for one in self.loader.members(session, spec, row.id, bundles)}
            members = [one for one in now.values() if one.device not in known]
            members += [as_taking_part(one, now) for one in known.values() if one.state not in UNCOUNTED]
            cuts = {
                (one.stage, one.stratum): one.cut
                for one in store_rollouts.cells(session, row.id)
                if one.opened_at is not None
            }
            placed = {one.device: one.stage for one in known.values()}
            made = plan(spec, row.salt, members, bundles, cuts, placed)
            return with_names(self._with_cost(made, spec, members, bundles), self._fleet.offers.display_names)

    def create(self, document: Any, by: str, person: str = "", allows: Allows = anything) -> RolloutId:
        """Start a rollout of a person; return its id. Raises BadSpecError, LintError, ActiveExistsError and what the registry raises.

        allows: raises where the person may not touch what it or a rollout that it supersedes touches.
        """
        spec = with_versions(parse_spec(document), self._resolve)
        allows(touched_by(spec))
        ref = ReleaseRef.parse(spec.release)
        salt = secrets.token_hex(SALT_BYTES)
        self._supersede_older(spec, ref, salt, by, allows)
        with self._db.session() as session:
            store_rollouts.lock_making(session, ref.model)
            self._check(spec, salt)
            before = self._older(session, spec, ref)
            if before and spec.supersede is not Supersede.QUEUE:
                raise in_the_way(before[0])
            row = self._insert(session, spec, ref, salt, by, behind=[one.other.id for one in before])
            row.makers = with_maker((), person)
            if spec.membership is Membership.SNAPSHOT:
                members = self.loader.members(session, spec, None, self.loader.bundles(ref))
                store_rollouts.freeze_members(session, row.id, [one.device for one in members])
        self.loader.memory.wrote(row.id, row.fence, ())
        self.wake()
        return RolloutId(row.id)

    def _check(self, spec: Spec, salt: str) -> None:
        """Raise LintError for what cannot work, and what the registry raises for a release that is unknown or withdrawn."""
        for selector in selectors_in(spec):
            self._fleet.groups.pin(selector)
        for ref in releases_in(spec):
            self._withdrawals.keep_deployable(ref)
        findings = (*self._findings(spec, salt), *self._outside(spec))
        if any(finding.level == "error" for finding in findings):
            raise LintError(findings)

    def _outside(self, spec: Spec) -> tuple[Finding, ...]:
        """Return what is to be said of a spec apart from its devices: budgets, and rules that protect devices."""
        covered = self._fleet.protection.covered(spec.selector)
        return (*about_budget(spec, self._budgets), *about_protection(spec, covered))

    def _findings(self, spec: Spec, salt: str) -> tuple[Finding, ...]:
        """Return what speaks against a spec now. Where numbers suffice the database counts, and no device is read."""
        bundles = self.loader.bundles(ReleaseRef.parse(spec.release))
        if is_countable(spec, bundles.values()) and not has_pace(spec) and not self._fleet.suspicion.suspects():
            return lint(spec, *counted(self._fleet, spec), bundles)
        return self._plan(spec, salt, with_power=False, with_cost=False).findings

    def _older(self, session: Session, spec: Spec, ref: ReleaseRef) -> list[Overlap]:
        """Return the open rollouts of the model that want one of the devices: each would undo the other."""
        return self._meeting(session, ref.model, spec.selector)

    def _meeting(self, session: Session, model: str, selector: str) -> list[Overlap]:
        unpinned = f"{selector},!{PIN_LABEL}" if selector else f"!{PIN_LABEL}"
        return list(overlaps(session, self._fleet.offers, model, selector, DeviceSet(unpinned)))

    def _supersede_older(self, spec: Spec, ref: ReleaseRef, salt: str, by: str, allows: Allows) -> None:
        """End the rollouts that a new one supersedes, each in a transaction of its own: devices are locked in one order."""
        if spec.supersede is not Supersede.CANCEL_OLDER:
            return
        with self._db.session() as session:
            self._check(spec, salt)
            older = self._older(session, spec, ref)
            for one in older:
                allows(touched_by(stored_spec(one.other.spec)))
                if is_going_back(session, one.other):
                    raise in_the_way(one, is_going_back=True)
            ids = [one.other.id for one in older]
        message = f"superseded by a rollout of {spec.release} that {by} made"
        for rollout_id in ids:
            self._steer(rollout_id, by, "supersede", lambda snap: steer.plan_supersede(snap, self.clock.now(), message))

    def _insert(
        self, session: Session, spec: Spec, ref: ReleaseRef, salt: str, by: str, *, behind: Sequence[str]
    ) -> Rollout:
        now = self.clock.now()
        row = Rollout(
            id=_new_id(), name=spec.name, model=ref.model, version=ref.version, selector=spec.selector,
            spec=dump_spec(spec), salt=salt, state=RolloutState.DRAFT.value, created_at=now, created_by=by,
            started_at=now, next_eval_at=now,
        )  # fmt: skip
        session.add(row)
        session.flush()
        events = []
        start = [] if behind else [(RolloutEvent.START, "started: its spec is valid")]
        waits = f"waits until {', '.join(behind)} has ended" if behind else "created"
        for event, reason in ((RolloutEvent.VALIDATE, waits), *start):
            before = RolloutState(row.state)
            row.state, row.reason = step_rollout(before, event).value, reason
            events.append(event_of(row, "rollout", before.value, row.state, by, reason=reason))
        self._fleet.feed.add(events)
        self.carrier.counted.note(session, events)
        return row

    def _plan(self, spec: Spec, salt: str, *, with_power: bool = True, with_cost: bool = True) -> PlanView:
        bundles = self.loader.bundles(ReleaseRef.parse(spec.release))
        with self._db.read() as session:
            members = self.loader.members(session, spec, None, bundles)
        made = plan(spec, salt, members, bundles, with_power=with_power)
        if has_pace(spec):
            wanted = {one.device for one in members if not one.pinned}
            devices = [one for one in self._fleet.devices.population(spec.selector) if one.id in wanted]
            made = with_findings(made, pace_findings(spec, devices, self.clock.now()))
        return self._with_cost(made, spec, members, bundles) if with_cost else made

    def _with_cost(
        self, made: PlanView, spec: Spec, members: Sequence[Member], bundles: Mapping[ProfileName, Bundle]
    ) -> PlanView:
        """Return a plan that also says what devices have to download, and what nobody measured. bundles: by profile."""
        going, ref = [one for one in members if not one.pinned], ReleaseRef.parse(spec.release)
        made = with_findings(made, about_unproven(spec, self.loader.unproven(ref), [one.stratum for one in going]))
        message = self.loader.reports([one.device for one in going], ref.model)
        held = {device: {one.active_sha256, one.previous_sha256} for device, one in message.items()}
        return replace(made, cost=cost_of(going, by_stratum(bundles, going, ()), held))

    # ---- finding

    def open_named(self, name: str) -> list[RolloutId]:
        """Return the open rollouts with this id or this name, oldest first."""
        with self._db.read() as session:
            return [RolloutId(row.id) for row in store_rollouts.active(session) if name in (row.id, row.name)]

    def open_of(self, model: str) -> list[RolloutId]:
        """Return the open rollouts of a model, oldest first."""
        with self._db.read() as session:
            return [RolloutId(row.id) for row in store_rollouts.active(session, model)]

    def open_on(self, model: str, selector: str) -> list[OpenRollout]:
        """Return the open rollouts of a model that want a device which matches, oldest first. Raises what selectors raise."""
        with self._db.read() as session:
            return open_rollouts(self._meeting(session, model, selector))

    def watched(self, *, name: str | None = None, model: str | None = None) -> list[RolloutId]:
        """Return the newest rollout (with this id or name, of this model) that finished within WATCH, [] when there is none."""
        with self._db.read() as session:
            found = store_rollouts.late(session, self.clock.now() - WATCH, model)
            return [RolloutId(row.id) for row in found if name is None or name in (row.id, row.name)][:1]

    # ---- steering

    def reopen(self, rollout_id: str, by: str, code: str, reason: str, *, rollback: bool) -> None:
        """Say of a rollout that has finished that its release is bad; with `rollback` take it back too. Raises IllegalStateError."""
        message, now = _message("reopened", by, reason), self.clock.now

        def make(snapshot: Snapshot) -> Plan:
            if rollback:
                return undo.plan_reopening(snapshot, now(), message, code)
            return plan_regression(snapshot, now(), code, message)

        self._steer(rollout_id, by, "reopen", make, is_making=True)

    def pause(self, rollout_id: str, by: str, reason: str) -> None:
        """Stop offering; devices that have not begun their switch are stopped too. Raises IllegalStateError."""
        message = _message("paused", by, reason)
        self._steer(rollout_id, by, "pause", lambda snapshot: steer.plan_pause(snapshot, self.clock.now(), message))

    def resume(self, rollout_id: str, by: str, reason: str, person: str = "") -> None:
        """Go on after a pause. Raises IllegalStateError."""
        message, now = _message("resumed", by, reason), self.clock.now
        self._steer(rollout_id, by, "resume", lambda snap: steer.plan_resume(snap, now(), message), maker=person)

    def abort(self, rollout_id: str, by: str, reason: str, *, rollback: bool) -> None:
        """End it for good; with `rollback` every device goes back to what it ran before. Raises IllegalStateError."""
        message = _message("aborted", by, reason)
        self._steer(
            rollout_id,
            by,
            "abort",
            lambda snapshot: steer.plan_abort(snapshot, self.clock.now(), message, rollback=rollback),
        )

    def promote(self, rollout_id: str, by: str, reason: str, stratum: str | None, person: str = "") -> None:
        """Let the open stage pass on a person's word. Raises ReasonNeededError, IllegalStateError."""
        if not reason.strip():
            raise ReasonNeededError("promoting a stage by hand needs a reason", next_step="give one: --reason 'why'")
        message = _message("promoted", by, reason)

        def make(snapshot: Snapshot) -> Plan:
            made = steer.plan_promotion(snapshot, self.clock.now(), message, stratum)
            if not made.effects:
                raise IllegalTransitionError("no stage is open")
            return made

        self._steer(rollout_id, by, "promote", make, maker=person)

    def skip(self, rollout_id: str, caller: Principal, reason: str, stage: str, stratum: str | None) -> None:
        """Leave a stage out that has not opened; one with an approval only a person who could give it. Raises what `approve` does too."""
        if not reason.strip():
            raise ReasonNeededError("a stage is left out only with a reason", next_step="give one: --reason 'why'")
        message = _message("left out", caller.name, reason)

        def make(snapshot: Snapshot) -> Plan:
            names = [one.name for one in snapshot.spec.stages]
            if stage not in names:
                raise IllegalTransitionError(f"its stages are {', '.join(names)}")
            wanted = snapshot.spec.stages[names.index(stage)]
            if wanted.approval is not None:
                refuse_unless_second_person(wanted, caller, self._makers(rollout_id), touched_by(snapshot.spec))
            if wanted is snapshot.spec.stages[0] and self._fleet.protection.covered(snapshot.spec.selector):
                raise IllegalTransitionError(f"{stage} has to be approved: a protection rule covers its devices")
            made = steer.plan_skip(snapshot, self.clock.now(), message, names.index(stage), stratum)
            if not made.effects:
                raise IllegalTransitionError(f"{stage} has opened, or is over")
            return made

        self._steer(rollout_id, caller.name, "leave a stage out", make, maker=caller.person)

    def retry(self, rollout_id: str, by: str, reason: str, choice: retry.Choice, person: str = "") -> None:
        """Give devices on which the release failed another try; see `commands.retry`. Raises IllegalStateError, ActiveExistsError."""
        message = _message("retried", by, reason)

        def make(snapshot: Snapshot) -> Plan:
            self._withdrawals.keep_deployable(ReleaseRef.parse(snapshot.spec.release))
            made = retry.plan_retry(snapshot, self.clock.now(), message, choice)
            if snapshot.state is RolloutState.FINISHED:
                self._refuse_if_in_the_way(rollout_id, made)
            return made

        self._steer(rollout_id, by, "retry", make, is_making=True, maker=person)

    def _refuse_if_in_the_way(self, rollout_id: str, made: Plan) -> None:
        """Raise ActiveExistsError when an open rollout of the model has one of the devices: this one has no claim on them any more."""
        mine = {one.assignment.device for one in made.effects if isinstance(one, AssignmentTransitioned)}
        with self._db.session() as session:
            row = store_rollouts.rollout(session, rollout_id)
            crowd = DeviceSet(ids=assignments.named_in(session, row.id, mine))
            for other in overlaps(session, self._fleet.offers, row.model, row.selector, crowd):
                raise in_the_way(other)

    def leave_release(self, ref: ReleaseRef, by: str, reason: str) -> list[RolloutId]:
        """End the open rollouts of a release that is being withdrawn, in the caller's transaction; return them.

        What has switched stays. One that is rolling back already goes on: it leads away from the release.
        """
        with self._db.session() as session:
            rows = [row for row in store_rollouts.active(session, ref.model) if row.version == ref.version]
            ids = [RolloutId(row.id) for row in rows if row.state != RolloutState.ROLLING_BACK.value]
        for one in ids:
            self._steer(one, by, "withdraw", lambda snap: steer.plan_withdrawal(snap, self.clock.now(), reason))
        return ids

    def undo(self, name: str, by: str, reason: str, *, dry_run: bool) -> undo.UndoView:
        """Take every device of a model (`name`), or of one release (`name@version`), back to what it ran before.

        dry_run: only tell what it would do. Raises NothingToUndoError, InvalidNameError.
        """
        only = self._resolve(name) if "@" in name else None
        model = only.model if only is not None else parse_model_name(name)
        message = _message("undone", by, reason)
        with self._db.session() as session:
            store_rollouts.lock_making(session, model)
            found = self._undoer.look(session, model, only)
            rollouts = [] if dry_run else self._carry_undo(session, found, by, message)
        if not dry_run:
            self.wake()
        names = self._fleet.offers.display_names(undo.shown_devices(found))
        return undo.view_of(model, found, names, dry_run=dry_run, rollouts=rollouts)

    def _carry_undo(self, session: Session, found: Undo, by: str, message: str) -> list[str]:
        now = self.clock.now()
        done: list[str] = []
        for rollout_id in steered(found.targets):
            row = store_rollouts.rollout(session, rollout_id, lock=True)
            row.fence += 1
            snapshot = self.loader.snapshot(session, row)
            self.carrier.carry(session, row, snapshot, undo.plan_reopening(snapshot, now, message), actor=by, now=now)
            done.append(row.id)
        for release, targets in undo.adopted(found.targets):
            spec = parse_spec(undo.spec_of(release))
            row = self._insert(session, spec, ReleaseRef.parse(release), secrets.token_hex(SALT_BYTES), by, behind=())
            row.fence += 1  # devices run its release: it is under way, and does not wait with those that begin
            snapshot = self.loader.snapshot(session, row)
            made = undo.plan_adoption(snapshot, now, message, targets)
            self.carrier.carry(session, row, snapshot, made, actor=by, now=now)
            done.append(row.id)
        return done

    def approve(self, rollout_id: str, caller: Principal, reason: str, stratum: str | None) -> None:
        """Let the stages that wait for it open. Raises NotApproverError, OwnApprovalError, IllegalStateError."""
        message = _message("approved", caller.name, reason)
        self._answer(rollout_id, caller, "approve", stratum, message)

    def deny(self, rollout_id: str, caller: Principal, reason: str, stratum: str | None) -> None:
        """Refuse the stages that wait; see `control.plan_denial`. Raises NotApproverError, IllegalStateError."""
        message = _message("denied", caller.name, reason)
        self._answer(rollout_id, caller, "deny", stratum, message)

    def _answer(self, rollout_id: str, caller: Principal, verb: str, stratum: str | None, message: str) -> None:
        def make(snapshot: Snapshot) -> Plan:
            cells = awaiting_approval(snapshot.cells, stratum)
            if not cells or snapshot.state not in ROLLOUT_WALKS:
                raise IllegalTransitionError("no stage waits for an approval")
            stages, now = [snapshot.spec.stages[cell.stage] for cell in cells], self.clock.now()
            touched = touched_by(snapshot.spec)
            for stage in stages:
                if verb == "deny":
                    refuse_unless_in_role(stage, caller, touched)
                else:
                    refuse_unless_second_person(stage, caller, self._makers(rollout_id), touched)
            if verb == "deny":
                return steer.plan_denial(snapshot, now, message, stratum)
            return steer.plan_approval(snapshot, now, caller.name, message, stratum)

        self._steer(rollout_id, caller.name, verb, make)

    def _makers(self, rollout_id: str) -> Makers:
        with self._db.session() as session:
            row = store_rollouts.rollout(session, rollout_id)
            return Makers(row.makers, row.created_by)

    def _steer(
        self, rollout_id: str, by: str, verb: str, make: Callable[[Snapshot], Plan], *, is_making: bool = False, maker: str = "",
    ) -> None:  # fmt: skip
        """Carry a command out. is_making: it may open the rollout again, so none of its model may be made now; maker: a person's id."""
        with self._db.session() as session:
            if is_making:
                store_rollouts.lock_making(session, store_rollouts.rollout(session, rollout_id).model)
            row = store_rollouts.rollout(session, rollout_id, lock=True)
            row.fence += 1
            snapshot = self.loader.snapshot(session, row)
            try:
                made = make(snapshot)
            except IllegalTransitionError as error:
                raise IllegalStateError(
                    f"rollout {row.id} is {row.state}: it cannot {verb} ({error})",
                    next_step=f"see its state: `edgectl rollout show {row.id}`",
                ) from error
            after = self.carrier.carry(session, row, snapshot, made, actor=by, now=self.clock.now())
            row.makers = with_maker(row.makers, maker)
            self._remember(session, row, after)
        self.wake()

    def _remember(self, session: Session, row: Rollout, after: Sequence[Assignment]) -> None:
        """Let this process know, once it is committed, how a rollout's assignments stand: a dry run never is."""
        rollout_id, fence = row.id, row.fence
        listen(session, "after_commit", lambda _session: self.loader.memory.wrote(rollout_id, fence, after), once=True)

    def wake(self) -> None:
        """Let the engine look at once."""
        for waker in self._wakers:
            waker()


def _message(what: str, by: str, reason: str) -> str:
    return f"{what} by {by}: {reason.strip()}" if reason.strip() else f"{what} by {by}"


def _new_id() -> str:
    return "r-" + base64.b32encode(secrets.token_bytes(8)).decode().rstrip("=").lower()
