"""Devices and rollouts as flat rows of plain values, and data frames of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgefleet_cli.rollout.render import counts_text

if TYPE_CHECKING:
    from edgefleet_cli.core.api.device import Device
    from edgefleet_cli.core.api.rollout import Rollout


def device_row(device: Device) -> dict[str, Any]:
    """Return one device, flat: releases that it runs and that are wanted of it, a column for each label."""
    plain = {name: getattr(device, name) for name in ("id", "status", "profile", "arch", "last_seen", "free_mb")}
    for name, models in (("running", device.models), ("wanted", device.desired.models)):
        plain[name] = ", ".join(one.release for one in models if one.release)
    return plain | {f"label.{name}": value for name, value in device.labels.items()}


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """Return one rollout, flat."""
    names = ("id", "release", "state", "stage", "reason", "selector", "created_at", "finished_at")
    return {**{name: getattr(rollout, name) for name in names}, "devices": counts_text(rollout.counts)}


def frame(rows: Iterable[dict[str, Any]]) -> Any:
    """Return rows as a `pandas.DataFrame`, or as a list where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        return list(rows)
    return pd.DataFrame(list(rows))
