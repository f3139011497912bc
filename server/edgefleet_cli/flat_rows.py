"""Devices and rollouts as flat rows of plain values, and data frames of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.rollout.render import counts_text


def device_row(device: api.device.Device) -> dict[str, Any]:
    """Return one device, flat: releases that it runs and that are wanted of it, a column for each label."""
    plain: dict[str, Any] = {
        "id": device.id, "status": device.status, "profile": device.profile, "arch": device.arch, "last_seen": device.last_seen,
        "free_mb": device.free_mb, "suspect_since": device.suspect_since,
    }  # fmt: skip
    for name, models in (("running", device.models), ("wanted", device.desired.models)):
        plain[name] = ", ".join(one.release for one in models if one.release)
    return plain | {f"label.{name}": value for name, value in device.labels.items()}


def rollout_row(rollout: api.rollout.Rollout) -> dict[str, Any]:
    """Return one rollout, flat."""
    return {
        "id": rollout.id, "release": rollout.release, "state": rollout.state, "stage": rollout.stage, "reason": rollout.reason,
        "selector": rollout.selector, "created_at": rollout.created_at, "finished_at": rollout.finished_at,
        "devices": counts_text(rollout.counts),
    }  # fmt: skip


def frame(rows: Iterable[dict[str, Any]]) -> Any:
    """Return rows as a `pandas.DataFrame`, or as a list where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        return list(rows)
    return pd.DataFrame(list(rows))
