"""The parts of the page about one profile: its candidates, plots, layers, passes and times. Pure."""

from collections.abc import Sequence
from typing import Final

from edgefleet_converters.report import BundleRow, CandidateRow, ProfileReport
from edgefleet_converters.report_html.number_format import NONE, milliseconds, number, ratio, seconds, size
from edgefleet_converters.report_html.plots import accuracy_plot, bar, keys, layer_rows, numbered
from edgefleet_converters.report_html.tags import Markup, element, join

_WORDS: Final = {"not_tried": "not tried"}
_KEPT: Final = {"node": "left in float", "weights": "in 16 bits"}


def profile_section(row: ProfileReport, max_drop: float | None) -> Markup:
    """Return the section of one profile."""
    taken = row.bundle.candidate if row.bundle is not None else None
    plot = accuracy_plot(row.candidates, row.fp32, taken, max_drop)
    parts = [element("h2", row.profile), _outcome(row)]
    if row.candidates:
        parts += [element("h3", "Candidates"), _candidates(row, taken), _not_tried(row.candidates)]
    if plot is not None:
        parts += [element("h3", "Accuracy against size"), element("figure", plot), keys()]
    parts += [_layers(row), _passes(row), _stages(row)]
    if row.bundle is not None:
        parts.append(_bundle_facts(row.bundle))
    return element("section", *parts, id_=f"profile-{row.profile}")


def verdict(word: str) -> Markup:
    """Return a verdict as a coloured word."""
    tone = word if word in {"passed", "rejected", "refused", "prepared", "not_tried"} else "soft"
    return element("span", _WORDS.get(word, word), class_=f"word {tone}")


def _outcome(row: ProfileReport) -> Markup:
    if row.bundle is not None:
        bundle = row.bundle
        return element(
            "p", verdict(bundle.verdict), f": {bundle.candidate} ({bundle.precision}), {size(bundle.bytes)}, ",
            f"{ratio(bundle.ratio)} the float32 model, {bundle.metric.name} {number(bundle.metric.value)}",
            f" (source {number(bundle.metric.baseline)})",
        )  # fmt: skip
    if row.refused is not None:
        return join(
            element("p", verdict("refused"), f": {row.refused.reason}"),
            element("p", f"Next: {row.refused.next}") if row.refused.next else "",
            element("p", element("code", row.refused.code), class_="soft"),
        )
    return element("p", "no outcome", class_="soft")


def _candidates(row: ProfileReport, taken: str | None) -> Markup:
    metric = next((c.metric for c in row.candidates if c.metric is not None), None)
    heads = [
        ("#", "w"), ("candidate", ""), ("precision", "w"), ("size", "n"), (metric.name if metric is not None else "accuracy", "n"),
        ("loss", "n"), ("p50", "n"), ("p95", "n"), ("memory", "n"), ("cold start", "n"), ("verdict", ""),
    ]  # fmt: skip
    head = element("tr", (element("th", name, scope="col", class_=kind or None) for name, kind in heads))
    rows = [_candidate(index, candidate, row, candidate.id == taken) for index, candidate in numbered(row.candidates)]
    words = f"Judged by {metric.name} on {metric.n} samples ({metric.data}). " if metric is not None else ""
    caption = f"{words}Times and memory were measured on the converting host, not on the board."
    if row.fp32 is not None:
        rows.insert(0, _source_row(row.fp32, metric.baseline if metric is not None else None))
    return element("table", element("caption", caption), element("thead", head), element("tbody", rows), class_="cards")


def _candidate(index: int, row: CandidateRow, of: ProfileReport, is_taken: bool) -> Markup:
    base = of.fp32.bytes if of.fp32 is not None else None
    share = f" ({ratio(row.bytes / base)})" if base and row.bytes is not None else ""
    reason = row.reason
    if row.left_out:
        left = f"{row.left_out} layer{'s' if row.left_out != 1 else ''} left out of int8"
        reason = f"{left}; {reason}" if reason else left
    words = [verdict(row.verdict)]
    if row.pareto:
        words.append(join(" ", element("span", "●", class_="on"), element("span", " front", class_="soft")))
    if is_taken:
        words.append(element("span", " taken", class_="word"))
    kinds = [kind for kind, holds in (("taken", is_taken), ("told", bool(reason))) if holds]
    cells = _cells(str(index), row.id, row, f"{size(row.bytes)}{share}", row.metric.value if row.metric else None)
    line = element("tr", *cells, element("td", words, class_="wide"), class_=" ".join(kinds) or None)
    if not reason:
        return line
    below = element("td", reason, colspan=len(cells), class_="why wide")
    return join(
        line, element("tr", element("td", class_="index"), below, class_="reason taken" if is_taken else "reason")
    )


def _source_row(row: CandidateRow, baseline: float | None) -> Markup:
    return element("tr", *_cells("", "source", row, size(row.bytes), baseline), element("td", "", class_="wide"))


def _cells(index: str, name: str, row: CandidateRow, bytes_: str, value: float | None) -> list[Markup]:
    latency = row.latency_ms or {}
    figures = [
        ("size", bytes_),
        ("accuracy", number(value)),
        ("loss", number(row.metric.drop) if row.metric is not None else NONE),
        ("p50", milliseconds(latency.get("p50"))),
        ("p95", milliseconds(latency.get("p95"))),
        ("memory", size(row.peak_rss_bytes)),
        ("cold start", milliseconds(row.cold_start_ms)),
    ]
    return [
        element("td", index, class_="soft w index"),
        element("td", name, class_="name wide", data_index=f"{index} " if index else None),
        element("td", row.precision, class_="w", data_label="precision"),
        *(element("td", text, class_="n", data_label=label) for label, text in figures),
    ]


def _not_tried(rows: Sequence[CandidateRow]) -> Markup:
    left = [row for row in rows if row.verdict == "not_tried"]
    if not left:
        return Markup()
    lines = [element("p", element("span", row.id, class_="name"), f" ({row.precision}): {row.reason}") for row in left]
    return element("details", element("summary", f"{len(left)} not tried"), *lines)


def _layers(row: ProfileReport) -> Markup:
    if not row.layers:
        return Markup()
    shown, more = layer_rows(row.layers)
    lines = [
        element(
            "tr",
            element("td", element("code", layer.name), element("span", f" {layer.kind}", class_="soft")),
            element("td", drawing, class_="w"),
            element("td", number(layer.distance), class_="n", data_label="error"),
            element("td", number(layer.drop), class_="n", data_label="loss"),
            element("td", _KEPT.get(layer.kind, layer.kind) if layer.kept else "int8", class_="w"),
        )
        for layer, drawing in shown
    ]
    heads = [("layer", ""), ("error", ""), ("", "n"), ("loss", "n"), ("then", "")]
    head = element("tr", (element("th", name, scope="col", class_=kind or None) for name, kind in heads))
    caption = "What int8 in this layer alone does to the answers on a few calibration samples, worst first"
    rest = element("p", f"… and {more} more in report.json", class_="soft") if more > 0 else Markup()
    return join(
        element("h3", "Error by layer"),
        element("table", element("caption", caption), element("thead", head), element("tbody", lines)),
        rest,
    )


def _passes(row: ProfileReport) -> Markup:
    if not row.passes:
        return Markup()
    lines = [join(element("dt", entry.get("name", "?")), element("dd", _pass_text(entry))) for entry in row.passes]
    done = sum(entry.get("outcome", "") not in {"unchanged", "skipped"} for entry in row.passes)
    summary = f"Graph passes: {done} of {len(row.passes)} changed something"
    return element("details", element("summary", summary), element("dl", lines))


def _pass_text(entry: dict[str, str]) -> str:
    return ", ".join(str(value) for key, value in entry.items() if key != "name" and value) or NONE


def _stages(row: ProfileReport) -> Markup:
    if not row.stages_s:
        return Markup()
    most, total = max(row.stages_s.values()), sum(row.stages_s.values())
    lines = [
        element("tr", element("td", name), element("td", bar(value, most)), element("td", seconds(value), class_="n"))
        for name, value in row.stages_s.items()
    ]
    return element("details", element("summary", f"Time: {seconds(total)}"), element("table", element("tbody", lines)))


def _bundle_facts(bundle: BundleRow) -> Markup:
    facts = [
        ("bundle", f"{size(bundle.bundle_bytes)}, sha256 {bundle.sha256}"),
        ("target", bundle.target),
        ("runs in", ", ".join(f"{proof.name} {proof.version}" for proof in bundle.runtimes)),
        ("parity", "; ".join(_parity(name, figures) for name, figures in bundle.parity.items())),
    ]
    lines = [join(element("dt", name), element("dd", text or NONE)) for name, text in facts]
    return element("details", element("summary", "Bundle"), element("dl", lines))


def _parity(name: str, figures: dict[str, float]) -> str:
    return f"{name}: " + ", ".join(f"{key} {number(value)}" for key, value in figures.items())
