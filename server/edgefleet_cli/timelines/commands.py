"""`edgectl fleet|model|group|device metrics`: how figures went; and `edgectl model explain`: why latency rose."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part

if TYPE_CHECKING:
    from edgefleet_cli.core.transport.reply import Reply

USUAL_SPAN = "24h"


class LinesBy(StrEnum):
    """By what lines are told apart."""

    NONE = "none"
    MODEL = "model"
    VERSION = "version"
    GROUP = "group"
    PROFILE = "profile"
    SITE = "site"


_SINCE = "From then on: 24h, 7d, or RFC 3339; default: 24h"
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="T", help=f"{_SINCE}; a table begins later if there are no older figures."),
]
RiseSince = Annotated[str | None, typer.Option("--since", metavar="T", help=f"{_SINCE}.")]
Until = Annotated[str | None, typer.Option("--until", metavar="T", help="Up to then: 1h (ago), or RFC 3339.")]
Points = Annotated[
    int | None, typer.Option("--points", min=2, max=1500, help="At most this many steps; default: 1500.")
]
By = Annotated[LinesBy | None, typer.Option("--by", help="A line for each of these.")]
Charts = Annotated[
    bool | None,
    typer.Option(
        "--chart/--no-chart", help="Line charts, or one line of bars a figure; default: charts on a terminal."
    ),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completion.models)]
Group = Annotated[str, typer.Argument(metavar="NAME", help="Name of the group.", autocompletion=completion.groups)]
Device = Annotated[str, typer.Argument(metavar="ID", help="Device id.", autocompletion=completion.devices)]


def fleet_metrics(  # one parameter an option
    ctx: typer.Context,
    by: By = None,
    since: Since = None,
    until: Until = None,
    points: Points = None,
    chart: Charts = None,
) -> None:
    """Show requests, errors, latency and figures of all devices over time, a line a model."""
    _show(Session.of(ctx), "/fleet/metrics", _Wanted(by, since, until, points, chart))


def model_metrics(  # one parameter an option
    ctx: typer.Context,
    model: Model,
    by: By = None,
    since: Since = None,
    until: Until = None,
    points: Points = None,
    chart: Charts = None,
) -> None:
    """Show requests, errors and latency of a model over time, a line a version, with deploys, rollbacks and alerts."""
    _show(Session.of(ctx), f"/models/{part(model)}/metrics", _Wanted(by, since, until, points, chart), model)


def group_metrics(  # one parameter an option
    ctx: typer.Context,
    name: Group,
    by: By = None,
    since: Since = None,
    until: Until = None,
    points: Points = None,
    chart: Charts = None,
) -> None:
    """Show requests, errors, latency and figures of a group's devices over time, a line a model."""
    _show(Session.of(ctx), f"/groups/{part(name)}/metrics", _Wanted(by, since, until, points, chart))


def device_metrics(  # one parameter an option
    ctx: typer.Context,
    device_id: Device,
    since: Since = None,
    until: Until = None,
    points: Points = None,
    chart: Charts = None,
) -> None:
    """Show requests, errors, latency, memory and heat of a device over time, a line a model and lane."""
    _show(Session.of(ctx), f"/devices/{part(device_id)}/metrics", _Wanted(None, since, until, points, chart))


def explain_model(
    ctx: typer.Context,
    model: Model,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", metavar="ID", help="Of this device, compared with others.", autocompletion=completion.devices
        ),
    ] = None,
    since: RiseSince = None,
    until: Until = None,
) -> None:
    """Explain why a model's latency rose: what changed with it, the most likely cause first."""
    from edgefleet_cli.timelines.latency_causes import CAUSES, show_explanation

    session = Session.of(ctx)
    path = f"/models/{part(model)}/latency-explanation"
    span = _span(session, since, until)
    found: Reply[Any] = session.api.get(path, api.model.LatencyExplanation, device=device, **span)
    if session.out.is_for_eyes:
        show_explanation(session.out, found.value)
    else:
        session.out.rows(found.raw, found.value.causes, CAUSES)


class _Wanted(NamedTuple):
    """What was asked for of a timeline."""

    by: LinesBy | None
    since: str | None
    until: str | None
    points: int | None
    has_charts: bool | None


def _show(session: Session, path: str, wanted: _Wanted, model: str = "") -> None:
    """Show a timeline. model: whose objectives are limits in its charts."""
    from edgefleet_cli.timelines.timeline_table import STEPS, later_beginning, show_timeline, steps_of

    named = None if wanted.by is None else wanted.by.value
    span = _span(session, wanted.since, wanted.until)
    out, points = session.out, wanted.points
    found: Reply[Any] = session.api.get(path, api.device.Timeline, by=named, points=points, **span)
    if out.is_for_eyes and wanted.since is wanted.until is None and (begin := later_beginning(found.value)):
        found = session.api.get(path, api.device.Timeline, by=named, points=points, since=begin)
    if not out.is_for_eyes or not any(True for _ in steps_of(found.value)):
        out.rows(found.raw, steps_of(found.value), STEPS)
    elif out.is_live if wanted.has_charts is None else wanted.has_charts:
        _draw(session, found.value, model)
    else:
        show_timeline(out, found.value)


def _draw(session: Session, found: api.device.Timeline, model: str) -> None:
    from edgefleet_cli.core.errors import ApiError
    from edgefleet_cli.render.chart_text import show_chart
    from edgefleet_cli.timelines.timeline_chart import timeline_charts
    from edgefleet_cli.timelines.timeline_table import show_marks, show_span

    objectives: list[api.alert.Slo] = []
    if model:
        try:
            objectives = list(session.api.page("/slos", api.alert.Slo, model=model))
        except ApiError as error:  # a server of an older version has none
            if error.status != 404:
                raise
    show_span(session.out, found)
    for chart in timeline_charts(found, objectives):
        session.out.line("")
        show_chart(session.out, chart)
    show_marks(session.out, found)


def _span(session: Session, since: str | None, until: str | None) -> dict[str, str | None]:
    from edgefleet_cli.core.options import time_of

    now = session.clock.now()
    return {
        name: None if given is None else time_of(given, now).isoformat()
        for name, given in (("since", since), ("until", until))
    }
