"""Requests and answers of the API as structs of the CLI: `./dev run python -m tests.house.api_structs` writes them, a test compares.

Read from the committed `docs/reference/openapi.json`, one module a resource, so that a command imports the structs it uses and no others.
A field that an answer lacks has its default, or the empty value of its type: a server of an older version leaves fields out that a newer
document requires. A field that the document does not know is ignored. Words of an enumeration are plain text, because a newer server
may use a new one, and times are text as they came.

The body of a request has no default of its own: what a command does not give is left out, and the server's default holds. A body that
may be one of several schemas is a document that the user wrote; it is sent as it is, so that the server names the mistakes in it.

Structs that the CLI never names are left out, and so are fields of answers: `openapi.json` has them, with their descriptions. A body
has all its fields, because what is made of flags or files gives them by name.
"""

from __future__ import annotations

import ast
import json
import keyword
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.house.tree import ROOT

DOCUMENT = ROOT / "docs" / "reference" / "openapi.json"
CLI = ROOT / "server" / "edgefleet_cli"
SDK = ROOT / "server" / "edgefleet_sdk"
FOLDER = CLI / "core" / "api"
MODULES = {
    "device": "devices, what they report and measure",
    "cost": "what bundles cost on devices, and models in bytes and money",
    "task": "tasks of devices",
    "capture": "captured inputs, predictions and their logs",
    "enrollment": "claims, and devices that wait for an approval",
    "fleet": "the fleet as a whole: summary, groups, events, search",
    "bundle": "blobs and bundles",
    "release": "releases and what becomes of their deployment",
    "model": "models, their aliases and the comparison of two versions",
    "rollout": "rollouts, their plans and decisions",
    "experiment": "experiments and what they showed, triggers of retraining and retrainings",
    "key": "signing roles, their keys and the certificate authority",
    "access": "tokens, their holders and the audit trail",
    "webhook": "webhooks and their deliveries",
    "alert": "alerts, objectives, their rules, silences, contact points and receivers",
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
    "/prediction-logs": "capture",
    "/data-sets": "capture",
    "/erasures": "capture",
    "/events": "fleet",
    "/enrollments": "enrollment",
    "/fleet": "fleet",
    "/groups": "fleet",
    "/protection-rules": "fleet",
    "/readmissions": "device",
    "/server-moves": "fleet",
    "/ca-rotations": "fleet",
    "/search": "fleet",
    "/blobs": "bundle",
    "/bundles": "bundle",
    "/releases/{ref}/performance": "cost",
    "/releases": "release",
    "/tools": "release",
    "/models": "model",
    "/profiles": "cost",
    "/rollouts": "rollout",
    "/rollouts:plan": "rollout",
    "/rollouts:undo": "rollout",
    "/rollout-strategies": "rollout",
    "/experiments": "experiment",
    "/keys": "key",
    "/trust": "key",
    "/signing-requests": "key",
    "/team-requests": "key",
    "/models/{name}:team": "key",
    "/models/{name}:renew-team": "key",
    "/releases/{ref}:ask-team": "key",
    "/recovery": "key",
    "/signing-progress": "key",
    "/recovery:sign": "key",
    "/audit": "access",
    "/tokens": "access",
    "/own-tokens": "access",
    "/people": "access",
    "/identities": "access",
    "/trusted-pipelines": "access",
    "/pipeline-tokens": "access",
    "/whoami": "access",
    "/login-links": "access",
    "/invitations": "access",
    "/webhooks": "webhook",
    "/slos": "alert",
    "/release-policies": "release",
    "/triggers": "experiment",
    "/retrainings": "experiment",
    "/retrainings:lease": "experiment",
    "/cost": "cost",
    "/cost:price": "cost",
    "/prices": "cost",
    "/alert-receivers": "alert",
    "/alerts": "alert",
    "/alert-rules": "alert",
    "/alert-silences": "alert",
    "/maintenance-windows": "alert",
    "/contact-points": "alert",
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
_HEAD = '"""The API: {about}. Made by `python -m tests.house.api_structs`."""\n'
_PLAIN = {"string": ("str", '""'), "integer": ("int", "0"), "number": ("float", "0.0"), "boolean": ("bool", "False")}

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


@cache
def used_names() -> dict[str, frozenset[str]]:
    """Return, by module here, the names that code of CLI and SDK which names the module imports, reads or gives as keywords."""
    found: dict[str, set[str]] = {module: set() for module in MODULES}
    for file in [*CLI.rglob("*.py"), *SDK.rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(file.read_text("utf-8")))) if FOLDER not in file.parents else []
        names = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
        imported = {str(node.module).rpartition(".")[2] for node in nodes if isinstance(node, ast.ImportFrom)}
        for module in found.keys() & (names | imported):
            found[module] |= names
    return {module: frozenset(names) for module, names in found.items()}


def owners(document: Json, kind: str) -> dict[str, str]:
    """Return the module of each schema that the `answers` or the `bodies` of requests hold."""
    schemas, ranks = document["components"]["schemas"], list(MODULES)
    found: dict[str, str] = {}
    for path, operations in document["paths"].items():
        module = module_of(path)
        if module is None:
            continue
        for schema in _answers(operations) if kind == "answers" else _bodies(operations):
            for name in _reached(schema, schemas):
                found[name] = min(found.get(name, module), module, key=ranks.index)
    return {name: module for name, module in found.items() if _is_struct(name, schemas[name])}


def _answers(operations: Json) -> Iterator[Json]:
    for operation in operations.values():
        for status, answer in operation.get("responses", {}).items() if isinstance(operation, dict) else ():
            if status.startswith("2"):
                yield answer.get("content", {}).get("application/json", {}).get("schema", {})


def _bodies(operations: Json) -> Iterator[Json]:
    for operation in operations.values():
        body = operation.get("requestBody", {}) if isinstance(operation, dict) else {}
        schema = body.get("content", {}).get("application/json", {}).get("schema", {})
        if "$ref" in schema:
            yield schema


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
    """Writes the modules of one document. used: names of fields and structs that are written, by module; all without it."""

    def __init__(self, document: Json, used: dict[str, frozenset[str]] | None = None) -> None:
        self.schemas: Json = document["components"]["schemas"]
        self.used = used
        self.bodies = owners(document, "bodies")
        self.owners = owners(document, "answers") | self.bodies
        names = [class_name(name) for name in self.owners]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several schemas would be {', '.join(twice)}: name them in NAMES")
        self.kept = self._kept()

    def _kept(self) -> set[str]:
        """Return the schemas that are written: those that code names, and those in their fields."""
        kept: set[str] = set()
        left = [name for name in self.owners if self._is_used(name, class_name(name))]
        while left:
            name = left.pop()
            kept.add(name)
            left += [inner for inner in self._named_in(name) if inner not in kept]
        return kept

    def _named_in(self, name: str) -> list[str]:
        """Return the schemas of structs that are written in the fields of one."""
        fields = json.dumps(list(self._fields(name).values()))
        return [inner for inner in self.owners if f'#/components/schemas/{inner}"' in fields]

    def _fields(self, name: str) -> Json:
        fields: Json = self.schemas[name]["properties"]
        return {key: inner for key, inner in fields.items() if name in self.bodies or self._is_used(name, key)}

    def _is_used(self, schema: str, name: str) -> bool:
        return self.used is None or name in self.used[self.owners[schema]]

    def module(self, module: str) -> str:
        """Return the text of a module."""
        own = self._in_order(sorted(name for name in self.kept if self.owners[name] == module))
        bodies = [self._struct(name) for name in own]
        foreign: dict[str, set[str]] = {}
        for name in own:
            for inner in self._named_in(name):
                if self.owners[inner] != module:
                    foreign.setdefault(self.owners[inner], set()).add(class_name(inner))
        text = "\n\n\n".join(bodies)
        lines = [_HEAD.format(about=MODULES[module])]
        if "Any" in text.replace("[", " ").replace("]", " ").replace(",", " ").split():
            lines.append("from typing import Any\n")
        lines += [_import(f"api.{owner}", names) for owner, names in sorted(foreign.items())]
        needed = {"UNSET": "= UNSET", "Body": "(Body,", "Struct": "(Struct,", "Unset": " | Unset", "field": "= field("}
        lines.append(_import("structs", {name for name, sign in needed.items() if sign in text}))
        return "\n".join(lines).rstrip("\n") + f"\n\n\n{text}\n"

    def _in_order(self, names: list[str]) -> list[str]:
        """Return names with each after those that it needs."""
        ordered: list[str] = []

        def put(name: str) -> None:
            if name in ordered or name not in names:
                return
            for inner in self._named_in(name):
                if inner != name:
                    put(inner)
            ordered.append(name)

        for name in names:
            put(name)
        return ordered

    def _struct(self, name: str) -> str:
        fields, is_body = self._fields(name), name in self.bodies
        base = "Body, frozen=True, kw_only=True" if is_body else "Struct, frozen=True"
        lines = [f"class {class_name(name)}({base}):"]
        required = self.schemas[name].get("required", ())
        for field_name, inner in fields.items():
            if keyword.iskeyword(field_name) or not field_name.isidentifier():
                raise ValueError(f"{name}.{field_name} cannot be a name in Python")
            kind, default = self._kind(inner)
            if is_body:
                kinds = f"{kind.removesuffix(' | None')} | Unset" + (" | None" if kind.endswith(" | None") else "")
                line = f"{field_name}: {kind}" if field_name in required else f"{field_name}: {kinds} = UNSET"
            elif default == f"{kind}()" and field_name not in required:
                line = f"{field_name}: {kind} | None = None"  # an older server does not know it: that is not zeros
            else:
                line = f"{field_name}: {kind} = {default}"
            lines.append(f"    {line}")
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
            inner = inner or next(iter(schema.get("patternProperties", {}).values()), None)
            value = self._bare(inner)[0] if isinstance(inner, dict) and inner else "Any"
            return f"dict[str, {value}]", "field(default_factory=dict)"
        return _PLAIN.get(str(kind), ("Any", "None"))


def _import_order(name: str) -> tuple[bool, bool, str]:
    return not name.isupper(), name[0].islower(), name


def _import(owner: str, names: set[str]) -> str:
    line = f"from edgefleet_cli.core.{owner} import {', '.join(sorted(names, key=_import_order))}"
    if len(line) <= 120:
        return line
    inner = "".join(f"    {name},\n" for name in sorted(names, key=_import_order))
    return f"from edgefleet_cli.core.{owner} import (\n{inner})"


def modules() -> dict[str, str]:
    """Return the text of each module by its file's name."""
    writer = Writer(json.loads(DOCUMENT.read_text("utf-8")), used_names())
    return {f"{module}.py": writer.module(module) for module in MODULES} | {"__init__.py": _package()}


def _package() -> str:
    imports = "".join(f"        {name},\n" for name in sorted(MODULES))
    names = "".join(f'    "{name}",\n' for name in sorted(MODULES))
    return f'''"""What the API takes and answers: frozen structs, one module a resource, loaded when a command first names it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefleet_cli.core.api import (
{imports}    )

__all__ = [
{names}]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(name)
        return import_module(f"{{__name__}}.{{name}}")
'''


def main() -> None:
    """Write the modules."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in modules().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
