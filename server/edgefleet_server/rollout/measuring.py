"""Takes what devices showed for the quality gate: each device's values once, a fixed time after its switch, in the tick's transaction.

Its own module because it reads telemetry and writes rows, while the planner only looks at them. Rules:
- A device is due when its period after the switch is over, once in each mode: as a candidate, and as what serves; in stages
  whose values are evidence there or later (`is_measured`). It is taken when it and its control device have answers enough.
- Its control device is one of the same stratum that was not offered the release until now, was no control device before, and has
  data; of those the one that will be offered it last. With nobody left the device is taken alone ("unpaired").
- What was taken is never changed: a decision that rests on it can be made again. Who sends nothing is never taken, and so counts
  as missing.
- So nobody is measured twice, also not when a finished rollout is reopened. The evidence counts devices, each of them once: two values
  of one device are not two devices that agree, and of looking again until something is found there would be no end. One device
  alone never reopens a rollout: its value has one vote in a test that takes twenty at the least (`quality`, with the defaults). What turns
  bad on a device after its period is told by the device itself, as a regression (`hearing`).
Source: fleet.md §5.4 (1, 4); ADR 0038.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout import measures, quality_store
from edgefleet_server.rollout.facts import is_gone
from edgefleet_server.rollout.machines import EXPOSED_STATES
from edgefleet_server.rollout.membership import rank
from edgefleet_server.rollout.model import Assignment, RolloutState, Snapshot
from edgefleet_server.rollout.quality_model import Control, DeviceQuality, QualityGate
from edgefleet_server.rollout.quality_planning import is_measured
from edgefleet_server.telemetry.model import PeriodWindow
from edgefleet_server.telemetry.service import TelemetryService

AT_ONCE: Final = 25
"""Devices looked at in one tick, and three times as many that might be their control: a tick stays short."""
CANDIDATES: Final = 3 * AT_ONCE
WINDOWS: Final = 400
"""Newest windows of a device that are read: at a window each 15 minutes four days."""
TRY_AGAIN: Final = timedelta(minutes=1)
_TAKES: Final = frozenset(
    {RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL, RolloutState.FINISHED, RolloutState.REGRESSED}
)
"""While it is paused nobody knows who is left to compare with."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    """A device whose period is over."""

    assignment: Assignment
    began: datetime
    digest: str


class Measurer:
    """Takes values. Remembers for a minute whom it asked in vain, which is no state that anything rests on."""

    def __init__(self, telemetry: TelemetryService) -> None:
        self._telemetry = telemetry
        self._tried: dict[tuple[str, DeviceId], datetime] = {}

    def take(self, session: Session, snapshot: Snapshot, model: str, now: datetime) -> Snapshot:
        """Return the snapshot with what was measured by now; what is new is stored."""
        gate = snapshot.spec.quality
        if gate is None or snapshot.state not in _TAKES:
            return snapshot
        due = list(self._due(snapshot, gate, now))[:AT_ONCE]
        if not due:
            return snapshot
        for one in due:
            self._tried[snapshot.id, one.assignment.device] = now
        candidates = {
            stratum: _candidates(snapshot, stratum) for stratum in sorted({one.assignment.stratum for one in due})
        }
        asked = {one.assignment.device for one in due} | {d for some in candidates.values() for d in some}
        since = min(one.began for one in due) - gate.before
        windows = self._telemetry.periods(sorted(asked), model, since, windows=WINDOWS)
        taken = list(take_all(gate, due, candidates, windows, now))
        quality_store.add(session, snapshot.id, taken)
        if taken:
            _log.info("rollout measured", extra={"rollout_id": snapshot.id, "devices": len(taken)})
        return replace(snapshot, measured=(*snapshot.measured, *taken))

    def _due(self, snapshot: Snapshot, gate: QualityGate, now: datetime) -> Iterator[_Due]:
        self._tried = {key: at for key, at in self._tried.items() if at + TRY_AGAIN > now}
        modes = [stage.shape.mode for stage in snapshot.spec.stages]
        known = {(one.device, modes[one.stage]) for one in snapshot.measured}
        asked = {stage for stage in range(len(modes)) if is_measured(snapshot.spec, stage)}
        fresh = [a for a in snapshot.assignments if a.stage in asked and (a.device, modes[a.stage]) not in known]
        waiting = [a for a in fresh if a.state in EXPOSED_STATES and not a.failed_before]
        for a in sorted(waiting, key=lambda a: (a.switched_at or now, a.device)):
            began = a.switched_at
            bundle = snapshot.bundles.get(a.stratum)
            if began is None or bundle is None or is_gone(a) or began + gate.after > now:
                continue
            if (snapshot.id, a.device) not in self._tried:
                yield _Due(a, began, bundle.sha256)


def take_all(
    gate: QualityGate,
    due: list[_Due],
    candidates: Mapping[ProfileName, list[DeviceId]],
    windows: Mapping[str, list[PeriodWindow]],
    now: datetime,
) -> Iterator[DeviceQuality]:
    """Yield what can be taken of the devices that are due. candidates: who may be compared with, best first."""
    left = {stratum: list(some) for stratum, some in candidates.items()}
    for one in due:
        a = one.assignment
        own = measures.read(windows.get(a.device, ()), one.digest, one.began, gate, is_control=False)
        if not measures.is_ready(own, one.began, gate, now):
            continue
        control, reading = "", None
        if gate.control is Control.HOLDOUT and candidates.get(a.stratum):
            found = _control(gate, one, left[a.stratum], windows, now)
            if found is None:
                continue
            control, reading = found
            left[a.stratum].remove(DeviceId(control))
        yield DeviceQuality(
            device=a.device,
            stratum=a.stratum,
            stage=a.stage,
            control=control,
            began_at=one.began,
            taken_at=now,
            spans=measures.spans(own, reading, gate),
            drift=own.drift,
            control_drift=None if reading is None else reading.drift,
            is_serving=own.is_serving,
        )


def _control(
    gate: QualityGate, one: _Due, left: list[DeviceId], windows: Mapping[str, list[PeriodWindow]], now: datetime
) -> tuple[str, measures.Reading] | None:
    for device in left:
        reading = measures.read(windows.get(device, ()), one.digest, one.began, gate, is_control=True)
        if reading.answers_before >= gate.min_inferences and measures.is_ready(reading, one.began, gate, now):
            return device, reading
    return None


def _candidates(snapshot: Snapshot, stratum: ProfileName) -> list[DeviceId]:
    """Return the devices of a stratum that do not have the release, who gets it last first, without those who served before."""
    used = {one.control for one in snapshot.measured}
    known = {a.device: a for a in snapshot.assignments}
    free = [m.device for m in snapshot.members if m.stratum == stratum and m.device not in used]
    untouched = [d for d in free if d not in known or _is_untouched(known[d])]
    return sorted(untouched, key=lambda device: rank(snapshot.salt, device), reverse=True)[:CANDIDATES]


def _is_untouched(a: Assignment) -> bool:
    return a.state is AssignmentState.ELIGIBLE and not a.gen
