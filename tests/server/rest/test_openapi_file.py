"""The committed OpenAPI document is the code's, and a change that breaks its users is named."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from edgefleet_server.access.rules import API_PREFIX, OPEN_PATHS
from edgefleet_server.composition import openapi
from edgefleet_server.composition.dashboard_app import build_dashboard
from edgefleet_server.composition.openapi import ApiApp, operations
from edgefleet_server.process.openapi_file import BreakingChangeError, document, main, text_of, write
from edgefleet_server.web.deferred_route import DeferredRoute
from edgefleet_server.web.openapi_diff import breaks
from tests.house.tree import ROOT
from tests.support.servers import ApiClient, ApiHouse

FILE = ROOT / "docs" / "reference" / "openapi.json"
AGAIN = "run `./dev run edgectl server openapi --out docs/reference/openapi.json`"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document of the code."""
    return document()


def test_the_committed_document_is_that_of_the_code(made: dict[str, Any]) -> None:
    committed = FILE.read_text(encoding="utf-8")
    found = breaks(json.loads(committed), made)
    assert not found, "these changes break programs that use the API:\n" + "\n".join(found)
    assert committed == text_of(made), f"the API has something new: {AGAIN}"


def test_the_committed_document_is_answered_and_read_by_forms_and_no_route_is_prepared_for_it(
    house: ApiHouse, made: dict[str, Any]
) -> None:
    app = house.own_app()
    assert isinstance(app, ApiApp)
    assert app.described() == made
    assert ApiClient(app, "").get("/openapi.json").json() == made
    assert app.openapi_schema is None, "nothing was made"
    assert not [route for route in app.routes if isinstance(route, DeferredRoute) and "dependant" in vars(route)]


@pytest.mark.parametrize("stored", [None, {"info": {"version": "0.0.1"}, "paths": {}}])
def test_forms_read_what_the_routes_say_where_the_file_is_another_or_missing(
    house: ApiHouse, made: dict[str, Any], stored: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openapi, "stored_document", lambda: stored)
    app = house.own_app()
    assert isinstance(app, ApiApp)
    assert app.described() == made


def test_forms_know_an_operation_that_is_not_in_the_file_yet(house: ApiHouse) -> None:
    app = house.own_app()
    assert isinstance(app, ApiApp)

    @app.get("/new", operation_id="get_new")
    def get_new() -> str:
        """Return something new."""
        return ""

    assert "/new" in app.described()["paths"]


def test_every_operation_says_who_may_what_it_refuses_and_how(made: dict[str, Any]) -> None:
    for method, path, operation in operations(made):
        if not path.startswith("/api/v1"):
            continue
        place = f"{method} {path}"
        assert operation["summary"], place
        assert operation["description"], place
        assert {"401", "422", "429", "500", "503"} <= set(operation["responses"]), place
        for status, answer in operation["responses"].items():
            if "$ref" in answer:
                answer = made["components"]["responses"][answer["$ref"].rpartition("/")[2]]  # noqa: PLW2901
            if method == "head":
                assert "content" not in answer, (place, status)
            elif status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], (place, status)
            elif status not in {"204", "304"}:
                assert answer["content"], (place, status)
            assert answer["description"], (place, status)
        if path.removeprefix(API_PREFIX) not in OPEN_PATHS:
            assert operation["security"] == [{"operatorToken": []}]
            assert operation["x-role"] in ("viewer", "operator", "publisher", "approver", "auditor", "admin"), place


def whole_numbers(
    document: dict[str, Any], schema: dict[str, Any], seen: frozenset[str] = frozenset()
) -> Iterator[dict[str, Any]]:
    """Yield the schema of each whole number within a schema."""
    name = schema.get("$ref")
    if name in seen:
        return
    if name is not None:
        seen |= {name}
        schema = document["components"]["schemas"][name.rpartition("/")[2]]
    if schema.get("type") == "integer":
        yield schema
    inner = [
        *schema.get("anyOf", ()),
        *schema.get("properties", {}).values(),
        schema.get("items"),
        schema.get("additionalProperties"),
    ]
    for one in inner:
        if isinstance(one, dict):
            yield from whole_numbers(document, one, seen)


def test_every_whole_number_that_is_taken_fits_a_column_and_the_schema_says_so(made: dict[str, Any]) -> None:
    count = 0
    for method, path, operation in operations(made):
        bodies = operation.get("requestBody", {}).get("content", {}).values()
        for place in (*operation.get("parameters", ()), *bodies):
            for one in whole_numbers(made, place["schema"]):
                assert one["minimum"] >= -(2**63), (method, path, place, one)
                most = one["maximum"] if "maximum" in one else one["exclusiveMaximum"] - 1
                assert most < 2**63, (method, path, place, one)
                count += 1
    assert count > 20


def test_names_that_follow_a_pattern_are_the_only_ones(made: dict[str, Any]) -> None:
    fields = [field for one in made["components"]["schemas"].values() for field in one.get("properties", {}).values()]
    patterned = [field for field in fields if "patternProperties" in field]
    assert patterned
    assert all(field["additionalProperties"] is False for field in patterned)


def test_what_a_body_names_may_be_unknown(made: dict[str, Any]) -> None:
    for method, path, operation in operations(made):
        if "requestBody" in operation and path.startswith("/api/v1"):
            assert "404" in operation["responses"], (method, path)


def test_no_page_takes_a_whole_number_that_fits_no_column(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "server")
    numbers = [
        (route.path, field.name, field.field_info.metadata)
        for route in build_dashboard(house.parts).router.routes
        if isinstance(route, APIRoute)
        for field in (*route.dependant.query_params, *route.dependant.path_params)
        if field.field_info.annotation in (int, int | None)
    ]
    assert numbers
    for path, name, limits in numbers:
        assert any(getattr(one, "lt", 2**64) <= 2**63 or getattr(one, "le", 2**64) < 2**63 for one in limits), (
            path,
            name,
        )


def change(act: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what makes a changed copy of a document."""

    def changed(before: dict[str, Any]) -> dict[str, Any]:
        after = copy.deepcopy(before)
        act(after)
        return after

    return changed


def op(document: dict[str, Any], method: str, path: str) -> Any:
    """Return one operation."""
    return document["paths"][f"/api/v1{path}"][method]


def schema(document: dict[str, Any], name: str) -> Any:
    """Return one schema."""
    return document["components"]["schemas"][name]


BREAKS = {
    "the address is gone": lambda d: d["paths"].pop("/api/v1/groups/{name}"),
    "the operation is gone": lambda d: d["paths"]["/api/v1/groups/{name}"].pop("delete"),
    "its id was": lambda d: op(d, "get", "/groups").update(operationId="groups_list"),
    "the parameter selector (query) is gone": lambda d: op(d, "get", "/devices").update(parameters=[]),
    "the new parameter site (query) is required": lambda d: op(d, "get", "/devices")["parameters"].append(
        {"name": "site", "in": "query", "required": True, "schema": {"type": "string"}}
    ),
    "it does not answer 201": lambda d: op(d, "post", "/groups")["responses"].pop("201"),
    ".selector: the field is gone": lambda d: schema(d, "Group")["properties"].pop("selector"),
    ".name: it may be missing now": lambda d: schema(d, "Group")["required"].remove("name"),
    ".devices: it may be null now": lambda d: schema(d, "Group")["properties"].update(
        devices={"anyOf": [{"type": "integer"}, {"type": "null"}]}
    ),
    "body.name: the field is gone": lambda d: schema(d, "GroupIn")["properties"].pop("name"),
    "body.why: the field is required now": lambda d: (
        schema(d, "GroupIn")["properties"].update(why={"type": "string"}),
        schema(d, "GroupIn")["required"].append("why"),
    ),
    "body.name: it may not be string any more": lambda d: schema(d, "GroupIn")["properties"]["name"].update(
        type="integer"
    ),
    "body.name: its maxLength is 5 now": lambda d: schema(d, "GroupIn")["properties"]["name"].update(maxLength=5),
    "body.kind: it may not be 'logs' any more": lambda d: schema(d, "TaskIn")["properties"]["kind"].update(
        enum=["diag", "restart"]
    ),
    "it takes no body any more": lambda d: op(d, "post", "/groups").pop("requestBody"),
}


@pytest.mark.parametrize("told", BREAKS)
def test_a_change_that_breaks_is_named(made: dict[str, Any], told: str) -> None:
    found = breaks(made, change(BREAKS[told])(made))
    assert any(told in line for line in found), found


ADDITIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path": lambda d: d["paths"].update({"/api/v1/new": d["paths"]["/api/v1/groups"]}),
    "an optional parameter": lambda d: op(d, "get", "/devices")["parameters"].append(
        {"name": "site", "in": "query", "required": False, "schema": {"type": "string"}}
    ),
    "a field of an answer": lambda d: schema(d, "Group")["properties"].update(owner={"type": "string"}),
    "an optional field of a body": lambda d: schema(d, "GroupIn")["properties"].update(owner={"type": "string"}),
    "a longer name": lambda d: schema(d, "GroupIn")["properties"]["name"].update(maxLength=500),
    "one more word": lambda d: schema(d, "TaskIn")["properties"]["kind"]["enum"].append("ping"),
    "one more refusal": lambda d: op(d, "get", "/devices")["responses"].update({"418": {"description": "no"}}),
    "another summary": lambda d: op(d, "get", "/devices").update(summary="Devices"),
}


@pytest.mark.parametrize("what", ADDITIONS)
def test_what_only_adds_breaks_nothing(made: dict[str, Any], what: str) -> None:
    after = change(ADDITIONS[what])(made)
    assert after != made
    assert breaks(made, after) == []


def test_a_breaking_document_replaces_the_file_only_when_that_is_meant(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "openapi.json"
    richer = change(lambda d: d["paths"].update({"/api/v1/old": d["paths"]["/api/v1/groups"]}))(made)
    write(file, richer, allow_breaking=False)
    with pytest.raises(BreakingChangeError, match="/api/v1/old: the address is gone"):
        write(file, made, allow_breaking=False)
    assert main(["--out", str(file)]) == 1
    assert "--allow-breaking" in capsys.readouterr().err
    assert json.loads(file.read_text()) == richer
    assert main(["--out", str(file), "--allow-breaking"]) == 0
    assert file.read_text() == text_of(made)
