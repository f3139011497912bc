"""When a planned batch runs: restarts, clocks that jump, and runs that are missed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.batch_runs.model import RunState
from edgefleet_agent.batch_runs.rules import CUT_OFF, MOST_MISSED, TRIES, WAIT_S, Decision, Moment, ended, looked
from edgefleet_protocol.run_schedule import Plan, plan_of

NOON = int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())
HOURLY = plan_of("1h")
LOOK_S = 5


@dataclass
class Device:
    """A device that looks each LOOK_S. now_s: its clock; real_s: since agentd began; on: what really passed."""

    plan: Plan = HOURLY
    now_s: float = NOON + 1
    real_s: float = 0.0
    on_s: float = 0.0
    catch_up: bool = True
    takes_s: float = 0.0
    state: RunState = field(default_factory=RunState)
    began_s: float | None = None
    ends_s: float | None = None
    begun: list[tuple[float, int]] = field(default_factory=list)
    news: list[tuple[str, int]] = field(default_factory=list)
    is_waiting: bool = False

    def look(self) -> None:
        if self.ends_s is not None:
            if self.real_s < self.ends_s:
                return
            self.ends_s = None
            self._take(ended(self.state, "", ""))
        found = looked(self.plan, self.state, Moment(self.now_s, self.real_s, self.began_s), catch_up=self.catch_up)
        self.is_waiting = found.is_waiting
        self._take(found)
        if found.begin:
            self.begun.append((self.on_s, self.state.run_s))
            self.began_s, self.ends_s = self.real_s, self.real_s + self.takes_s
            if not self.takes_s:
                self._take(ended(self.state, "", ""))
                self.ends_s = None

    def _take(self, found: Decision) -> None:
        self.state = found.state
        self.news += found.news

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds // LOOK_S)):
            self.now_s += LOOK_S
            self.real_s += LOOK_S
            self.on_s += LOOK_S
            self.look()

    def restart(self, away_s: float = 0.0, clock_s: float | None = None) -> None:
        """A power cut: what runs is gone, what is on disk stays."""
        self.now_s = self.now_s + away_s if clock_s is None else clock_s
        self.on_s += away_s
        self.real_s, self.began_s, self.ends_s = 0.0, None, None
        self.look()

    @property
    def planned(self) -> list[int]:
        return [planned - NOON for _, planned in self.begun]


def test_runs_begin_at_their_times() -> None:
    device = Device()
    device.run(3 * 3600)
    assert device.planned == [3600, 7200, 10800]
    assert (device.state.ok_s, device.news) == (NOON + 10800, [])
    assert (device.state.runs, device.state.missed, device.state.late) == (3, 0, 0)


def test_one_run_stands_for_all_that_were_missed() -> None:
    device = Device()
    device.run(3600)
    device.restart(away_s=5.5 * 3600)
    assert device.planned == [3600, 6 * 3600]
    assert device.news == [("missed", 4), ("late", 1)]
    device.run(3600)
    assert device.planned[2:] == [7 * 3600]
    assert (device.state.missed, device.state.late) == (4, 1)


def test_with_skip_what_was_missed_is_not_run() -> None:
    device = Device(catch_up=False)
    device.run(1800)
    device.restart(away_s=5.4 * 3600)
    assert (device.planned, device.news) == ([], [("missed", 5)])
    device.run(1800)
    assert device.planned == [6 * 3600]


def test_a_run_that_lasts_over_the_next_times_is_never_overlapped() -> None:
    device = Device(takes_s=2.5 * 3600)
    device.run(6 * 3600 + 600)
    assert device.planned == [3600, 3 * 3600, 6 * 3600]
    assert device.news == [("missed", 1), ("late", 1), ("missed", 2)]


def test_a_run_that_was_cut_off_is_begun_again_for_the_same_time() -> None:
    device = Device(takes_s=600)
    device.run(3600)
    device.restart(away_s=30)
    device.restart(away_s=30)
    assert device.planned == [3600] * TRIES
    device.restart(away_s=30)
    assert (device.planned, device.news) == ([3600] * TRIES, [("failed", 1)])
    assert (device.state.code, device.state.failed) == (CUT_OFF, 1)
    device.run(3600)
    assert device.planned[TRIES:] == [7200]


def test_a_clock_of_1970_waits_and_is_not_counted_when_it_is_set() -> None:
    device = Device(now_s=20.0)
    device.run(600)
    assert device.is_waiting
    assert device.begun == []
    device.now_s = NOON + 60.0
    device.run(3600)
    assert (device.planned, device.news) == ([3600], [])


def test_a_device_that_never_learns_the_time_runs_by_the_clock_it_has() -> None:
    device = Device(now_s=20.0)
    device.run(2 * 3600 + WAIT_S)
    assert [planned for _, planned in device.begun] == [3600, 7200]
    device.now_s = NOON + 1800.0
    device.run(1200)
    assert len(device.begun) == 3, "one run, and not those of 56 years"
    assert device.state.missed == 0


def test_a_boot_in_1970_loses_no_run_and_repeats_none() -> None:
    device = Device()
    device.run(3600)
    device.restart(away_s=0, clock_s=15.0)
    device.run(300)
    device.now_s = NOON + 3600 + 400.0
    device.run(3600)
    assert (device.planned, device.news) == ([3600, 7200], [])


def test_a_clock_that_was_wrong_by_years_and_is_set_back_goes_on() -> None:
    device = Device(now_s=NOON + 10 * 365 * 86_400.0)
    device.run(3600)
    device.now_s = NOON + 10.0
    device.run(2 * 3600 + 30)
    assert device.planned[1:] == [3600, 7200]


@pytest.mark.parametrize("back_s", [2, 60, 1200, 3500])
def test_a_clock_that_goes_back_a_little_repeats_nothing(back_s: int) -> None:
    device = Device()
    device.run(3600)
    device.now_s -= back_s
    device.run(back_s + 3595)
    assert device.planned == [3600, 7200][: 1 + (device.now_s >= NOON + 7200)]


def test_years_that_a_clock_jumps_forward_are_one_run() -> None:
    device = Device(plan=plan_of("60s"))
    device.run(300)
    runs = len(device.begun)
    device.now_s += 20 * 365 * 86_400
    device.run(30)
    assert len(device.begun) - runs <= 2
    assert device.state.missed <= MOST_MISSED


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(30, 3_000)),
        st.tuples(st.just("jump"), st.integers(-60 * 365 * 86_400, 30 * 365 * 86_400) | st.integers(-8_000, 8_000)),
        st.tuples(st.just("off"), st.integers(0, 200_000)),
        st.tuples(st.just("boot in 1970"), st.integers(0, 5_000)),
    ),
    max_size=15,
)


@given(
    steps=STEPS, every=st.sampled_from(["60s", "15m", "1h", "*/5 * * * *", "30 2 * * *"]), takes_s=st.integers(0, 400)
)
def test_however_clocks_jump_runs_are_no_more_than_real_time_allows(
    steps: list[tuple[str, int]], every: str, takes_s: int
) -> None:
    device = Device(plan=plan_of(every), takes_s=float(takes_s))
    restarts = 0
    for what, n in steps:
        if what == "run":
            device.run(n)
        elif what == "jump":
            device.now_s = max(0.0, device.now_s + n)
            device.look()
        else:
            restarts += 1
            device.restart(away_s=n, clock_s=10.0 if what.startswith("boot") else None)
    gap_s = device.plan.every_s / 2 or 30.0
    awake_s = sum(n for what, n in steps if what == "run")
    assert len(device.begun) <= awake_s / gap_s + restarts + 1
    assert device.state.tries <= TRIES
    assert device.state.missed <= MOST_MISSED * (len(steps) + 1) + awake_s


@given(
    spans=st.lists(st.tuples(st.booleans(), st.integers(60, 20_000)), max_size=8),
    every=st.sampled_from(["15m", "1h", "30 2 * * *", "*/7 3 * * *"]),
    catch_up=st.booleans(),
)
def test_with_a_clock_that_is_right_each_planned_time_is_run_or_missed_once(
    spans: list[tuple[bool, int]], every: str, catch_up: bool
) -> None:
    device = Device(plan=plan_of(every), catch_up=catch_up)
    device.look()
    for is_on, n in spans:
        if is_on:
            device.run(n)
        else:
            device.restart(away_s=n - n % LOOK_S)
    planned = []
    for start in device.plan.starts(NOON + 1):
        if start >= device.state.due_s:
            break
        planned.append(start)
    assert device.plan.next_s(device.now_s) >= device.state.due_s
    ran = [one for _, one in device.begun]
    assert ran == sorted(set(ran))
    assert set(ran) <= set(planned)
    assert len(ran) + device.state.missed == len(planned)
