"""Which inputs of a release matter, as bars for eyes (docs/how-to/explain-a-model.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.release.drift.bar_pairs import bar
from edgefleet_cli.release.render import Report
from edgefleet_cli.render.output import Column, Output, Sheet, visible
from edgefleet_terms.feature_importance import (
    Feature,
    Importance,
    interval_text,
    measured_text,
    read_importance,
    shap_text,
    worth_text,
)
from edgefleet_terms.parent_verdict import comparison_text, read_comparison

MOST: int = 10
"""Inputs that are shown; the report has all."""


def report_of(session: Session, ref: str) -> Report:
    """Return the report of a release; an empty one where there is none."""
    try:
        return session.api.get(f"/releases/{part(ref)}/report", Report).value
    except ApiError as error:
        if error.status != 404:
            raise
        return Report()


def show_comparison(out: Output, document: Mapping[str, Any]) -> None:
    """Write in a line how a release does next to its parent."""
    out.line(visible(f"next to its parent: {comparison_text(read_comparison(document))}"))


def show_importance(out: Output, document: Mapping[str, Any] | Importance) -> None:
    """Write the most important inputs as bars, with what each is worth; one line where nothing was measured."""
    found = document if isinstance(document, Importance) else read_importance(document)
    if not found.is_measured:
        out.note(visible(f"inputs that matter: not measured: {found.why}"))
        return
    out.line("inputs that matter")
    most = found.features[0].value if found.features else 0.0
    columns: Sheet[Feature] = Sheet(
        "inputs",
        [
            Column("input", lambda one: one.name, keep=True),
            Column("importance", lambda one: bar(one.value if one.is_seen else 0.0, most)),
            Column("without it", lambda one: worth_text(one, found), keep=True),
            Column("95 %", lambda one: interval_text(one, found), spare=1),
        ],
        lambda one: one.name,
    )
    if found.features:
        out.table(found.features[:MOST], columns.columns)
    if len(found.features) > MOST:
        out.note(f"{len(found.features) - MOST} more are in the report")
    if found.maps:
        out.note(f"a map of the parts of {found.maps[0].input} that matter is on the model card")
    out.note(measured_text(found))
    if found.shap is not None:
        for one in found.shap.features[:MOST]:
            out.line(visible(f"  SHAP of {one.name}: {one.value:.3g} ({one.low:.3g} to {one.high:.3g} at 95 %)"))
        out.note(visible(f"SHAP: {shap_text(found.shap)}"))
