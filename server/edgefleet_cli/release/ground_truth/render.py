"""How accuracy and labels are shown: a line a release, group or segment, and a line an upload."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.render.format import counted, digits, moment, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.render.sparkline import spark, thinned

_WIDTH = 24
_MOST = 10


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(one: api.model.AccuracyLine) -> str:
    return "-" if one.low is None or one.high is None else f"{one.low:.1%} … {one.high:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else digits(value, 3)


def _trend(one: api.model.AccuracyLine) -> str:
    values = [point.error if one.numbers else point.accuracy for point in one.points]
    return spark(thinned(values, _WIDTH))


LINES: Sheet[api.model.AccuracyLine] = Sheet(
    "labels in this period; send some: `edgectl feedback upload FILE.csv --model MODEL`",
    [
        Column("name", lambda one: one.name or "(none)", keep=True),
        Column("labels", lambda one: text(one.labelled + one.numbers), right=True),
        Column("devices", lambda one: text(one.devices), right=True),
        Column("accuracy", lambda one: _share(one.accuracy), right=True),
        Column("95 %", _interval, right=True),
        Column("error", lambda one: _number(one.error), right=True, spare=1),
        Column("bias", lambda one: _number(one.bias), right=True, wide=True),
        Column("rmse", lambda one: _number(one.rmse), right=True, wide=True),
        Column("over time", _trend, spare=2),
    ],
    lambda one: one.name or "(none)",
)
_CLASSES: list[Column[api.model.ClassAccuracy]] = [
    Column("class", lambda one: text(one.label), keep=True),
    Column("labelled", lambda one: text(one.labelled), right=True),
    Column("right", lambda one: _share(one.right / one.labelled if one.labelled else None), right=True),
    Column("answered", lambda one: text(one.answered), right=True, spare=1),
    Column("mostly answered instead", lambda one: f"{one.mistaken_for} ({one.mistakes})" if one.mistakes else "-"),
]
_FIGURES: list[Column[api.model.BusinessFigure]] = [
    Column("figure", lambda one: text(one.name), keep=True),
    Column("total", lambda one: f"{one.total:g}", right=True),
    Column("reports", lambda one: text(one.reports), right=True),
    Column("devices", lambda one: text(one.devices), right=True),
    Column("over time", lambda one: spark(thinned([point.total for point in one.points], _WIDTH)), spare=1),
]
UPLOADS: Sheet[api.model.FeedbackUpload] = Sheet(
    "labels that were sent; send some: `edgectl feedback upload FILE.csv --model MODEL`",
    [
        Column("id", lambda one: text(one.id), keep=True),
        Column("state", lambda one: text(one.state)),
        Column("rows", lambda one: text(one.rows), right=True),
        Column("matched", lambda one: text(one.matched), right=True),
        Column("unmatched", lambda one: text(one.unmatched), right=True),
        Column("late", lambda one: text(one.late), right=True, spare=1),
        Column("bad", lambda one: text(one.bad), right=True),
        Column("failed", lambda one: text(one.failed), right=True, spare=2),
        Column("sent", lambda one: moment(one.created_at), spare=3),
        Column("by", lambda one: text(one.created_by), wide=True),
    ],
    lambda one: text(one.id),
)


def show_accuracy(out: Output, one: api.model.ModelAccuracy) -> None:
    """Write a model's accuracy for eyes: in words, then its lines, classes and business figures."""
    what = f"{one.model}@{one.version}" if one.version else one.model
    out.prose(f"{what} by {one.by}, {one.since[:10]} to {one.until[:10]}: each device has one part")
    if one.published is not None:
        out.prose(f"at publish: {one.published.metric} {one.published.value:.4f} on {one.published.n} samples")
    if one.concept.state in {"drift", "inputs"}:
        out.prose(f"▲ {one.concept.said}")
    if not one.lines:
        out.note(f"no {LINES.plural}")
    else:
        out.table(one.lines, LINES.columns)
    if one.classes:
        out.heading("Classes, most labels first")
        out.table(one.classes[:_MOST], _CLASSES)
    if one.figures:
        out.heading("Business figures")
        out.table(one.figures, _FIGURES)
    odd = [
        f"{counted(n, 'label')} {how}"
        for n, how in (
            (one.unmatched, "without a remembered answer"),
            (one.repeated, "for an answer that had its label"),
        )
        if n
    ]
    if odd:
        out.prose(f"not counted: {', '.join(odd)}" + (f", {one.late} of them too late" if one.late else ""))
    if one.is_cut:
        out.note("the period holds more than is read at once: choose a shorter one with --since")


def show_upload(out: Output, one: api.model.FeedbackUpload) -> None:
    """Write how labels fared for eyes: counts, rows that could not be read, devices that did not take theirs."""
    out.fields((column.header, column.cell(one)) for column in UPLOADS.columns)
    for bad in one.bad_rows:
        out.line(f"line {bad.line}: {bad.error}")
    if one.bad > len(one.bad_rows):
        out.line(f"and {one.bad - len(one.bad_rows)} more rows that cannot be read")
    for failure in one.failures:
        out.line(f"{failure.device}: {counted(failure.rows, 'label')} not taken, {failure.reason}")
    if one.pending:
        out.note(f"{counted(one.pending, 'label')} on their way: edgectl feedback show {one.model} {one.id}")
