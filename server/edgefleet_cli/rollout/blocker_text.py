"""Why a stage or a device of a rollout does not get on, and what would move it, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefleet_cli.render.format import moment, text

if TYPE_CHECKING:
    from edgefleet_cli.core.api.rollout import Rate, RolloutDevice, Stage, Wait

MOST_WAITS = 4


def wait_lines(waits: Sequence[Wait]) -> list[str]:
    """Return the waits of a stage or a rollout: one line each, the most frequent first."""
    told = [_wait(wait) for wait in waits[:MOST_WAITS]]
    left = len(waits) - MOST_WAITS
    return [*told, f"and {left} more reasons"] if left > 0 else told


def stage_lines(stage: Stage) -> list[str]:
    """Return the rate of a stage, where something waits in it, and its waits."""
    rate = [_rate(stage.rate)] if stage.rate is not None and stage.waits else []
    return rate + wait_lines(stage.waits)


def device_wait(device: RolloutDevice) -> str:
    """Return what a device waits for and when that is; `-` when it waits for nothing."""
    if not device.waits_for:
        return "-"
    until = f" ({moment(device.until)})" if device.until else ""
    return f"{device.waits_for}{until}"


def _wait(wait: Wait) -> str:
    until = f" at {moment(wait.until)}" if wait.until else ""
    return f"{text(wait.count)} waiting: {text(wait.reason)}; moved by: {text(wait.moves)}{until}"


def _rate(rate: Rate) -> str:
    told = f"{text(rate.per_min)} a minute, {text(rate.offered)} offered in this one"
    then = rate.next_per_min
    return told if then == rate.per_min else f"{told}; then {text(then)}"
