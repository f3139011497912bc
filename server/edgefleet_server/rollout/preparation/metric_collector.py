"""Takes what devices showed for the quality gate: each device's values once, a fixed time after its switch, in the tick's transaction.

It reads telemetry and writes rows; the planner only looks at them. Rules:
- A device is due when its period after the switch is over, once in each mode: as a candidate, and as what serves; in stages
  whose values are evidence there or later (`_is_measured`). It is taken when it and its control device have answers enough.
- Its control device is one of the same stratum that was not offered the release until now, was no control device in this mode
  before (each mode is a test of its own), and has data; of those the one that will be offered it last. With nobody left the
  device is taken alone ("unpaired").
- What was taken is never changed: a decision that rests on it can be made again. Who sends nothing is never taken, and so counts
  as missing.
- So nobody is measured twice, also not when a finished rollout is reopened. The evidence counts devices, each of them once: two values
  of one device are not two devices that agree, and of looking again until something is found there would be no end. One device
  alone never reopens a rollout: its value has one vote in a test that takes twenty at the least (`quality`, with the defaults). What turns
  bad on a device after its period is reported by the device itself, as a regression (`planner.observe`).
Source: ADR 0038.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import device_metrics
from edgefleet_server.rollout.model import Assignment, DeviceQuality, RolloutState, Snapshot
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.spec.model import Control, Metric, Mode, QualityGate, Spec, gate_in
from edgefleet_server.rollout.state_machines import EXPOSED_STATES, is_gone
from edgefleet_server.rollout.store import measurements
from edgefleet_server.telemetry.model import PeriodWindow
from edgefleet_server.telemetry.service import TelemetryService

AT_ONCE: Final = 25
"""Devices taken in one tick: a tick stays short."""
CANDIDATES: Final = 3 * AT_ONCE
"""Devices that might be the control of one."""
LOOKS: Final = 100
"""Devices whose windows are read in one tick, but for the last one's candidates: it is done first."""
WINDOWS: Final = 12_000
"""Newest windows of a device that are read of a period: at one a minute, as exposed devices send them, eight days."""
WINDOWS_AT_ONCE: Final = 40_000
"""Windows read in one tick, but for the last device's: some seconds of it, far from the end of the rollout's lease."""
LONGEST: Final = timedelta(hours=1)
"""A window that lies across the switch began so long before it at the most: those of metered devices."""
TRY_AGAIN: Final = timedelta(minutes=1)
FORGOTTEN: Final = timedelta(hours=1)
_TAKES: Final = frozenset(
    {RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL, RolloutState.FINISHED, RolloutState.REGRESSED}
)
"""While it is paused nobody knows who is left to compare with."""
_log = logging.getLogger(__name__)


Look = Callable[[DeviceId, datetime, bool], Sequence[PeriodWindow]]
"""Returns the windows of a device before a moment, or (True) from about it on. Apart: most are before, and not always needed."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A device whose period is over."""

    assignment: Assignment
    began: datetime
    digest: str


class MetricCollector:
    """Takes values. Remembers for an hour whom it asked in vain, which is no state that anything rests on."""

    def __init__(self, telemetry: TelemetryService) -> None:
        self._telemetry = telemetry
        self._tried: dict[tuple[str, DeviceId], datetime] = {}

    def take(self, session: Session, snapshot: Snapshot, model: str, now: datetime) -> Snapshot:
        """Return the snapshot with what was measured by now; what is new is stored."""
        gate = snapshot.spec.gates.quality
        if gate is None:
            return snapshot

        asks_labels = any(one.name is Metric.ACCURACY for one in gate.metrics)

        def look(device: DeviceId, began: datetime, is_later: bool) -> Sequence[PeriodWindow]:
            """Read before and after apart: many windows of the one must not crowd out the other."""
            first, last = began - gate.before, began + gate.after + device_metrics.LATE
            middle = max(first, began - LONGEST)
            since, until = (middle, last) if is_later else (first, middle)
            found = self._telemetry.periods([device], model, since, until, windows=WINDOWS).get(device, ())
            return [*found, *self._telemetry.labelled(device, model, since, until)] if asks_labels else found

        taken = self.values(snapshot, look, now)
        measurements.add(session, snapshot.id, taken)
        if taken:
            _log.info("rollout measured", extra={"rollout_id": snapshot.id, "devices": len(taken)})
        return replace(snapshot, measured=(*snapshot.measured, *taken))

    def values(self, snapshot: Snapshot, look: Look, now: datetime) -> list[DeviceQuality]:
        """Return the values of devices that are due and can be taken now; a part of them where they are many."""
        gate = snapshot.spec.gates.quality
        if gate is None or snapshot.state not in _TAKES:
            return []
        looks = windows = 0

        def counted(device: DeviceId, began: datetime, is_later: bool) -> Sequence[PeriodWindow]:
            nonlocal looks, windows
            found = look(device, began, is_later)
            looks += is_later
            windows += len(found)
            return found

        taken: list[DeviceQuality] = []
        left: dict[tuple[ProfileName, Mode], list[DeviceId]] = {}
        alone: set[tuple[ProfileName, Mode]] = set()
        for one in list(self._due(snapshot, gate, now))[:AT_ONCE]:
            if looks >= LOOKS or windows >= WINDOWS_AT_ONCE:
                break
            self._tried[snapshot.id, one.assignment.device] = now
            lane = one.assignment.stratum, snapshot.spec.stages[one.assignment.stage].mode
            if lane not in left:
                left[lane] = _candidates(snapshot, *lane)
                alone |= set() if left[lane] else {lane}
            found = _taken(gate, one, left[lane], counted, now, is_alone=lane in alone)
            if found is not None:
                taken.append(found)
        return taken

    def _due(self, snapshot: Snapshot, gate: QualityGate, now: datetime) -> Iterator[_Due]:
        """Yield who is due, those first who were not asked in vain, or longest ago: nobody keeps the others waiting for ever."""
        self._tried = {key: at for key, at in self._tried.items() if at + FORGOTTEN > now}
        modes = [stage.mode for stage in snapshot.spec.stages]
        known = {(one.device, modes[one.stage]) for one in snapshot.measured}
        asked = {stage for stage in range(len(modes)) if _is_measured(snapshot.spec, stage)}
        fresh = [a for a in snapshot.assignments if a.stage in asked and (a.device, modes[a.stage]) not in known]
        waiting = [a for a in fresh if a.state in EXPOSED_STATES and not a.failed_before]
        tried = {a.device: at for a in waiting if (at := self._tried.get((snapshot.id, a.device))) is not None}
        long_ago = now - 2 * FORGOTTEN
        for a in sorted(waiting, key=lambda a: (tried.get(a.device, long_ago), a.switched_at or now, a.device)):
            began = a.switched_at
            bundle = snapshot.bundles.get(a.stratum)
            if began is None or bundle is None or is_gone(a) or device_metrics.taken_from(began, gate) > now:
                continue
            if a.device not in tried or tried[a.device] + TRY_AGAIN <= now:
                yield _Due(a, began, bundle.sha256)


def _taken(
    gate: QualityGate, one: _Due, left: list[DeviceId], look: Look, now: datetime, *, is_alone: bool
) -> DeviceQuality | None:
    """Return what can be taken of a device that is due. left: whom it may be compared with, best first; who serves it leaves.

    is_alone: there was nobody to begin with. One device's windows are held at a time: each may have thousands.
    """
    a = one.assignment
    own = _reading(gate, one, a.device, look, now)
    if own is None:
        return None
    control, reading = "", None
    if gate.control is Control.HOLDOUT and not is_alone:
        found = _control(gate, one, left, look, now)
        if found is None:
            return None
        control, reading = found
        left.remove(DeviceId(control))
    return DeviceQuality(
        device=a.device,
        stratum=a.stratum,
        stage=a.stage,
        control=control,
        began_at=one.began,
        taken_at=now,
        spans=device_metrics.spans(own, reading, gate),
        drift=own.drift,
        control_drift=None if reading is None else reading.drift,
        is_serving=own.is_serving,
    )


def _control(
    gate: QualityGate, one: _Due, left: list[DeviceId], look: Look, now: datetime
) -> tuple[str, device_metrics.Reading] | None:
    for device in left:
        reading = _reading(gate, one, device, look, now)
        if reading is not None and reading.answers_before >= gate.min_inferences:
            return device, reading
    return None


def _reading(
    gate: QualityGate, one: _Due, device: DeviceId, look: Look, now: datetime
) -> device_metrics.Reading | None:
    """Return what a device showed before and after another's switch (or its own), None where it is not known yet."""
    is_control = device != one.assignment.device
    later = look(device, one.began, True)
    if not device_metrics.is_ready(
        device_metrics.read(later, one.digest, one.began, gate, is_control=is_control), one.began, gate, now
    ):
        return None
    earlier = look(device, one.began, False)
    return device_metrics.read([*earlier, *later], one.digest, one.began, gate, is_control=is_control)


def _candidates(snapshot: Snapshot, stratum: ProfileName, mode: Mode) -> list[DeviceId]:
    """Return the devices of a stratum that do not have the release, who gets it last first, without those who served the mode."""
    stages = snapshot.spec.stages
    used = {one.control for one in snapshot.measured if stages[one.stage].mode is mode}
    known = {a.device: a for a in snapshot.assignments}
    free = [m.device for m in snapshot.members if m.stratum == stratum and m.device not in used]
    untouched = [d for d in free if d not in known or _is_untouched(known[d])]
    return sorted(untouched, key=lambda device: rank(snapshot.salt, device), reverse=True)[:CANDIDATES]


def _is_untouched(a: Assignment) -> bool:
    return a.state is AssignmentState.ELIGIBLE and not a.gen


def _is_measured(spec: Spec, stage: int) -> bool:
    """Return whether values of a stage's devices are evidence anywhere: in the stage, or in a later one of its mode."""
    later = range(stage, len(spec.stages))
    return any(spec.stages[one].mode is spec.stages[stage].mode and gate_in(spec, one) is not None for one in later)
