"""Snapshots in which something is missing: what lost rows, lost reports, silent devices and unfinished soaks leave behind.

Its own module beside `gaps`, which tries the same on the facts of a decision: here the planner counts the facts itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.effects import Plan, StageRunTransitioned
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    Member,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
)
from edgefleet_server.rollout.placement import cut_of, rank
from edgefleet_server.rollout.spec.model import Promote, Size, Spec, StageSpec
from edgefleet_server.rollout.state_machines import IN_FLIGHT

NOW: Final = datetime(2026, 1, 5, tzinfo=UTC)
SOAK: Final = timedelta(hours=1)
STRATUM: Final = ProfileName("rpi5-ort")
NEW: Final = Bundle("digits/new/rpi5-ort.bundle", Sha256("1" * 64), 9)
OLD: Final = Bundle("digits/old/rpi5-ort.bundle", Sha256("2" * 64), 9)

Gap = Callable[[random.Random, Snapshot], Snapshot]


def whole(chance: random.Random) -> Snapshot:
    """Return a snapshot on which the canary passes, with nothing to spare: each of its devices is needed."""
    canaries, others = chance.choice([(2, 1), (5, 20), (60, 12), (73, 0), (73, 100)])
    size = Size(count=canaries)
    spec = Spec(
        "digits@new",
        "",
        (
            StageSpec("canary", size, SOAK, Promote.AUTO),
            StageSpec("rest", Size(percent=100), timedelta(), Promote.AUTO),
        ),
    )
    salt = str(chance.random())
    devices = [DeviceId(f"dev-{number:04}") for number in range(canaries + others)]
    devices.sort(key=lambda device: rank(salt, device))
    cut = cut_of(size, [rank(salt, device) for device in devices], 0, None)
    state = chance.choice([StageState.EXPOSING, StageState.SOAKING, StageState.JUDGING])
    opened_at = NOW - timedelta(hours=chance.uniform(3, 40))
    canary = StageRun(0, STRATUM, state, cut, len(devices), opened_at=opened_at, soak_until=NOW - timedelta(minutes=1))
    return Snapshot(
        id=RolloutId("r-1"),
        state=RolloutState.RUNNING,
        spec=spec,
        salt=salt,
        bundles={STRATUM: NEW},
        members=tuple(Member(device, STRATUM) for device in devices),
        cells=(canary, StageRun(1, STRATUM, StageState.PENDING)),
        assignments=tuple(_healthy(device, opened_at, chance) for device in devices[:canaries]),
        reports={device: _fine(chance) for device in devices[:canaries]},
    )


def gap(chance: random.Random) -> tuple[Snapshot, str]:
    """Return a snapshot that would pass but for one gap, and what the gap is."""
    name = chance.choice(list(GAPS))
    return GAPS[name](chance, whole(chance)), name


def passes(plan: Plan) -> bool:
    """Say whether a plan lets a stage pass."""
    return any(isinstance(one, StageRunTransitioned) and one.cell.state is StageState.PASSED for one in plan.effects)


def _healthy(device: DeviceId, opened_at: datetime, chance: random.Random) -> Assignment:
    switched_at = opened_at + timedelta(hours=chance.uniform(0.1, 1.9))
    return Assignment(
        device=device,
        stage=0,
        stratum=STRATUM,
        state=AssignmentState.HEALTHY,
        attempt=1,
        gen=7,
        previous=OLD,
        offered_at=opened_at,
        exposed_at=opened_at,
        entered_at=switched_at,
        switched_at=switched_at,
        ended_at=switched_at,
    )


def _fine(chance: random.Random) -> Report:
    return Report(
        reported_gen=7,
        phase=Phase.COMMITTED,
        active_sha256=NEW.sha256,
        wanted_sha256=NEW.sha256,
        attempt=1,
        gen=7,
        is_online=chance.random() < 0.9,
        last_seen=NOW,
        wanted_by_server=NEW.sha256,
        set_by="r-1",
    )


def _some(chance: random.Random, snapshot: Snapshot, least: int = 1) -> set[DeviceId]:
    devices = [one.device for one in snapshot.assignments]
    return set(chance.sample(devices, chance.randint(min(least, len(devices)), len(devices))))


def _change(snapshot: Snapshot, chosen: set[DeviceId], **values: object) -> Snapshot:
    changed = (a.but(**values) if a.device in chosen else a for a in snapshot.assignments)
    return replace(snapshot, assignments=tuple(changed))


def _without_reports(snapshot: Snapshot, chosen: set[DeviceId]) -> Snapshot:
    return replace(
        snapshot, reports={device: said for device, said in snapshot.reports.items() if device not in chosen}
    )


def _lost_rows(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """Assignments that are not there, though their devices are members below the cut."""
    chosen = _some(chance, snapshot)
    kept = tuple(a for a in snapshot.assignments if a.device not in chosen)
    return replace(snapshot, assignments=kept)


def _on_the_way(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """Offered or further, not there yet; nothing was heard of them."""
    chosen = _some(chance, snapshot)
    state = chance.choice(sorted(IN_FLIGHT))
    later = NOW + timedelta(minutes=chance.uniform(1, 600))
    fresh = _change(snapshot, chosen, state=state, switched_at=None, ended_at=None, deadline=later)
    return _without_reports(fresh, chosen)


def _silent(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """Past their deadline, never heard of: unreachable when they never took it up, lost when they did."""
    chosen = _some(chance, snapshot, least=1 + len(snapshot.assignments) // 4)
    state = chance.choice(sorted(IN_FLIGHT))
    fresh = _change(snapshot, chosen, state=state, switched_at=None, ended_at=None, deadline=NOW - timedelta(hours=1))
    return _without_reports(fresh, chosen)


def _in_soak(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """Healthy, but not for as long as their soak."""
    since = NOW - SOAK + timedelta(seconds=chance.uniform(0.001, 3599))
    return _change(snapshot, _some(chance, snapshot), switched_at=since)


def _no_switch(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """Healthy, and nobody knows since when."""
    return _change(snapshot, _some(chance, snapshot), switched_at=None)


def _unreachable(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    chosen = _some(chance, snapshot, least=1 + len(snapshot.assignments) // 4)
    gone = _change(snapshot, chosen, state=AssignmentState.UNREACHABLE, switched_at=None, exposed_at=None)
    return _without_reports(gone, chosen)


def _nobody(_chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """No member and no assignment is left."""
    return replace(snapshot, members=(), assignments=(), reports={})


def _runs_another(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """Healthy by the rows, but the device says that it runs something else."""
    chosen = _some(chance, snapshot)
    said = {
        device: replace(report, active_sha256=OLD.sha256, error_class=chance.choice(list(ErrorClass)))
        if device in chosen
        else report
        for device, report in snapshot.reports.items()
    }
    return replace(snapshot, reports=said)


def _failed(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    kind = chance.choice(list(ErrorClass)).value
    return _change(snapshot, _some(chance, snapshot), state=AssignmentState.FAILED, error_class=kind)


def _taken_back(chance: random.Random, snapshot: Snapshot) -> Snapshot:
    """By the server, so that it says nothing of the release."""
    values = {"state": AssignmentState.ROLLED_BACK, "back_gen": 9, "back_at": NOW, "back_done_at": NOW}
    return _change(snapshot, {a.device for a in snapshot.assignments}, **values)


GAPS: dict[str, Gap] = {
    "lost rows": _lost_rows,
    "on the way": _on_the_way,
    "silent": _silent,
    "in soak": _in_soak,
    "no switch": _no_switch,
    "unreachable": _unreachable,
    "nobody": _nobody,
    "runs another": _runs_another,
    "failed": _failed,
    "taken back": _taken_back,
}
