"""What a form would send as it stands in the HTML of a page, before anybody types: its values, and what it asks for in vain. Pure.

Secrets are no values: a password field is only ever asked for. A file that a script will send counts by its name, under `file.`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

_SILENT: Final = frozenset({"submit", "button", "reset", "image"})


@dataclass
class FormState:
    """values: by name, in the order of the fields. needs: fields that have to be filled in and are not."""

    values: dict[str, list[str]] = field(default_factory=dict)
    needs: set[str] = field(default_factory=set)

    def add(self, name: str, value: str) -> None:
        """Take one value."""
        self.values.setdefault(name, []).append(value)


def state_of_form(html: str) -> FormState:
    """Return what the fields in this HTML would send."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found


class _Reader(HTMLParser):
    """Follows the rules of HTML for form data, as far as our templates use them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found = FormState()
        self._select: dict[str, str] | None = None
        self._options: list[tuple[str, bool]] = []
        self._text: list[str] | None = None
        self._open: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "input":
            self._input(given)
        elif tag == "select":
            self._select, self._options = given, []
        elif (tag == "option" and self._select is not None) or tag == "textarea":
            self._open = given
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._take(self._open, "".join(self._text or ()).removeprefix("\n"))
            self._text = None
        elif tag == "option":
            text = " ".join("".join(self._text or ()).split())
            self._options.append((self._open.get("value", text), "selected" in self._open))
            self._text = None
        elif tag == "select" and self._select is not None:
            self._choose(self._select)
            self._select = None

    def _input(self, given: Mapping[str, str]) -> None:
        kind = given.get("type", "text")
        if kind in _SILENT or (kind in {"checkbox", "radio"} and "checked" not in given):
            return
        if kind == "file":
            self._take({**given, "name": file_field(given.get("data-into", "model"))}, "")
        elif kind == "password":
            self._take(given, "")
        else:
            self._take(given, given.get("value", "on" if kind in {"checkbox", "radio"} else ""))

    def _choose(self, given: Mapping[str, str]) -> None:
        chosen = [value for value, is_selected in self._options if is_selected]
        if "multiple" not in given:
            chosen = chosen[-1:] or [value for value, _ in self._options[:1]]
        for value in chosen or [""]:
            self._take(given, value)

    def _take(self, given: Mapping[str, str], value: str) -> None:
        name = given.get("name", "")
        if not name or "disabled" in given:
            return
        self.found.add(name, value)
        if "required" in given and not value.strip():
            self.found.needs.add(name)


def file_field(into: str) -> str:
    """Return the field under which the name of a file stands: by the last step of the field that its digest goes into."""
    return "file." + into.rpartition(".")[2]
