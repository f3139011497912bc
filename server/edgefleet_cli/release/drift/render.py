"""How drift is shown: a line a model, a line a signal, and one signal in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_cli.core import api
from edgefleet_cli.release.drift.bar_pairs import bar, pair
from edgefleet_cli.render.format import counted, moment, named, ratio, text
from edgefleet_cli.render.output import Column, Output, Sheet, visible

_STATES = {
    "drift": "▲ drift",
    "same": "as before",
    "small": "small",
    "few": "too few",
    "no_reference": "no reference",
    "no_data": "no data",
}
_CONCEPT = {
    "drift": "▲ worse",
    "inputs": "▲ worse, as inputs drift",
    "unsure": "lower, not sure yet",
    "none": "as before",
}
_SIDES = {"data": "inputs", "prediction": "answers", "both": "inputs and answers"}


def _state(word: str) -> str:
    return _STATES.get(word, word)


def _shift(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f} σ"


def place(one: api.model.SignalDrift) -> str:
    """Return where a signal moved, in few words."""
    if one.where in {"nowhere", ""}:
        return "-"
    return "everywhere" if one.where == "all" else f"{one.where} {one.place}".strip()


MODELS: Sheet[api.model.ModelDrift] = Sheet(
    "models with figures of signals",
    [
        Column("model", lambda m: text(m.release or m.model), keep=True),
        Column("state", lambda m: _state(m.state)),
        Column("drifting", lambda m: _SIDES.get(m.kind, "-")),
        Column("signals", lambda m: text(sum(one.state == "drift" for one in m.signals)), right=True),
        Column("accuracy", lambda m: _CONCEPT.get(m.concept.state if m.concept else "", "-"), spare=2),
        Column("devices", lambda m: text(m.devices), right=True),
        Column("until", lambda m: moment(m.until), spare=1),
    ],
    lambda m: text(m.release or m.model),
)
SIGNALS: Sheet[api.model.SignalDrift] = Sheet(
    "signals with figures",
    [
        Column("signal", lambda s: text(s.name), keep=True),
        Column("kind", lambda s: text(s.kind), spare=1),
        Column("state", lambda s: _state(s.state)),
        Column("where", place),
        Column("devices", lambda s: f"{s.moved}/{s.devices}" if s.moved else text(s.devices), right=True),
        Column("shift", lambda s: _shift(s.shift), right=True),
        Column("psi", lambda s: ratio(s.psi), right=True),
        Column("before", lambda s: pair(s.before, s.after)[0], spare=2),
        Column("after", lambda s: pair(s.before, s.after)[1]),
        Column("matters", lambda s: s.matters or "-", spare=1),
        Column("missing", lambda s: f"{s.missing:.1%}", wide=True, right=True),
        Column("beyond", lambda s: f"{s.beyond:.1%}", wide=True, right=True),
    ],
    lambda s: text(s.name),
)
BASELINE: Sheet[api.release.DriftBaseline] = Sheet(
    "baselines",
    [
        Column("release", lambda b: text(b.release), keep=True),
        Column("since", lambda b: moment(b.since)),
        Column("until", lambda b: moment(b.until)),
        Column("devices", lambda b: text(b.devices), right=True),
        Column("answers", lambda b: text(b.answers), right=True),
        Column("set", lambda b: moment(b.set_at)),
        Column("by", lambda b: text(b.set_by)),
    ],
    lambda b: text(b.release),
)


@dataclass(frozen=True)
class Bin:
    """One bin of a signal before and after; highest: the largest share of all bins."""

    name: str
    before: float
    after: float
    highest: float


_BINS: list[Column[Bin]] = [
    Column("answers", lambda b: b.name, keep=True),
    Column("before", lambda b: f"{b.before:.1%}", right=True),
    Column("", lambda b: bar(b.before, b.highest)),
    Column("after", lambda b: f"{b.after:.1%}", right=True),
    Column("", lambda b: bar(b.after, b.highest)),
]
_COHORTS: list[Column[api.model.DriftCohort]] = [
    Column("cohort", lambda c: "all" if c.where == "all" else f"{c.where} {c.name}", keep=True),
    Column("devices", lambda c: text(c.devices), right=True),
    Column("answers", lambda c: text(c.answers), right=True, spare=1),
    Column("shift", lambda c: _shift(c.shift), right=True),
    Column("psi", lambda c: ratio(c.psi), right=True),
    Column("histogram", lambda c: pair(c.shares, ())[0]),
]
_DEVICES: list[Column[api.model.DriftingDevice]] = [
    Column("device", lambda d: named(d.device, d.display_name), keep=True),
    Column("site", lambda d: text(d.site)),
    Column("profile", lambda d: text(d.profile), spare=1),
    Column("answers", lambda d: text(d.answers), right=True, spare=2),
    Column("shift", lambda d: _shift(d.shift), right=True),
    Column("psi", lambda d: ratio(d.psi), right=True),
    Column("moved", lambda d: text(d.moved)),
    Column("says so", lambda d: text(d.says_so)),
]
_WORDS: list[Column[api.model.DriftWord]] = [
    Column("device", lambda w: named(w.device, w.display_name), keep=True),
    Column("signal", lambda w: text(w.signal)),
    Column("over", lambda w: text(w.scale)),
    Column("shift", lambda w: _shift(w.shift), right=True),
    Column("psi", lambda w: ratio(w.psi), right=True),
    Column("since", lambda w: moment(w.since)),
]
MOST_DEVICES = 10


def show_model(out: Output, one: api.model.ModelDrift) -> None:
    """Write a model's drift for eyes: in words, then the signals that drift, then what devices say themselves."""
    out.prose(f"{text(one.release or one.model)}: {one.said}")
    if one.concept is not None and one.concept.labelled:
        out.prose(one.concept.said)
    out.prose(_judged_by(one))
    drifting = [signal for signal in one.signals if signal.state == "drift"]
    if drifting:
        out.table(drifting, SIGNALS.columns)
        _weigh(out, one)
    if one.words:
        out.heading("Devices that report drift themselves")
        out.table(one.words, _WORDS)
    if drifting:
        out.note(f"one in full: edgectl drift explain {one.model} {drifting[0].name}")


def show_signals(out: Output, one: api.model.ModelDrift) -> None:
    """Write all signals of a model for eyes."""
    out.prose(_judged_by(one))
    if one.signals:
        out.table(one.signals, SIGNALS.columns)
        _weigh(out, one)
    else:
        out.prose(one.said)


def show_signal(out: Output, one: api.model.SignalDriftDetail) -> None:
    """Write one signal in full for eyes: in words, bin by bin, by cohort, and the devices with the largest effect."""
    signal = one.signal
    out.prose(f"{one.release}, {signal.name} ({signal.kind}): {signal.said}")
    out.prose(f"over {one.scale}, until {moment(one.until)}; before: {_source(one.reference)}")
    if signal.weighed:
        out.prose(f"{signal.weighed}.")
    if signal.mean_before is not None and signal.mean_after is not None:
        out.prose(f"mean {text(signal.mean_before)} before, {text(signal.mean_after)} after; PSI {ratio(signal.psi)}")
    highest = max((*signal.before, *signal.after), default=0.0)
    rows = [
        Bin(name, before, after, highest)
        for name, before, after in zip(signal.bins, signal.before, signal.after, strict=False)
        if before or after
    ]
    out.table(rows, _BINS)
    if len(one.cohorts) > 1:
        out.heading("By cohort: each device counts once")
        out.table(one.cohorts, _COHORTS)
    if one.devices:
        out.heading("Devices, the largest effect first")
        out.table(one.devices[:MOST_DEVICES], _DEVICES)


def _weigh(out: Output, one: api.model.ModelDrift) -> None:
    """Write how much what moved matters; where nobody measured it, that signals come by how far they moved."""
    weighed = [signal for signal in one.signals if signal.weighed]
    for signal in weighed:
        out.line(visible(f"  {signal.name}: {signal.weighed[0].lower()}{signal.weighed[1:]}"))
    if one.importance:
        out.note(visible(one.importance if weighed else f"in the order of how far they moved. {one.importance}"))


def _judged_by(one: api.model.ModelDrift) -> str:
    if one.until is None:
        return "No figures yet."
    old = ", nothing newer" if one.is_old else ""
    devices = counted(one.devices, "device")
    some = f", {one.judged} of them judged" if one.judged and one.judged < one.devices else ""
    return f"Over {one.scale}, until {moment(one.until)}{old}; {devices}{some}; before: {_source(one.reference)}."


def _source(reference: api.model.DriftReference) -> str:
    match reference.source:
        case "none":
            return "what each device learned itself"
        case "baseline":
            days = f"{moment(reference.since)} to {moment(reference.until)}"
            return f"{days}, chosen by {text(reference.set_by)}"
        case source:
            return f"{source} data of the release, {counted(reference.n, 'sample')}"


def strongest(signals: Sequence[api.model.SignalDrift]) -> str:
    """Return the signal to explain where none is named: the first, as they come by strength; "" without any."""
    return signals[0].name if signals else ""
