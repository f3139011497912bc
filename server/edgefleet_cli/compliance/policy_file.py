"""Release policies in a file, checked without a server: every mistake with the line that it stands on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import STANDARD_INPUT, lines_of, read_text
from edgefleet_cli.declarative.document import API_VERSION, LIST
from edgefleet_terms.release_rules import mistakes_in

KIND: Final = "ReleasePolicy"
MAX_BYTES: Final = 1_000_000
_KEYS: Final = ("apiVersion", "kind", "metadata", "spec")
_FIELDS: Final = ("models", "require", "since")
_NEXT: Final = "correct the named lines; the rules are in docs/operate/release-policies.md"


class BadPolicyFileError(UsageError):
    """A file has something that is no release policy; all mistakes are told at once."""

    code = "cli.policy_file"


def policies_in(path: Path | None) -> list[str]:
    """Return the names of the policies in a file, None: on standard input, when all of them can be set.

    Documents of other kinds are passed. Raises BadPolicyFileError with each mistake and its line, UsageError, UnreadableFileError.
    """
    import yaml

    origin, content = str(path or STANDARD_INPUT), read_text(path, MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UsageError(f"{origin} is too large", why=f"more than {MAX_BYTES} characters", next_step="split it")
    try:
        nodes = list(yaml.compose_all(content, yaml.SafeLoader))
        values = [json.loads(json.dumps(one, default=str, allow_nan=False)) for one in yaml.safe_load_all(content)]
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UsageError(
            f"{origin} is neither YAML nor JSON", why=str(error), next_step="fix the named line"
        ) from error
    names: dict[str, int] = {}
    wrong: list[str] = []
    for node, value in zip(nodes, values, strict=True):
        lines = dict(lines_of(node)) if node is not None else {}
        for place, document in _documents(value):
            if isinstance(document, dict) and document.get("kind") == KIND:
                name = _name_of(document)
                found = list(_mistakes(document, name))
                if name in names:
                    found.append((".metadata.name", f"{name} is in line {names[name]} already"))
                wrong += [
                    f"{origin}:{_line(lines, place + at)}: {at.removeprefix('.') or 'document'}: {what}"
                    for at, what in found
                ]
                names.setdefault(name, _line(lines, f"{place}.metadata.name"))
    if wrong:
        raise BadPolicyFileError(
            f"{len(wrong)} mistake{'' if len(wrong) == 1 else 's'} in {origin}", why="\n".join(wrong), next_step=_NEXT
        )
    if not names:
        raise UsageError(
            f"there is no release policy in {origin}",
            why=f"no document of it has the kind {KIND}",
            next_step="start from examples/gitops/policies.yaml",
        )
    return list(names)


def _documents(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield documents with their places; a List gives its items."""
    if isinstance(value, dict) and value.get("kind") == LIST and isinstance(value.get("items"), list):
        yield from ((f"$.items[{at}]", one) for at, one in enumerate(value["items"]))
    else:
        yield "$", value


def _name_of(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _mistakes(document: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong with it) of one document."""
    yield from ((f".{key}", "is no field of a document") for key in document if key not in _KEYS)
    if document.get("apiVersion") != API_VERSION:
        yield ".apiVersion", f"is {document.get('apiVersion')!r}, expected {API_VERSION}"
    spec = document.get("spec")
    if not isinstance(spec, dict):
        yield ".spec", "is missing: it holds the fields " + ", ".join(_FIELDS)
        return
    yield from ((f".spec.{key}", f"is no field; those are {', '.join(_FIELDS)}") for key in spec if key not in _FIELDS)
    texts: dict[str, list[str]] = {}
    for key in ("models", "require"):
        given = spec.get(key)
        if given is not None and (not isinstance(given, list) or not all(isinstance(one, str) for one in given)):
            yield f".spec.{key}", "must be a list of texts"
        texts[key] = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    since = spec.get("since")
    if since is not None and _moment(since) is None:
        yield ".spec.since", f"{str(since)[:40]!r} is no time with a zone; write it like 2026-12-01T00:00:00Z"
    for one in mistakes_in(name, texts["models"], texts["require"]):
        yield ".metadata.name" if one.place == "name" else f".spec.{one.place}", one.what


def _moment(value: Any) -> datetime | None:
    try:
        read = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return read if read.tzinfo is not None else None


def _line(lines: Mapping[str, int], place: str) -> int:
    """Return the line of a place; of a field that is missing, that of what it belongs in."""
    while place not in lines and place != "$":
        place = place[: max(place.rfind("."), place.rfind("["))] or "$"
    return lines.get(place, 1)
