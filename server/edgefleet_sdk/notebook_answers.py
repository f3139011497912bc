"""What calls return: the API's answer, its fields as attributes, and a table for a notebook."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from edgefleet_cli.core.api.device import Device, DeviceExplanation
from edgefleet_cli.core.api.release import Deployment, Release
from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.reply import Reply
from edgefleet_cli.device.device_explain import WHY
from edgefleet_cli.release.deployment.deployer import DeviceOutcome
from edgefleet_cli.release.deployment.render import OUTCOME, SET
from edgefleet_cli.release.render import BUNDLES, failures
from edgefleet_cli.render.html_table import html_table
from edgefleet_cli.render.output import Column
from edgefleet_cli.rollout.render import counts_text, rollout_sheet, state_text

T = TypeVar("T")


class Answer:
    """An answer of the server. data: as it came; `answer.state` is `answer.data["state"]`. rows: what the table shows, as they came."""

    def __init__(
        self, data: dict[str, Any], title: str, rows: list[dict[str, Any]], table: Callable[[], str], notes: list[str]
    ) -> None:
        self.data, self.rows = data, rows
        self._title, self._table, self._notes = title, table, notes

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]

    def __str__(self) -> str:
        return str(self.data.get("ref") or self.data.get("id") or self._title)

    def __repr__(self) -> str:
        return "\n".join([self._title, *self._notes])

    def _repr_html_(self) -> str:
        return self._table()


def _answer(
    data: dict[str, Any],
    title: str,
    rows: list[dict[str, Any]],
    shown: tuple[Sequence[Column[T]], Sequence[T]],
    notes: list[str],
) -> Answer:
    return Answer(data, title, rows, lambda: html_table(title, *shown, notes), notes)


def published(reply: Reply[Release]) -> Answer:
    """Return a release: one row a signed bundle, one remark a refusal."""
    release = reply.value
    notes = [f"{one.profile}: {one.reason}; next: {one.next}" for one in failures(release)]
    shown = (BUNDLES.columns, release.bundles)
    return _answer(reply.raw, f"{release.ref} is {release.state}", reply.raw.get("bundles") or [], shown, notes)


def deployed(reply: Reply[Deployment], outcomes: Sequence[DeviceOutcome]) -> Answer:
    """Return what became of a deployment to all devices at once: one row a device."""
    answer = reply.value
    devices = [dict(outcome.as_json()) for outcome in outcomes]
    data = {**reply.raw, "devices": devices}
    title = f"{len(answer.set)} devices were set"
    notes = [f"skipped {one.device}: {one.reason}" for one in answer.skipped]
    if outcomes:
        return _answer(data, title, devices, (OUTCOME.columns, outcomes), notes)
    return _answer(data, title, reply.raw.get("set") or [], (SET.columns, answer.set), notes)


def rolled_out(reply: Reply[Rollout]) -> Answer:
    """Return a rollout, one row."""
    rollout = reply.value
    title, notes = f"rollout {rollout.id} is {state_text(rollout)}", [rollout.reason] if rollout.reason else []
    return _answer(reply.raw, title, [reply.raw], (rollout_sheet(SystemClock().now()).columns, [rollout]), notes)


def device_explained(reply: Reply[DeviceExplanation]) -> Answer:
    """Return why a device does not run what it should: one row a model, one remark for each that lags."""
    told = reply.value
    notes = [f"{one.model}: {one.why}" for one in told.items if not one.is_settled]
    title = f"{told.device} {'lags' if notes else 'runs as it should'}"
    return _answer(reply.raw, title, reply.raw.get("items") or [], (WHY.columns, told.items), notes)


def frame(rows: Iterable[dict[str, Any]]) -> Any:
    """Return rows as a `pandas.DataFrame`, or as a list where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        return list(rows)
    return pd.DataFrame(list(rows))


def device_row(device: Device) -> dict[str, Any]:
    """Return one device, flat: releases that it runs and that are wanted of it, a column for each label."""
    return {
        "id": device.id,
        "status": device.status,
        "profile": device.profile,
        "arch": device.arch,
        "last_seen": device.last_seen,
        "free_mb": device.free_mb,
        "running": ", ".join(one.release for one in device.models if one.release),
        "wanted": ", ".join(one.release for one in device.desired.models if one.release),
        **{f"label.{name}": value for name, value in device.labels.items()},
    }


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """Return one rollout, flat."""
    return {
        "id": rollout.id,
        "release": rollout.release,
        "state": rollout.state,
        "stage": rollout.stage,
        "reason": rollout.reason,
        "selector": rollout.selector,
        "created_at": rollout.created_at,
        "finished_at": rollout.finished_at,
        "devices": counts_text(rollout.counts),
    }
