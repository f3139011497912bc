"""The live elements of a page, found in its HTML as a browser finds them: what the stream has to bring."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)


class _Elements(HTMLParser):
    """Notes where live elements begin and end. Our templates close every element but the void ones."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self._text = text
        self._line_starts = [0]
        for line in text.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))
        self._open: tuple[str, str, int, int] | None = None
        self._depth = 0
        self.found: dict[str, str] = {}
        self.feed(text)

    def _offset(self) -> int:
        line, column = self.getpos()
        return self._line_starts[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            return
        self._depth += 1
        names = dict(attrs)
        if self._open is None and "data-live" in names and names.get("id"):
            self._open = (tag, str(names["id"]), self._offset(), self._depth)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself (`<rect/>` of a picture) opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if self._open is not None and self._depth == self._open[3]:
            _tag, name, start, _depth = self._open
            end = self._text.index(">", self._offset()) + 1
            self.found[name] = self._text[start:end]
            self._open = None
        self._depth -= 1


def live_elements(page: str) -> dict[str, str]:
    """Return the live elements of a page by id, each with its own tags."""
    return _Elements(page).found
