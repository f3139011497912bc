"""A conversion report as one HTML file that needs nothing else: no script, no network, no font. Pure.

The page may be opened from disk, so it carries its own Content-Security-Policy: nothing but its own style is allowed to act,
whatever a model's names contain.
"""

from typing import Any, Final

from edgefleet_converters.report import BundleRow, ConversionReport, ProfileReport
from edgefleet_converters.report_html.number_format import NONE, milliseconds, number, plain, ratio, size
from edgefleet_converters.report_html.sections import profile_section, verdict
from edgefleet_converters.report_html.style import SHEET, sheet_source
from edgefleet_converters.report_html.tags import Markup, element, join, style

_MOST_OPERATORS: Final = 60


def render(report: ConversionReport) -> str:
    """Return the page."""
    title = f"{report.model} {report.version}: conversion report"
    policy = f"default-src 'none'; style-src {sheet_source()}; base-uri 'none'; form-action 'none'"
    max_drop = report.options.get("max_drop")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        style(SHEET),
    )
    body = element(
        "body",
        element("h1", f"{report.model} {report.version}"),
        element("p", _summary(report), class_="soft"),
        element("p", f"Same source, data, options and tools as {report.kept_from}, whose conversion this is.")
        if report.kept_from
        else "",
        _overview(report),
        (
            profile_section(row, float(max_drop) if isinstance(max_drop, int | float) else None)
            for row in report.profiles
        ),
        _facts(report),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _summary(report: ConversionReport) -> str:
    made, refused = len(report.bundles), len(report.refused)
    parts = [f"{made} bundle{'s' if made != 1 else ''}", f"{refused} refused"] if refused else [
        f"{made} bundle{'s' if made != 1 else ''}"
    ]  # fmt: skip
    judged = report.data.get("judged_on")
    if judged:
        parts.append(f"judged on {plain(report.data.get('judging_samples'))} samples ({plain(judged)})")
    return "Conversion report: " + ", ".join(parts)


def _overview(report: ConversionReport) -> Markup:
    heads = [
        ("profile", ""), ("runtime", ""), ("precision", ""), ("size", "n"), ("to float32", "n"), ("accuracy", "n"), ("host p50", "n"),
        ("verdict", ""),
    ]  # fmt: skip
    head = element("tr", (element("th", name, scope="col", class_=kind or None) for name, kind in heads))
    return element(
        "section",
        element("h2", "Result"),
        element(
            "table", element("thead", head), element("tbody", (_result(row) for row in report.profiles)), class_="cards"
        ),
    )


def _result(row: ProfileReport) -> Markup:
    name = element("td", row.profile, class_="name wide")
    if row.bundle is None:
        reason = row.refused.reason if row.refused is not None else ""
        return element(
            "tr",
            name,
            element("td", verdict("refused"), element("span", reason, class_="why"), colspan=7, class_="wide"),
        )
    return element("tr", name, *_result_cells(row.bundle))


def _result_cells(bundle: BundleRow) -> list[Markup]:
    latency = bundle.latency_ms or {}
    return [
        element("td", bundle.runtime, data_label="runtime"),
        element("td", bundle.precision, data_label="precision"),
        element("td", size(bundle.bytes), class_="n", data_label="size"),
        element("td", ratio(bundle.ratio), class_="n", data_label="to float32"),
        element("td", f"{bundle.metric.name} {number(bundle.metric.value)}", class_="n", data_label="accuracy"),
        element("td", milliseconds(latency.get("p50")), class_="n", data_label="host p50"),
        element("td", verdict(bundle.verdict)),
    ]


def _facts(report: ConversionReport) -> Markup:
    source = dict(report.source)
    tensors = [_tensors(source.pop(side, None), side) for side in ("inputs", "outputs")]
    operators = source.pop("operators", None)
    return element(
        "section",
        element("h2", "What went in"),
        element("h3", "Source"),
        _list(source),
        *tensors,
        _operators(operators),
        element("h3", "Data"),
        _list(report.data) if report.data else element("p", NONE),
        element("h3", "Options"),
        _list(report.options),
        element("h3", "Host"),
        _list(report.host),
    )


def _list(facts: dict[str, Any]) -> Markup:
    return element(
        "dl", (join(element("dt", _words(key)), element("dd", plain(value))) for key, value in facts.items())
    )


def _words(key: str) -> str:
    return key.replace("_", " ")


def _tensors(found: Any, side: str) -> Markup:
    if not isinstance(found, list) or not found:
        return Markup()
    parts = [_tensor(entry) if isinstance(entry, dict) else plain(entry) for entry in found]
    return element("dl", element("dt", side), element("dd", (element("p", text) for text in parts)))


def _tensor(entry: dict[str, Any]) -> str:
    shape = "×".join(plain(dim) for dim in entry.get("shape", [])) if isinstance(entry.get("shape"), list) else ""
    return f"{plain(entry.get('name'))}  {plain(entry.get('dtype'))} {shape}"


def _operators(found: Any) -> Markup:
    if not isinstance(found, dict) or not found:
        return Markup()
    shown = [f"{name} × {plain(count)}" if isinstance(count, int) else str(name) for name, count in found.items()]
    rest = f", … {len(shown) - _MOST_OPERATORS} more" if len(shown) > _MOST_OPERATORS else ""
    return element(
        "dl", element("dt", "operators"), element("dd", (join(text, " · ") for text in shown[:_MOST_OPERATORS]), rest)
    )
