"""The style sheet keeps to the design system (docs/design.md): colours, type and shadows are those of `tokens.css`; no class is unused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from edgefleet_profiles import accuracy_plot
from tests.house.tree import ROOT

PAGES = ROOT / "server/edgefleet_server/dashboard"
STATIC = PAGES / "static"
SHEET = STATIC / "components.css"
PLOT = inspect.getsource(accuracy_plot)
"""What draws the candidates of a search, for pages and for the conversion report: no file of the pages names its classes."""
_COLOUR = re.compile(
    r"#[0-9a-f]{3,8}\b|\b(?:rgba?|hsla?|hwb|lab|lch|oklab|oklch|color|light-dark)\("
    r"|\b(?:white|black|gr[ae]y|silver|red|green|blue|orange|yellow|purple|pink|brown)\b",
    re.IGNORECASE,
)
_TYPE = re.compile(r"var\(--t\d\d\)|^(?:inherit|0|\.93em)$")
_RING = r"(?:inset )?0 (?:0|3px) 0 (?:[\d.]+px )?var\(--[\w-]+\)"
_SHADOW = re.compile(rf"none|(?:{_RING}|var\(--sh\d\))(?:, var\(--sh\d\))?")
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^'\n]*)'|`([^`]*)`")


def declarations(sheet: str) -> Iterator[tuple[str, str]]:
    """Yield each property with its value."""
    text = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)
    for block in re.findall(r"\{([^{}]*)\}", text):
        for line in filter(str.strip, block.split(";")):
            name, _, value = line.partition(":")
            yield name.strip(), value.strip()


def breaches(sheet: str) -> list[tuple[str, str]]:
    """Return the declarations that name a colour, a size of type, a weight or a shadow of their own."""
    return [
        (name, value)
        for name, value in declarations(sheet)
        if _COLOUR.search(value)
        or (name in ("font", "font-size") and not _TYPE.search(value))
        or (name == "font-weight" and value not in ("400", "600"))
        or (name == "box-shadow" and not _SHADOW.fullmatch(value))
    ]


def test_only_the_tokens_name_colours_sizes_of_type_and_shadows() -> None:
    sheet = SHEET.read_text("utf-8")
    assert len(list(declarations(sheet))) > 200
    assert breaches(sheet) == []


def test_there_are_seven_sizes_of_type() -> None:
    sizes = re.findall(r"--t(\d\d): (\d+)px", (STATIC / "tokens.css").read_text("utf-8"))
    assert len(sizes) == 7
    assert all(name == size for name, size in sizes)


@pytest.mark.parametrize(
    "text",
    [
        "color: #fff",
        "background: linear-gradient(90deg, RGB(0 0 0), var(--card))",
        "fill: white",
        "font-size: 11px",
        "font: 400 13px/1.2 var(--font)",
        "font-weight: 700",
        "box-shadow: 0 2px 8px var(--line)",
    ],
)
def test_what_breaks_them_is_found(text: str) -> None:
    assert len(breaches(f"a:hover {{ {text}; margin: 0 }} @media print {{ a {{ white-space: nowrap }} }}")) == 1


def classes(sheet: str) -> set[str]:
    """Return the classes that its selectors name."""
    text = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)
    return {
        name for selector in re.findall(r"([^{}]+)\{", text) for name in re.findall(r"\.([A-Za-z][\w-]*)", selector)
    }


def left_over(names: set[str], sources: str) -> set[str]:
    """Return the classes that no text between quotes names: as a word, or as what stands before a value (`k-{{ kind }}`, `l{{ n }}`)."""
    texts = [
        sources,
        *re.findall(r"\{[{%](.*?)[%}]\}", sources),
    ]  # expressions apart: their quotes may stand in those of an attribute
    quoted = [one for text in texts for found in _QUOTED.findall(text) for one in found]
    words = set(re.findall(r"[A-Za-z][\w-]*", " ".join(quoted)))
    begins = set(re.findall(r"(?<![\w-])([a-z][\w-]*)(?:\{\{|\$\{|\{)", sources))
    return {
        name
        for name in names - words
        if not any(name.startswith(one) and (one.endswith("-") or name.removeprefix(one).isdigit()) for one in begins)
    }


def test_no_class_is_left_over() -> None:
    files = [
        one for ending in ("*.html", "*.py", "*.js") for one in sorted(PAGES.rglob(ending)) if "vendor" not in one.parts
    ]
    assert len(files) > 150
    sources = [PLOT, *(one.read_text("utf-8") for one in files)]
    assert left_over(classes(SHEET.read_text("utf-8")), "\n".join(sources)) == set()


def test_what_another_package_draws_for_pages_has_rules() -> None:
    drawn = {name for text in re.findall(r'class_"?[=:] ?"([^"]+)"', PLOT) for name in text.split()}
    assert {"front-plot", "front-key", "ring"} <= drawn
    assert drawn <= classes(SHEET.read_text("utf-8"))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('<p class="lead">', {"k-ok", "l3"}),
        ('<p class="lead k-{{ kind }}">', {"l3"}),
        ("<p class='l{{ n }} lead'>", {"k-ok"}),
        ("`k-${kind} lead l${n}`", set()),
        ('<p class="lead {{ "l3" if n else "k-ok" }}">', set()),
        ("lead k-ok l3", {"lead", "k-ok", "l3"}),
    ],
)
def test_what_is_left_over_is_found(source: str, found: set[str]) -> None:
    assert left_over(classes(".lead, p.k-ok:not(.l3) { margin: 0.5em } /* .gone {} */"), source) == found
