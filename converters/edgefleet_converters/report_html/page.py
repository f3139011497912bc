"""A conversion report as one HTML file that needs nothing else: no script, no network, no font.

The page may be opened from disk, so it carries its own Content-Security-Policy: nothing but its own style is allowed to act,
whatever a model's names contain. Every name in a report may have been chosen by the one that made the model, so the template
(`templates/report.html`) escapes all text; only the plots and the style sheet are markup.
"""

import base64
import hashlib
from functools import cache
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from edgefleet_converters.report import BundleRow, CandidateRow, ConversionReport
from edgefleet_converters.report_html.plots import bar, candidates_plot, importance_rows, layer_rows, numbered
from edgefleet_converters.search_budget import EXPLORED
from edgefleet_profiles.accuracy_plot import keys
from edgefleet_profiles.metric_words import judged_as
from edgefleet_profiles.number_format import (
    NONE,
    milliseconds,
    number,
    plain,
    ratio,
    seconds,
    shown,
    size,
)
from edgefleet_protocol.manifest import RANDOM_DATA


def render(report: ConversionReport) -> str:
    """Return the page."""
    source, max_drop = dict(report.source), report.options.get("max_drop")
    return _template().render(
        report=report,
        summary=_summary(report),
        max_drop=float(max_drop) if isinstance(max_drop, int | float) else None,
        tensors={side: _tensors(source.pop(side, None)) for side in ("inputs", "outputs")},
        operators=_operators(source.pop("operators", None)),
        source=source,
    )


@cache
def _template() -> Template:
    loader = PackageLoader("edgefleet_converters.report_html")
    made = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else shown(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {one.__name__: one for one in (milliseconds, number, plain, ratio, seconds, size)}
    sheet, *_ = loader.get_source(made, "report.css")
    functions = (bar, candidates_plot, importance_rows, keys, layer_rows, numbered)
    made.globals |= {one.__name__: one for one in functions} | {
        "NONE": NONE, "explored": EXPLORED,
        "sheet": sheet, "sheet_source": sheet_source(sheet), "reason_of": _reason_of, "changed": _changed,
        "pass_text": _pass_text, "runtimes_of": _runtimes_of, "parity_of": _parity_of, "shapes_of": _shapes_of,
        "judged_as": lambda metric: judged_as(msgspec.to_builtins(metric)),
    }  # fmt: skip
    return made.get_template("report.html")


def sheet_source(sheet: str) -> str:
    """Return the Content-Security-Policy source that allows this style sheet and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()}'"


def _summary(report: ConversionReport) -> str:
    made, refused = len(report.bundles), len(report.refused)
    parts = [f"{made} bundle{'s' if made != 1 else ''}", *([f"{refused} refused"] if refused else [])]
    judged = report.data.get("judged_on")
    if judged:
        samples = f"{plain(report.data.get('judging_samples'))} samples ({plain(judged)})"
        parts.append(f"accuracy not measured: {samples}" if judged == RANDOM_DATA else f"judged on {samples}")
    return "Conversion report: " + ", ".join(parts)


def _reason_of(row: CandidateRow) -> str:
    left = f"{row.left_out} layer{'s' if row.left_out != 1 else ''} left out of int8" if row.left_out else ""
    return "; ".join(part for part in (left, row.reason) if part)


def _changed(passes: list[dict[str, str]]) -> int:
    return sum(entry.get("outcome", "") not in {"unchanged", "skipped"} for entry in passes)


def _pass_text(entry: dict[str, str]) -> str:
    return ", ".join(str(value) for key, value in entry.items() if key != "name" and value) or NONE


def _runtimes_of(bundle: BundleRow) -> str:
    return ", ".join(f"{proof.name} {proof.version}" for proof in bundle.runtimes)


def _shapes_of(bundle: BundleRow) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in bundle.latency_shapes.values())


def _parity_of(bundle: BundleRow) -> str:
    return "; ".join(
        f"{name}: " + ", ".join(f"{key} {number(value)}" for key, value in figures.items())
        for name, figures in bundle.parity.items()
    )


def _tensors(found: Any) -> list[str]:
    return (
        [_tensor(entry) if isinstance(entry, dict) else plain(entry) for entry in found]
        if isinstance(found, list)
        else []
    )


def _tensor(entry: dict[str, Any]) -> str:
    shape = "×".join(plain(dim) for dim in entry.get("shape", [])) if isinstance(entry.get("shape"), list) else ""
    return f"{plain(entry.get('name'))}  {plain(entry.get('dtype'))} {shape}"


def _operators(found: Any) -> list[str]:
    if not isinstance(found, dict):
        return []
    return [f"{name} × {plain(count)}" if isinstance(count, int) else str(name) for name, count in found.items()]
