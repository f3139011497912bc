"""The rollouts of the demo: what it asks for, and what it tells of them."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.clock import SystemClock
from edgefleet_cli.demo.processes import Household
from edgefleet_cli.rollout_spec import document
from edgefleet_cli.rollout_view import is_final
from edgefleet_cli.rollouts import Rollouts

Json = dict[str, Any]

SOAK_S = 2
"""Long enough for a camera's 20 images: the devices of the demo are on probation for 3 s anyway."""
_POLL_S = 0.2


def spec(release: str) -> Json:
    """Return the demo's rollout: two devices of the fleet, then half of each profile, then all."""
    stages = [
        {"name": "canary", "size": {"count": 2, "count_total": True}, "soak": SOAK_S},
        {"name": "half", "size": {"percent": 50}, "soak": SOAK_S},
        {"name": "rest", "size": {"percent": 100}, "soak": SOAK_S},
    ]
    return document({"release": release, "selector": "demo=yes", "stages": stages}, release.replace("@", "-"))


def follow(rollouts: Rollouts, clock: SystemClock, home: Household, rollout: Json, wait_s: float) -> Json:
    """Return a rollout when it is over, or as it stands after `wait_s`. Raises ChildError when a process has died."""
    deadline_s = clock.monotonic_s() + wait_s
    while not is_final(rollout) and clock.monotonic_s() < deadline_s:
        clock.sleep(_POLL_S)
        home.check()
        rollout = rollouts.get(str(rollout["id"]))
    return rollout


def told(rollout: Json) -> Json:
    """Return a rollout as the demo's summary holds it (design README §4)."""
    keys = ("name", "state", "verdict", "reason", "strength", "devices")
    return {
        "id": rollout["id"],
        "release": rollout["release"],
        "state": rollout["state"],
        "stages": [{key: stage[key] for key in keys} for stage in rollout["stages"]],
    }


def exposed(rollout: Json) -> list[str]:
    """Return the devices that took the release up."""
    return sorted(device for stage in rollout["stages"] for device in stage["devices"])


def why(rollout: Json) -> str:
    """Return why the first failed stage failed."""
    failed = [stage for stage in rollout["stages"] if stage["state"] == "failed"]
    return str(failed[0]["reason"] if failed else rollout["reason"])
