"""What of a new OpenAPI document breaks programs that were written to an old one. Pure.

Breaks: an operation, a status, a field of an answer or a parameter is gone; something new is required; what may be sent became
narrower; what may come back became wider. Everything else is an addition. Rule of the house: additions only under `/api/v1`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Schema = Mapping[str, Any]
_METHODS: Final = ("get", "head", "put", "post", "patch", "delete")
_ANY: Final = "any"
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_MAX_DEPTH: Final = 24


def breaks(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing of `new` that breaks who uses `old`; nothing when it only adds."""
    return list(_Comparison(old, new).run())


class _Comparison:
    def __init__(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._old = old
        self._new = new
        self._seen: set[tuple[str, str, bool]] = set()

    def run(self) -> Iterator[str]:
        for path, item in self._old["paths"].items():
            there = self._new["paths"].get(path)
            if there is None:
                yield f"{path}: the address is gone"
                continue
            for method in _METHODS:
                if method in item:
                    place = f"{method.upper()} {path}"
                    if method not in there:
                        yield f"{place}: the operation is gone"
                    else:
                        yield from self._operation(place, item[method], there[method])

    def _operation(self, place: str, old: Schema, new: Schema) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"{place}: its id was {old.get('operationId')} and is {new.get('operationId')}"
        yield from self._parameters(place, old.get("parameters", ()), new.get("parameters", ()))
        yield from self._body(place, old.get("requestBody"), new.get("requestBody"))
        for status, answer in old["responses"].items():
            if not status.startswith("2"):
                continue
            there = new["responses"].get(status)
            if there is None:
                yield f"{place}: it does not answer {status} any more"
                continue
            for media, content in answer.get("content", {}).items():
                if media not in there.get("content", {}):
                    yield f"{place}: the answer {status} is not {media} any more"
                else:
                    after = there["content"][media].get("schema", {})
                    yield from self._schema(f"{place} answer", content.get("schema", {}), after, is_answer=True)

    def _parameters(self, place: str, old: Sequence[Schema], new: Sequence[Schema]) -> Iterator[str]:
        before = {(one["in"], one["name"]): one for one in old}
        after = {(one["in"], one["name"]): one for one in new}
        for key, one in before.items():
            there = after.get(key)
            if there is None:
                yield f"{place}: the parameter {key[1]} ({key[0]}) is gone"
            else:
                if there.get("required", False) and not one.get("required", False):
                    yield f"{place}: the parameter {key[1]} is required now"
                yield from self._schema(
                    f"{place} {key[1]}", one.get("schema", {}), there.get("schema", {}), is_answer=False
                )
        for key, one in after.items():
            if key not in before and one.get("required", False):
                yield f"{place}: the new parameter {key[1]} ({key[0]}) is required"

    def _body(self, place: str, old: Schema | None, new: Schema | None) -> Iterator[str]:
        if old is None:
            if new is not None and new.get("required", False):
                yield f"{place}: a body is required now"
            return
        if new is None:
            yield f"{place}: it takes no body any more"
            return
        if new.get("required", False) and not old.get("required", False):
            yield f"{place}: the body is required now"
        for media, content in old.get("content", {}).items():
            if media not in new.get("content", {}):
                yield f"{place}: the body cannot be {media} any more"
            else:
                after = new["content"][media].get("schema", {})
                yield from self._schema(f"{place} body", content.get("schema", {}), after, is_answer=False)

    # ---- schemas

    def _schema(self, place: str, old: Schema, new: Schema, *, is_answer: bool, depth: int = 0) -> Iterator[str]:
        names = (str(old.get("$ref", "")), str(new.get("$ref", "")), is_answer)
        if depth > _MAX_DEPTH or (all(names[:2]) and names in self._seen):
            return
        self._seen.add(names)
        before, after = _by_type(self._old, old), _by_type(self._new, new)
        narrow, wide = (after, before) if is_answer else (before, after)
        for kind in narrow:
            if _ANY not in wide and kind not in wide and not (kind == "integer" and "number" in wide):
                how = "may be" if is_answer else "may not be"
                yield f"{place}: it {how} {kind} {'now' if is_answer else 'any more'}"
        for kind, options in before.items():
            for one, other in zip(options, after.get(kind, ()), strict=False):
                yield from self._same_type(place, one, other, is_answer=is_answer, depth=depth)
            if kind in after and len(after[kind]) < len(options) and not is_answer:
                yield f"{place}: it takes fewer forms of {kind} than before"

    def _same_type(self, place: str, old: Schema, new: Schema, *, is_answer: bool, depth: int) -> Iterator[str]:
        if not is_answer:
            yield from _narrowed(place, old, new)
        yield from self._fields(place, old, new, is_answer=is_answer, depth=depth)
        for word in ("items", "additionalProperties"):
            one, other = old.get(word), new.get(word)
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                inner = f"{place}[]" if word == "items" else f"{place}.*"
                yield from self._schema(inner, one, other, is_answer=is_answer, depth=depth + 1)

    def _fields(self, place: str, old: Schema, new: Schema, *, is_answer: bool, depth: int) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, needed_now = set(old.get("required", ())), set(new.get("required", ()))
        for name, schema in before.items():
            if name not in after:
                yield f"{place}.{name}: the field is gone"
                continue
            yield from self._schema(f"{place}.{name}", schema, after[name], is_answer=is_answer, depth=depth + 1)
        if is_answer:
            for name in sorted((needed - needed_now) & after.keys()):
                yield f"{place}.{name}: it may be missing now"
        else:
            for name in sorted(needed_now - needed):
                yield f"{place}.{name}: the field is required now"
            if old.get("additionalProperties", True) is not False and new.get("additionalProperties") is False:
                yield f"{place}: it takes no other fields any more"


def _narrowed(place: str, old: Schema, new: Schema) -> Iterator[str]:
    """Yield how a value that may be sent became narrower, apart from its type and fields."""
    if "enum" in new:
        lost = [repr(one) for one in old.get("enum", ["anything else"]) if one not in new["enum"]]
        if lost:
            yield f"{place}: it may not be {', '.join(lost)} any more"
    if new.get("pattern") is not None and new.get("pattern") != old.get("pattern"):
        yield f"{place}: it must match {new['pattern']!r} now"
    for word in _LOWER_BOUNDS:
        if new.get(word) is not None and (old.get(word) is None or new[word] > old[word]):
            yield f"{place}: its {word} is {new[word]} now"
    for word in _UPPER_BOUNDS:
        if new.get(word) is not None and (old.get(word) is None or new[word] < old[word]):
            yield f"{place}: its {word} is {new[word]} now"


def _by_type(document: Mapping[str, Any], schema: Schema) -> dict[str, list[Schema]]:
    """Return the forms that a value may have, by JSON type; `any` for a schema that says nothing."""
    found: dict[str, list[Schema]] = {}
    for one in _forms(document, schema, 0):
        kinds = one.get("type", _ANY)
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            found.setdefault(kind, []).append(one)
    return found


def _forms(document: Mapping[str, Any], schema: Schema, depth: int) -> Iterator[Schema]:
    if depth > _MAX_DEPTH:
        return
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        yield from _forms(document, document["components"]["schemas"][name], depth + 1)
        return
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        for one in options:
            yield from _forms(document, one, depth + 1)
        return
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]]}
    if "enum" in schema and "type" not in schema:
        schema = {**schema, "type": "string"}
    yield schema
