"""How prediction logs and erasures are shown."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.render.format import counted, moment, size, text
from edgefleet_cli.render.output import Column, Output, Sheet


def kept(one: api.capture.PredictionLog) -> str:
    """Return what is kept: `all`, `10 %`, `off`."""
    return {"complete": "all", "off": "off"}.get(one.state, f"{one.ratio * 100:g} %")


def missing(one: api.capture.CheckedPredictionLog) -> str:
    """Return which numbers have no row and why: `lost 3, erased 2`."""
    return ", ".join(f"{text(gap.reason)} {gap.n}" for gap in one.missing) or "none"


LOGS: Sheet[api.capture.PredictionLog] = Sheet(
    "prediction logs; keep one with `edgectl predictions keep MODEL`",
    [
        Column("model", lambda one: text(one.model), keep=True),
        Column("kept", kept),
        Column("devices", lambda one: text(one.devices), right=True),
        Column("rows", lambda one: text(one.rows), right=True),
        Column("lost", lambda one: text(one.lost), right=True),
        Column("size", lambda one: size(one.bytes), right=True),
        Column("newest", lambda one: moment(one.newest_at or None)),
        Column("sealed", lambda one: "yes" if one.is_sealed else "no", spare=1),
        Column("days", lambda one: text(one.keep_days), right=True, spare=2),
        Column("waiting", lambda one: text(one.waiting), right=True, wide=True),
        Column("inputs", lambda one: "yes" if one.inputs else "no", wide=True),
        Column("set by", lambda one: text(one.set_by), wide=True),
    ],
    lambda one: text(one.model),
)

FILES: Sheet[api.capture.PredictionLogFile] = Sheet(
    "files of this prediction log yet; parts wait up to a quarter of an hour for one",
    [
        Column("id", lambda one: text(one.id[:16])),
        Column("rows", lambda one: text(one.rows), right=True),
        Column("parts", lambda one: text(one.parts), right=True),
        Column("size", lambda one: size(one.bytes), right=True),
        Column("from", lambda one: moment(one.received_from)),
        Column("to", lambda one: moment(one.received_to)),
    ],
    lambda one: text(one.id),
)

CHECKED: Sheet[api.capture.CheckedPredictionLog] = Sheet(
    "parts of this prediction log yet",
    [
        Column("device", lambda one: text(one.device), keep=True),
        Column("log", lambda one: text(one.log[:8])),
        Column("numbers", lambda one: f"{one.first}-{one.last}", right=True),
        Column("rows", lambda one: text(one.rows), right=True),
        Column("missing", missing),
        Column("whole", lambda one: "no" if one.problems else "yes"),
        Column("head", lambda one: text(one.head[:16]), wide=True),
        Column("parts", lambda one: text(one.parts), right=True, wide=True),
    ],
    lambda one: text(one.device),
)


def _open_data_sets(one: api.capture.Erasure) -> str:
    """Return how many data sets hold the subject, and how many still do."""
    left = sum(not held.purged_at for held in one.data_sets)
    return f"{len(one.data_sets)}, {left} to purge" if left else text(len(one.data_sets))


def _done(one: api.capture.Erasure) -> str:
    """Return whether an erasure is done: only once the database has overwritten what it freed, too."""
    if not one.finished_at:
        return "no"
    return "yes" if one.overwritten or not one.models else "not overwritten"


ERASURES: Sheet[api.capture.Erasure] = Sheet(
    "erasures",
    [
        Column("id", lambda one: text(one.id), keep=True),
        Column("asked", lambda one: moment(one.asked_at)),
        Column("by", lambda one: text(one.asked_by)),
        Column("rows", lambda one: text(one.rows), right=True),
        Column("captures", lambda one: text(one.captures), right=True),
        Column("done", _done),
        Column("data sets", _open_data_sets, right=True),
        Column("backups until", lambda one: moment(one.backups_until) if one.backups_until else "not said", wide=True),
        Column("overwritten", lambda one: "yes" if one.overwritten else "not yet", wide=True),
        Column("late", lambda one: text(one.late), right=True, wide=True),
        Column("files", lambda one: text(one.files), right=True, wide=True),
        Column("devices", lambda one: text(one.devices), right=True, wide=True),
        Column("models", lambda one: text(", ".join(one.models)), spare=1),
    ],
    lambda one: text(one.id),
)


def note_rest(out: Output, one: api.capture.Erasure) -> None:
    """Say what an erasure cannot reach: data sets outside of the server, devices, backups."""
    for held in one.data_sets:
        if not held.purged_at:
            out.note(
                f"{counted(held.records, 'record')} of the subject in the data set {text(held.place)} of {text(held.made_by)}: "
                f"remove them there with `edgectl data purge DIR --receipt {text(one.id)}`"
            )
    if one.late:
        out.note(f"{counted(one.late, 'late record')} dropped")
    out.note("devices drop what they still have when they get their next document")
    until = f"until {moment(one.backups_until)}" if one.backups_until else "as long as you keep them"
    out.note(f"backups from before hold it {until}")
    for words in one.remains:
        out.note(text(words))


def show_check(out: Output, found: api.capture.PredictionLogVerification) -> None:
    """Say in words what a check found, and each problem."""
    word = "whole" if found.is_whole else "NOT WHOLE"
    out.line(
        f"The prediction log of {text(found.model)} is {word}: {found.rows} rows, {found.erased} erased, {found.lost} lost."
    )
    for log in found.logs:
        for gap in log.missing:
            if gap.ranges and gap.reason != "erased":
                most = "at most " if gap.reason == "stopped" else ""
                out.line(f"  {text(log.device)}: {most}{gap.n} {text(gap.reason)}: {text(', '.join(gap.ranges))}")
        if log.ratio < 1:
            out.line(f"  {text(log.device)}: says that it followed a share of {log.ratio * 100:g} %")
        if log.written > log.newest:
            out.line(f"  {text(log.device)}: has closed {log.written - log.newest} parts more than are here")
        for problem in log.problems:
            out.line(f"  {text(log.device)}, log {text(log.log[:8])}: {text(problem)}")
