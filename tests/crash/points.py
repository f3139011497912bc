"""F02: kill -9 of the whole agent at each point of its way to the disk, one after the other, until an update has no further point.

Round k updates to a new version and dies at the k-th write, rename, unlink, fsync … of any of its processes (a write of every second
round is torn in its middle). Then the agent is started again and must end on the new version, and say so. F05 dies once more, at a
random point of the recovery.
"""

from typing import Any

from tests.agent.field import eventually
from tests.crash.faults import COUNT, KILL, TEAR
from tests.crash.field import Field, in_field, note, run

MAX_POINTS = 2_000
DEAD_S = 40.0


def main(n: int, seed: int | None = None) -> dict[str, Any]:
    """Kill at n points spread evenly over an update; n at or above their number means each of them."""
    return run("F02 kill9-every-point", n, seed, in_field(all_points))


def double(n: int, seed: int | None = None) -> dict[str, Any]:
    """Kill at a random point, and again at a random point of what follows, n times."""
    return run("F05 double-fault", n, seed, in_field(double_faults))


def all_points(here: Field, result: dict[str, Any], n: int) -> None:
    """Kill at n points, or at each."""
    length = result["points"] = points_of_an_update(here)
    step = max(1.0, length / n)
    k, index = 1.0, 0
    while k < MAX_POINTS:
        mode = TEAR if index % 2 else KILL
        died, problem = _round(here, [(mode, round(k))])
        if not died and k > length:
            break  # this update had no such point any more, nor had the one that was measured
        note(result, problem, point=round(k), torn=mode == TEAR)
        k, index = k + step, index + 1
        result["died"] = result.get("died", 0) + died
    result["n"] = index
    result["each"] = step == 1.0


def double_faults(here: Field, result: dict[str, Any], n: int) -> None:
    """Kill in an update and again in what follows."""
    length = result["points"] = points_of_an_update(here)
    for i in range(n):
        plan = [(KILL, here.rng.randint(1, length)), (here.rng.choice((KILL, TEAR)), here.rng.randint(1, length // 2))]
        _, problem = _round(here, plan)
        note(result, problem, round=i, plan=plan)


def points_of_an_update(here: Field) -> int:
    """Return the points of one whole update; what serves afterwards is `here.version`."""
    here.problem(here.deploy())
    here.faults.arm(COUNT)
    here.version = here.deploy()
    assert here.problem(here.version) == "", here.agent.model()
    return here.faults.points


def _round(here: Field, plan: list[tuple[int, int]]) -> tuple[bool, str]:
    """Update and die as planned; return whether the first death came, and what is wrong afterwards."""
    agent = here.agent
    here.faults.arm(plan[0][0], plan[0][1])
    version = here.deploy()
    died = bool(eventually(lambda: here.is_dead() or _is_done(here, version), DEAD_S)) and here.is_dead()
    for mode, k in plan[1:] if died else []:
        here.faults.arm(mode, k)
        agent.start()
        eventually(lambda: here.is_dead() or _is_done(here, version), DEAD_S)
    here.faults.arm(COUNT)
    if here.is_dead():
        agent.start()
    return died, here.problem(version)


def _is_done(here: Field, version: str) -> bool:
    model = here.agent.model()
    is_new = str(model.get("active_target")).startswith(f"digits/{version}/")
    return bool(is_new and model.get("phase") == "committed" and model.get("serving"))
