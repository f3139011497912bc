"""What the shipped `decide` does with a quality gate: two strata, three metrics, a look after every report.

Part of `./dev soak rollout-montecarlo`. One run is one release that goes out to two large strata, a device of each at a time:
- A device takes the release up; it fails at once, or is healthy `lag` devices later, and its values are taken `delay` devices
  later. Each of these is a report, and after each the rules look.
- Metrics: latency (10 %) and energy (15 %) as log ratios, errors (0.002) as a difference of rates of 500 answers each. The
  first stratum scatters like a bell, the second has Student's tails (3 degrees) and errors in bursts.
- At the boundary everything is exactly as bad as it may be: 3 % of the devices fail, and the mean change of each metric is its margin.
- A million looks are too many for Python, so numpy computes the evidence of all runs at once, from the shipped tables of bets
  and the shipped evidence of failures. An audit then asks the shipped `quality_facts` and `decide` at the report at which a
  run stopped or passed, at the one before, and at random ones: they must say the same, or the soak fails.
- On the same draws: the AWS-shaped and hawkBit-shaped rules of `montecarlo`, which look at failures only, and a plain threshold
  on the mean ("stop when ten devices or more are worse by more than the margin on average"), as canary tools have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.metrics import (
    CLIPPED_CAP_PCT,
    INSTALL_WEIGHT,
    OWN_DATA_PCT,
    quality_facts,
    scale_of,
)
from edgefleet_server.rollout.analysis.model import Advance, Counts, Decision, Facts, RollBack, Rule
from edgefleet_server.rollout.bounded_mean import FRACTIONS
from edgefleet_server.rollout.failure_ratio import log_e_abort, log_e_promote, threshold
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.spec.model import Bound, Metric, OnBreach, QualityGate, QualityMetric

P0: Final = 0.03
P1: Final = 0.05
STRATUM: Final = 2_000
ANSWERS: Final = 500
ERRORS_BEFORE: Final = 0.001
CHUNK: Final = 50
NEVER: Final = np.iinfo(np.int64).max
AT_ABORT: Final = threshold(0.01)
AT_PROMOTE: Final = threshold(0.05)
NOW: Final = datetime(2026, 1, 5, tzinfo=UTC)
GATE: Final = QualityGate(
    metrics=(
        QualityMetric(Metric.LATENCY_P95_MS, Bound.NON_INFERIOR_REL, 0.10, OnBreach.FAIL),
        QualityMetric(Metric.INFERENCE_ERROR_RATE, Bound.NON_INFERIOR_ABS, 0.002, OnBreach.FAIL),
        QualityMetric(Metric.JOULES_PER_INFERENCE, Bound.NON_INFERIOR_REL, 0.15, OnBreach.FAIL),
    )
)
Array = NDArray[Any]


@dataclass(frozen=True)
class Release:
    """What a release does: share of devices on which it fails, and the mean change of each metric in margins."""

    failure: float = 0.0
    changes: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Draws:
    """What happens in some runs of one stratum. failed: [run, device]; changes: [run, device, metric]: what each test counts."""

    failed: Array
    changes: Array


@dataclass(frozen=True)
class Path:
    """Evidence after every report: [run, device, look] (0: after the outcomes of a step, 1: after its values, too)."""

    abort: Array
    passes: Array
    exposed: Array


def draw(release: Release, runs: int, devices: int, is_rough: bool, chance: np.random.Generator) -> Draws:
    """Return what happens in `runs` runs."""
    shape = (runs, devices)
    changes = np.empty((*shape, len(GATE.metrics)))
    for index, metric in enumerate(GATE.metrics):
        if metric.bound is Bound.NON_INFERIOR_REL:
            margin = math.log1p(metric.value)
            noise = 0.25 * chance.standard_t(3, shape) if is_rough else 0.7 * chance.standard_normal(shape)
            changes[..., index] = margin * (release.changes[index] + noise)
        else:
            after = ERRORS_BEFORE + release.changes[index] * metric.value
            own = _errors(after, shape, is_rough, chance) - _errors(ERRORS_BEFORE, shape, is_rough, chance)
            other = _errors(ERRORS_BEFORE, shape, is_rough, chance) - _errors(ERRORS_BEFORE, shape, is_rough, chance)
            changes[..., index] = own - other
    return Draws(chance.random(shape) < release.failure, changes)


def _errors(rate: float, shape: tuple[int, int], is_rough: bool, chance: np.random.Generator) -> Array:
    """Return error rates of devices; rough: they come in pairs, so the rates scatter twice as much as those of single errors."""
    burst = 2 if is_rough else 1
    return chance.binomial(ANSWERS // burst, rate, shape) * burst / ANSWERS


def path(draws: Draws, lag: int, delay: int) -> Path:
    """Return the evidence of one stratum after every report. lag, delay: devices until an outcome and until values are known."""
    runs, devices = draws.failed.shape
    steps = np.arange(devices)
    good = ~draws.failed
    failed = np.cumsum(draws.failed, axis=1)
    expected = np.cumsum(good, axis=1)
    healthy = _late(expected, lag)
    measured = np.stack([_late(expected, delay + 1), _late(expected, delay)], axis=-1)
    exposed = np.broadcast_to(steps + 1, (runs, devices))
    install = _table(failed, exposed, lambda k, n: log_e_abort(k, n, P0))
    promote = _table(exposed - healthy, exposed, lambda k, n: log_e_promote(k, n, P1))
    logs_fail, may_pass = [], []
    for index, metric in enumerate(GATE.metrics):
        above, below, clipped = _bets(metric, draws.changes[..., index], good)
        at_look = [_both(one, delay) for one in (above, below)]
        missing = (expected[..., None] - measured)[..., None] * np.log1p(-np.array(FRACTIONS))
        logs_fail.append(_log_mean(at_look[0]))
        rough = np.stack([_late(clipped, delay + 1), _late(clipped, delay)], axis=-1)
        is_smooth = 100 * rough <= CLIPPED_CAP_PCT * measured
        may_pass.append((_log_mean(at_look[1] + missing) >= AT_PROMOTE) & is_smooth & (measured > 0))
    fail = np.log(np.mean(np.exp(np.stack(logs_fail)), axis=0))
    together = np.logaddexp(math.log(INSTALL_WEIGHT) + install[..., None], math.log(1 - INSTALL_WEIGHT) + fail)
    need = np.ceil(expected * OWN_DATA_PCT / 100 - 1e-9)[..., None]
    passes = (promote >= AT_PROMOTE)[..., None] & np.logical_and.reduce(may_pass) & (measured >= need)
    return Path(together, passes, exposed)


def _late(counts: Array, by: int) -> Array:
    """Return counts as they were `by` devices earlier."""
    return counts if by == 0 else np.concatenate([np.zeros_like(counts[:, :by]), counts[:, :-by]], axis=1)


def _both(capital: Array, delay: int) -> Array:
    return np.stack([_late(capital, delay + 1), _late(capital, delay)], axis=2)


def _bets(metric: QualityMetric, values: Array, good: Array) -> tuple[Array, Array, Array]:
    """Return the log capitals of both tests, [run, device, share], and how many values were clipped so far."""
    scale = scale_of(metric)
    last = math.ceil((scale.high - scale.low) / scale.step - 1e-9) - 1
    bins = np.floor((np.clip(values, scale.low, scale.high) - scale.low) / scale.step).astype(int)
    bins = np.clip(bins, 0, last)
    low = scale.low + np.arange(last + 1) * scale.step
    high = np.minimum(scale.high, scale.low + (np.arange(last + 1) + 1) * scale.step)
    shares = np.array(FRACTIONS)
    above = np.log1p(shares * ((low - scale.at) / (scale.at - scale.low))[:, None])
    below = np.log1p(shares * ((scale.at - high) / (scale.high - scale.at))[:, None])
    counted = good[..., None]
    return (
        np.cumsum(above[bins] * counted, axis=1),
        np.cumsum(below[bins] * counted, axis=1),
        np.cumsum((values > scale.high) & good, axis=1),
    )


def _log_mean(logs: Array) -> Array:
    top = logs.max(axis=-1)
    mean: Array = top + np.log(np.mean(np.exp(logs - top[..., None]), axis=-1))
    return mean


def _table(k: Array, n: Array, log_e: Callable[[int, int], float]) -> Array:
    """Return the shipped evidence of many counts, each pair computed once."""
    wide = int(n.max()) + 1
    pairs, where = np.unique(k * wide + n, return_inverse=True)
    known = np.array([log_e(int(pair // wide), int(pair % wide)) for pair in pairs])
    return known[where].reshape(k.shape)


# ---- first stops and passes


@dataclass
class First:
    """Of each run of one stratum: devices exposed when it stopped and when it first passed, and the looks of both."""

    stop: Array
    stop_look: Array
    passed: Array
    pass_look: Array
    own_stop: Array
    """When its own evidence alone stopped it."""


def first_of(one: Path, pooled: Array) -> First:
    """Return when each run first stopped and first passed. pooled: [run, device]: the strata together stop it."""
    looks = one.abort.shape[2]
    own = (one.abort >= AT_ABORT).any(axis=2)
    stops = ((one.abort >= AT_ABORT) | pooled[..., None]).reshape(len(one.abort), -1)
    passes = one.passes.reshape(len(one.abort), -1)
    stop_look = np.where(stops.any(axis=1), stops.argmax(axis=1), -1)
    pass_look = np.where(passes.any(axis=1), passes.argmax(axis=1), -1)
    return First(
        np.where(stop_look >= 0, stop_look // looks + 1, NEVER),
        stop_look,
        np.where(pass_look >= 0, pass_look // looks + 1, NEVER),
        pass_look,
        np.where(own.any(axis=1), own.argmax(axis=1) + 1, NEVER),
    )


def pooled_stops(some: list[Draws]) -> Array:
    """Return after which devices the failures of all strata together stop the release."""
    failed = np.sum([np.cumsum(one.failed, axis=1) for one in some], axis=0)
    exposed = len(some) * np.broadcast_to(np.arange(failed.shape[1]) + 1, failed.shape)
    at = AT_ABORT - math.log(INSTALL_WEIGHT)
    return _table(failed, exposed, lambda k, n: log_e_abort(k, n, P0)) >= at


# ---- the audit: the shipped rules at the same reports


def facts_at(draws: list[Draws], which: int, run: int, look: int, lag: int, delay: int) -> Facts:
    """Return the facts of one stratum at one report, counted by the shipped code."""
    device, part = divmod(look, 2)
    own = draws[which]
    failed = own.failed[run, : device + 1]
    n, k = device + 1, int(failed.sum())
    healthy = int((~own.failed[run, : max(0, n - lag)]).sum())
    known = max(0, n - delay - (1 - part))
    expected = [(f"d{i}", 0) for i in range(n) if not failed[i]]
    measured = [_device(own, run, i) for i in range(known) if not own.failed[run, i]]
    return Facts(
        stage=0,
        stratum="x86",
        population=STRATUM,
        counts=Counts(members=n, exposed=n, pending=n - healthy - k, healthy=healthy, failed=k),
        failures={"internal": k} if k else {},
        pooled_exposed=n * len(draws),
        pooled_failed=sum(int(one.failed[run, :n].sum()) for one in draws),
        stage_members=n,
        stage_tried=n,
        rule=Rule.EVIDENCE,
        quality=quality_facts(GATE, 0, expected, measured),
    )


def _device(draws: Draws, run: int, index: int) -> DeviceQuality:
    spans = {}
    for which, metric in enumerate(GATE.metrics):
        change = float(draws.changes[run, index, which])
        is_ratio = metric.bound is Bound.NON_INFERIOR_REL
        spans[metric.name] = Span(1.0, math.exp(change), 1.0, 1.0) if is_ratio else Span(0.0, change, 0.0, 0.0)
    return DeviceQuality(DeviceId(f"d{index}"), ProfileName("x86"), 0, "c", NOW, NOW, spans)


def audit(draws: list[Draws], firsts: list[First], looks: int, lag: int, delay: int, runs: list[int]) -> list[str]:
    """Return where the shipped rules say otherwise than numpy, for some runs: at the first stop or pass, and just before."""
    wrong = []
    for run in runs:
        for which, first in enumerate(firsts):
            for kind, at in ((RollBack, int(first.stop_look[run])), (Advance, int(first.pass_look[run]))):
                ends = int(first.stop_look[run]) if first.stop_look[run] >= 0 else looks
                if kind is Advance and at > ends:
                    continue  # it had stopped by then, and decide says so
                asked = [(at, True), (at - 1, False)] if at >= 0 else [(min(looks - 1, 97 * (run + 1) % looks), False)]
                for look, should in asked:
                    if look < 0:
                        continue
                    said: Decision = decide(facts_at(draws, which, run, look, lag, delay))
                    if isinstance(said, kind) is not should:
                        wrong.append(
                            f"run {run} stratum {which} look {look}: {said.code}, not {kind.__name__} {should}"
                        )
    return wrong


# ---- other rules on the same draws


def others(draws: list[Draws], lag: int) -> dict[str, tuple[float, float]]:
    """Return per rule the share of runs and strata that it stops, and that it lets pass."""
    told = {}
    shapes: dict[str, Callable[[Draws], tuple[float, float]]] = {
        "aws_min100_20pct": lambda one: (_aws(one, lag, 100, 0.20), 0.0),
        "aws_min10_3pct": lambda one: (_aws(one, lag, 10, P0), 0.0),
        "hawkbit_group100_error3pct_success50pct": lambda one: _hawkbit(one, lag),
        "mean_over_margin_min10": _mean,
    }
    for name, rule in shapes.items():
        shares = [rule(one) for one in draws]
        told[name] = (float(np.mean([a for a, _ in shares])), float(np.mean([b for _, b in shares])))
    return told


def _aws(one: Draws, lag: int, least: int, share: float) -> float:
    failed = np.cumsum(one.failed, axis=1)
    executed = failed + _late(np.cumsum(~one.failed, axis=1), lag)
    return float(((executed >= least) & (failed >= share * executed)).any(axis=1).mean())


def _hawkbit(one: Draws, lag: int) -> tuple[float, float]:
    """Return what becomes of the first group of 100: stopped at more than 3 failures, passed at 50 successes before that."""
    failed = np.cumsum(one.failed[:, :100], axis=1) > 100 * P0
    done = _late(np.cumsum(~one.failed, axis=1), lag)[:, :100] >= 50
    stop = np.where(failed.any(axis=1), failed.argmax(axis=1), NEVER)
    passed = np.where(done.any(axis=1), done.argmax(axis=1), NEVER)
    return float((stop < NEVER).mean()), float((passed < stop).mean())


def _mean(one: Draws) -> tuple[float, float]:
    counts = np.arange(one.changes.shape[1]) + 1
    stops, passes = np.zeros(len(one.changes), bool), np.ones(len(one.changes), bool)
    for index, metric in enumerate(GATE.metrics):
        over = np.cumsum(one.changes[..., index], axis=1) / counts > scale_of(metric).at
        stops |= over[:, 9:].any(axis=1)
        passes &= ~over[:, min(99, over.shape[1] - 1)]
    return float(stops.mean()), float(passes.mean())


# ---- figures


@dataclass
class Told:
    """What came of one kind of release: devices at stop and at pass, [stratum, run]; other rules; where the audit disagrees."""

    stop: Array
    own_stop: Array
    passed: Array
    compared: dict[str, tuple[float, float]]
    wrong: list[str]
    audited: int

    def share(self, when: Array) -> float:
        """Return the share of runs and strata in which it happened."""
        return float((when < NEVER).mean())

    def any_share(self) -> float:
        """Return the share of runs in which one stratum or more stopped."""
        return float((self.stop < NEVER).any(axis=0).mean())

    def median(self, when: Array) -> int | None:
        """Return the median number of devices of a stratum; None when in most it never happened."""
        middle = int(np.sort(when.reshape(-1))[(when.size - 1) // 2])
        return None if middle == NEVER else middle


def play(release: Release, runs: int, seed: int, *, devices: int, lag: int, delay: int, audited: int) -> Told:
    """Return what comes of `runs` runs, of which the shipped rules judge `audited` again."""
    chance = np.random.default_rng(seed)
    stops, own, passes, wrong = [], [], [], []
    compared: list[tuple[int, dict[str, tuple[float, float]]]] = []
    asked = 0
    for start in range(0, runs, CHUNK):
        size = min(CHUNK, runs - start)
        draws = [draw(release, size, devices, is_rough, chance) for is_rough in (False, True)]
        pooled = pooled_stops(draws)
        firsts = [first_of(path(one, lag, delay), pooled) for one in draws]
        stops.append(np.stack([first.stop for first in firsts]))
        own.append(np.stack([first.own_stop for first in firsts]))
        passes.append(np.stack([first.passed for first in firsts]))
        compared.append((size, others(draws, lag)))
        mine = min(size, -(-(audited - asked) * size // (runs - start)))
        wrong += audit(draws, firsts, 2 * devices, lag, delay, list(range(mine)))
        asked += mine
    names = compared[0][1]
    means = {
        name: (
            sum(size * told[name][0] for size, told in compared) / runs,
            sum(size * told[name][1] for size, told in compared) / runs,
        )
        for name in names
    }
    stop, own_stop, passed = (np.concatenate(some, axis=1) for some in (stops, own, passes))
    return Told(stop, own_stop, passed, means, wrong, asked)


BAD_RATIOS: Final = (0.10, 0.20, 0.50, 1.00)
BAD_HORIZONS: Final = (160, 60, 20, 10)
MEDIAN_LIMITS: Final = (110, 26, 6, 3)
WORSE: Final = {
    "latency_at_2_margins": (2.0, 0.0, 0.0),
    "latency_at_4_margins": (4.0, 0.0, 0.0),
    "all_at_4_margins": (4.0,) * 3,
}
LAG: Final = 20
DELAY: Final = 30


def main(n: int, seed: int, *, devices: int, audited: int) -> dict[str, Any]:
    """Return the figures of `n` runs of each kind of release, and what is not as promised. devices: of each stratum, at the bounds."""

    def told(number: int, release: Release, horizon: int, *, is_late: bool = True, runs: int = n) -> Told:
        lag, delay = (LAG, DELAY) if is_late else (0, 0)
        return play(release, runs, seed + number, devices=horizon, lag=lag, delay=delay, audited=audited)

    at_bound = told(1, Release(P0, (1.0, 1.0, 1.0)), devices)
    one_metric = told(2, Release(0.0, (1.0, 0.0, 0.0)), devices, is_late=False)
    install = told(3, Release(P1), devices, is_late=False)
    bad = [
        told(4 + i, Release(p), horizon) for i, (p, horizon) in enumerate(zip(BAD_RATIOS, BAD_HORIZONS, strict=True))
    ]
    few = max(1, n // 5)
    worse = {name: told(10 + i, Release(0.0, c), 160, runs=few) for i, (name, c) in enumerate(WORSE.items())}
    good = told(20, Release(0.01), 200, is_late=False, runs=few)
    everything = [at_bound, one_metric, install, *bad, *worse.values(), good]
    figures: dict[str, Any] = {
        "false_abort": at_bound.share(at_bound.stop),
        "false_abort_any_stratum": at_bound.any_share(),
        "false_promote_one_metric_at_its_margin": one_metric.share(one_metric.passed),
        "false_promote_failures_at_p1": install.share(install.passed),
        "median_to_abort": [one.median(one.own_stop) for one in bad],
        "median_to_abort_both_strata": [None if (m := one.median(one.stop)) is None else 2 * m for one in bad],
        "median_to_abort_worse": {name: one.median(one.own_stop) for name, one in worse.items()},
        "median_to_promote_at_1_pct": good.median(good.passed),
        "audited": sum(one.audited for one in everything),
    }
    wrong = [word for one in everything for word in one.wrong]
    return {
        "n": n,
        "devices": devices,
        "strata": 2,
        "metrics": [metric.name.value for metric in GATE.metrics],
        "result": figures,
        "failures": _misses(figures, 2 * n) + wrong[:10],
        "same_draws": {
            name: {
                "false_abort": at_bound.compared[name][0],
                "false_promote": one_metric.compared[name][1],
                "stops_at_4_margins": worse["all_at_4_margins"].compared[name][0],
            }
            for name in at_bound.compared
        },
    }


def _misses(figures: dict[str, Any], runs: int) -> list[str]:
    limits = {
        "false_abort": 0.01,
        "false_promote_one_metric_at_its_margin": 0.05,
        "false_promote_failures_at_p1": 0.05,
    }
    misses = [
        f"with quality {name} is {figures[name]}, at most {bound}"
        for name, bound in limits.items()
        if figures[name] > bound + 4 * math.sqrt(bound * (1 - bound) / runs)
    ]
    for ratio, median, limit in zip(BAD_RATIOS, figures["median_to_abort"], MEDIAN_LIMITS, strict=True):
        if median is None or median > limit:
            misses.append(f"with quality, at {ratio:.0%} bad it takes {median} devices to stop, at most {limit}")
    return misses
