"""The Terraform example: read as HCL, and each request that it declares looked up in our OpenAPI document."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.house.tree import ROOT
from tests.support.tool_environments import HCL, environment

DEFAULTS = {"create": "POST", "read": "GET", "update": "PUT", "destroy": "DELETE"}
"""Methods of the provider where the file names none."""
READER = "import hcl2, json, sys; print(json.dumps(hcl2.load(sys.stdin)))"


def text(value: str) -> str:
    """Return a string without the quotes that the reader leaves."""
    return value.strip('"')


def plain(value: Any) -> Any:
    """Return a value as JSON would have it."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if name != "__is_block__"}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return text(value) if isinstance(value, str) else value


@pytest.mark.network
def test_each_request_is_one_of_the_api() -> None:
    file = (ROOT / "examples/terraform/main.tf").read_text("utf-8")
    python = str(environment("hcl", HCL))
    read = subprocess.run([python, "-c", READER], input=file, capture_output=True, text=True, check=True)
    document = json.loads(read.stdout)
    api = json.loads((ROOT / "docs/reference/openapi.json").read_text("utf-8"))
    values = plain(document["locals"][0])
    objects = [plain(one) for block in document["resource"] for kind in block.values() for one in kind.values()]
    assert len(objects) == 2
    for one in objects:
        for act, method in DEFAULTS.items():
            own = one["path"] if act == "create" else f"{one['path']}/{{id}}"
            path = one.get(f"{act}_path", own)
            operation = found(api, path, one.get(f"{act}_method", method))
            sent = one.get("data" if act == "create" else f"{act}_data", one["data"])
            if act in {"create", "update"}:
                check(api, operation, values[sent.removeprefix("${jsonencode(local.").removesuffix(")}")])


def found(api: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    """Return the operation of a path with values in it."""
    for pattern, operations in api["paths"].items():
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", r"[^/:]+", re.escape(pattern)), path) and method.lower() in operations:
            operation: dict[str, Any] = operations[method.lower()]
            return operation
    raise AssertionError(f"the API has no {method} {path}")


def check(api: dict[str, Any], operation: dict[str, Any], body: dict[str, Any]) -> None:
    """Compare a body with the schema of an operation: no unknown field, and all that are required."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    schema = api["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(schema["required"]) <= set(body) <= set(schema["properties"]), body
