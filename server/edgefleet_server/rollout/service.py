"""Rollouts as the rest of the server sees them: make one, steer one, look at them (`reader`).

Thread-safe; calls block; every write joins the caller's transaction. A person's command raises the rollout's fence, so a tick
of the engine that began before it writes nothing.
"""

import base64
import secrets
from collections.abc import Callable
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId, ReleaseRef, RolloutId
from edgefleet_server.db import Database
from edgefleet_server.fleet.service import FleetService
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout import control, store
from edgefleet_server.rollout.carrying import Carrier, event_of
from edgefleet_server.rollout.errors import ActiveExistsError, IllegalStateError, LintError, ReasonNeededError
from edgefleet_server.rollout.facts import UNCOUNTED
from edgefleet_server.rollout.loading import Loader
from edgefleet_server.rollout.machines import (
    IllegalTransitionError,
    RolloutEvent,
    step_rollout,
)
from edgefleet_server.rollout.measuring import Measurer
from edgefleet_server.rollout.model import Member, Plan, RolloutState, Snapshot, Spec
from edgefleet_server.rollout.planning import PlanView, plan
from edgefleet_server.rollout.spec import dump_spec, parse_spec
from edgefleet_server.rollout.tables import Rollout
from edgefleet_server.rollout.views import RolloutReader
from edgefleet_server.telemetry.service import TelemetryService

SALT_BYTES: Final = 16


class RolloutService:
    """Makes and steers rollouts."""

    def __init__(
        self,
        db: Database,
        fleet: FleetService,
        registry: RegistryService,
        clock: Clock,
        telemetry: TelemetryService | None = None,
    ) -> None:
        """Wire the parts; from then on a group that an open rollout's selector names cannot be deleted.

        Without telemetry nothing can be measured: a rollout with a quality gate passes no stage.
        """
        self._db = db
        self._fleet = fleet
        self._clock = clock
        self.loader = Loader(fleet, registry)
        self.measurer = Measurer(telemetry)
        self.carrier = Carrier(fleet, self.loader)
        self.reader = RolloutReader(db, fleet, clock)
        self._wakers: list[Callable[[], None]] = []
        fleet.add_group_guard(self._uses_group)

    def on_change(self, waker: Callable[[], None]) -> None:
        """Call `waker` when a rollout was made or steered: the engine looks at once."""
        self._wakers.append(waker)

    # ---- making

    def plan(self, document: Any) -> PlanView:
        """Return what a spec would do now, with its findings. Raises BadSpecError and what the registry raises."""
        return self._plan(parse_spec(document), _new_salt())

    def plan_of(self, rollout_id: str) -> PlanView:
        """Return who belongs to which stage of a rollout, and why. Raises RolloutUnknownError.

        Cuts of stages that were opened stay as they are, and so do devices that take part, whatever the selector says now.
        """
        with self._db.read() as session:
            row = store.rollout(session, rollout_id)
            spec = parse_spec(row.spec)
            known = {one.device: one for one in store.assignments(session, row.id)}
            members = [one for one in self.loader.members(row.selector) if one.device not in known]
            members += [Member(one.device, one.stratum) for one in known.values() if one.state not in UNCOUNTED]
            cuts = {
                (one.stage, one.stratum): one.cut for one in store.cells(session, row.id) if one.opened_at is not None
            }
            return plan(spec, row.salt, members, self.loader.bundles(ReleaseRef.parse(spec.release)), cuts)

    def create(self, document: Any, by: str) -> RolloutId:
        """Start a rollout; return its id. Raises BadSpecError, LintError, ActiveExistsError and what the registry raises."""
        spec = parse_spec(document)
        ref = ReleaseRef.parse(spec.release)
        salt = _new_salt()
        with self._db.session() as session:
            store.lock_making(session, ref.model)
            self._fleet.pin_groups(spec.selector)
            planned = self._plan(spec, salt)
            problems = [finding for finding in planned.findings if finding.level == "error"]
            if problems:
                raise LintError(planned.findings)
            self._refuse_overlap(session, spec, ref)
            row = self._insert(session, spec, ref, salt, by)
        self._wake()
        return RolloutId(row.id)

    def _insert(self, session: Session, spec: Spec, ref: ReleaseRef, salt: str, by: str) -> Rollout:
        now = self._clock.now()
        row = Rollout(
            id=_new_id(),
            name=spec.name,
            model=ref.model,
            version=ref.version,
            selector=spec.selector,
            spec=dump_spec(spec),
            salt=salt,
            state=RolloutState.DRAFT.value,
            created_at=now,
            created_by=by,
            started_at=now,
            next_eval_at=now,
        )
        session.add(row)
        session.flush()
        events = []
        for event, reason in ((RolloutEvent.VALIDATE, "created"), (RolloutEvent.START, "its spec has no error")):
            before = RolloutState(row.state)
            row.state, row.reason = step_rollout(before, event).value, reason
            events.append(event_of(row, "rollout", before.value, row.state, by, reason=reason))
        self._fleet.add_events(events)
        return row

    def _plan(self, spec: Spec, salt: str) -> PlanView:
        bundles = self.loader.bundles(ReleaseRef.parse(spec.release))
        return plan(spec, salt, self.loader.members(spec.selector), bundles)

    def _refuse_overlap(self, session: Session, spec: Spec, ref: ReleaseRef) -> None:
        """Two open rollouts of one model must not want the same device: each would undo the other."""
        mine: set[DeviceId] = {member.device for member in self.loader.members(spec.selector)}
        for other in store.active(session, ref.model):
            theirs = {one.device for one in store.assignments(session, other.id)}
            theirs |= {member.device for member in self.loader.members(other.selector)}
            shared = sorted(mine & theirs)
            if shared:
                raise ActiveExistsError(
                    f"Rollout {other.id} of {other.model}@{other.version} is {other.state} and shares {len(shared)} "
                    f"devices with this one, {shared[0]} among them.",
                    next_step=f"Let it end, or `edgectl rollout abort {other.id}`.",
                )

    # ---- steering

    def pause(self, rollout_id: str, by: str, reason: str) -> None:
        """Stop offering; devices that have not begun their switch are stopped too. Raises IllegalStateError."""
        said = _said("paused", by, reason)
        self._steer(rollout_id, by, "pause", lambda snapshot: control.plan_pause(snapshot, self._clock.now(), said))

    def resume(self, rollout_id: str, by: str, reason: str) -> None:
        """Go on after a pause. Raises IllegalStateError."""
        said = _said("resumed", by, reason)
        self._steer(rollout_id, by, "resume", lambda snapshot: control.plan_resume(snapshot, self._clock.now(), said))

    def abort(self, rollout_id: str, by: str, reason: str, *, rollback: bool) -> None:
        """End it for good; with `rollback` every device goes back to what it ran before. Raises IllegalStateError."""
        said = _said("aborted", by, reason)
        self._steer(
            rollout_id,
            by,
            "abort",
            lambda snapshot: control.plan_abort(snapshot, self._clock.now(), said, rollback=rollback),
        )

    def promote(self, rollout_id: str, by: str, reason: str, stratum: str | None) -> None:
        """Let the open stage pass on a person's word. Raises ReasonNeededError, IllegalStateError."""
        if not reason.strip():
            raise ReasonNeededError(
                "A stage passes on a person's word only with a reason.", next_step="Give one: --reason 'why'."
            )
        said = _said("promoted", by, reason)

        def make(snapshot: Snapshot) -> Plan:
            made = control.plan_promotion(snapshot, self._clock.now(), said, stratum)
            if not made.effects:
                raise IllegalTransitionError("no stage is open")
            return made

        self._steer(rollout_id, by, "promote", make)

    def _steer(self, rollout_id: str, by: str, verb: str, make: Callable[[Snapshot], Plan]) -> None:
        with self._db.session() as session:
            row = store.rollout(session, rollout_id, lock=True)
            row.fence += 1
            snapshot = self.loader.snapshot(session, row)
            try:
                made = make(snapshot)
            except IllegalTransitionError as error:
                raise IllegalStateError(
                    f"Rollout {row.id} is {row.state}: it cannot {verb} ({error}).",
                    next_step=f"See where it stands: `edgectl rollout show {row.id}`.",
                ) from error
            self.carrier.carry(session, row, snapshot, made, actor=by, now=self._clock.now())
        self._wake()

    def _wake(self) -> None:
        for waker in self._wakers:
            waker()

    def _uses_group(self, group: str) -> str | None:
        with self._db.read() as session:
            for row in store.active(session):
                if group in self._fleet.groups_in(row.selector):
                    return f"rollout {row.id} of {row.model}@{row.version} is {row.state} and names it"
        return None


def _said(what: str, by: str, reason: str) -> str:
    return f"{what} by {by}: {reason.strip()}" if reason.strip() else f"{what} by {by}"


def _new_id() -> str:
    return "r-" + base64.b32encode(secrets.token_bytes(8)).decode().rstrip("=").lower()


def _new_salt() -> str:
    return secrets.token_hex(SALT_BYTES)
