"""Named stories: one scenario each, and what is written of it. Their transcripts are kept as golden files and compared word by word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgefleet_sim.scenario import Scenario
from edgefleet_sim.world import World, simulate

_ONE_STAGE: Final[dict[str, Any]] = {"stages": [{"name": "all", "size": {"percent": 100}, "soak": "10m"}]}

STORIES: Final[Mapping[str, Scenario]] = {
    "a-good-release": Scenario(seed=1, devices={"rpi": 4}),
    "a-release-that-crashes": Scenario(seed=2, devices={"rpi": 6}, bad=1.0, classes=("crash",)),
    "wrong-answers-on-the-golden-vectors": Scenario(seed=3, devices={"rpi": 6}, bad=1.0, classes=("golden",)),
    "paused-and-resumed": Scenario(seed=4, devices={"rpi": 4}, commands=((60.0, "pause"), (3600.0, "resume"))),
    "aborted-what-switched-stays": Scenario(seed=5, devices={"rpi": 4}, commands=((600.0, "abort"),)),
    "aborted-and-taken-back": Scenario(seed=6, devices={"rpi": 4}, commands=((600.0, "abort_rollback"),)),
    "promoted-on-a-person-s-word": Scenario(seed=7, devices={"rpi": 4}, commands=((900.0, "promote"),)),
    "undone-after-it-finished": Scenario(seed=8, devices={"rpi": 4}, commands=((10_000.0, "undo"),)),
    "devices-that-die-at-the-switch": Scenario(seed=9, devices={"rpi": 4}, dead=1.0, spec=_ONE_STAGE),
    "away-and-back": Scenario(seed=10, devices={"rpi": 3}, away=1.0, spec=_ONE_STAGE),
    "a-wire-that-loses-doubles-and-reorders": Scenario(
        seed=11, devices={"rpi": 3}, loss=0.3, duplicate=0.3, reorder=0.3
    ),
    "replicas-that-crash-and-stall": Scenario(seed=12, devices={"rpi": 4}, replica_crash=0.2, replica_stall=0.1),
    "devices-too-slow-for-their-deadlines": Scenario(seed=13, devices={"rpi": 3}, slow=1.0, spec=_ONE_STAGE),
    "devices-that-begin-one-after-the-other": Scenario(
        seed=15, devices={"rpi": 4}, spec=_ONE_STAGE | {"device": {"download_deadline": "1h", "start_within": "10m"}}
    ),
    "clocks-a-day-off-and-power-cuts": Scenario(seed=14, devices={"rpi": 3}, skew_s=86_400.0, device_crash=20.0),
}


def transcript(name: str) -> str:
    """Return a story as text: one line for each transition and deed, then how it ended. Raises KeyError for an unknown name."""
    scenario = STORIES[name]
    result = simulate(scenario)
    lines = [f"# {name}", *result.transcript, f"= {result.state}: {result.reason}", f"= devices {result.devices}"]
    return "\n".join([*lines, *(f"! {problem}" for problem in result.broken)]) + "\n"


def blast(devices: int, canary: int, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Return what a release that fails on every device does to a fleet of so many: who was exposed, and how fast it was stopped.

    in_flight: devices that were exposed when the server heard of the second failure; beyond: those exposed after that.
    halt_s: virtual seconds from that report until nobody else is offered the release, stop_s: until it is taken back; None when the
    first failure did that already.
    """
    stages = [
        {"name": "canary", "size": {"count": canary}, "soak": "10m"},
        {"name": "tenth", "size": {"percent": 10}, "soak": "10m"},
        {"name": "rest", "size": {"percent": 100}, "soak": "10m"},
    ]
    stages[0]["promote"] = "all_healthy"
    world = World(Scenario(seed=seed, devices={"rpi": devices}, bad=1.0, classes=classes, spec={"stages": stages}))
    result = world.run()
    second, halted, stopped = world.second_failure_at, world.halted_at, world.stopped_at
    assert halted is not None, "a release that fails everywhere is offered to nobody any more"
    assert stopped is not None, "a release that fails everywhere is stopped"
    return {
        "seed": seed,
        "canary": canary,
        "class": "+".join(classes),
        "state": result.state,
        "exposed": result.exposed,
        "in_flight": world.exposed_at_second,
        "beyond": result.exposed - max(world.exposed_at_second, canary),
        "halt_s": None if second is None or halted < second else (halted - second).total_seconds(),
        "stop_s": None if second is None or stopped < second else (stopped - second).total_seconds(),
        "broken": result.broken,
    }
