"""What an undo would do: which devices of a model go back, from which release, to which, and at what cost. Pure.

It looks over all rollouts of a model at once. Rules:
- While a rollout of the model is open, undo means that rollout: who has not got its release yet changes nothing.
- Else every device goes back to what it ran before the release that its document names now.
- What a device ran before is what the rollout noted that brought it there; where none did, what its other slot holds. A release
  that was taken back from the device is no version to roll back to.
- Going back costs no byte where a slot of the device still holds the bundle, as its last report says; else the whole bundle.
- A rollout that says where its devices go back to (`rollback_to`) takes them there.
- A rollout takes back only what it wrote into documents itself: devices that something newer set are taken back by a new one.
- A protected device goes back only by the rollout that brought its release, or to nothing (ADR 0118).
- A device that is already going back, or of which nothing older is known, is left alone, and named with that reason.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Plan
from edgefleet_server.rollout.model import FULL_CUT, Assignment, Bundle, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner import stages
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.document_state import needs_rollback
from edgefleet_server.rollout.planner.stages import OPENED
from edgefleet_server.rollout.spec.parser import API_VERSION, KIND
from edgefleet_server.rollout.state_machines import (
    CELL_OPEN,
    AssignmentEvent,
    IllegalTransitionError,
    RolloutEvent,
    StageEvent,
    moved,
)

MAX_DEVICES_SHOWN: Final = 50
_NAME_CHARS: Final = 63
NOTHING_OLDER: Final = "nothing older is known of it"
PROTECTED: Final = (
    "no rollout that can be undone brought its release, and the protection rule {} lets nothing else change it"
)
KEEPS: Final = "its rollout says `rollback_to: none`"
GOING_BACK: Final = "it is going back already"
UNDONE: Final = "undone"
"""Code of what a person took back."""
NOTHING: Final = ""
"""The release of a device that ran nothing of the model before: it will run nothing of it again."""
OPEN: Final = frozenset({RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL, RolloutState.PAUSED})
_OVER: Final = frozenset({RolloutState.FINISHED, RolloutState.REGRESSED})


@dataclass(frozen=True, slots=True)
class DeviceVersion:
    """A device whose document names the model. wanted: the bundle; gen: of the document; slots: digests it holds, its own report.

    set_by: the rollout that wrote the bundle into the document, "" = none did. other: the bundle in its other slot, None when nothing
    is reported of it or no signed bundle has that digest.
    """

    device: DeviceId
    stratum: ProfileName
    wanted: Bundle
    gen: int
    slots: frozenset[str]
    active_sha256: str
    other: Bundle | None
    set_by: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """One rollout of the model, with its devices. way_back, keeps: what `rollback_to` of its spec says."""

    id: RolloutId
    state: RolloutState
    release: str
    assignments: Mapping[DeviceId, Assignment]
    rollback_bundles: Mapping[ProfileName, Bundle] = field(default_factory=dict)
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """One device to roll back. rollout: the one that takes it back; None: none has it, a new one will."""

    standing: DeviceVersion
    runs: str
    back: Bundle | None
    rollout: RolloutId | None
    exposed_at: datetime | None = None

    @property
    def bytes(self) -> int:
        """Bytes that the device has to download to go back."""
        return 0 if self.back is None or self.back.sha256 in self.standing.slots else self.back.length


@dataclass(frozen=True, slots=True)
class UndoMove:
    """Devices of one profile that go the same way. back_to: "" = they ran nothing of the model before."""

    runs: str
    back_to: str
    profile: str
    devices: int
    downloads: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UndoDevice:
    """One device that goes back. source: `kept slot`, `download` or `nothing`."""

    device: str
    profile: str
    runs: str
    back_to: str
    source: str
    bytes: int
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class UndoLeft:
    """One device that stays as it is, and why."""

    device: str
    profile: str
    runs: str
    reason: str
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class UndoView:
    """What an undo does. devices_shown: the first 50 in the order in which they go back; rollouts: those that take them back."""

    model: str
    dry_run: bool
    devices: int
    downloads: int
    bytes: int
    moves: tuple[UndoMove, ...]
    devices_shown: tuple[UndoDevice, ...]
    left: tuple[UndoLeft, ...]
    rollouts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Undo:
    """The rollback targets of all devices, newest exposed first, and which devices are left alone."""

    targets: tuple[RollbackTarget, ...]
    left: tuple[UndoLeft, ...]


def release_of(bundle: Bundle | None) -> str:
    """Return the release that a bundle is of, `name@version`; "" for none. Its target is `name/version/profile.bundle`."""
    if bundle is None:
        return NOTHING
    name, version, _ = bundle.target.split("/")
    return f"{name}@{version}"


def undo(
    standings: Iterable[DeviceVersion],
    rollouts: Sequence[Known],
    only: str = "",
    withdrawn: Collection[str] = (),
    protected: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Undo:
    """Return who goes back to what. rollouts: of the model, newest first. only: the release to undo, "" = by the rules above.

    withdrawn: digests of bundles to which no device goes back. protected: the protection rules of devices that are under any.
    """
    open_now = {one.release for one in rollouts if one.state in OPEN}
    targets: list[RollbackTarget] = []
    left: list[UndoLeft] = []
    for standing in standings:
        runs = release_of(standing.wanted)
        if runs != only if only else (open_now and runs not in open_now):
            continue
        found = _target_of(standing, runs, rollouts)
        if isinstance(found, RollbackTarget) and found.back is not None and found.back.sha256 in withdrawn:
            found = f"{release_of(found.back)}, to which it would go back, was withdrawn"
        if isinstance(found, RollbackTarget) and standing.device in protected and not _may_go_back(found):
            found = PROTECTED.format(protected[standing.device][0])
        if isinstance(found, RollbackTarget):
            targets.append(found)
        else:
            left.append(UndoLeft(standing.device, standing.stratum, runs, found))
    targets.sort(
        key=lambda target: (target.exposed_at is not None, target.exposed_at, target.standing.device), reverse=True
    )
    return Undo(tuple(targets), tuple(sorted(left, key=lambda one: one.device)))


def _may_go_back(target: RollbackTarget) -> bool:
    """Whether a protected device may be taken back: by the rollout that brought its release, or to nothing of the model."""
    return target.rollout is not None or target.back is None


def _target_of(standing: DeviceVersion, runs: str, rollouts: Sequence[Known]) -> RollbackTarget | str:
    """Return the rollback target of a device, or why it has none."""
    taken_back = set[str]()
    for known in rollouts:
        one = known.assignments.get(standing.device)
        if one is None:
            continue
        if known.release != runs:
            if one.back_gen:
                taken_back.add(known.release)
            continue
        if known.state is RolloutState.ROLLING_BACK and one.back_gen:
            return GOING_BACK
        if not needs_rollback(one):
            continue
        if one.previous is not None and one.previous.sha256 == standing.wanted.sha256:
            break  # an offer of what it ran already: the other slot may know more
        is_steered = known.id == standing.set_by and (known.state in OPEN or known.state in _OVER)
        if is_steered and known.keeps:
            return KEEPS
        back = known.rollback_bundles.get(standing.stratum, one.previous) if is_steered else one.previous
        return RollbackTarget(standing, runs, back, known.id if is_steered else None, one.exposed_at or one.offered_at)
    other = standing.other
    if other is None or other.sha256 == standing.wanted.sha256 or release_of(other) in taken_back:
        return NOTHING_OLDER
    return RollbackTarget(standing, runs, other, None)


def shown_devices(found: Undo) -> list[DeviceId]:
    """Return the devices that an undo names: the first of those that go back, and all that stay."""
    going = [target.standing.device for target in found.targets[:MAX_DEVICES_SHOWN]]
    return [*going, *(DeviceId(one.device) for one in found.left)]


def view_of(
    model: str, found: Undo, names: Mapping[str, str], *, dry_run: bool, rollouts: Sequence[str] = ()
) -> UndoView:
    """Return an undo as people see it. names: the display names of `shown_devices`."""
    moves: dict[tuple[str, str, str], UndoMove] = {}
    for target in found.targets:
        key = (target.runs, release_of(target.back), target.standing.stratum)
        known = moves.get(key) or UndoMove(*key, devices=0, downloads=0, bytes=0)
        moves[key] = replace(
            known,
            devices=known.devices + 1,
            downloads=known.downloads + (target.bytes > 0),
            bytes=known.bytes + target.bytes,
        )
    return UndoView(
        model=model,
        dry_run=dry_run,
        devices=len(found.targets),
        downloads=sum(move.downloads for move in moves.values()),
        bytes=sum(move.bytes for move in moves.values()),
        moves=tuple(moves[key] for key in sorted(moves)),
        devices_shown=tuple(_shown(target, names) for target in found.targets[:MAX_DEVICES_SHOWN]),
        left=tuple(replace(one, display_name=names.get(one.device, "")) for one in found.left),
        rollouts=tuple(rollouts),
    )


def _shown(target: RollbackTarget, names: Mapping[str, str]) -> UndoDevice:
    device = target.standing.device
    source = "nothing" if target.back is None else "download" if target.bytes else "kept slot"
    return UndoDevice(
        device=device,
        profile=target.standing.stratum,
        runs=target.runs,
        back_to=release_of(target.back),
        source=source,
        bytes=target.bytes,
        display_name=names.get(device, ""),
    )


# ---- what the rollouts do


def plan_reopening(snapshot: Snapshot, now: datetime, reason: str, code: str = UNDONE) -> Plan:
    """Return what takes back a rollout that is open, has finished or regressed. Raises IllegalTransitionError in any other state."""
    plan = PlanBuilder(snapshot, now)
    reopen(plan, reason, code)
    return plan.build(now)


def plan_adoption(snapshot: Snapshot, now: datetime, reason: str, targets: Sequence[RollbackTarget]) -> Plan:
    """Return what makes a new, running rollout of the release that these devices have, and takes it back at once."""
    plan = PlanBuilder(snapshot, now)
    adopt(plan, reason, targets)
    return plan.build(now)


def reopen(plan: PlanBuilder, reason: str, code: str = UNDONE) -> None:
    """Take the release back everywhere; stages that passed stay so, those still open fail."""
    for run in list(plan.stage_runs.values()):
        if plan.state in OPEN and (run.state in CELL_OPEN or run.state is StageState.HELD):
            # straight to the builder: a rollout that waits for an approval does not run again in between
            plan.move_stage_run(stages.failed(plan, run, code, reason), StageEvent.FAIL)
    if plan.state is RolloutState.FINISHED:
        plan.move_rollout(RolloutEvent.REGRESS, code, reason)
    plan.move_rollout(RolloutEvent.ROLL_BACK, code, reason)


def adopt(plan: PlanBuilder, reason: str, targets: Sequence[RollbackTarget]) -> None:
    """Note the devices as what they are, and fail the one stage that they are in."""
    if plan.stage_runs or plan.state is not RolloutState.RUNNING:
        raise IllegalTransitionError("only a new rollout adopts devices")
    for stratum in sorted({target.standing.stratum for target in targets}):
        _open(plan, stratum, sum(target.standing.stratum == stratum for target in targets))
    for target in targets:
        _enroll(plan, target)
    reopen(plan, reason)


def _open(plan: PlanBuilder, stratum: ProfileName, population: int) -> None:
    run = StageRun(0, stratum, StageState.PENDING)
    plan.create_stage_run(run)
    opened = replace(
        run,
        cut=FULL_CUT,
        population=population,
        digest=plan.snapshot.bundles[stratum].sha256,
        opened_at=plan.now,
        code=OPENED,
        reason=f"{population} devices have the release already",
    )
    plan.move_stage_run(opened, StageEvent.OPEN)


def _enroll(plan: PlanBuilder, target: RollbackTarget) -> None:
    standing = target.standing
    fresh = Assignment(
        device=standing.device,
        stage=0,
        stratum=standing.stratum,
        state=AssignmentState.ELIGIBLE,
        gen=standing.gen,
        previous=target.back,
        exposed_at=target.exposed_at or plan.now,
        entered_at=plan.now,
    )
    plan.create_assignment(fresh)
    has_it = standing.active_sha256 == standing.wanted.sha256
    event = AssignmentEvent.HEALTHY if has_it else AssignmentEvent.ACK
    ended_at, switched_at = (plan.now, plan.now) if has_it else (None, None)
    plan.move_assignment(fresh, moved(fresh, event, plan.now, ended_at=ended_at, switched_at=switched_at))


def adopted(targets: Iterable[RollbackTarget]) -> Iterator[tuple[str, list[RollbackTarget]]]:
    """Yield the devices that a new rollout has to take back, by the release that they have."""
    by_release: dict[str, list[RollbackTarget]] = {}
    for target in targets:
        if target.rollout is None:
            by_release.setdefault(target.runs, []).append(target)
    yield from sorted(by_release.items())


def spec_of(release: str) -> dict[str, Any]:
    """Return the document of a rollout that only takes a release (`name@version`) back from the devices that have it."""
    model, _, version = release.partition("@")
    steps = [{"name": "undo", "size": {"percent": 100}, "soak": "0s", "promote": "all_healthy"}]
    spec = {"release": release, "selector": f"model.{model}={version}", "stages": steps}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": f"undo-{model}"[:_NAME_CHARS]}, "spec": spec}
