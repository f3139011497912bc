"""What the shipped `decide` does to releases while a share of the devices lies: some cry failure, some hide one.

Part of `./dev soak rollout-montecarlo`. One run is one release that goes out to one large stratum, device by device:
- A device is a liar with the chance that the rollout allows for (`liars` of its gate: 0, 1 and 5 %). A crying liar reports a failure
  whatever happens on it; a hiding one is healthy whatever happens on it. An honest device reports what happens.
- Of as many devices, the verdict of `decide` depends on failures alone, and the more fail the worse it is. So it is asked once for
  each number of devices where it changes, and numpy follows all runs along these lines. An audit asks it again at random points.
- A stop hands the stratum to a person, a take-back does not. A run counts what would happen if that person always went on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.model import Advance, Counts, Facts, Pause, RollBack, Rule

P0: Final = 0.03
P1: Final = 0.05
LIARS: Final = (0.0, 0.01, 0.05)
STOP_BAD: Final = (0.10, 0.20, 0.50, 1.00)
BACK_BAD: Final = (0.15, 0.20, 0.50, 1.00)
STOP_LIMITS: Final = (110, 26, 6, 3)
"""Most devices until a stop, in the median, at `STOP_BAD`: where no liar hides a failure."""
STOP_LIMITS_HIDING: Final = (120, 26, 6, 3)
"""The same while up to 5 % of the devices hide one."""
BACK_LIMITS: Final = (250, 90, 11, 3)
"""Most devices until a take-back, in the median, at `BACK_BAD`, while up to 5 % of the devices hide a failure."""
BAD_HORIZON: Final = 600
CHUNK: Final = 500
NEVER: Final = np.iinfo(np.int64).max
STRATUM: Final = 2_000
Array = NDArray[Any]


@dataclass(frozen=True)
class Lines:
    """Where the verdict changes, by number of devices from 1: failures from which it stops, takes back; most with which it passes."""

    stop: Array
    back: Array
    passes: Array


def verdict(exposed: int, failed: int, liars: float) -> str:
    """Return what `decide` says when every device has an outcome: back, stop, pass or ""."""
    decision = decide(
        Facts(
            stage=0,
            stratum="x86",
            population=STRATUM,
            counts=Counts(members=exposed, exposed=exposed, healthy=exposed - failed, failed=failed),
            failures={"internal": failed} if failed else {},
            pooled_exposed=exposed,
            pooled_failed=failed,
            stage_members=exposed,
            stage_tried=exposed,
            rule=Rule.EVIDENCE,
            liars=liars,
        )
    )
    match decision:
        case RollBack():
            return "back"
        case Pause():
            return "stop"
        case Advance():
            return "pass"
        case _:
            return ""


@cache
def lines(devices: int, liars: float) -> Lines:
    """Return where the verdict on up to so many devices changes."""
    stop, back, passes = [], [], []
    stops = takes = 1
    most = -1
    for exposed in range(1, devices + 1):
        while stops <= exposed and verdict(exposed, stops, liars) not in {"stop", "back"}:
            stops += 1
        takes = max(takes, stops)
        while takes <= exposed and verdict(exposed, takes, liars) != "back":
            takes += 1
        while most < exposed and verdict(exposed, most + 1, liars) == "pass":
            most += 1
        stop.append(stops)
        back.append(takes)
        passes.append(most)
    return Lines(np.array(stop), np.array(back), np.array(passes))


def failures(ratio: float, liars: float, how: str, runs: int, devices: int, chance: np.random.Generator) -> Array:
    """Return how many failures were reported after each device: [run, device]. how: what liars do, "cry" or "hide"."""
    fails = chance.random((runs, devices)) < ratio
    lies = chance.random((runs, devices)) < liars
    return np.cumsum(fails | lies if how == "cry" else fails & ~lies, axis=1)


def first(where: Array) -> Array:
    """Return by run after how many devices something first holds, NEVER if it does not."""
    return np.where(where.any(axis=1), where.argmax(axis=1) + 1, NEVER)


def play(
    at: Lines, ratio: float, liars: float, how: str, *, runs: int, devices: int, seed: str
) -> tuple[Array, Array, Array]:
    """Return by run after how many devices a release first stopped, was taken back, and passed. ratio: on how many it fails."""
    chance = np.random.default_rng(list(seed.encode()))
    found: list[tuple[Array, Array, Array]] = []
    for begin in range(0, runs, CHUNK):
        k = failures(ratio, liars, how, min(CHUNK, runs - begin), devices, chance)
        found.append((first(k >= at.stop[:devices]), first(k >= at.back[:devices]), first(k <= at.passes[:devices])))
    stopped, back, passed = (np.concatenate(some) for some in zip(*found, strict=True))
    return stopped, back, passed


def share(when: Array) -> float:
    """Return the share of the runs in which it happened."""
    return float((when < NEVER).mean())


def median(when: Array) -> int | None:
    """Return the median number of devices, None when in most runs it never happened."""
    middle = int(np.sort(when)[(len(when) - 1) // 2])
    return None if middle == NEVER else middle


def audit(at: Lines, liars: float, asks: int, seed: str) -> int:
    """Return at how many of so many random points `decide` says something else than the lines."""
    chance, wrong = random.Random(seed), 0
    for _ in range(asks):
        exposed = chance.randint(1, len(at.stop))
        near = chance.choice([at.stop, at.back, at.passes])[exposed - 1]
        failed = min(exposed, max(0, int(near) + chance.randint(-2, 2)))
        line = "back" if failed >= at.back[exposed - 1] else "stop" if failed >= at.stop[exposed - 1] else ""
        line = "pass" if failed <= at.passes[exposed - 1] else line
        wrong += verdict(exposed, failed, liars) != line
    return wrong


def figures_of(liars: float, n: int, seed: int, devices: int) -> dict[str, Any]:
    """Return the figures of `n` releases of each kind, where a share `liars` of the devices cries, or hides.

    false_take_back: of releases that fail on 3 % of the honest devices, liars cry; false_pause: of the same, stopped but not taken
    back; false_pause_perfect, passes_perfect: of releases that never fail, liars cry; false_promote: of releases that fail on 5 %,
    liars hide. The medians are of devices until a release that fails on so many is stopped, or taken back, liars hide.
    """
    horizon = max(devices, BAD_HORIZON)
    at = lines(horizon, liars)

    def run(ratio: float, how: str, horizon: int) -> tuple[Array, Array, Array]:
        return play(at, ratio, liars, how, runs=n, devices=horizon, seed=f"{seed}/{liars}/{ratio}/{how}")

    stopped, back, _ = run(P0, "cry", devices)
    stopped_perfect, _, passed_perfect = run(0.0, "cry", devices)
    _, _, passed = run(P1, "hide", devices)
    bad = {ratio: run(ratio, "hide", BAD_HORIZON) for ratio in sorted({*STOP_BAD, *BACK_BAD})}
    return {
        "false_take_back": share(back),
        "false_pause": share(stopped) - share(back),
        "false_pause_perfect": share(stopped_perfect),
        "passes_perfect": share(np.where(passed_perfect < stopped_perfect, passed_perfect, NEVER)),
        "false_promote": share(passed),
        "median_to_stop": [median(bad[ratio][0]) for ratio in STOP_BAD],
        "median_to_take_back": [median(bad[ratio][1]) for ratio in BACK_BAD],
        "clean_to_promote": int((at.passes >= 0).argmax()) + 1 if (at.passes >= 0).any() else None,
        "audit_differs": audit(at, liars, min(2_000, n), f"{seed}/{liars}"),
    }


def main(n: int, seed: int, *, devices: int, liars: tuple[float, ...] = LIARS) -> dict[str, Any]:
    """Return the figures by share of liars, and what they miss. devices: how far runs at the bounds go."""
    result = {f"{100 * share_:g} %": figures_of(share_, n, seed, devices) for share_ in liars}
    misses = [
        f"{name} liars: {miss}"
        for (name, figures), share_ in zip(result.items(), liars, strict=True)
        for miss in _misses(figures, n, share_)
    ]
    return {"result": result, "failures": misses, "limits": _limits()}


def _limits() -> dict[str, Any]:
    return {
        "false_take_back": 0.01,
        "false_promote": P1,
        "median_to_stop": list(STOP_LIMITS),
        "median_to_stop_hiding_5_pct": list(STOP_LIMITS_HIDING),
        "median_to_take_back": list(BACK_LIMITS),
    }


def _misses(figures: dict[str, Any], runs: int, liars: float) -> list[str]:
    """Return each figure that is beyond its bound, in words. The share of a sample may lie 4 standard deviations off."""
    misses = []
    for name, bound in (("false_take_back", 0.01), ("false_promote", P1)):
        off = 4 * (bound * (1 - bound) / runs) ** 0.5
        if figures[name] > bound + off:
            misses.append(f"{name} is {figures[name]}, at most {bound} plus {off:.4f} by chance")
    stops = STOP_LIMITS_HIDING if liars > 0.01 else STOP_LIMITS
    for name, ratios, limits in (
        ("median_to_stop", STOP_BAD, stops),
        ("median_to_take_back", BACK_BAD, BACK_LIMITS),
    ):
        for ratio, devices, limit in zip(ratios, figures[name], limits, strict=True):
            if devices is None or devices > limit:
                misses.append(f"at {ratio:.0%} bad {name} is {devices} devices, at most {limit}")
    if figures["audit_differs"]:
        misses.append(f"decide says something else at {figures['audit_differs']} points")
    return misses
