"""A form of the API as a template writes it: each field becomes HTML, and what it would send as it stands is kept. Pure.

Secrets are no values: a password field is only ever asked for. A file that a script will send counts by its name, under `file.`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from markupsafe import Markup, escape

_CHOICES: Final = frozenset({"checkbox", "radio"})


@dataclass
class FormState:
    """A form that nobody has filled in yet. values: by name, in the order of the fields. needs: required fields that are empty.

    The attributes of a field are those of HTML, with `_` for `-`. True is an attribute without a value; None and False leave it out.
    Every text is escaped here, so a `Markup` is a text as well.
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    needs: set[str] = field(default_factory=set)

    def input(self, **attributes: Any) -> Markup:
        """Write an input."""
        kind = attributes.get("type")
        if kind == "file":
            into = attributes.get("data_into", "model").rpartition(".")[2]
            self._keep(attributes | {"name": f"file.{into}"}, "")
        elif kind not in _CHOICES or attributes.get("checked"):
            default = "on" if kind in _CHOICES else ""
            self._keep(attributes, "" if kind == "password" else str(attributes.get("value", default)))
        return _tag("input", attributes)

    def select(self, options: Iterable[str | tuple[str, str]], chosen: str = "", **attributes: Any) -> Markup:
        """Write a select. options: texts, or values with their texts. chosen: a value; without it the first one is sent."""
        pairs = [one if isinstance(one, tuple) else (one, one) for one in options]
        first = "" if attributes.get("multiple") or not pairs else pairs[0][0]
        self._keep(attributes, chosen if chosen in dict(pairs) else first)
        inner = [_option(value, text, is_chosen=bool(chosen) and value == chosen) for value, text in pairs]
        return _tag("select", attributes, Markup("").join(inner))

    def textarea(self, text: str = "", **attributes: Any) -> Markup:
        """Write a text area."""
        self._keep(attributes, str(text).removeprefix("\n"))
        return _tag("textarea", attributes, escape(str(text)))

    def _keep(self, attributes: Mapping[str, Any], value: str) -> None:
        name = attributes["name"]
        self.values.setdefault(name, []).append(value)
        if attributes.get("required") and not value.strip():
            self.needs.add(name)


def _option(value: str, text: str, *, is_chosen: bool) -> Markup:
    return _tag("option", {"value": None if value == text else value, "selected": is_chosen}, escape(str(text)))


def _tag(name: str, attributes: Mapping[str, Any], inner: Markup | None = None) -> Markup:
    given = [
        f" {key.replace('_', '-')}" if value is True else f' {key.replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    end = "" if inner is None else f"{inner}</{name}>"
    return Markup(f"<{name}{''.join(given)}>{end}")  # noqa: S704 -- every text in it is escaped
