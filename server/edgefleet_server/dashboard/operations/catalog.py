"""The operations of the public API as forms know them: by id, with what each field means. Pure.

Field names say where a value goes: `path.rollout_id`, `query.limit`, `body.reason`, `body.labels`, `body.gates.0.name` for a part of
a list, `body` for the whole body as JSON. Texts become what the operation's JSON schema asks for: numbers, booleans, lists (a
repeated field, or one entry a line), objects (JSON, or `key=value` a line or field, `key-` for null). An empty field is left out.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from edgefleet_protocol.errors import EdgefleetError

_METHODS: Final = ("get", "put", "post", "patch", "delete")
_PLACES: Final = ("path", "query", "body")
_MAX_DEPTH: Final = 12


class BadFieldError(EdgefleetError):
    """A field of a form is not valid for the operation."""

    code = "form.bad_field"


class OperationUnknownError(EdgefleetError):
    """The API has no operation of this id."""

    code = "form.operation_unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its id, method, path template, the schemas of its query parameters and of its body (None without one)."""

    id: str
    method: str
    path: str
    summary: str = ""
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None

    @property
    def is_changing(self) -> bool:
        """Say whether it may change something."""
        return self.method not in {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API. `path` is decoded, `raw_path` and `query` are as they go over the wire.

    if_match: do it only while what it changes has this ETag, "" = in any case.
    """

    method: str
    path: str
    raw_path: str
    query: str
    body: bytes | None
    if_match: str = ""


class Operations:
    """The operations of one API."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read an OpenAPI document."""
        self._schemas: Mapping[str, Any] = document.get("components", {}).get("schemas", {})
        self._known = {
            one.id: one
            for path, methods in document["paths"].items()
            for method, described in methods.items()
            if method in _METHODS
            for one in [_operation(path, method, described)]
        }

    def __iter__(self) -> Iterator[Operation]:
        """Return all operations."""
        return iter(self._known.values())

    def get(self, operation_id: str) -> Operation:
        """Return one. Raises OperationUnknownError."""
        found = self._known.get(operation_id)
        if found is None:
            raise OperationUnknownError(
                f"there is no operation {operation_id[:80]!r}", next_step="start again from the overview"
            )
        return found

    def call(self, operation_id: str, fields: Mapping[str, Sequence[str]]) -> Call:
        """Return the request that a form stands for. Raises OperationUnknownError, BadFieldError."""
        operation = self.get(operation_id)
        parts: dict[str, dict[str, Sequence[str]]] = {place: {} for place in _PLACES}
        for name, values in fields.items():
            place, _, rest = name.partition(".")
            if place in parts:
                parts[place][rest] = values
        path, raw = _filled(operation, parts["path"])
        query = [
            (name, text)
            for name, values in parts["query"].items()
            if name in operation.query
            for text in values
            if text != ""
        ]
        body = None if operation.body is None else self._body(operation.body, parts["body"])
        encoded = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        return Call(operation.method, path, raw, urlencode(query), encoded)

    def required(self, operation_id: str, fields: Collection[str]) -> list[str]:
        """Return the fields of the body that an operation needs, without those of which a part is among `fields`."""
        schema = self._plain(self.get(operation_id).body or {})
        whole = {name.split(".")[1] for name in fields if name.startswith("body.") and name.count(".") > 1}
        return [f"body.{name}" for name in schema.get("required", ()) if name not in whole and "body" not in fields]

    def placeholder(self, operation_id: str, name: str) -> str:
        """Return what stands for a field that nobody filled in: its name in capitals, or a text that can be of its type."""
        operation = self.get(operation_id)
        place, _, rest = name.partition(".")
        schema = self._schema_at(operation.body, rest.split(".")) if place == "body" and operation.body else {}
        if options := schema.get("enum"):
            return str(options[0])
        kinds = {"object": "KEY=VALUE", "boolean": "true", "integer": "1", "number": "1"}
        return kinds.get(str(schema.get("type")), name.rpartition(".")[2].upper())

    def _body(self, schema: Mapping[str, Any], fields: Mapping[str, Sequence[str]]) -> Any:
        made: Any = {}
        if fields.get(""):
            made = _json("body", fields[""][-1])
        for name, values in fields.items():
            steps = name.split(".")
            if name == "" or len(steps) > _MAX_DEPTH:
                continue
            value = self._value(name, self._schema_at(schema, steps), values)
            if value is not _LEFT_OUT:
                _put(made, steps, value, name)
        return _without_holes(made)

    def _schema_at(self, schema: Mapping[str, Any], steps: Sequence[str]) -> Mapping[str, Any]:
        here = self._plain(schema)
        for step in steps:
            named = here.get("properties", {}).get(step, here.get("additionalProperties", {}))
            inner = here.get("items", {}) if step.isdigit() else named
            here = self._plain(inner if isinstance(inner, Mapping) else {})
        return here

    def _plain(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a schema without references; of several it may be, the first that is not null."""
        for _ in range(_MAX_DEPTH):
            if "$ref" in schema:
                schema = self._schemas.get(str(schema["$ref"]).rpartition("/")[2], {})
            elif options := schema.get("anyOf") or schema.get("oneOf"):
                schema = next((one for one in options if one.get("type") != "null"), {})
            elif len(schema.get("allOf", ())) == 1:
                schema = schema["allOf"][0]
            else:
                break
        return schema

    def _value(self, name: str, schema: Mapping[str, Any], values: Sequence[str]) -> Any:
        kind = schema.get("type")
        last = values[-1] if values else ""
        if kind == "array":
            texts = [line for value in values for line in value.splitlines() if line.strip()]
            items = self._plain(schema.get("items", {}))
            return [self._value(name, items, [text.strip()]) for text in texts] if texts else _LEFT_OUT
        if kind == "object":
            return _object(name, values) if any(text.strip() for text in values) else _LEFT_OUT
        if last.strip() == "":
            return _LEFT_OUT
        if kind == "boolean":
            return _truth(name, last)
        if kind in {"integer", "number"}:
            return _figure(name, last, whole=kind == "integer")
        return last if kind == "string" or "enum" in schema or "const" in schema else _guess(last)


class _LeftOut:
    """Stands for a field that was not filled in."""


_LEFT_OUT: Final = _LeftOut()


def _operation(path: str, method: str, described: Mapping[str, Any]) -> Operation:
    content = described.get("requestBody", {}).get("content", {}).get("application/json")
    return Operation(
        id=str(described.get("operationId", "")),
        method=method.upper(),
        path=path,
        summary=str(described.get("summary", "")),
        query={
            one["name"]: one.get("schema", {}) for one in described.get("parameters", ()) if one.get("in") == "query"
        },
        body=None if content is None else content.get("schema", {}),
    )


def _filled(operation: Operation, values: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    path = raw = operation.path
    for name, given in values.items():
        text = given[-1] if given else ""
        if "/" in text or text in {"", ".", ".."}:
            raise BadFieldError(f"{name} cannot be {text[:80]!r}", next_step="go back and choose one from the page")
        path = path.replace("{" + name + "}", text)
        raw = raw.replace("{" + name + "}", quote(text, safe="@:"))
    if "{" in raw:
        raise BadFieldError(f"the form is missing a part of {operation.path}", next_step="go back and reload the page")
    return path, raw


def _truth(name: str, text: str) -> bool:
    known = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
    if text.strip().lower() not in known:
        raise BadFieldError(f"{name} must be yes or no, not {text[:80]!r}", next_step="go back and correct it")
    return known[text.strip().lower()]


def _figure(name: str, text: str, *, whole: bool) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        kind = "a whole number" if whole else "a number"
        raise BadFieldError(f"{name} must be {kind}, not {text[:80]!r}", next_step="go back and correct it") from error


def _object(name: str, values: Sequence[str]) -> Any:
    if values[-1].lstrip().startswith("{"):
        return _json(name, values[-1])
    found: dict[str, str | None] = {}
    for line in filter(None, (one.strip() for one in "\n".join(values).replace(",", "\n").splitlines())):
        key, equals, value = line.partition("=")
        if not equals and not line.endswith("-"):
            raise BadFieldError(
                f"{name} takes key=value, or key- to remove one, not {line[:80]!r}", next_step="go back and correct it"
            )
        found[key.strip() if equals else line[:-1].strip()] = value.strip() if equals else None
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadFieldError(f"{name} is not JSON: {error}", next_step="go back and correct it") from error


def _guess(text: str) -> Any:
    """Return a value for a schema that says nothing: JSON where it is an object or a list, else the text."""
    return _json("body", text) if text.lstrip()[:1] in {"{", "["} else text


def _put(made: Any, steps: Sequence[str], value: Any, name: str) -> None:
    """Put a value at its place; parts of lists are kept by number until all are there."""
    here = made
    for step in steps[:-1]:
        if not isinstance(here, dict):
            raise BadFieldError(f"{name} does not fit the other fields", next_step="go back and reload the page")
        here = here.setdefault(step, {})
    if not isinstance(here, dict):
        raise BadFieldError(f"{name} does not fit the other fields", next_step="go back and reload the page")
    here[steps[-1]] = value


def _without_holes(value: Any) -> Any:
    """Return the body with lists where fields were numbered, in order of the numbers."""
    if isinstance(value, list):
        return [_without_holes(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: _without_holes(one) for key, one in value.items()}
    if made and all(isinstance(key, str) and key.isdigit() for key in made):
        return [made[key] for key in sorted(made, key=int)]
    return made
