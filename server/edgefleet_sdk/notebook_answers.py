"""What calls return: the API's answer, its fields as attributes, and a table for a notebook."""

from collections.abc import Sequence
from typing import Any

from edgefleet_cli.core.api.device import DeviceExplanation
from edgefleet_cli.core.api.release import Deployment, Release
from edgefleet_cli.core.api.rollout import Rollout
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.device.render import WHY
from edgefleet_cli.release.deployment.deployer import DeviceOutcome
from edgefleet_cli.release.deployment.render import OUTCOME, SET
from edgefleet_cli.release.render import BUNDLES, failures
from edgefleet_cli.render.html_table import html_table
from edgefleet_cli.render.output import Column
from edgefleet_cli.rollout.render import rollout_sheet, state_text

Row = dict[str, Any]
Table = tuple[Sequence[Column[Any]], Sequence[Any]]


class Answer:
    """An answer of the server. data: as it came; `answer.state` is `answer.data["state"]`. rows: what the table shows, as they came."""

    def __init__(self, data: Row, title: str, rows: list[Row], table: Table, notes: list[str]) -> None:
        self.data, self.rows, self._title, self._table, self._notes = data, rows, title, table, notes

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]

    def __str__(self) -> str:
        return str(self.data.get("ref") or self.data.get("id") or self._title)

    def __repr__(self) -> str:
        return "\n".join([self._title, *self._notes])

    def _repr_html_(self) -> str:
        return html_table(self._title, *self._table, self._notes)


def published(reply: Reply[Release]) -> Answer:
    """Return a release: one row a signed bundle, one remark a refusal."""
    release = reply.value
    notes = [f"{one.profile}: {one.reason}; next: {one.next}" for one in failures(release)]
    title, rows = f"{release.ref} is {release.state}", reply.raw.get("bundles") or []
    return Answer(reply.raw, title, rows, (BUNDLES.columns, release.bundles), notes)


def deployed(reply: Reply[Deployment], outcomes: Sequence[DeviceOutcome]) -> Answer:
    """Return what became of a deployment to all devices at once: one row a device."""
    answer, devices = reply.value, [dict(outcome.as_json()) for outcome in outcomes]
    data, title = {**reply.raw, "devices": devices}, f"{len(answer.set)} devices were set"
    notes = [f"skipped {one.device}: {one.reason}" for one in answer.skipped]
    table: Table = (OUTCOME.columns, outcomes) if outcomes else (SET.columns, answer.set)
    return Answer(data, title, devices or reply.raw.get("set") or [], table, notes)


def rolled_out(reply: Reply[Rollout]) -> Answer:
    """Return a rollout, one row."""
    rollout = reply.value
    title, notes = f"rollout {rollout.id} is {state_text(rollout)}", [rollout.reason] if rollout.reason else []
    return Answer(reply.raw, title, [reply.raw], (rollout_sheet(SystemClock().now()).columns, [rollout]), notes)


def device_explained(reply: Reply[DeviceExplanation]) -> Answer:
    """Return why a device does not run what it should: one row a model, one remark for each that lags."""
    explanation = reply.value
    notes = [f"{one.model}: {one.why}" for one in explanation.items if not one.is_settled]
    title = f"{explanation.device} {'lags' if notes else 'runs as it should'}"
    return Answer(reply.raw, title, reply.raw.get("items") or [], (WHY.columns, explanation.items), notes)
