"""A declarative document: `{apiVersion, kind, metadata: {name}, spec}`, and what may be in one. Pure.

Only the form is known here; what a selector, a type of event or a rollout's stage means is judged by the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from edgefleet_cli.core.errors import EXIT_CONFLICT, CliError, UsageError

Spec = dict[str, Any]
"""What a kind's objects hold: fields that the kind, or for a rollout the server alone, knows."""

API_VERSION = "edgefleet/v1"
LIST = "List"
_KEYS = ("apiVersion", "kind", "metadata", "spec")


class DocumentError(UsageError):
    """A file has an invalid document; all mistakes are reported at once."""

    code = "cli.document"


class AmbiguousNameError(CliError):
    """Several objects of the server have the name that a document names."""

    code = "cli.ambiguous_name"
    exit_code = EXIT_CONFLICT


@dataclass(frozen=True)
class Document:
    """One document. origin: the file it is from, for messages."""

    kind: str
    name: str
    spec: Spec
    origin: str = field(default="", compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return it as a file holds it."""
        return {"apiVersion": API_VERSION, "kind": self.kind, "metadata": {"name": self.name}, "spec": self.spec}

    @property
    def title(self) -> str:
        """Return `Group canaries`, for messages."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Form:
    """What the spec of a kind may hold. texts, lists, maps: fields by the kind of their value; required: must be there.

    is_free: the server alone knows the fields.
    """

    texts: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    is_free: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Return all fields, in the order in which they are written."""
        return (*self.texts, *self.lists, *self.maps)


def read_documents(values: list[tuple[str, Any]], forms: Mapping[str, Form]) -> list[Document]:
    """Return the documents in parsed files (origin, value); a List gives its items. Raises DocumentError with every mistake."""
    found: list[Document] = []
    wrong: list[str] = []
    for origin, value in values:
        for place, one in _flat(origin, value):
            read = _read(place, one, forms)
            if isinstance(read, Document):
                found.append(read)
            else:
                wrong += read
    firsts: dict[tuple[str, str], Document] = {}
    for document in found:
        first = firsts.setdefault((document.kind, document.name), document)
        if first is not document:
            wrong.append(f"{document.origin}: {document.title} is in {first.origin} already")
    if wrong:
        raise DocumentError(
            f"{len(wrong)} mistake{'' if len(wrong) == 1 else 's'} in the documents; nothing was changed",
            why="; ".join(wrong),
            next_step="correct them, and see docs/reference/declarative.md; `edgectl get KIND -o yaml` prints examples",
        )
    return found


def _flat(origin: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value.get("kind") == LIST:
        items = value.get("items")
        for at, item in enumerate(items if isinstance(items, list) else [], start=1):
            yield f"{origin}, item {at}", item
    else:
        yield origin, value


def _read(origin: str, value: Any, forms: Mapping[str, Form]) -> Document | list[str]:
    if not isinstance(value, dict):
        return [f"{origin}: expected a document with apiVersion, kind, metadata and spec, got {type(value).__name__}"]
    wrong = [f"{origin}: {mistake}" for mistake in _unknown(value, _KEYS)]
    if value.get("apiVersion") != API_VERSION:
        wrong.append(f"{origin}: apiVersion is {value.get('apiVersion')!r}, expected {API_VERSION}")
    kind = value.get("kind")
    if kind not in forms:
        wrong.append(f"{origin}: kind {kind!r} is none of {', '.join(forms)}{_nearest(str(kind), tuple(forms))}")
        return wrong
    metadata, spec = value.get("metadata"), value.get("spec")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name or set(metadata or {}) != {"name"}:
        wrong.append(f"{origin}: metadata must hold a name, and nothing else")
    if not isinstance(spec, dict):
        return [*wrong, f"{origin}: spec must hold fields"]
    cleaned, mistakes = _spec(spec, forms[str(kind)])
    wrong += [f"{origin}: {mistake}" for mistake in mistakes]
    return wrong or Document(str(kind), str(name), cleaned, origin)


def _spec(spec: Spec, form: Form) -> tuple[Spec, list[str]]:
    """Return a spec with whole numbers in the place of texts written out, and what is wrong with it."""
    if form.is_free:
        return spec, []
    wrong = [f"spec.{mistake}" for mistake in _unknown(spec, form.fields)]
    wrong += [f"spec.{name} is missing" for name in form.required if spec.get(name) is None]
    cleaned: Spec = {}
    for name in form.fields:
        value = spec.get(name)
        if value is None:
            continue
        if name in form.texts:
            is_right, cleaned[name] = isinstance(value, str), value
            expected = "a text"
        elif name in form.lists:
            is_right = isinstance(value, list) and all(isinstance(one, str) for one in value)
            cleaned[name], expected = value, "a list of texts"
        else:
            cleaned[name] = {str(key): _label(one) for key, one in value.items()} if isinstance(value, dict) else value
            is_right = isinstance(value, dict) and all(isinstance(one, str) for one in cleaned[name].values())
            expected = "names with texts; write yes, no, true and false in quotes"
        if not is_right:
            wrong.append(f"spec.{name} must be {expected}")
    return cleaned, wrong


def _label(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _unknown(value: Spec, known: tuple[str, ...]) -> list[str]:
    return [f"{name} is no field{_nearest(str(name), known)}" for name in value if name not in known]


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
