"""The rollouts of the demo: what it asks for, and what it shows of them."""

from __future__ import annotations

from datetime import datetime

from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.transport.reply import Document
from edgefleet_cli.demo.narration import Note
from edgefleet_cli.demo.processes import ProcessGroup
from edgefleet_cli.rollout.client import Rollouts
from edgefleet_cli.rollout.render import counts_text, is_final
from edgefleet_cli.rollout.spec import document
from edgefleet_terms.rollout_states import shown_state

SOAK_S = 2
"""Long enough for a camera's 20 images: the devices of the demo are on probation for 3 s anyway."""
CANARY = 2
"""Two devices, as fewer prove nothing: one alone may be well by accident."""
HALVED = 3
"""The smallest number of devices of which half are two."""
_POLL_S = 0.2


def spec(release: str, count: int) -> Document:
    """Return the demo's rollout for `count` devices: two of the fleet, then half of each profile, then all.

    Where half of them are no more than the canary, that stage is left out; one device alone has one stage.
    """
    canary = {"name": "canary", "size": {"count": CANARY, "count_total": True}, "soak": SOAK_S}
    half = {"name": "half", "size": {"percent": 50}, "soak": SOAK_S}
    rest = {"name": "rest" if count > 1 else "all", "size": {"percent": 100}, "soak": SOAK_S}
    stages = [*([canary] if count > 1 else []), *([half] if count > 2 * CANARY else []), rest]
    return document({"release": release, "selector": "demo=yes", "stages": stages}, release.replace("@", "-"))


def profiles_for(count: int, profiles: tuple[str, ...]) -> list[str]:
    """Return the profile of each of `count` devices: the profiles in turn.

    Every stage looks at two devices of a profile at least. So a profile has three or more, of which half are two; a smaller fleet has
    one profile only.
    """
    some = profiles if count >= HALVED * len(profiles) else profiles[:1]
    return [some[index % len(some)] for index in range(count)]


def profiles_in_use(count: int, profiles: tuple[str, ...]) -> tuple[str, ...]:
    """Return the profiles that `count` devices have: nothing is converted for any other."""
    return tuple(dict.fromkeys(profiles_for(count, profiles)))


def follow(
    rollouts: Rollouts, clock: SystemClock, home: ProcessGroup, rollout: Rollout, wait_s: float, note: Note
) -> Rollout:
    """Return a rollout when it is over, or as it stands after `wait_s`; meanwhile `note` gets a line on how it goes.

    Raises ChildError when a process has died.
    """
    deadline_s = clock.monotonic_s() + wait_s
    while not is_final(rollout) and clock.monotonic_s() < deadline_s:
        note(progress(rollout))
        clock.sleep(_POLL_S)
        home.check()
        rollout = rollouts.get(rollout.id).value
    return rollout


def progress(rollout: Rollout) -> str:
    """Return where a rollout stands, in one line."""
    at = next((stage for stage in rollout.stages if stage.state not in {"passed", "skipped", "pending"}), None)
    stage = f", {at.name} {at.state}" if at else ""
    return f"{rollout.release} {shown_state(rollout.state)}{stage}: {counts_text(rollout.counts)}"


def document_of(rollout: Rollout) -> Document:
    """Return a rollout as the demo's summary holds it."""
    return {
        "id": rollout.id,
        "release": rollout.release,
        "state": rollout.state,
        "stages": [
            {
                "name": stage.name,
                "state": stage.state,
                "verdict": stage.verdict,
                "reason": stage.reason,
                "strength": stage.strength,
                "devices": list(stage.devices),
            }
            for stage in rollout.stages
        ],
    }


def stage_lines(rollout: Rollout) -> list[str]:
    """Return one line a stage: how many devices it added, and why it passed or failed."""
    return [
        f"{stage.name}, {_counted(len(stage.devices))}: {stage.reason or stage.state}"
        for stage in rollout.stages
        if stage.state != "pending"
    ]


def exposed(rollout: Rollout) -> list[str]:
    """Return the devices that took the release up."""
    return sorted(device for stage in rollout.stages for device in stage.devices)


def why(rollout: Rollout) -> str:
    """Return why the first failed stage failed."""
    failed = [stage for stage in rollout.stages if stage.state == "failed"]
    return failed[0].reason if failed else rollout.reason


def why_there(rollout: Rollout) -> list[str]:
    """Return why strata failed that had devices to look at; the others only follow them."""
    cells = [cell for stage in rollout.stages for cell in stage.strata if cell.state == "failed"]
    return [f"{cell.stratum}: {cell.reason}" for cell in cells if cell.counts.exposed] or [why(rollout)]


def seconds_between(rollout: Rollout) -> float:
    """Return how long a finished rollout took."""
    began, ended = (datetime.fromisoformat(str(at)) for at in (rollout.started_at, rollout.finished_at))
    return (ended - began).total_seconds()


def _counted(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
