"""The stages of a rollout as a pipeline: what each is doing, how long still, and the same for each hardware profile. Pure.

A profile has a row of its own only where the profiles differ: in the state of a stage, or because a device failed or is held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from edgefleet_server.dashboard.core.rows import SIGN_ICONS, step_sign
from edgefleet_server.rollout.placement import devices_of
from edgefleet_server.rollout.spec.model import Size
from edgefleet_server.rollout.status.reader import RolloutView, StageView, StratumView

MOST_LANES: Final = 6
LEVEL: Final = 5
"""With more stages than this a pipeline goes downwards at any width."""
_OVER: Final = ("finished", "rolled_back", "rolling_back", "rollback_incomplete", "cancelled", "failed", "regressed")


class StepKind(StrEnum):
    """How a step is drawn."""

    DONE = "done"
    NOW = "now"
    HELD = "held"
    STOP = "stop"
    ENDED = "ended"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Lane:
    """One hardware profile (stratum) in a stage: a count in words and its bar. good, bad, open: percents of the bar."""

    stratum: str
    kind: StepKind
    count: str
    words: str
    good: float = 0.0
    bad: float = 0.0
    open: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Devices of a lane. have: they took it up, and have not failed or gone back; silent: they did not accept in time, and are no
    evidence; back: sent back.

    more: those that a stage to come takes in, or would have where the rollout is over.
    """

    members: int
    have: int
    healthy: int
    failed: int
    silent: int
    more: int
    back: int
    is_over: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One stage. says: what it does, or did; at, more: a time that follows, and what follows that.

    soaked: percents of its soak that are over, None while it does not soak.
    """

    idx: int
    name: str
    size: str
    kind: StepKind
    says: str
    soaked: float | None
    together: Lane
    lanes: Sequence[Lane]
    at: datetime | None = None
    more: str = ""

    @property
    def icon(self) -> str:
        """The name of its picture, "" for an empty circle."""
        return SIGN_ICONS[self.kind]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """All stages. strata: those with a row of their own, none where all are alike; left: how many more differ."""

    steps: Sequence[Step]
    strata: Sequence[str]
    count: int
    left: int = 0

    @property
    def shape(self) -> str:
        """Its class for the style sheet: the number of columns, or that it goes downwards."""
        return f"n{len(self.steps)}" if len(self.steps) <= LEVEL else "down"


def pipeline(rollout: RolloutView, now: datetime) -> Pipeline:
    """Return the stages of a rollout as they stand at `now`."""
    names = sorted({cell.stratum for stage in rollout.stages for cell in stage.strata})
    apart = [name for name in names if _differs(rollout.stages, name)] if len(names) > 1 else []
    to_come = _to_come(rollout)
    shown = names if apart and len(names) <= MOST_LANES else apart[:MOST_LANES]
    steps = [_step(rollout, stage, shown, now, to_come) for stage in rollout.stages]
    return Pipeline(steps, shown, len(names), left=len(apart) - min(len(apart), len(shown)))


def _differs(stages: Sequence[StageView], stratum: str) -> bool:
    """Return whether a stratum stands otherwise than most, or something failed or is held in it."""
    for stage in stages:
        mine = next((one for one in stage.strata if one.stratum == stratum), None)
        if mine is None:
            continue
        states = [one.state for one in stage.strata]
        usual = max(sorted(set(states)), key=states.count)
        if mine.counts.failed or mine.counts.unreachable or mine.state in ("failed", "held") or mine.state != usual:
            return True
    return False


More = Mapping[tuple[int, str], int]


def _to_come(rollout: RolloutView) -> More:
    """Return how many more devices each stage of a stratum takes in that is not open; nothing where only the plan can say it."""
    plain = rollout.spec["stages"]
    if any(one["size"].get("count_total") or one["match"] or one["mode"] != "active" for one in plain):
        return {}
    found: dict[tuple[int, str], int] = {}
    for name in {cell.stratum for stage in rollout.stages for cell in stage.strata}:
        cells = [next((one for one in stage.strata if one.stratum == name), None) for stage in rollout.stages]
        population, before = max((one.population for one in cells if one is not None), default=0), 0
        for at, one in enumerate(plain):
            size = max(before, devices_of(Size(**one["size"]), population))
            found[at, name], before = size - before, size
    return found


def _step(rollout: RolloutView, stage: StageView, strata: Sequence[str], now: datetime, to_come: More) -> Step:
    kind = _kind(stage.state, is_person=bool(stage.stopped_by) and stage.counts.failed == 0)
    is_over = rollout.state in _OVER
    cells = {one.stratum: one for one in stage.strata}
    lanes = [
        _lane(cells[name], to_come.get((stage.idx, name), 0), is_over=is_over)
        if name in cells
        else Lane(name, StepKind.NEVER, "", "no devices")
        for name in strata
    ]
    says, at, more = _says(rollout, stage, kind, now)
    return Step(
        idx=stage.idx,
        name=stage.name,
        size=stage.size_text,
        kind=kind,
        says=says,
        at=at,
        more=more,
        soaked=_soaked(stage, now) if stage.state == "soaking" else None,
        together=_together(stage, sum(to_come.get((stage.idx, name), 0) for name in cells), is_over=is_over),
        lanes=lanes,
    )


def _kind(state: str, *, is_person: bool = False) -> StepKind:
    return StepKind(step_sign(state, by_person=is_person))


Said = tuple[str, datetime | None, str]


def _says(rollout: RolloutView, stage: StageView, kind: StepKind, now: datetime) -> Said:
    match kind:
        case StepKind.DONE:
            if stage.state == "skipped":
                return "Skipped", None, ""
            took = "" if stage.opened_at is None else f", took {span(_between(stage.opened_at, stage.ended_at))}"
            return "Passed", stage.ended_at, took
        case StepKind.STOP | StepKind.ENDED:
            ended = [one.ended_at for one in stage.strata if one.state == "failed" and one.ended_at is not None]
            after = f" after {span(_between(stage.opened_at, min(ended)))}" if stage.opened_at and ended else ""
            return f"Stopped{f' by {stage.stopped_by}' if kind is StepKind.ENDED else ''}{after}", None, ""
        case StepKind.HELD:
            return "Held: waits for a person", None, ""
        case StepKind.NOW:
            return _doing(stage, now), None, ""
        case _:
            return ("Never opened", None, "") if rollout.state in _OVER else _opening(rollout, stage, now)


def _doing(stage: StageView, now: datetime) -> str:
    match stage.state:
        case "soaking":
            ends = soak_end(stage)
            return "Soaking" if ends is None else f"Soaking, {span(max(timedelta(), ends - now))} left"
        case "judging":
            return "Soak over, being judged"
        case _:
            return "Installing"


def _opening(rollout: RolloutView, stage: StageView, now: datetime) -> Said:
    """Return when a stage opens, as far as the soak of the one before it says: evidence may take longer."""
    before = rollout.stages[stage.idx - 1] if stage.idx else None
    ends = None if before is None or before.state != "soaking" else soak_end(before)
    if rollout.state == "paused":
        return "Paused", None, ""
    if any(cell.approval is not None and not cell.approval.approved_by for cell in stage.strata):
        return "Opens after an approval", None, ""
    return ("Not open yet", None, "") if ends is None else ("Opens at about", max(ends, now), "")


def soak_end(stage: StageView) -> datetime | None:
    """Return when the last soak of a stage ends, None where none runs."""
    return max((one.soak_until for one in stage.strata if one.soak_until and one.state == "soaking"), default=None)


def _soaked(stage: StageView, now: datetime) -> float | None:
    ends = soak_end(stage)
    if ends is None or stage.soak_s <= 0:
        return None
    return round(100 * min(1.0, max(0.0, 1 - (ends - now).total_seconds() / stage.soak_s)), 1)


def _lane(one: StratumView, more: int, *, is_over: bool) -> Lane:
    counts = one.counts
    tally = Tally(
        members=one.members,
        have=counts.healthy + counts.pending,
        healthy=counts.healthy,
        failed=counts.failed,
        silent=counts.unreachable,
        more=more,
        back=counts.rolled_back,
        is_over=is_over,
    )
    return _lane_of(
        one.stratum, _kind(one.state, is_person=bool(one.stopped_by) and not counts.failed), one.state, tally
    )


def _together(stage: StageView, more: int, *, is_over: bool) -> Lane:
    tally = Tally(
        members=sum(one.members for one in stage.strata),
        have=sum(one.counts.healthy + one.counts.pending for one in stage.strata),
        healthy=sum(one.counts.healthy for one in stage.strata),
        failed=sum(one.counts.failed for one in stage.strata),
        silent=sum(one.counts.unreachable for one in stage.strata),
        more=more,
        back=sum(one.counts.rolled_back for one in stage.strata),
        is_over=is_over,
    )
    return _lane_of("", _kind(stage.state, is_person=bool(stage.stopped_by) and not tally.failed), stage.state, tally)


def _lane_of(stratum: str, kind: StepKind, state: str, tally: Tally) -> Lane:
    if kind is StepKind.NEVER or not tally.members:
        words = "skipped" if state == "skipped" else "no devices" if kind is StepKind.DONE else _not_opened(tally)
        return Lane(stratum, kind, "", words)
    of, healthy, failed = tally.members - tally.silent, tally.healthy, tally.failed
    if not of:
        return Lane(stratum, kind, "", f"{tally.silent} silent")
    silent = f", {tally.silent} silent" if tally.silent else ""
    if failed:
        return Lane(stratum, kind, f"{failed} of {of}", f"failed{silent}", _share(healthy, of), _share(failed, of))
    if tally.back and not healthy:
        return Lane(stratum, kind, f"{tally.back} of {of}", f"sent back{silent}")
    is_soaking = tally.have > healthy
    count, words = (tally.have, "have it") if is_soaking else (healthy, "healthy")
    return Lane(
        stratum, kind, f"{count} of {of}", f"{words}{silent}", _share(healthy, of), 0.0, _share(of - healthy, of)
    )


def _not_opened(tally: Tally) -> str:
    if not tally.more:
        return "never opened" if tally.is_over else "not open yet"
    devices = f"device{'' if tally.more == 1 else 's'}"
    return f"{tally.more} {devices} never got it" if tally.is_over else f"{tally.more} more {devices}"


def _share(part: int, whole: int) -> float:
    return round(100 * min(part, whole) / whole, 2)


def _between(begin: datetime, end: datetime | None) -> timedelta:
    return timedelta() if end is None else max(timedelta(), end - begin)


def span(length: timedelta) -> str:
    """Return a length of time as people say it: `52 s`, `6:12 min`, `27 min`, `3 h 5 min`, `2 d`."""
    seconds = round(length.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60}:{seconds % 60:02} min"
    if seconds < 7200:
        return f"{round(seconds / 60)} min"
    if seconds < 172_800:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h" + (f" {rest} min" if rest else "")
    return f"{round(seconds / 86_400)} d"
