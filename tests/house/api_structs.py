"""The answers of the API as structs of the CLI: `./dev run python -m tests.house.api_structs` writes them, a test compares.

Read from the committed `docs/reference/openapi.json`, one module a resource, so that a command imports the answers it reads and no others.
A field that an answer lacks has its default, or the empty value of its type: a server of an older version leaves fields out that a newer
document requires. A field that the document does not know is ignored. Words of an enumeration are plain text, because a newer server
may use a new one, and times are text as they came.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterator
from typing import Any

from tests.house.tree import ROOT

DOCUMENT = ROOT / "docs" / "reference" / "openapi.json"
FOLDER = ROOT / "server" / "edgefleet_cli" / "core" / "api"
MODULES = {
    "device": "devices, what they report and measure",
    "cost": "what bundles cost on devices, predicted and observed",
    "task": "tasks of devices",
    "capture": "captured inputs and predictions",
    "enrollment": "claims, and devices that wait for an approval",
    "fleet": "the fleet as a whole: summary, groups, events, search",
    "bundle": "blobs and bundles",
    "release": "releases and what becomes of their deployment",
    "model": "models, their aliases and the comparison of two versions",
    "rollout": "rollouts, their plans and decisions",
    "experiment": "experiments and what they showed",
    "key": "signing roles, their keys and the certificate authority",
    "access": "tokens, their holders and the audit trail",
    "webhook": "webhooks and their deliveries",
    "alert": "receivers of alerts",
}
"""What the answers of a module are about. One that several need is in the first of them, so that imports go one way."""

PLACES = {
    "/devices/{device_id}/telemetry": "device",
    "/devices/{device_id}/captures": "capture",
    "/devices/{device_id}/captures:fetch": "capture",
    "/devices/{device_id}/predictions": "capture",
    "/devices/{device_id}/tasks": "task",
    "/devices/{device_id}/events": "fleet",
    "/devices:task": "task",
    "/devices": "device",
    "/devices:label": "device",
    "/capture-key": "capture",
    "/events": "fleet",
    "/enrollments": "enrollment",
    "/fleet": "fleet",
    "/groups": "fleet",
    "/search": "fleet",
    "/blobs": "bundle",
    "/bundles": "bundle",
    "/releases/{ref}/performance": "cost",
    "/releases": "release",
    "/models": "model",
    "/profiles": "cost",
    "/rollouts": "rollout",
    "/rollouts:plan": "rollout",
    "/rollouts:undo": "rollout",
    "/rollout-strategies": "rollout",
    "/experiments": "experiment",
    "/keys": "key",
    "/trust": "key",
    "/audit": "access",
    "/tokens": "access",
    "/whoami": "access",
    "/login-links": "access",
    "/webhooks": "webhook",
    "/alert-receivers": "alert",
}
"""The module of the answers below a path; the longest path that fits counts."""

NOT_CALLED = ("/hooks", "/prometheus")
"""Paths for other programs than `edgectl`."""

NAMES = {
    "CaptureOut": "SealedCapture",
    "CaptureView": "Capture",
    "Summary": "FleetSummary",
    "BundleInsideOut": "BundleInside",
}
"""Names of structs that are not the schema's without its `View` or `Out`."""

_PREFIX = "/api/v1"
_HEAD = '''"""Answers of the API: {about}.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""
'''
_PLAIN = {"string": ("str", '""'), "integer": ("int", "0"), "number": ("float", "0.0"), "boolean": ("bool", "False")}
_MOST = 138

Json = dict[str, Any]


def class_name(schema: str) -> str:
    """Return the name of the struct of a schema."""
    return NAMES.get(schema) or schema.removesuffix("View").removesuffix("Out")


def module_of(path: str) -> str | None:
    """Return the module of the answers of a path, None for one that `edgectl` never calls. Raises KeyError for an unknown path."""
    inner = path.removeprefix(_PREFIX)
    if path == inner or inner.startswith(NOT_CALLED):
        return None
    found = [place for place in PLACES if inner == place or inner.startswith((f"{place}/", f"{place}:"))]
    if not found:
        raise KeyError(f"{path} has no module: put it into PLACES of tests/house/api_structs.py")
    return PLACES[max(found, key=len)]


def owners(document: Json) -> dict[str, str]:
    """Return the module of each schema that an answer holds."""
    schemas, ranks = document["components"]["schemas"], list(MODULES)
    found: dict[str, str] = {}
    for path, operations in document["paths"].items():
        module = module_of(path)
        if module is None:
            continue
        for answer in _answers(operations):
            for name in _reached(answer, schemas):
                found[name] = min(found.get(name, module), module, key=ranks.index)
    return {name: module for name, module in found.items() if _is_struct(name, schemas[name])}


def _answers(operations: Json) -> Iterator[Json]:
    for operation in operations.values():
        for status, answer in operation.get("responses", {}).items() if isinstance(operation, dict) else ():
            if status.startswith("2"):
                yield answer.get("content", {}).get("application/json", {}).get("schema", {})


def _reached(schema: Any, schemas: Json, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the names of the schemas that one leads to."""
    if isinstance(schema, list):
        for one in schema:
            yield from _reached(one, schemas, seen)
    elif isinstance(schema, dict):
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            yield name
            yield from _reached(schemas[name], schemas, seen | {name})
        for one in schema.values():
            yield from _reached(one, schemas, seen)


def _is_struct(name: str, schema: Json) -> bool:
    return schema.get("type") == "object" and "properties" in schema and not name.startswith("ListOf_")


class Writer:
    """Writes the modules of one document."""

    def __init__(self, document: Json) -> None:
        self.schemas: Json = document["components"]["schemas"]
        self.owners = owners(document)
        names = [class_name(name) for name in self.owners]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several schemas would be {', '.join(twice)}: name them in NAMES")

    def module(self, module: str) -> str:
        """Return the text of a module."""
        own = self._in_order([name for name, owner in self.owners.items() if owner == module])
        bodies = [self._struct(name) for name in own]
        foreign: dict[str, set[str]] = {}
        for name in own:
            for inner in _reached(self.schemas[name].get("properties"), self.schemas):
                owner = self.owners.get(inner)
                if owner not in {None, module} and self._is_named(inner, name):
                    foreign.setdefault(str(owner), set()).add(class_name(inner))
        text = "\n\n\n".join(bodies)
        lines = [_HEAD.format(about=MODULES[module])]
        if "Any" in text.replace("[", " ").replace("]", " ").replace(",", " ").split():
            lines.append("from typing import Any\n")
        lines.append("from msgspec import Struct, field\n" if " field(" in text else "from msgspec import Struct\n")
        lines += [_import(owner, names) for owner, names in sorted(foreign.items())]
        if foreign:
            lines.append("")
        return "\n".join(lines).rstrip("\n") + f"\n\n\n{text}\n"

    def _is_named(self, inner: str, outer: str) -> bool:
        """Tell whether one struct is written in a field of the other itself."""
        return f'#/components/schemas/{inner}"' in json.dumps(self.schemas[outer]["properties"])

    def _in_order(self, names: list[str]) -> list[str]:
        """Return names with each after those that it needs."""
        ordered: list[str] = []

        def put(name: str) -> None:
            if name in ordered or name not in names:
                return
            for inner in _reached(self.schemas[name]["properties"], self.schemas):
                if inner != name:
                    put(inner)
            ordered.append(name)

        for name in sorted(names):
            put(name)
        return ordered

    def _struct(self, name: str) -> str:
        schema = self.schemas[name]
        about = " ".join(str(schema.get("description") or f"A {class_name(name)} of the API.").split("\n\n")[0].split())
        lines = [f"class {class_name(name)}(Struct, frozen=True):", *_docstring(about), ""]
        required = schema.get("required", ())
        for field_name, inner in schema["properties"].items():
            if keyword.iskeyword(field_name) or not field_name.isidentifier():
                raise ValueError(f"{name}.{field_name} cannot be a name in Python")
            kind, default = self._kind(inner)
            if default == f"{kind}()" and field_name not in required:
                kind, default = (
                    f"{kind} | None",
                    "None",
                )  # an older server does not know it: nothing is not the same as zeros
            lines.append(f"    {field_name}: {kind} = {default}")
        return "\n".join(lines)

    def _kind(self, schema: Json) -> tuple[str, str]:
        """Return the type of a field, and its value when an answer lacks it."""
        kind, default = self._bare(schema)
        given = schema.get("default")
        if isinstance(given, str | int | float) and kind != "Any":
            return kind, json.dumps(given) if isinstance(given, str) else repr(given)
        return kind, default

    def _bare(self, schema: Json) -> tuple[str, str]:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in self.owners:
                return class_name(name), f"{class_name(name)}()"
            return self._bare(self.schemas[name])
        if "anyOf" in schema:
            kinds = list(dict.fromkeys(self._bare(one)[0] for one in schema["anyOf"] if one.get("type") != "null"))
            if {"type": "null"} in schema["anyOf"]:
                return " | ".join([*kinds, "None"]), "None"
            return " | ".join(kinds), self._bare(schema["anyOf"][0])[1]
        kind = schema.get("type")
        if kind == "array":
            return f"tuple[{self._bare(schema['items'])[0]}, ...]", "()"
        if kind == "object":
            inner = schema.get("additionalProperties")
            value = self._bare(inner)[0] if isinstance(inner, dict) and inner else "Any"
            return f"dict[str, {value}]", "field(default_factory=dict)"
        return _PLAIN.get(str(kind), ("Any", "None"))


def _docstring(about: str) -> list[str]:
    """Return a docstring of one line where it fits, else of several."""
    if len(about) + 10 <= _MOST:
        return [f'    """{about}"""']
    lines, line = [], '    """'
    for word in about.split():
        if len(line) + len(word) > _MOST:
            lines.append(line.rstrip())
            line = "    "
        line += word + " "
    return [*lines, line.rstrip(), '    """']


def _import(owner: str, names: set[str]) -> str:
    line = f"from edgefleet_cli.core.api.{owner} import {', '.join(sorted(names))}"
    if len(line) <= 120:
        return line
    inner = "".join(f"    {name},\n" for name in sorted(names))
    return f"from edgefleet_cli.core.api.{owner} import (\n{inner})"


def modules() -> dict[str, str]:
    """Return the text of each module by its file's name."""
    writer = Writer(json.loads(DOCUMENT.read_text("utf-8")))
    return {f"{module}.py": writer.module(module) for module in MODULES}


def main() -> None:
    """Write the modules."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in modules().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
