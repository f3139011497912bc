"""HTML elements in which nothing of a model can become markup. Pure.

Every name in a report may have been chosen by the one that made the model. So text is a `str` and is escaped when it becomes a child
or an attribute; only `Markup`, which this module alone makes, goes through as it is.
"""

import html
from collections.abc import Iterable
from typing import Final

MAX_TEXT: Final = 400
"""Characters of one text that are shown; a tensor's name can be megabytes long."""
_VOID: Final = frozenset({"meta", "rect", "line", "circle", "path"})


class Markup(str):
    """HTML that is known to be safe."""

    __slots__ = ()


Child = str | Iterable[str]


def element(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Return `<tag attributes>children</tag>`. A trailing `_` of an attribute's name is dropped, other `_` become `-`.

    Attributes that are None are left out.
    """
    written = "".join(
        f' {_attribute(name)}="{html.escape(shown(_number(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """Return the children one after another, each escaped unless it is Markup."""
    parts = []
    for child in children:
        if isinstance(child, str):
            parts.append(child if isinstance(child, Markup) else html.escape(shown(child)))
        else:
            parts.append(join(*child))
    return Markup("".join(parts))


def style(sheet: str) -> Markup:
    """Return a style element of our own rules, which must hold no `<`."""
    assert "<" not in sheet
    return Markup(f"<style>{sheet}</style>")


def shown(text: str) -> str:
    """Return `text` cut to MAX_TEXT, control and direction characters as escapes: they must not reorder what stands around them."""
    cut = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def _attribute(name: str) -> str:
    return name.removesuffix("_").replace("_", "-")


def _number(value: str | float | None) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
