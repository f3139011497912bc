"""How an explained answer is shown: what was answered, which inputs made it, and a coarse picture of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgefleet_cli.explanation.explanation_child import InputEffect, SampleExplanation, ShapOfSample, ShapValue
from edgefleet_cli.render.output import Column, Output, visible
from edgefleet_terms.feature_importance import PartMap, percent

MOST: Final = 12
BAR: Final = 12
_SHADES: Final = " ·░▒▓█"
"""From hardly any to most of the largest drop; a part whose hiding helps is a gap."""
CLASS: Final = "class"
DISTANCE: Final = "distance"


def show(out: Output, found: SampleExplanation, answer: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """Write it for eyes. answer: what, and which; names: of classes."""
    out.fields([*answer, ("explained", said(found, names))])
    if found.features:
        most = max((abs(one.value) for one in found.features), default=0.0)
        columns: list[Column[InputEffect]] = [
            Column("input", lambda one: one.name, keep=True),
            Column("is", lambda one: _figure(one.is_), right=True),
            Column("usual", _usual, right=True, spare=2),
            Column("effect", lambda one: bar(one.value if is_seen(one) else 0.0, most)),
            Column("with usual values", lambda one: effect_text(one, found), keep=True),
            Column("95 %", lambda one: f"{_part(one.low, found)} to {_part(one.high, found)}", spare=1),
        ]
        if found.kind == CLASS:
            columns.append(Column("another class", lambda one: percent(one.changed), right=True, spare=3))
        out.table(found.features[:MOST], columns)
    if len(found.features) > MOST:
        out.note(f"{len(found.features) - MOST} more with -o json")
    if found.shap is not None:
        _show_shap(out, found, found.shap)
    if found.map is not None:
        out.line(
            visible(f"parts of {found.map.get('input', 'the picture')} that made it: dark ones cost most when hidden")
        )
        for line in coarse(map_of(found.map)):
            out.line(line)
    if found.not_kept:
        out.note(
            visible(f"not kept by the privacy policy, so taken from the comparison data: {', '.join(found.not_kept)}")
        )
    if found.cut:
        out.note(visible(f"{found.cut}; not measured: {', '.join(found.not_measured)}"))


def _show_shap(out: Output, found: SampleExplanation, shap: ShapOfSample) -> None:
    most = max((abs(one.value) for one in shap.features), default=0.0)
    out.heading("SHAP values: they add up from the usual score to this one")
    columns: list[Column[ShapValue]] = [
        Column("input", lambda one: one.name, keep=True),
        Column("adds", lambda one: _part(one.value, found), right=True),
        Column("", lambda one: bar(one.value, most)),
    ]
    out.table(shap.features[:MOST], columns)
    how = "all sets of inputs" if shap.exact else "permutations of the inputs that were drawn"
    out.note(f"from {_part(shap.usual, found)} of {shap.others} samples to {_part(found.score, found)}, by {how}")


def said(found: SampleExplanation, names: Sequence[str]) -> str:
    """Return what the effects are of."""
    if found.kind == CLASS:
        return f"the score of {class_name(found.index, names)}, {percent(found.score)} here"
    if found.kind == DISTANCE:
        return f"how far {found.output} moves"
    return f"{found.output}, {found.score:.4g} here"


def class_name(index: int, names: Sequence[str]) -> str:
    """Return a class by its name, else by its number."""
    return names[index] if 0 <= index < len(names) else f"class {index}"


def is_seen(one: InputEffect) -> bool:
    """Whether its effect is surely another than none."""
    return one.low > 0 or one.high < 0


def effect_text(one: InputEffect, found: SampleExplanation) -> str:
    """Return what the answer would be without this value, in words: `62 % → 39 %`."""
    if not is_seen(one):
        return "no effect beyond chance"
    if found.kind == DISTANCE:
        return f"moves by {one.value:.3g}"
    after = found.score - one.value
    if found.kind == CLASS:
        return f"{percent(found.score)} → {percent(after)}"
    return f"{found.score:.4g} → {after:.4g}"


def bar(value: float, most: float) -> str:
    """Return an effect as a bar with its sign: + speaks for the answer, - against it."""
    if most <= 0 or value == 0:
        return ""
    return ("+" if value > 0 else "-") + "█" * max(1, round(abs(value) / most * BAR))


def map_of(document: dict[str, Any]) -> PartMap:
    """Return the map that the child wrote."""
    return PartMap(
        str(document.get("input", "")), "", 1, document.get("drop") or [[0.0]], str(document.get("mean", "")),
        int(document.get("height", 0)), int(document.get("width", 0)),
    )  # fmt: skip


def coarse(one: PartMap) -> list[str]:
    """Return a map as characters, two a part."""
    most = one.most
    if most <= 0:
        return ["no part costs anything when it is hidden"]
    return ["  " + "".join(_shade(value / most) * 2 for value in row) for row in one.drop]


def _shade(share: float) -> str:
    return _SHADES[0] if share <= 0 else _SHADES[max(1, min(len(_SHADES) - 1, round(share * (len(_SHADES) - 1))))]


def _usual(one: InputEffect) -> str:
    return "-" if one.usual is None else f"{_figure(one.usual)} ({_figure(one.usual_low)} … {_figure(one.usual_high)})"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _part(value: float, found: SampleExplanation) -> str:
    return percent(value) if found.kind == CLASS else f"{value:.3g}"
