"""What calls return: the API's answer, its fields as attributes, and a table for a notebook."""

from collections.abc import Iterable, Sequence
from typing import Any

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.release.deployment.render import OUTCOME, SET
from edgefleet_cli.release.render import BUNDLES, failures
from edgefleet_cli.render.html_table import html_table
from edgefleet_cli.render.output import Column
from edgefleet_cli.rollout.render import counts_text, rollout_sheet, state_text

Json = dict[str, Any]


class Answer:
    """An answer of the server. data: as it came; `answer.state` is `answer.data["state"]`."""

    def __init__(self, data: Json, title: str, columns: Sequence[Column], rows: list[Json], notes: list[str]) -> None:
        self.data, self.rows = data, rows
        self._title, self._columns, self._notes = title, columns, notes

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]

    def __str__(self) -> str:
        return str(self.data.get("ref") or self.data.get("id") or self._title)

    def __repr__(self) -> str:
        return "\n".join([self._title, *self._notes])

    def _repr_html_(self) -> str:
        return html_table(self._title, self._columns, self.rows, self._notes)


def published(release: Json) -> Answer:
    """Return a release: one row a signed bundle, one remark a refusal."""
    notes = [f"{one['profile']}: {one['reason']}; next: {one['next']}" for one in failures(release)]
    title = f"{release['ref']} is {release['state']}"
    return Answer(release, title, BUNDLES.columns, release.get("bundles") or [], notes)


def deployed(answer: Json) -> Answer:
    """Return what became of a deployment to all devices at once: one row a device."""
    chosen = answer.get("set") or []
    rows, sheet = (answer["devices"], OUTCOME) if answer["devices"] else (chosen, SET)
    notes = [f"skipped {one.get('device')}: {one.get('reason')}" for one in answer.get("skipped") or []]
    return Answer(answer, f"{len(chosen)} devices were set", sheet.columns, rows, notes)


def rolled_out(rollout: Json) -> Answer:
    """Return a rollout, one row."""
    title, reason = f"rollout {rollout['id']} is {state_text(rollout)}", rollout.get("reason")
    return Answer(
        rollout, title, rollout_sheet(SystemClock().now()).columns, [rollout], [str(reason)] if reason else []
    )


def frame(rows: Iterable[Json]) -> Any:
    """Return rows as a `pandas.DataFrame`, or as a list where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        return list(rows)
    return pd.DataFrame(list(rows))


def device_row(device: Json) -> Json:
    """Return one device, flat: releases that it runs and that are wanted of it, a column for each label."""
    plain = {name: device.get(name) for name in ("id", "status", "profile", "arch", "last_seen", "free_mb")}
    for name, models in (("running", device["models"]), ("wanted", device["desired"]["models"])):
        plain[name] = ", ".join(one["release"] for one in models if one.get("release"))
    return plain | {f"label.{name}": value for name, value in device["labels"].items()}


def rollout_row(rollout: Json) -> Json:
    """Return one rollout, flat."""
    names = ("id", "release", "state", "stage", "reason", "selector", "created_at", "finished_at")
    return {**{name: rollout.get(name) for name in names}, "devices": counts_text(rollout.get("counts"))}
