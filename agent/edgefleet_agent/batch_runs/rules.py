"""When a planned batch runs. Pure (docs/how-to/infer-on-a-schedule.md).

1. A run begins at its planned time or at the first look after it, and never while another one goes on. LATE_S after it: late.
2. Of several planned times that passed, the last is run, late, and the others are missed; with `skip` all of them are.
3. A clock before CLOCK_FLOOR_S, or a day and more before the newest time that this device knew, is not believed for WAIT_S: it was
   not set yet. What a clock jumps over when it is set was not missed. One that goes back by more than BACK_S gets a new plan.
4. However clocks jump, two runs begin at least half their distance, or 30 s for cron lines, apart.
5. A run that was cut off is begun again with the same planned time, TRIES times at most.
"""

from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from edgefleet_agent.batch_runs.model import RunState
from edgefleet_protocol.run_schedule import Plan

LATE_S: Final = 60
BACK_S: Final = 3_600
WAIT_S: Final = 900.0
DAY_S: Final = 86_400
CLOCK_FLOOR_S: Final = 1_735_689_600
"""The beginning of 2025: no clock that was ever set shows less."""
TRIES: Final = 3
MOST_MISSED: Final = 1_000
CUT_OFF: Final = "run.cut_off"


@dataclass(frozen=True, slots=True)
class Moment:
    """now_s: unix seconds by the device's clock. real_s: since agentd began, never jumps. began_s: real_s of the run before."""

    now_s: float
    real_s: float
    began_s: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a look came to. begin: run `state.run_s` now. news: `missed`, `late` or `failed`, and of how many runs."""

    state: RunState
    begin: bool = False
    news: tuple[tuple[str, int], ...] = ()
    is_waiting: bool = False


def looked(plan: Plan, state: RunState, at: Moment, *, catch_up: bool) -> Decision:
    """Return what is to be done now, while no run goes on."""
    now_s = int(at.now_s)
    if now_s < max(CLOCK_FLOOR_S, state.seen_s - DAY_S) and at.real_s < WAIT_S:
        return Decision(state, is_waiting=True)
    if not state.due_s or now_s < state.seen_s - BACK_S or (now_s >= CLOCK_FLOOR_S > state.due_s):
        # the first look, or a clock that was set: what was planned by another clock is not missed
        is_over = 0 < state.due_s <= now_s and catch_up
        state = replace(state, due_s=now_s if is_over else plan.next_s(now_s))
    state = replace(state, seen_s=now_s)
    gap_s = plan.every_s / 2 or 30.0
    if at.began_s is not None and at.real_s - at.began_s < gap_s:
        return Decision(state)
    if state.run_s:
        if state.tries < TRIES:
            return Decision(replace(state, tries=state.tries + 1), begin=True)
        return ended(state, CUT_OFF, f"it was cut off {TRIES} times")
    if state.due_s > now_s:
        return Decision(state)
    return _due(plan, state, now_s, catch_up=catch_up)


def _due(plan: Plan, state: RunState, now_s: int, *, catch_up: bool) -> Decision:
    last_s, passed = state.due_s, 1
    for start in plan.starts(state.due_s):
        if start > now_s or passed > MOST_MISSED:
            break
        last_s, passed = start, passed + 1
    is_late = now_s - last_s > LATE_S
    runs = catch_up or not is_late
    missed, late = passed - runs, int(runs and is_late)
    news = tuple((word, n) for word, n in (("missed", missed), ("late", late)) if n)
    state = replace(
        state, due_s=plan.next_s(now_s), missed=state.missed + missed, late=state.late + late,
        run_s=last_s if runs else 0, tries=int(runs),
    )  # fmt: skip
    return Decision(state, runs, news)


def ended(state: RunState, code: str, reason: str) -> Decision:
    """Return how a schedule stands when its run is over. code: "" when it ended well."""
    done = replace(state, run_s=0, tries=0, runs=state.runs + 1, code=code, reason=reason[:200])
    if code:
        return Decision(replace(done, failed=state.failed + 1), news=(("failed", 1),))
    return Decision(replace(done, ok_s=state.run_s))
