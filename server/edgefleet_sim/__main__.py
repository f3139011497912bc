"""`python -m edgefleet_sim`: a request as JSON on stdin, the answer as one JSON object on stdout.

Request: `{"scenario": {…}, "story": bool, "shrink": bool}` for one run, `{"drawn": s, …}` in the place of `scenario` for the one that is
drawn from a seed, or `{"runs": n, "seed": s, "trouble": x}` for many drawn ones. `{"power": {"spec": …, "devices": {profile: n},
"bad_pct": b}}` asks how soon a release that fails on b percent of the devices is stopped: exact chances, nothing is drawn. What is broken
comes with `again`: the command that tells it again, word by word.
Exit 0: nothing was broken; 1: something was; 2: the request cannot be used, `{"error": {"message", "why", "next"}}` says why.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections import Counter
from typing import Any

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.rollout.analysis.power import stopping_curve
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_sim.scenario import Scenario, drawn
from edgefleet_sim.shrinker import shrink
from edgefleet_sim.world import simulate

MAX_BROKEN_SHOWN = 20


class PowerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How soon a bad release is stopped. devices: by profile; bad_pct: on how many percent of them it fails."""

    spec: dict[str, Any]
    devices: dict[str, int]
    bad_pct: int = 5


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for. drawn: the seed of the scenario, instead of a whole one; runs: 0 = the one scenario."""

    scenario: Scenario = Scenario()
    drawn: int | None = None
    story: bool = False
    shrink: bool = False
    runs: int = 0
    seed: int = 0
    trouble: float = 0.3
    power: PowerRequest | None = None


def answer(request: Request) -> dict[str, Any]:
    """Return what came of a request; `broken` is empty when every promise was kept."""
    if request.power is not None:
        return power(request.power)
    if request.runs:
        return many(request.runs, request.seed, request.trouble)
    scenario = request.scenario if request.drawn is None else drawn(request.drawn, trouble=request.trouble)
    result = simulate(scenario)
    output = {"scenario": msgspec.to_builtins(scenario), **result.as_json(story=request.story)}
    if result.broken:
        output["again"] = command_for(scenario)
    if result.broken and request.shrink:
        smaller = shrink(scenario)
        output |= {"shrunk": msgspec.to_builtins(smaller), "shrunk_again": command_for(smaller)}
    return output


def power(request: PowerRequest) -> dict[str, Any]:
    """Return for each profile the chance to have been stopped after 0, 1, … devices, rounded down, and after how many as likely as not."""
    gate = parse_spec(request.spec).gates.install
    curves = {name: stopping_curve(request.bad_pct, count, gate) for name, count in request.devices.items()}
    medians = {name: next((n for n, one in enumerate(curve) if one >= 0.5), None) for name, curve in curves.items()}
    rounded = {name: [math.floor(one * 10_000) / 10_000 for one in curve] for name, curve in curves.items()}
    return {"bad_pct": request.bad_pct, "curves": rounded, "medians": medians, "broken": []}


def command_for(scenario: Scenario) -> str:
    """Return the command line that tells the story of a scenario: by its seed where it is the drawn one, else by all of it."""
    if scenario == drawn(scenario.seed):
        return f"edgectl sim --drawn {scenario.seed} --story"
    text = json.dumps(msgspec.to_builtins(scenario), separators=(",", ":"))
    return f"printf %s {shlex.quote(text)} | edgectl sim --scenario - --story"


def many(n: int, seed: int, trouble: float = 0.3) -> dict[str, Any]:
    """Run the scenarios of `n` seeds from `seed` on; return how they ended, and each that broke a promise with its seed."""
    ended: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    broken: list[dict[str, Any]] = []
    failover_s = 0.0
    for number in range(seed, seed + n):
        scenario = drawn(number, trouble=trouble)
        result = simulate(scenario)
        ended[result.state] += 1
        totals.update(
            {
                "commits": result.commits,
                "refused_by_fence": result.refused,
                "replica_crashes": result.crashes,
                "device_crashes": result.device_crashes,
                "exposed": result.exposed,
            }
        )
        failover_s = max([failover_s, *result.failovers_s])
        if result.broken:
            broken.append({"seed": number, "problems": result.broken[:5], "again": command_for(scenario)})
    return {
        "runs": n,
        "seed": seed,
        "trouble": trouble,
        "ended": dict(sorted(ended.items())),
        **totals,
        "failover_s_max": round(failover_s, 1),
        "broken": broken[:MAX_BROKEN_SHOWN],
        "broken_runs": len(broken),
    }


def main() -> int:
    """Answer the request on stdin."""
    try:
        output = answer(msgspec.json.decode(sys.stdin.buffer.read() or b"{}", type=Request))
    except (msgspec.DecodeError, EdgefleetError) as error:
        next_step = getattr(error, "next_step", "") or "correct the field that is named"
        output = {"error": {"message": "the simulation cannot be run", "why": str(error), "next": next_step}}
        sys.stdout.write(json.dumps(output) + "\n")
        return 2
    sys.stdout.write(json.dumps(output) + "\n")
    return 1 if output["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
