"""The style sheets keep to the design system (docs/design.md): colours, sizes of type and shadows stand in `tokens.css` alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.house.tree import ROOT

STATIC = ROOT / "server/edgefleet_server/dashboard/static"
SHEETS = ("components.css", "page.css")
_COLOUR = re.compile(
    r"#[0-9a-f]{3,8}\b|\b(?:rgba?|hsla?|hwb|lab|lch|oklab|oklch|color|light-dark)\("
    r"|\b(?:white|black|gr[ae]y|silver|red|green|blue|orange|yellow|purple|pink|brown)\b",
    re.IGNORECASE,
)
_TYPE = re.compile(r"var\(--t\d\d\)|^(?:inherit|0|\.93em)$")
_RING = r"(?:inset )?0 (?:0|3px) 0 (?:[\d.]+px )?var\(--[\w-]+\)"
_SHADOW = re.compile(rf"none|(?:{_RING}|var\(--sh\d\))(?:, var\(--sh\d\))?")


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


@pytest.mark.parametrize("name", SHEETS)
def test_only_the_tokens_name_colours_sizes_of_type_and_shadows(name: str) -> None:
    sheet = (STATIC / name).read_text("utf-8")
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
