"""What the shipped `decide` does to good and bad releases, beside two well-known shapes of rules on the same draws.

`./dev soak rollout-montecarlo [--n RUNS] [--seed S]`. One run is one release going out to one large stratum, device by device:
- A device takes the release up, which is a report. It fails at once with class "internal", or is healthy after its soak, which
  ends when `lag` further devices took it up. Each of these is a report, and after each report the rules look.
- `decide` gets the facts as the planner counts them, of a stratum of 2,000 devices in one stage.
- The AWS-shaped rule stops when of at least `min_executed` devices with an outcome at least `threshold` % failed (the fields
  `minNumberOfExecutedThings`, `thresholdPercentage` of an abort criterion); 100 and 20 % are the figures of its documentation,
  10 and 3 % ask for the bound that `decide` keeps. It has no test for going on: it goes on until it stops.
- The hawkBit-shaped rule looks at groups of 100: it stops when more than `error` % of all targets of the group failed, and
  opens the next group when `success` % of them are done: when that happens first, the release counts as promoted.
- The same draws: every rule sees the same reports. A million gaps in the evidence are tried, too; none may promote.
- With a quality gate, strata and metrics: `quality_montecarlo`. With devices that lie: `liars_montecarlo`.
Reference figures: docs/explanation/rollouts.md, "The tests" (4,000 runs of an independent script).
"""

import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.model import Advance, Counts, Facts, RollBack, Rule
from tests.server.rollout import liars_montecarlo, quality_montecarlo
from tests.server.rollout.gaps import evidence_gap

P0: Final = 0.03
P1: Final = 0.05
STRATUM: Final = 2_000
QUALITY_STRATUM: Final = 600
"""Devices of each stratum with a quality gate at the bounds: each is a look at three metrics for all runs."""
LAG: Final = 20
BAD_RATIOS: Final = (0.10, 0.20, 0.50, 1.00)
MEDIAN_LIMITS: Final = (110, 26, 6, 3)
BAD_HORIZON: Final = 300
GAPS_PER_RUN: Final = 100
NEVER: Final = math.inf

REFERENCE: Final = {
    "false_abort": 0.0065,
    "false_promote": 0.042,
    "median_to_abort": [98, 21, 5, 2],
    "clean_to_promote": 73,
    "median_to_promote_at_1_pct": 129,
}

Look = Callable[[int, int, int], str]
"""exposed, healthy, failed -> "" (go on looking), STOP or PASS."""
STOP, PASS = "stop", "pass"


class Judge:
    """The shipped `decide` on the counts of one stratum; remembers its verdicts, because runs meet the same counts."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], str] = {}

    def __call__(self, exposed: int, healthy: int, failed: int) -> str:
        """Return what `decide` says of these counts."""
        key = (exposed, healthy, failed)
        verdict = self._known.get(key)
        if verdict is None:
            verdict = self._known[key] = self._ask(exposed, healthy, failed)
        return verdict

    def asked(self) -> int:
        """Return how many different facts were decided about."""
        return len(self._known)

    @staticmethod
    def _ask(exposed: int, healthy: int, failed: int) -> str:
        decision = decide(
            Facts(
                stage=0,
                stratum="x86",
                population=STRATUM,
                counts=Counts(
                    members=exposed,
                    exposed=exposed,
                    pending=exposed - healthy - failed,
                    healthy=healthy,
                    failed=failed,
                ),
                failures={"internal": failed} if failed else {},
                pooled_exposed=exposed,
                pooled_failed=failed,
                stage_members=exposed,
                stage_tried=exposed,
                rule=Rule.EVIDENCE,
            )
        )
        return STOP if isinstance(decision, RollBack) else PASS if isinstance(decision, Advance) else ""


def aws_shaped(min_executed: int, threshold: float) -> Look:
    """Return a rule that stops on a share of the devices that have an outcome."""

    def look(_exposed: int, healthy: int, failed: int) -> str:
        executed = healthy + failed
        return STOP if executed >= min_executed and 100 * failed >= threshold * executed else ""

    return look


class HawkbitShaped:
    """A rule that stops on a share of all targets of a group, and passes when a share of them is done. One per run.

    Failures are reported at once, so they belong to the group of the device that took the release up last; successes come in
    the order of the devices.
    """

    def __init__(self, group: int, error: float, success: float) -> None:
        self._group, self._error, self._success = group, error, success
        self._first = 1
        self._failed_before = 0
        self._failed = 0
        self._is_stopped = False

    def __call__(self, exposed: int, healthy: int, failed: int) -> str:
        """Return what it says of the group that the newest device belongs to."""
        if exposed >= self._first + self._group:
            self._first += self._group
            self._failed_before = self._failed
        self._failed = failed
        errors = failed - self._failed_before
        done = healthy - (self._first - 1 - self._failed_before)
        self._is_stopped = self._is_stopped or 100 * errors > self._error * self._group
        if self._is_stopped:
            return STOP
        return PASS if 100 * done >= self._success * self._group else ""


def contestants(judge: Judge) -> dict[str, Callable[[], Look]]:
    """Return the rules, each as what makes one for a run."""
    return {
        "edgefleet": lambda: judge,
        "aws_min100_20pct": lambda: aws_shaped(100, 20),
        "aws_min10_3pct": lambda: aws_shaped(10, 100 * P0),
        "hawkbit_group100_error3pct_success50pct": lambda: HawkbitShaped(100, 100 * P0, 50),
    }


@dataclass
class Tally:
    """How many devices were exposed when a rule stopped and when it first let the release pass, run by run."""

    stopped: list[float] = field(default_factory=list)
    passed: list[float] = field(default_factory=list)

    def share(self, when: list[float]) -> float:
        """Return the share of the runs in which it happened at all."""
        return sum(at < NEVER for at in when) / len(when)

    def median(self, when: list[float]) -> float | None:
        """Return the median number of devices; None when in most runs it never happened."""
        middle = statistics.median_low(when)
        return middle if middle < NEVER else None


def reports(failure_ratio: float, devices: int, lag: int, chance: random.Random) -> Iterator[tuple[int, int, int]]:
    """Yield exposed, healthy and failed after every report of one run."""
    healthy = failed = 0
    soaking: deque[int] = deque()
    for exposed in range(1, devices + 1):
        yield exposed, healthy, failed
        if chance.random() < failure_ratio:
            failed += 1
            yield exposed, healthy, failed
        else:
            soaking.append(exposed)
        while soaking and exposed - soaking[0] >= lag:
            soaking.popleft()
            healthy += 1
            yield exposed, healthy, failed
    for _ in soaking:
        healthy += 1
        yield devices, healthy, failed


def one_run(seen: Iterator[tuple[int, int, int]], looks: dict[str, Look], until: str) -> dict[str, dict[str, float]]:
    """Return per rule when it first stopped and first passed. A rule is not asked again after `until` happened to it."""
    first: dict[str, dict[str, float]] = {name: {STOP: NEVER, PASS: NEVER} for name in looks}
    asking = list(looks.items())
    for exposed, healthy, failed in seen:
        done = ""
        for name, look in asking:
            verdict = look(exposed, healthy, failed)
            if verdict and first[name][verdict] == NEVER:
                first[name][verdict] = exposed
                done = done or (name if verdict == until else "")
        if done:
            asking = [(name, look) for name, look in asking if first[name][until] == NEVER]
            if not asking:
                break
    return first


def play(
    rules: Mapping[str, Callable[[], Look]],
    failure_ratio: float,
    runs: int,
    seed: str,
    *,
    devices: int,
    lag: int,
    until: str,
) -> dict[str, Tally]:
    """Return the tally of every rule over the same `runs` runs."""
    chance = random.Random(seed)
    tallies = {name: Tally() for name in rules}
    for _ in range(runs):
        looks = {name: make() for name, make in rules.items()}
        seen = reports(failure_ratio, devices, lag, chance)
        for name, at in one_run(seen, looks, until).items():
            tallies[name].stopped.append(at[STOP])
            tallies[name].passed.append(at[PASS])
    return tallies


def margin(bound: float, runs: int) -> float:
    """Return how far beyond `bound` the share of a sample may lie by chance (4 standard deviations)."""
    return 4 * math.sqrt(bound * (1 - bound) / runs)


def gaps(count: int, seed: str) -> int:
    """Return how many of `count` random gaps in the evidence promote."""
    chance = random.Random(seed)
    return sum(isinstance(decide(evidence_gap(chance)[0]), Advance) for _ in range(count))


def main(
    n: int = 1000, seed: int | None = None, *, devices: int = STRATUM, measured: int = QUALITY_STRATUM
) -> dict[str, Any]:
    """Return the figures of `n` runs per release, and `ok`. devices, measured: how far the runs at the bounds go, without and with
    a quality gate."""
    chosen = random.SystemRandom().randrange(2**31) if seed is None else seed
    judge = Judge()
    rules = contestants(judge)
    ours = {"edgefleet": rules["edgefleet"]}
    at_p0 = play(rules, P0, n, f"{chosen}/p0", devices=devices, lag=LAG, until=STOP)
    at_p1 = play(rules, P1, n, f"{chosen}/p1", devices=devices, lag=0, until=PASS)
    bad = [play(rules, p, n, f"{chosen}/{p}", devices=BAD_HORIZON, lag=LAG, until=STOP) for p in BAD_RATIOS]
    clean = play(ours, 0.0, 1, f"{chosen}/0", devices=devices, lag=0, until=PASS)["edgefleet"]
    good = play(ours, 0.01, n, f"{chosen}/good", devices=devices, lag=0, until=PASS)["edgefleet"]
    compared = {name: _figures(at_p0[name], at_p1[name], [tallies[name] for tallies in bad]) for name in rules}
    figures = {
        **compared["edgefleet"],
        "clean_to_promote": clean.median(clean.passed),
        "median_to_promote_at_1_pct": good.median(good.passed),
        "gaps": GAPS_PER_RUN * n,
        "gaps_that_promote": gaps(GAPS_PER_RUN * n, f"{chosen}/gaps"),
    }
    quality = quality_montecarlo.main(n, chosen, devices=measured, audited=max(2, n // 250))
    lying = liars_montecarlo.main(n, chosen, devices=devices)
    failures = _misses(figures, n) + quality["failures"] + lying["failures"]
    return {
        "ok": not failures,
        "failures": failures,
        "n": n,
        "seed": chosen,
        "devices": devices,
        "lag": LAG,
        "distinct_facts": judge.asked(),
        "result": figures,
        "quality": quality,
        "liars": lying,
        "limits": {"false_abort": 0.01, "false_promote": P1, "median_to_abort": list(MEDIAN_LIMITS)},
        "margins": {"false_abort": margin(0.01, n), "false_promote": margin(P1, n)},
        "reference": REFERENCE,
        "same_draws": {name: told for name, told in compared.items() if name != "edgefleet"},
    }


def _figures(at_p0: Tally, at_p1: Tally, bad: list[Tally]) -> dict[str, Any]:
    """false_abort: share of releases that fail on 3 % of the devices and are stopped; false_promote: of those that fail on 5 %
    and pass (None: the rule has no such test); median_to_abort: devices exposed to releases that fail on 10, 20, 50, 100 %."""
    has_a_test = any(at < NEVER for at in at_p1.passed)
    return {
        "false_abort": at_p0.share(at_p0.stopped),
        "false_promote": at_p1.share(at_p1.passed) if has_a_test else None,
        "median_to_abort": [tally.median(tally.stopped) for tally in bad],
    }


def _misses(figures: dict[str, Any], runs: int) -> list[str]:
    """Return each figure that is not what the reference promises, in words."""
    misses = [
        f"{name} is {figures[name]}, at most {bound} plus {margin(bound, runs):.4f} by chance"
        for name, bound in (("false_abort", 0.01), ("false_promote", P1))
        if (figures[name] or 0.0) > bound + margin(bound, runs)
    ]
    for ratio, median, limit in zip(BAD_RATIOS, figures["median_to_abort"], MEDIAN_LIMITS, strict=True):
        if median is None or median > limit:
            misses.append(f"at {ratio:.0%} bad it takes {median} devices to stop, at most {limit}")
    if figures["clean_to_promote"] != REFERENCE["clean_to_promote"]:
        misses.append(f"{figures['clean_to_promote']} clean devices promote, expected 73")
    if not 73 <= (figures["median_to_promote_at_1_pct"] or NEVER) <= 129:
        misses.append(f"at 1 % it takes {figures['median_to_promote_at_1_pct']} devices to promote, at most 129")
    if figures["gaps_that_promote"]:
        misses.append(f"{figures['gaps_that_promote']} gaps in the evidence promote")
    return misses
