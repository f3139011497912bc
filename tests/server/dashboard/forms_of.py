"""The forms of a page, as a browser without scripts would send them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser

from fastapi.testclient import TestClient
from httpx import Response


@dataclass
class PageForm:
    """One form: where it goes, and the values that it would send if nobody touched it. Texts and lists are kept in order."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)

    def filled(self, values: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return what is sent when somebody writes these values; only fields that the form has can be written."""
        known = {name for name, _ in self.fields}
        assert set(values) <= known, set(values) - known
        kept = [(name, text) for name, text in self.fields if name not in values]
        return [*kept, *values.items()]


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[PageForm] = []
        self._select = ""
        self._is_chosen = False
        self._textarea = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(PageForm(given["action"], given.get("method", "get")))
        if not self.found:
            return
        fields = self.found[-1].fields
        if tag == "input" and "name" in given and (given.get("type") != "radio" or "checked" in given):
            fields.append((given["name"], given.get("value", "")))
        elif tag == "select":
            self._select, self._is_chosen = given["name"], False
            fields.append((self._select, ""))
        elif tag == "option" and self._select and "value" in given:
            if "selected" in given or (not self._is_chosen and fields[-1] == (self._select, "")):
                fields[-1] = (self._select, given["value"])
                self._is_chosen = True
        elif tag == "textarea":
            self._textarea = given["name"]
            fields.append((self._textarea, ""))

    def handle_data(self, data: str) -> None:
        if self._textarea:
            name, text = self.found[-1].fields[-1]
            self.found[-1].fields[-1] = (name, text + data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._textarea = ""


def forms(page: str) -> list[PageForm]:
    """Return the forms of a page."""
    parser = _Forms()
    parser.feed(page)
    return parser.found


def form(page: str, action: str, **marks: str) -> PageForm:
    """Return the one form with this action that sends these values (`__` for the dot of a name)."""
    wanted = {name.replace("__", "."): value for name, value in marks.items()}
    found = [one for one in forms(page) if one.action == action and wanted.items() <= dict(one.fields).items()]
    assert len(found) == 1, [one.action for one in forms(page)]
    return found[0]


def send(browser: TestClient, one: PageForm, values: Mapping[str, str] | None = None, button: str = "") -> Response:
    """Send a form; button: `name=value` of the one that is pressed."""
    fields = one.filled(values or {})
    if button:
        name, _, text = button.partition("=")
        fields.append((name, text))
    answer: Response
    if one.method == "get":
        answer = browser.get(one.action, params=fields)
        return answer
    body: dict[str, list[str]] = {}
    for name, text in fields:
        body.setdefault(name, []).append(text)
    answer = browser.post(one.action, data=body)
    return answer
