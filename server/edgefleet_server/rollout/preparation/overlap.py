"""How rollouts of one model meet: which of them want the same device, and what `supersede` of the newer one says.

A new rollout (`service`) and one that waits its turn (`loader`) ask it. Reads only.
Source: docs/reference/rollout-spec.md; ADR 0035.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlmodel import Session

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.fleet.reported.reader import ReportedStateReader
from edgefleet_server.fleet.selectors.count import NOTHING_SHARED, DeviceSet
from edgefleet_server.fleet.selectors.grammar import GROUP, Selector, parse_selector
from edgefleet_server.rollout.errors import ActiveExistsError
from edgefleet_server.rollout.model import RolloutState, StageState
from edgefleet_server.rollout.spec.model import Membership, Spec
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.store import assignments, rollouts
from edgefleet_server.rollout.store.tables import Rollout


@dataclass(frozen=True, slots=True)
class Overlap:
    """An older rollout that is open, and the devices that both want: how many, and the first by id."""

    other: Rollout
    devices: int
    first: DeviceId


@dataclass(frozen=True, slots=True)
class OpenRollout:
    """An open rollout that wants devices of another one. devices: how many both want."""

    id: str
    name: str
    release: str
    devices: int


def open_rollouts(found: Iterable[Overlap]) -> list[OpenRollout]:
    """Return overlaps as values that outlive their session."""
    return [
        OpenRollout(one.other.id, one.other.name, f"{one.other.model}@{one.other.version}", one.devices)
        for one in found
    ]


def overlaps(
    session: Session, reports: ReportedStateReader, model: str, selector: str, mine: DeviceSet
) -> Iterator[Overlap]:
    """Yield the open rollouts of a model that want one of these devices, which `selector` matches, oldest first."""
    others = rollouts.active(session, model)
    asked = parse_selector(selector)
    apart = {other.id for other in others if _are_apart(asked, other)}
    # what was assigned by another selector may match this one by now: asked of all of these at once
    strays = reports.count_shared_each(mine, assignments.assigned_to_each(session, sorted(apart))) if apart else {}
    for other in others:
        if other.id in apart:
            shared = strays.get(other.id, NOTHING_SHARED)
        else:
            theirs = (DeviceSet(ids=assignments.assigned_to(other.id)), _crowd_of(stored_spec(other.spec), other.id))
            shared = reports.count_shared(mine, theirs)
        if shared.devices:
            yield Overlap(other, shared.devices, shared.first)


def _crowd_of(spec: Spec, rollout_id: str) -> DeviceSet:
    """Return the devices that belong to a rollout."""
    is_fixed = spec.membership is Membership.SNAPSHOT
    return DeviceSet(ids=rollouts.frozen_in(rollout_id)) if is_fixed else DeviceSet(spec.selector)


def _are_apart(mine: Selector, other: Rollout) -> bool:
    """Return whether no device can match a selector and that of another rollout: both name values of one fact, other ones."""
    if other.spec.get("membership") == Membership.SNAPSHOT:
        return False  # who is in it matched once, whatever it is now
    theirs = parse_selector(other.selector)
    keys = {one.key for one in mine.requirements} - {GROUP}  # a device may be in several groups
    pairs = ((mine.exactly(key), theirs.exactly(key)) for key in keys)
    return any(a is not None and b is not None and not a & b for a, b in pairs)


def queued_behind(session: Session, reports: ReportedStateReader, row: Rollout, spec: Spec) -> tuple[str, ...]:
    """Return the open rollouts that want one of its devices and have begun, or are queued since before this one was made.

    What has begun goes first whatever the clocks of two servers say: nothing newer begins while this one is queued.
    """
    mine = _crowd_of(spec, row.id)
    found = (one.other for one in overlaps(session, reports, row.model, spec.selector, mine))
    mine_at = (row.created_at, row.id)
    return tuple(one.id for one in found if one.state != RolloutState.VALIDATING or (one.created_at, one.id) < mine_at)


def is_going_back(session: Session, row: Rollout) -> bool:
    """Return whether a rollout is taking its release back somewhere: nothing may come between."""
    cells = rollouts.cells(session, row.id)
    return row.state == RolloutState.ROLLING_BACK or any(cell.state is StageState.FAILED for cell in cells)


def in_the_way(overlap: Overlap, *, is_going_back: bool = False) -> ActiveExistsError:
    """Return the refusal of a rollout that another one is in the way of."""
    other = overlap.other
    state = other.state.replace("_", " ")
    message = f"rollout {other.id} of {other.model}@{other.version} is {state} and shares {overlap.devices} "
    advice = f"wait until it has ended, or run `edgectl rollout abort {other.id}`"
    if is_going_back:
        advice = f"it is rolling back: wait until it has ended (`edgectl rollout watch {other.id}`), then create this one again"
    return ActiveExistsError(f"{message}devices with this one, including {overlap.first}", next_step=advice)
